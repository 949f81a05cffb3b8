"""From fork to service. Owns: the ordered steps that strip a fresh child of the zygote. Never: runs service code itself.

The numbers are those of the sandbox's design; a step that is not there yet has its place in `STEPS`.
"""

from __future__ import annotations

import fcntl
import gc
import os
import random
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from attrs import frozen

from solo_trio.runtimes.prctl import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl

FDS_DEFAULT: Final = 256
STEP_FAILED: Final = 97
"""Exit code of a child that could not finish its steps; no service code has run then."""
SERVICE_SOCKET: Final = 3
CPU_GRACE_S: Final = 5
"""Between SIGXCPU (named in the ending) and SIGKILL."""
MEBIBYTE: Final = 1024 * 1024


@frozen
class Setup:
    """What the zygote hands to its child: descriptors, limits (as in `ports.Launch`), and the zygote's pid."""

    service_socket: int
    stdout: int
    stderr: int
    limits: Mapping[str, float]
    parent: int


def become_service(setup: Setup) -> NoReturn:
    """Take all steps in order, then host the service. Called in the child, right after the fork."""
    try:
        for _number, step in STEPS:
            step(setup)
    except BaseException:  # noqa: BLE001 - nothing may unwind into the zygote's stack
        os.write(2, traceback.format_exc().encode("utf-8", "replace")[-4096:])
        os._exit(STEP_FAILED)
    from solo_trio.runtimes.host import host  # imported by the zygote already

    host(socket.socket(fileno=SERVICE_SOCKET))


def _session(setup: Setup) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()


def _descriptors(setup: Setup) -> None:
    # Moved out of the way first: any of the three may have a number that is about to be overwritten.
    high = [_above(descriptor, 10) for descriptor in (setup.stdout, setup.stderr, setup.service_socket)]
    null = os.open("/dev/null", os.O_RDONLY)
    for number, descriptor in enumerate([null, *high]):
        os.dup2(descriptor, number, inheritable=number < SERVICE_SOCKET)
    os.closerange(SERVICE_SOCKET + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # one close_range(2)


def _above(descriptor: int, least: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)


def _rlimits(setup: Setup) -> None:
    limits = setup.limits
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_SIGPENDING, 64)
    _limit(resource.RLIMIT_NOFILE, int(limits.get("fds", FDS_DEFAULT)))
    if "memory_mb" in limits:
        _limit(resource.RLIMIT_DATA, int(limits["memory_mb"] * MEBIBYTE))  # not AS: that counts arenas and stacks
    if "disk_mb" in limits:
        _limit(resource.RLIMIT_FSIZE, int(limits["disk_mb"] * MEBIBYTE))
    if "cpu_seconds" in limits:
        seconds = max(1, int(limits["cpu_seconds"]))
        _limit(resource.RLIMIT_CPU, seconds, seconds + CPU_GRACE_S)
    if "threads" in limits and os.getuid() == 0:
        # NPROC counts every process of the uid. Until step 7 gives the service a uid of its own, an ordinary user's would
        # count the whole desktop; root's is not enforced.
        _limit(resource.RLIMIT_NPROC, int(limits["threads"]))


def _limit(which: int, soft: int, hard: int | None = None) -> None:
    most = resource.getrlimit(which)[1]
    values = [
        value if most == resource.RLIM_INFINITY else min(value, most)
        for value in (soft, soft if hard is None else hard)
    ]
    resource.setrlimit(which, (values[0], values[1]))


def _privileges(setup: Setup) -> None:
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != setup.parent:  # the zygote died before the line above: the signal will never come
        os._exit(STEP_FAILED)


def _fresh_start(setup: Setup) -> None:
    random.seed()
    scheduling: Any = getattr(sys.modules.get("trio._core._run"), "_r", None)
    if isinstance(scheduling, random.Random):  # else siblings share the order in which Trio runs tasks
        scheduling.seed()
    os.environ.clear()
    sys.argv[:] = []
    sys.orig_argv[:] = []
    gc.enable()


STEPS: Final[tuple[tuple[int, Callable[[Setup], None]], ...]] = (
    (1, _session),
    # 2: cgroup.procs
    (3, _descriptors),
    # 4: a mount namespace and a tmpfs of its own
    (5, _rlimits),
    # 6: make the Landlock ruleset
    # 7: a uid of its own
    (8, _privileges),  # after 7, which would clear PDEATHSIG
    # 9: landlock_restrict_self
    # 10: the seccomp filter
    (11, _fresh_start),
)
