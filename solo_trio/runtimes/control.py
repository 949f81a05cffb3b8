"""The kernel's end of a zygote. Owns: starting it, asking it to fork, hearing of ends, its end. Never: knows a service."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

import solo_trio
from solo_trio.errors import Faulted
from solo_trio.runtimes import boot
from solo_trio.runtimes.tenant_lock import kill_tree, lock_path, remove, take_lock, write_record

ZYGOTE_START_S_MAX: Final = 60.0
ZYGOTE_EXIT_S_MAX: Final = 5.0
"""From the end of the control socket until the keeper has reaped everything; then it is killed."""
LOCK_WAIT_S_MAX: Final = 10.0
PACKET_BYTES_MAX: Final = 64 * 1024
_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "2", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
_DEPENDENCIES: Final = ("trio", "attrs", "attr", "orjson", "outcome", "sniffio", "sortedcontainers", "idna")


@define
class Exit:
    """How a child ended, once `known`; `status` is None if the zygote died first."""

    known: trio.Event = field(factory=trio.Event)
    status: int | None = None


@frozen
class Spawned:
    """A forked service. Whoever has it owns the pidfd."""

    pid: int
    pidfd: int
    exit: Exit


@define
class _Request:
    answered: trio.Event = field(factory=trio.Event)
    spawned: Spawned | None = None
    refusal: str = "the zygote died"
    abandoned: bool = False


class Zygote:
    """A running zygote; `dead` once nothing can be forked any more, `gone` once all its processes have ended."""

    def __init__(self, keeper: subprocess.Popen[bytes], control: socket.socket, lock: Path) -> None:
        self.dead = trio.Event()
        self.gone = trio.Event()
        self.pid = keeper.pid
        self._keeper = keeper
        self._control = control
        self._lock = lock
        self._ready = trio.Event()
        self._failure = "it ended without a word"
        self._next = 1
        self._requests: dict[int, _Request] = {}
        self._exits: dict[int, Exit] = {}
        self._sending = trio.Lock()

    @classmethod
    async def start(cls, directory: Path, incarnation: str) -> Zygote:
        """Start one and wait until it can fork. Raises `Faulted("runtime_unavailable")`."""
        if not sys.executable:
            raise Faulted("runtime_unavailable", "sys.executable is empty: there is no Python to start services with")
        path = lock_path(directory, incarnation)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                lock = await take_lock(path, LOCK_WAIT_S_MAX)
                try:
                    # In a thread, as it blocks until the exec. So PDEATHSIG, which fires when that thread ends, is no way to
                    # end a zygote: the end of its socket is.
                    keeper = await trio.to_thread.run_sync(_execute, theirs.fileno(), lock)
                    write_record(lock, keeper.pid)
                finally:
                    os.close(lock)
        except OSError as error:
            ours.close()
            raise Faulted("runtime_unavailable", f"cannot start a zygote: {error}") from error
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        zygote = cls(keeper, ours, path)
        # A system task: a zygote serves many services, whose nurseries come and go, and is ended by `close` or, failing that,
        # with the run. `_serve` lets nothing out.
        trio.lowlevel.spawn_system_task(zygote._serve, name=f"zygote {incarnation}")
        try:
            with trio.move_on_after(ZYGOTE_START_S_MAX):
                await zygote._ready.wait()
        finally:
            if not zygote._ready.is_set():
                zygote.close()
        if zygote.dead.is_set() or not zygote._ready.is_set():
            raise Faulted("runtime_unavailable", f"the zygote did not start: {zygote._failure}")
        return zygote

    async def spawn(self, limits: Mapping[str, float], descriptors: tuple[int, int, int]) -> Spawned:
        """Fork a service with (socket, stdout, stderr), which stay the caller's. Raises `Faulted("runtime_unavailable")`."""
        number, self._next = self._next, self._next + 1
        request = self._requests[number] = _Request()
        sent = False
        try:
            await self._send(json.dumps({"spawn": number, "limits": dict(limits)}).encode(), descriptors)
            sent = True
            await request.answered.wait()
        except (OSError, trio.ClosedResourceError):
            pass  # the zygote died; `request` says so already
        except trio.Cancelled:
            request.abandoned = sent and not request.answered.is_set()
            if request.spawned is not None:
                os.close(request.spawned.pidfd)
            raise
        finally:
            if not request.abandoned:
                self._requests.pop(number, None)
        if request.spawned is None:
            raise Faulted("runtime_unavailable", f"cannot fork a service: {request.refusal}")
        return request.spawned

    def close(self) -> None:
        """End it, and with it everything it forked; watch `gone`. Idempotent."""
        if self._control.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """The same by force."""
        self.close()
        if self._keeper.returncode is None:
            kill_tree(self.pid)

    async def _send(self, packet: bytes, descriptors: tuple[int, ...]) -> None:
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self._control, [packet], descriptors)
                    return
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._control)

    async def _serve(self) -> None:
        try:
            await self._receive()
        except Exception as error:  # noqa: BLE001 - a garbled packet costs this zygote, never the run that system tasks end
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            self._die()
            with trio.CancelScope(shield=True):
                await self._end()

    async def _receive(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._control)
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, PACKET_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return
            if not data:
                return
            self._take(json.loads(data), descriptors)

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        match message:
            case {"ready": _}:
                self._ready.set()
            case {"failed": str(report)}:
                self._failure = report
            case {"spawned": int(number), "pid": int(pid)}:
                self._exits[number] = found = Exit()
                request = self._requests[number]
                request.spawned = Spawned(pid, descriptors[0], found)
                request.answered.set()
                if request.abandoned:  # its socket is closed already, so it ends by itself
                    os.close(descriptors[0])
                    del self._requests[number]
            case {"refused": int(number), "reason": str(reason)}:
                self._requests[number].refusal = reason
                self._requests[number].answered.set()
                if self._requests[number].abandoned:
                    del self._requests[number]
            case {"exited": int(number), "status": int(status)}:
                ended = self._exits.pop(number)
                ended.status = status
                ended.known.set()
            case _:
                raise ValueError(f"unknown packet {message!r}")

    def _die(self) -> None:
        self.dead.set()
        self._ready.set()
        for request in self._requests.values():
            request.answered.set()
        for ended in self._exits.values():
            ended.known.set()
        self._requests.clear()
        self._exits.clear()

    async def _end(self) -> None:
        trio.lowlevel.notify_closing(self._control)
        self._control.close()
        pidfd = os.pidfd_open(self.pid)  # not reaped yet, so this is still the keeper
        try:
            with trio.move_on_after(ZYGOTE_EXIT_S_MAX) as scope:
                await trio.lowlevel.wait_readable(pidfd)
            if scope.cancelled_caught:
                kill_tree(self.pid)
                with trio.move_on_after(ZYGOTE_EXIT_S_MAX):
                    await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        self._keeper.poll()
        with contextlib.suppress(Faulted):
            descriptor = await take_lock(self._lock, LOCK_WAIT_S_MAX)
            remove(self._lock)
            os.close(descriptor)
        self.gone.set()


def _execute(control: int, lock: int) -> subprocess.Popen[bytes]:
    package = os.path.dirname(os.path.abspath(solo_trio.__file__))
    settings = {"package": package, "paths": _dependency_paths(), "control": control}
    return subprocess.Popen(
        [sys.executable, "-I", "-B", os.path.abspath(boot.__file__), json.dumps(settings)],
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        pass_fds=(control, lock),
        start_new_session=True,
    )


def _dependency_paths() -> list[str]:
    """Where this process found what the zygote imports, in case that is not where a plain Python looks."""
    files = [sys.modules[name].__file__ for name in _DEPENDENCIES if name in sys.modules]
    return list(dict.fromkeys(os.path.dirname(os.path.dirname(os.path.abspath(file))) for file in files if file))
