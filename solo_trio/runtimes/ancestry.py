"""The kernel's end of the ancestor. Owns: executing it, what it found out, asking it for keepers. Never: knows a service."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

import solo_trio
from solo_trio.errors import Faulted
from solo_trio.runtimes import boot
from solo_trio.runtimes.sandbox.layers import Layers

START_S_MAX: Final = 60.0
FORK_S_MAX: Final = 10.0
"""From asking for a keeper until its answer, which nobody can stop waiting for. What is silent for longer was stopped."""
EXIT_S_MAX: Final = 2.0
"""From the end of the control socket until it is killed."""
PACKET_BYTES_MAX: Final = 256 * 1024
_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "2", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
_DEPENDENCIES: Final = ("trio", "attrs", "attr", "orjson", "outcome", "sniffio", "sortedcontainers", "idna")


@frozen
class Confinement:
    """What every sandbox of one kernel has in common.

    `mount`: a directory of the kernel's that the new roots may cover; `hidden`: what no service may see wherever it lies;
    `packages`: directories that services import from before the kernel's own packages, but for those it runs on itself;
    `without`: layers to do without.
    """

    mount: Path
    hidden: tuple[Path, ...] = ()
    packages: tuple[Path, ...] = ()
    without: tuple[str, ...] = ()


@define
class _Request:
    answered: trio.Event = field(factory=trio.Event)
    keeper: tuple[int, int] | None = None
    refusal: str = "the ancestor of all zygotes died"
    abandoned: bool = False


class Ancestor:
    """A running ancestor; `dead` once nothing can be forked from it any more, `gone` once it was reaped.

    Zygotes outlive it.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.dead = trio.Event()
        self.gone = trio.Event()
        self.pid = process.pid
        self.fork_s_max = FORK_S_MAX
        self.layers = Layers()
        self.unreachable: tuple[str, ...] = ()
        """What services are to read and cannot, as they have another uid."""
        self._process = process
        self._control = control
        self._ready = trio.Event()
        self._failure = "it ended without a word"
        self._next = 1
        self._requests: dict[int, _Request] = {}
        self._sending = trio.Lock()
        self._closed = False

    @classmethod
    async def start(cls, confinement: Confinement) -> Ancestor:
        """Start its process. Who has it must `close` it; it can fork after `wait_ready`.

        Raises `Faulted("runtime_unavailable")`.
        """
        if not sys.executable:
            raise Faulted("runtime_unavailable", "sys.executable is empty: there is no Python to start services with")
        with contextlib.ExitStack() as mine:
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                mine.callback(ours.close)
                ours.setblocking(False)
                # In a thread, as it blocks until the exec. So PDEATHSIG, which fires when that thread ends, is no way to end
                # it: the end of its socket is.
                with theirs:
                    process = await trio.to_thread.run_sync(_execute, theirs.fileno(), confinement)
            except OSError as error:
                raise Faulted("runtime_unavailable", f"cannot start the ancestor of zygotes: {error}") from error
            mine.pop_all()
        found = cls(process, ours)
        trio.lowlevel.spawn_system_task(found._serve, name="ancestor")
        return found

    async def wait_ready(self) -> None:
        """Until it can fork; one that cannot is closed. Raises `Faulted("runtime_unavailable")`."""
        try:
            with trio.move_on_after(START_S_MAX):
                await self._ready.wait()
        finally:
            if not self._ready.is_set():
                self.close()
        if self.dead.is_set() or not self._ready.is_set():
            raise Faulted("runtime_unavailable", f"the ancestor of zygotes did not start: {self._failure}")

    @property
    def over(self) -> bool:
        """Nothing can be forked from it any more, though it may not be `gone` yet."""
        return self._closed or self.dead.is_set()

    async def keeper(self, control: int, lock: int, groups: Sequence[str]) -> tuple[int, int]:
        """Fork a keeper with these descriptors, which stay the caller's; its pid and pidfd. Raises `Faulted`.

        Not to be cancelled: a keeper that nobody heard of would have no one who waits for its end.
        """
        number, self._next = self._next, self._next + 1
        request = self._requests[number] = _Request()
        sent = False
        try:
            with trio.move_on_after(self.fork_s_max, shield=True):
                await self._send(json.dumps({"tenant": number, "groups": list(groups)}).encode(), (control, lock))
                sent = True
                await request.answered.wait()
            if not request.answered.is_set():
                request.abandoned = sent
                request.refusal = f"it did not answer within {self.fork_s_max:g} s"
                self.close()
        except (OSError, trio.ClosedResourceError):
            pass  # it died; `request` says so already
        finally:
            if not request.abandoned:
                self._requests.pop(number, None)
        if request.keeper is None:
            raise Faulted("runtime_unavailable", f"cannot start a zygote: {request.refusal}")
        return request.keeper

    def close(self) -> None:
        """End it; what was forked from it stays. Idempotent."""
        self._closed = True
        if self._control.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)

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
        except Exception as error:  # noqa: BLE001 - a garbled packet costs this process, never the run that system tasks end
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            self.dead.set()
            self._ready.set()
            for request in self._requests.values():
                request.answered.set()
            self._requests.clear()
            trio.lowlevel.notify_closing(self._control)
            self._control.close()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._bury)
            self.gone.set()

    def _bury(self) -> None:
        try:
            self._process.wait(EXIT_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

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
            case {"ready": _, "plan": {"layers": dict(layers)}, "unreachable": list(unreachable)}:
                self.layers = Layers(**layers)
                self.unreachable = tuple(unreachable)
                self._ready.set()
            case {"failed": str(report)}:
                self._failure = report
            case {"keeper": int(number), "pid": int(pid)} if descriptors:
                request = self._requests[number]
                request.keeper = (pid, descriptors[0])
                request.answered.set()
                if request.abandoned:  # its control socket is closed already, so it ends by itself
                    os.close(descriptors[0])
                    del self._requests[number]
            case {"keeper": int(number), "pid": _}:
                self._refuse(number, "no descriptor is left for its pidfd")
            case {"refused": int(number), "reason": str(reason)}:
                self._refuse(number, reason)
            case _:
                raise ValueError(f"unknown packet {message!r}")

    def _refuse(self, number: int, reason: str) -> None:
        request = self._requests[number]
        request.refusal = reason
        request.answered.set()
        if request.abandoned:
            del self._requests[number]


def _execute(control: int, confinement: Confinement) -> subprocess.Popen[bytes]:
    package = os.path.dirname(os.path.abspath(solo_trio.__file__))
    settings = {
        "package": package,
        "paths": _dependency_paths(),
        "control": control,
        "sandbox": {
            "mount": str(confinement.mount),
            "hidden": [str(path) for path in confinement.hidden],
            "without": list(confinement.without),
            "packages": [str(path) for path in confinement.packages],
        },
    }
    return subprocess.Popen(
        [sys.executable, "-I", "-B", os.path.abspath(boot.__file__), json.dumps(settings)],
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        pass_fds=(control,),
        start_new_session=True,
    )


def _dependency_paths() -> list[str]:
    """Where this process found what the zygote imports, in case that is not where a plain Python looks."""
    files = [sys.modules[name].__file__ for name in _DEPENDENCIES if name in sys.modules]
    return list(dict.fromkeys(os.path.dirname(os.path.dirname(os.path.abspath(file))) for file in files if file))
