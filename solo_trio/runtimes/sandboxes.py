"""A sandbox for a service. Owns: what belongs to one process until a service lives in it, and giving all of it back.

Never: knows which service it will be.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Mapping
from typing import Final

import trio
from attrs import define

from solo_trio.errors import Faulted
from solo_trio.runtimes.cgroups import Cgroups, Group
from solo_trio.runtimes.control import Spawned, Zygote
from solo_trio.runtimes.sandbox.layers import UIDS_FIRST

SHAPE: Final = ("memory_mb", "cpu_percent", "cpu_seconds", "threads", "fds", "disk_mb")
"""The limits that a process gets before it is a service."""
UIDS_MAX: Final = 65_536
"""So many sandboxes one kernel has at a time."""
UID_BLOCKS: Final = 0x4000


def shape_of(limits: Mapping[str, float]) -> dict[str, float]:
    return {name: limits[name] for name in SHAPE if name in limits}


class Uids:
    """Numbers that no account has: each sandbox its own, so that what one uses up is not another's.

    `seed` tells kernels on one machine apart, most of the time.
    """

    def __init__(self, seed: int) -> None:
        self._first = UIDS_FIRST + (seed % UID_BLOCKS) * UIDS_MAX
        self._next = 0
        self._used: set[int] = set()

    def take(self) -> int:
        """The one that was free for longest, about. Raises `Faulted("runtime_unavailable")`."""
        for _ in range(UIDS_MAX):
            number, self._next = self._first + self._next, (self._next + 1) % UIDS_MAX
            if number not in self._used:
                self._used.add(number)
                return number
        raise Faulted("runtime_unavailable", f"{UIDS_MAX} sandboxes are in use")

    def give_back(self, number: int) -> None:
        self._used.discard(number)


@define
class Sandbox:
    """A process that waits for the service it is to be, or is one. Whoever has it calls `close` once, when it has ended."""

    spawned: Spawned
    sock: socket.socket
    stdout: int
    stderr: int
    group: Group
    uid: int | None
    _uids: Uids
    made_at: float = 0.0

    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self.spawned.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def release(self) -> None:
        """Give back what others may have after it; nothing of it may run any more."""
        self.group.close()
        if self.uid is not None:
            self._uids.give_back(self.uid)

    def discard(self) -> None:
        """Of one that nobody used: end it."""
        for descriptor in (self.stdout, self.stderr):
            os.close(descriptor)
        self.sock.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.spawned.pidfd, signal.SIGKILL)
        # A system task: whoever had it does not wait for it. It lets nothing out.
        trio.lowlevel.spawn_system_task(self._bury, name="unused sandbox")

    async def _bury(self) -> None:
        try:
            with contextlib.suppress(OSError):
                await trio.lowlevel.wait_readable(self.spawned.pidfd)
        finally:
            trio.lowlevel.notify_closing(self.spawned.pidfd)
            os.close(self.spawned.pidfd)
            self.release()


async def make(
    zygote: Zygote,
    incarnation: str,
    shape: Mapping[str, float],
    cgroups: Cgroups,
    uids: Uids,
    *,
    own_uid: bool,
    ahead: bool = False,
) -> Sandbox:
    """Have one forked, `ahead` of whoever will want it; every descriptor has an owner at every point.

    Raises `Faulted("runtime_unavailable")`.
    """
    with contextlib.ExitStack() as mine, contextlib.ExitStack() as held:
        group = cgroups.service(incarnation, shape)
        held.callback(group.close)
        uid = uids.take() if own_uid else None
        if uid is not None:
            held.callback(uids.give_back, uid)
        with contextlib.ExitStack() as childs:
            try:
                ours, theirs = socket.socketpair()
                mine.callback(ours.close)
                childs.callback(theirs.close)
                ours.setblocking(False)
                (stdout, stdout_write), (stderr, stderr_write) = _pipe(mine, childs), _pipe(mine, childs)
                groups = group.open()
                for descriptor in groups:
                    childs.callback(os.close, descriptor)
            except OSError as error:
                raise Faulted("runtime_unavailable", f"cannot connect to a new service: {error}") from error
            # Given up half-way there may be a process in the cgroup and under the uid: they are free when it has ended.
            give_back = held.pop_all().close
            childs_ends = (theirs.fileno(), stdout_write, stderr_write, *groups)
            spawned = await zygote.spawn(shape, uid, childs_ends, give_back, ahead=ahead)
        mine.pop_all()
        return Sandbox(spawned, ours, stdout, stderr, group, uid, uids)


def _pipe(mine: contextlib.ExitStack, childs: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    mine.callback(os.close, read)
    childs.callback(os.close, write)
    os.set_blocking(read, False)
    return read, write
