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
from collections.abc import Callable
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
    all below them, and given as long twice again. Raises `Faulted("services_alive")`. No kernel may be using `directory`.
    """
    stuck = await _release(_lock_files(directory), timeout_s)
    for kill in (kill_below, kill_tree):
        for path in stuck:
            _kill_recorded(path, kill)
        stuck = await _release(stuck, timeout_s)
    if stuck:
        names = ", ".join(path.name for path in stuck[:10])
        raise Faulted("services_alive", f"processes of the previous kernel hold {names} in {directory}: end them")


def held_locks(directory: Path) -> list[str]:
    """The names of the locks that somebody holds; changes nothing."""
    held = []
    for path in _lock_files(directory):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if not _try_lock(descriptor):
                held.append(path.name)
        finally:
            os.close(descriptor)  # and with it the lock, if it was free
    return held


def _lock_files(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else []


async def _release(paths: list[Path], timeout_s: float) -> list[Path]:
    """Remove those that become free within this time; returns the others."""
    held: list[Path] = []

    async def release(path: Path) -> None:
        try:
            descriptor = await take_lock(path, timeout_s)
        except Faulted:
            held.append(path)
            return
        remove(path)
        os.close(descriptor)

    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(release, path)
    return held


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


def _kill_recorded(path: Path, kill: Callable[[int], None]) -> None:
    """`kill` the keeper that the file names, unless the pid means another process by now."""
    keeper, started = _recorded(path)
    if keeper and start_time(keeper) == started:
        kill(keeper)


def kill_below(keeper: int) -> None:
    """SIGKILL a keeper's descendants. It buries them, then ends by itself and frees the lock, even if it was stopped.

    Never raises.
    """
    with contextlib.suppress(OSError):
        for pid in descendants(keeper):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.kill(keeper, signal.SIGCONT)


def kill_tree(keeper: int) -> None:
    """The last resort: `kill_below`, then itself. Its lock may be free a moment before all that was killed has ended.

    Left without it, a service's own children would belong to nobody, so it goes last. Never raises.
    If /proc cannot be read, the keeper alone is killed, and those below it by the death of their parents.
    """
    found: list[int] = []
    with contextlib.suppress(OSError):
        found = descendants(keeper)
    for pid in [*found, keeper]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
