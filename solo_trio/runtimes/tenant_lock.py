"""One lock file a tenant incarnation. Owns: that no two zygotes of it live, and ending those of a gone kernel.

Never: unlocks. The lock is flock(2) on an open file description that the kernel opens, hands to the zygote's keeper and
closes; it becomes free when the keeper has reaped its last descendant and exits. The file says who the keeper is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from solo_trio.errors import Faulted
from solo_trio.runtimes.procfs import descendants, start_time

POLL_S: Final = 0.02
SUFFIX: Final = ".lock"
_INCARNATION: Final = re.compile(r"[0-9a-f]{1,64}")
_RECORD_BYTES_MAX: Final = 4_096


def lock_path(directory: Path, incarnation: str) -> Path:
    """Where the lock of `incarnation` is; raises `ValueError` if that is not hex."""
    if _INCARNATION.fullmatch(incarnation) is None:
        raise ValueError(f"an incarnation is lower-case hex, not {incarnation!r}")
    return directory / f"{incarnation}{SUFFIX}"


async def take_lock(path: Path, timeout_s: float) -> int:
    """Lock the file; returns its descriptor. Raises `Faulted("services_alive")` if it stays held, and `OSError`.

    Whoever held the lock before may have removed the file while this one waited for it: a lock on a file that has no name
    any more would be seen by nobody, so it is given up and the file that has the name now is locked.
    """
    with trio.move_on_after(timeout_s):
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                while not _try_lock(descriptor):  # noqa: ASYNC110 - flock has no other wait
                    await trio.sleep(POLL_S)
                if _is_file_at(path, descriptor):
                    return descriptor
                await trio.lowlevel.checkpoint()
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    raise Faulted("services_alive", f"{path} is still locked: processes of an earlier zygote have not ended")


def write_record(descriptor: int, keeper: int) -> None:
    """Say in the file which process holds the lock. It leads a session, so its pid is also its pgid."""
    record = {"pid": keeper, "start": start_time(keeper), "pgid": keeper}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)


async def take_over(directory: Path, timeout_s: float) -> None:
    """End whatever zygotes a gone kernel left, and remove their lock files.

    They end by themselves, their control socket being gone; those that have not after `timeout_s` seconds are killed, with
    all below them, and given as long again. Raises `Faulted("services_alive")`. No kernel may be using `directory`.
    """
    paths = _lock_files(directory)
    stuck: list[Path] = []
    await _each(paths, lambda path: _release(path, timeout_s, stuck.append))
    await _each(stuck, lambda path: _kill_recorded(path, timeout_s))
    alive: list[Path] = []
    await _each(stuck, lambda path: _release(path, timeout_s, alive.append))
    if alive:
        names = ", ".join(path.name for path in alive[:10])
        raise Faulted("services_alive", f"processes of the previous kernel hold {names} in {directory}: end them")


def _lock_files(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else []


async def _each(paths: list[Path], work: Callable[[Path], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(work, path)


async def _release(path: Path, timeout_s: float, failed: Callable[[Path], None]) -> None:
    try:
        descriptor = await take_lock(path, timeout_s)
    except Faulted:
        failed(path)
        return
    remove(path)
    os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a lock file; only for one who holds the lock. Those who wait for it notice, see `take_lock`."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _recorded(path: Path) -> tuple[int, int]:
    """The keeper that the file names, and since when it runs. The kernel may have died before it was written: (0, 0)."""
    try:
        record = json.loads(path.read_bytes()[:_RECORD_BYTES_MAX])
        return int(record["pid"]), int(record["start"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


async def _kill_recorded(path: Path, timeout_s: float) -> None:
    """Kill all below the keeper that the file names, then itself, unless the pid means another process by now.

    It goes last, as the lock is free when it has gone: what was killed can take a while to end.
    """
    keeper, started = _recorded(path)
    with contextlib.ExitStack() as opened:
        killed: list[int] = []
        with contextlib.suppress(OSError):
            for pid in descendants(keeper) if start_time(keeper) == started else []:
                with contextlib.suppress(ProcessLookupError):
                    killed.append(pidfd := os.pidfd_open(pid))
                    opened.callback(os.close, pidfd)
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with trio.move_on_after(timeout_s):
            for pidfd in killed:
                await trio.lowlevel.wait_readable(pidfd)
    if start_time(keeper) == started:
        kill_tree(keeper)


def kill_tree(keeper: int) -> None:
    """SIGKILL a keeper's descendants, then itself: left without it, a service's own children would belong to nobody.

    Never raises. If /proc cannot be read, the keeper alone is killed, and those below it by the death of their parents.
    """
    found: list[int] = []
    with contextlib.suppress(OSError):
        found = descendants(keeper)
    for pid in [*found, keeper]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
