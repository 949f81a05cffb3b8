"""From fork to service. Owns: the ordered steps that confine a fresh child of the zygote. Never: runs service code itself.

The numbers are those of the sandbox's design. The order is the point: memory is charged before any is used, mounts are made
while that is allowed, rights are dropped before what cannot be undone, and the filter comes last.
"""

from __future__ import annotations

import contextlib
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

from attrs import define

from solo_trio.runtimes.host import Link, host
from solo_trio.runtimes.rehearsal import warm_up
from solo_trio.runtimes.sandbox import landlock, root, seccomp, system
from solo_trio.runtimes.sandbox.layers import LEVEL_LIMITED
from solo_trio.runtimes.sandbox.plan import Prepared

FDS_DEFAULT: Final = 256
THREADS_DEFAULT: Final = 64
SCRATCH_MB_DEFAULT: Final = 16.0
STEP_FAILED: Final = 97
"""Exit code of a child that could not finish its steps; no service code has run then."""
SERVICE_SOCKET: Final = 3
CPU_GRACE_S: Final = 5
"""Between SIGXCPU (named in the ending) and SIGKILL."""
MEBIBYTE: Final = 1024 * 1024


@define
class Setup:
    """What the zygote hands to its child: descriptors, limits (as in `ports.Launch`), how it is confined, its link.

    `groups`: entrances of its cgroups; `uid`: its own, None to keep the zygote's; `parent`: the pid of the zygote, as the
    child sees it; `ahead`: there is time to make what its start would wait for.
    """

    service_socket: int
    stdout: int
    stderr: int
    groups: tuple[int, ...]
    limits: Mapping[str, float]
    uid: int | None
    parent: int
    prepared: Prepared
    link: Link
    ahead: bool = False
    ruleset: int | None = None


def become_service(setup: Setup) -> NoReturn:
    """Take all steps in order, then host the service. Called in the child, right after the fork."""
    try:
        for _number, step in STEPS:
            step(setup)
        if setup.ahead:
            _warm_up(setup)
    except BaseException:  # noqa: BLE001 - nothing may unwind into the zygote's stack
        os.write(2, traceback.format_exc().encode("utf-8", "replace")[-4096:])
        os._exit(STEP_FAILED)
    host(setup.link, socket.socket(fileno=SERVICE_SOCKET))


def _warm_up(setup: Setup) -> None:
    """Where it is not taken off a share of the processor that the service will want."""
    if "cpu_percent" not in setup.limits:
        with contextlib.suppress(Exception):  # as of too few descriptors: the service does without
            warm_up()


def _session(setup: Setup) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()


def _groups(setup: Setup) -> None:
    for group in setup.groups:
        os.write(group, b"0")


def _descriptors(setup: Setup) -> None:
    # Moved out of the way first: any of the three may have a number that is about to be overwritten.
    high = [_above(descriptor, 10) for descriptor in (setup.stdout, setup.stderr, setup.service_socket)]
    null = os.open("/dev/null", os.O_RDONLY)
    for number, descriptor in enumerate([null, *high]):
        os.dup2(descriptor, number, inheritable=number < SERVICE_SOCKET)
    os.closerange(SERVICE_SOCKET + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # one close_range(2)


def _above(descriptor: int, least: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)


def _scratch(setup: Setup) -> None:
    layers = setup.prepared.layers
    if not layers.namespaces:
        os.chdir("/")
        return
    system.unshare(system.CLONE_NEWNS)
    size_mb = setup.limits.get("disk_mb", SCRATCH_MB_DEFAULT)
    if size_mb > 0:
        root.own_scratch(size_mb, os.getuid() if setup.uid is None else setup.uid)
        os.chdir(root.SCRATCH)


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
    if _counts_alone(setup):
        _limit(resource.RLIMIT_NPROC, int(limits.get("threads", THREADS_DEFAULT)))


def _counts_alone(setup: Setup) -> bool:
    """NPROC counts every process of the uid in the user namespace: only where those are its own."""
    return setup.uid is not None or setup.prepared.layers.user_namespace


def _limit(which: int, soft: int, hard: int | None = None) -> None:
    most = resource.getrlimit(which)[1]
    values = [
        value if most == resource.RLIM_INFINITY else min(value, most)
        for value in (soft, soft if hard is None else hard)
    ]
    resource.setrlimit(which, (values[0], values[1]))


def _make_domain(setup: Setup) -> None:
    version = setup.prepared.layers.landlock
    if version:
        setup.ruleset = landlock.make(version, setup.prepared.rights)


def _identity(setup: Setup) -> None:
    if setup.uid is not None:
        os.setgroups([])
        os.setresgid(setup.uid, setup.uid, setup.uid)
        os.setresuid(setup.uid, setup.uid, setup.uid)  # which also drops every capability
    elif setup.prepared.layers.user_namespace:
        system.unshare(system.CLONE_NEWUSER)  # a count of processes of its own
        system.drop_capabilities()
    elif os.geteuid() == 0 and setup.prepared.layers.level > LEVEL_LIMITED:
        system.drop_capabilities()  # root that has no other user ids


def _privileges(setup: Setup) -> None:
    system.prctl(system.PR_SET_DUMPABLE, 0)
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != setup.parent:  # the zygote died before the line above: the signal will never come
        os._exit(STEP_FAILED)
    if setup.prepared.layers.seccomp:
        try:
            system.prctl(system.PR_SET_MDWE, system.PR_MDWE_REFUSE_EXEC_GAIN)
        except OSError:
            return  # Linux before 6.3; the filter refuses the same


def _enter_domain(setup: Setup) -> None:
    if setup.ruleset is not None:
        landlock.enter(setup.ruleset)


def _filter(setup: Setup) -> None:
    program = setup.prepared.program(os.getpid())
    if program:
        seccomp.install(program)


def _fresh_start(setup: Setup) -> None:
    random.seed()
    scheduling: Any = getattr(sys.modules.get("trio._core._run"), "_r", None)
    if isinstance(scheduling, random.Random):  # else siblings share the order in which Trio runs tasks
        scheduling.seed()
    gc.enable()


STEPS: Final[tuple[tuple[int, Callable[[Setup], None]], ...]] = (
    (1, _session),
    (2, _groups),
    (3, _descriptors),
    (4, _scratch),
    (5, _rlimits),
    (6, _make_domain),
    (7, _identity),
    (8, _privileges),  # after 7, which would clear PDEATHSIG
    (9, _enter_domain),  # after all mounts, before any thread
    (10, _filter),
    (11, _fresh_start),
)
