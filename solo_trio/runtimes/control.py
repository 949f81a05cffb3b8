"""The kernel's end of a zygote. Owns: starting it, asking it to fork, hearing of ends, its end. Never: knows a service."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

from solo_trio.errors import Faulted
from solo_trio.runtimes.ancestry import Ancestor
from solo_trio.runtimes.procfs import Inherited, inherited
from solo_trio.runtimes.tenant_lock import kill_below, kill_tree, lock_path, remove, take_lock, write_record

ZYGOTE_START_S_MAX: Final = 60.0
ZYGOTE_EXIT_S_MAX: Final = 5.0
"""From the end of the control socket until the keeper has reaped everything; then it is killed."""
FORK_S_MAX: Final = 10.0
"""From asking for a fork until its answer. A zygote that is silent for longer was stopped, by one of its services say."""
LOCK_WAIT_S_MAX: Final = 10.0
PACKET_BYTES_MAX: Final = 64 * 1024


@define
class Exit:
    """How a child ended, once `known`; `status` is None if the zygote died first."""

    known: trio.Event = field(factory=trio.Event)
    status: int | None = None
    give_back: Callable[[], None] | None = None
    """To be called then, for one whose start was given up."""


@frozen
class Spawned:
    """A forked service. Whoever has it owns the pidfd."""

    pid: int
    pidfd: int
    exit: Exit
    inherited: Inherited
    """What it has in memory of the zygote's."""


@define
class _Request:
    answered: trio.Event = field(factory=trio.Event)
    spawned: Spawned | None = None
    refusal: str = "the zygote died"
    abandoned: bool = False
    give_back: Callable[[], None] | None = None


class Zygote:
    """A running zygote; `dead` once nothing can be forked any more, `gone` once all its processes have ended."""

    def __init__(self, keeper: int, pidfd: int, control: socket.socket, lock: Path) -> None:
        self.dead = trio.Event()
        self.gone = trio.Event()
        self.pid = keeper
        self.fork_s_max = FORK_S_MAX
        self._pidfd = pidfd
        self._inner: int | None = None
        """The pidfd of the inner process: it outlives a keeper that was killed until all of its namespace have ended."""
        self._control = control
        self._lock = lock
        self._closed = False
        self._ready = trio.Event()
        self._failure = "it ended without a word"
        self._next = 1
        self._requests: dict[int, _Request] = {}
        self._exits: dict[int, Exit] = {}
        self._inherited = Inherited()
        """By what it forks. Read of the first: it does not grow, and reading it takes a twentieth of all that a start takes."""
        self._owed: list[Callable[[], None]] = []
        """What is given back when all its processes are gone."""
        self._sending = trio.Lock()

    @classmethod
    async def start(
        cls, directory: Path, incarnation: str, name: str, ancestor: Ancestor, groups: Sequence[str]
    ) -> Zygote:
        """Start its process. Who has it must `close` it; it can fork after `wait_ready`. `groups`: see `keeper.keep`.

        Raises `Faulted`: "runtime_unavailable", or "services_alive" if an earlier one does not end.
        """
        path = lock_path(directory, name)
        try:
            lock = await take_lock(path, LOCK_WAIT_S_MAX)
            try:
                zygote = await cls._fork(path, lock, ancestor, groups)
            except BaseException:
                os.close(lock)
                with trio.CancelScope(shield=True):  # what was forked half-way ends by itself: its socket is closed
                    await _release(path)
                raise
            os.close(lock)
        except OSError as error:
            raise Faulted("runtime_unavailable", f"cannot start a zygote: {error}") from error
        # A system task: a zygote serves many services, whose nurseries come and go, and is ended by `close` or, failing that,
        # with the run. `_serve` lets nothing out.
        trio.lowlevel.spawn_system_task(zygote._serve, name=f"zygote {incarnation}")
        return zygote

    @classmethod
    async def _fork(cls, path: Path, lock: int, ancestor: Ancestor, groups: Sequence[str]) -> Zygote:
        with contextlib.ExitStack() as mine:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            mine.callback(ours.close)
            ours.setblocking(False)
            with theirs:
                keeper, pidfd = await ancestor.keeper(theirs.fileno(), lock, groups)
            mine.callback(os.close, pidfd)
            write_record(lock, keeper)
            mine.pop_all()
            return cls(keeper, pidfd, ours, path)

    async def wait_ready(self) -> None:
        """Until it can fork; one that cannot is closed. Raises `Faulted("runtime_unavailable")`."""
        try:
            with trio.move_on_after(ZYGOTE_START_S_MAX):
                await self._ready.wait()
        finally:
            if not self._ready.is_set():
                self.close()
        if self.dead.is_set() or not self._ready.is_set():
            raise Faulted("runtime_unavailable", f"the zygote did not start: {self._failure}")

    @property
    def over(self) -> bool:
        """Nothing can be forked any more, though it may not be `gone` yet."""
        return self._closed or self.dead.is_set()

    async def spawn(
        self,
        limits: Mapping[str, float],
        uid: int | None,
        descriptors: Sequence[int],
        give_back: Callable[[], None] = lambda: None,
        *,
        ahead: bool = False,
    ) -> Spawned:
        """Fork a service with (socket, stdout, stderr, cgroups), which stay the caller's. `ahead`: nobody waits for it yet.

        Raises `Faulted("runtime_unavailable")`. Then, and when it is cancelled, `give_back` is called as soon as nothing runs
        that was forked for it.
        """
        number, self._next = self._next, self._next + 1
        request = self._requests[number] = _Request()
        packet = json.dumps({"spawn": number, "limits": dict(limits), "uid": uid, "ahead": ahead}).encode()
        sent = taken = False
        try:
            with trio.move_on_after(self.fork_s_max):
                await self._send(packet, descriptors)
                sent = True
                await request.answered.wait()
            if not request.answered.is_set():
                request.abandoned = sent
                request.refusal = f"the zygote did not answer within {self.fork_s_max:g} s and was killed"
                self.kill()
            taken = request.spawned is not None
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
            if not taken:
                self._give_back_later(number, request, give_back)
        if request.spawned is None:
            raise Faulted("runtime_unavailable", f"cannot fork a service: {request.refusal}")
        return request.spawned

    def _give_back_later(self, number: int, request: _Request, give_back: Callable[[], None]) -> None:
        ended = self._exits.get(number)
        if ended is not None:
            ended.give_back = give_back
        elif request.abandoned:  # it may have been forked already; the answer says so
            request.give_back = give_back
        else:
            give_back()

    def close(self) -> None:
        """End it, and with it everything it forked; watch `gone`. Idempotent."""
        self._closed = True
        if self._control.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """The same by force, as far as it can be: never raises."""
        self.close()
        if not self.gone.is_set():
            self._kill(kill_below)

    def _kill(self, kill: Callable[[int], None]) -> None:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(0):  # else its pid may be another's
            kill(self.pid)

    async def _send(self, packet: bytes, descriptors: Sequence[int]) -> None:
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self._control, [packet], list(descriptors))
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
                self._inner = descriptors[0] if descriptors else None  # there may be none left here
                self._ready.set()
            case {"failed": str(report)}:
                self._failure = report
            case {"spawned": int(number)}:
                request = self._requests[number]
                self._exits[number] = found = Exit(give_back=request.give_back)
                request.give_back = None
                pid = _host_pid(descriptors)
                if pid is None:  # the child ends by itself: its socket will be closed
                    self._refuse(number, "no descriptor is left for its pidfd")
                    return
                if not self._inherited.rss_bytes:
                    with contextlib.suppress(OSError):  # no descriptor is left to look with: the next one is looked at
                        self._inherited = inherited(pid)
                request.spawned = Spawned(pid, descriptors[0], found, self._inherited)
                request.answered.set()
                if request.abandoned:  # its socket is closed already, so it ends by itself
                    os.close(descriptors[0])
                    del self._requests[number]
            case {"refused": int(number), "reason": str(reason)}:
                self._refuse(number, reason)
            case {"exited": int(number), "status": int(status)}:
                ended = self._exits.pop(number)
                ended.status = status
                ended.known.set()
                if ended.give_back is not None:
                    ended.give_back()
            case _:
                raise ValueError(f"unknown packet {message!r}")

    def _refuse(self, number: int, reason: str) -> None:
        request = self._requests[number]
        request.refusal = reason
        request.answered.set()
        if request.abandoned:
            del self._requests[number]
            if request.give_back is not None:
                request.give_back()

    def _die(self) -> None:
        self.dead.set()
        self._ready.set()
        for request in self._requests.values():
            request.answered.set()
        for ended in self._exits.values():
            ended.known.set()
        owing = [each.give_back for each in self._requests.values()] + [each.give_back for each in self._exits.values()]
        self._owed = [give_back for give_back in owing if give_back is not None]
        self._requests.clear()
        self._exits.clear()

    async def _end(self) -> None:
        """Bury it. Nothing may come out: a system task that raises ends the whole run.

        What is lost when there are no descriptors left is patience, and a lock file, which the next start locks again.
        """
        trio.lowlevel.notify_closing(self._control)
        self._control.close()
        with contextlib.suppress(OSError):
            for kill in (kill_below, kill_tree):
                if not await self._has_exited():
                    self._kill(kill)
            await self._has_exited()
            if self._inner is not None:
                await _has_exited(self._inner)
        await _release(self._lock)
        for give_back in self._owed:
            give_back()
        self.gone.set()
        for pidfd in (self._pidfd, self._inner):
            if pidfd is not None:
                trio.lowlevel.notify_closing(pidfd)
                os.close(pidfd)

    async def _has_exited(self) -> bool:
        return await _has_exited(self._pidfd)


async def _has_exited(pidfd: int) -> bool:
    """Wait for it. By its pidfd, whoever reaps it: nobody but the kernel of the machine, if SIGCHLD is ignored."""
    with trio.move_on_after(ZYGOTE_EXIT_S_MAX):
        await trio.lowlevel.wait_readable(pidfd)
        return True
    return False


async def _release(path: Path) -> None:
    """Wait until nobody holds the lock any more, and remove its file."""
    with contextlib.suppress(Faulted, OSError):
        descriptor = await take_lock(path, LOCK_WAIT_S_MAX)
        remove(path)
        os.close(descriptor)


def _host_pid(pidfds: Sequence[int]) -> int | None:
    """The pid of what a pidfd is about as this process sees it: in its own pid namespace it has another.

    None: there was no descriptor left for it here or there, or there is none to ask with; then it is closed.
    """
    for pidfd in pidfds:
        try:
            with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
                return next(int(line[len(b"Pid:") :]) for line in file if line.startswith(b"Pid:"))
        except OSError:
            os.close(pidfd)
    return None
