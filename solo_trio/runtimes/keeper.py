"""The outer process of a zygote. Owns: the tenant's lock until the last descendant is reaped. Never: talks, forks services.

It holds the lock, is the subreaper of everything below it, and kills what outlives its parent. The inner process, its child,
serves the control socket; when that one is gone, for whatever reason, everything is killed and reaped, the tenant's cgroups are
removed, and only then does the lock become free. So a lock that can be taken means that no copy of a service runs.

Where there are namespaces the inner process is pid 1 of the tenant's own: its end ends all of them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Sequence
from typing import Final

from solo_trio.runtimes.procfs import children
from solo_trio.runtimes.sandbox import system
from solo_trio.runtimes.sandbox.layers import Layers, enter_user_namespace

_BELL_BYTES: Final = 4096


def keep(control: int, layers: Layers, groups: Sequence[str]) -> int:
    """Fork. Returns only in the inner process, with the descriptor to write a byte to after a service was reaped.

    `groups`: the tenant's cgroup directories, removed at the end with those in them.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the wire and SIGKILL end a zygote
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    listen, bell = os.pipe2(os.O_CLOEXEC)
    if layers.user_namespace:
        system.prctl(system.PR_SET_DUMPABLE, 1)  # else the files that say who is who in it are root's
        enter_user_namespace(system.CLONE_NEWPID)
        system.prctl(system.PR_SET_DUMPABLE, 0)
    elif layers.namespaces:
        system.unshare(system.CLONE_NEWPID)
    inner = os.fork()
    if inner == 0:
        os.close(listen)
        system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
        if _is_alone(bell):  # the outer one died before the line above
            os._exit(1)
        return bell
    os.close(control)  # or the kernel would never see the inner one's death
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while _reap(inner):
        _kill_all_but(inner)
        os.read(listen, _BELL_BYTES)
    while True:  # a killed process hands its children to us before it can be reaped: none escapes the next round
        _kill_all_but(None)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    _remove(groups)
    os._exit(0)


def _is_alone(bell: int) -> bool:
    """Whether nobody has the other end. The parent's pid does not tell: it is 0 in a pid namespace."""
    poll = select.poll()
    poll.register(bell, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _reap(inner: int) -> bool:
    """Reap what has ended; whether the inner process still lives."""
    while True:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid == inner:
            return False
        if pid == 0:
            return True


def _kill_all_but(spared: int | None) -> None:
    """Kill the children that were left to us: what a service leaves behind ends with it."""
    for pid in children(os.getpid()):
        if pid != spared:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _remove(groups: Sequence[str]) -> None:
    for group in groups:
        with contextlib.suppress(OSError):
            for entry in os.scandir(group):
                if entry.is_dir():
                    with contextlib.suppress(OSError):
                        os.rmdir(entry.path)
            os.rmdir(group)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(group))  # the kernel's, if it was the last
