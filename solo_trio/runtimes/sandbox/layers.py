"""What protects a service. Owns: the layers, the level they make, what a machine has of them. Never: applies one.

Level 3: namespaces, Landlock, seccomp, limits. Level 2: the same without namespaces. Level 1: limits alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, Final

from attrs import asdict, field, frozen

from solo_trio.runtimes.sandbox import landlock, numbers, policy, seccomp, system

LEVEL_FULL: Final = 3
LEVEL_FILTERED: Final = 2
LEVEL_LIMITED: Final = 1
NAMESPACES: Final = system.CLONE_NEWNS | system.CLONE_NEWNET | system.CLONE_NEWIPC | system.CLONE_NEWUTS
_REPORT_BYTES: Final = 4_096
_APPARMOR: Final = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_CLONE_SWITCH: Final = "/proc/sys/kernel/unprivileged_userns_clone"
_MOST: Final = "/proc/sys/user/max_user_namespaces"


@frozen
class Layers:
    """Which are in force, and for each that is not, why and what to do about it."""

    namespaces: bool = False
    user_namespace: bool = False
    """They are those of an ordinary user: services share its uid, and have no capability."""
    landlock: int = 0
    """The ABI."""
    seccomp: bool = False
    own_uid: bool = False
    missing: dict[str, str] = field(factory=dict)

    @property
    def level(self) -> int:
        if not (self.landlock >= landlock.ABI_LEAST and self.seccomp):
            return LEVEL_LIMITED
        return LEVEL_FULL if self.namespaces else LEVEL_FILTERED

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def detect(without: tuple[str, ...] = ()) -> Layers:
    """Try each in a child that is forked for it. `without`: those (fields of `Layers`) to do without, whatever there is."""
    missing: dict[str, str] = {}
    root = os.geteuid() == 0

    def has(name: str, attempt: Callable[[], None], why: Callable[[str], str]) -> bool:
        error = "it is switched off" if name in without else _tried(attempt)
        if error is not None:
            missing[name] = why(error)
        return error is None

    version = 0 if "landlock" in without else landlock.abi()
    has("landlock", _enter_landlock, lambda error: f"{error}; {_landlock_remedy(version)}")
    found_seccomp = has("seccomp", _install_filter, lambda error: f"{error}; {_SECCOMP_REMEDY}")
    namespaces = has("namespaces", _enter_namespaces, lambda error: f"{error}; {_namespaces_remedy(root)}")
    own_uid = root and has("own_uid", _change_uid, lambda error: f"{error}; {_UID_REMEDY}")
    return Layers(
        namespaces=namespaces,
        user_namespace=namespaces and not root,
        landlock=0 if "landlock" in missing else version,
        seccomp=found_seccomp,
        own_uid=own_uid,
        missing=missing,
    )


def _tried(attempt: Callable[[], None]) -> str | None:
    """What went wrong with it in a child; None: nothing."""
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError as error:
        os.close(read)
        os.close(write)
        return f"fork: {error.strerror}"
    if pid == 0:
        with contextlib.suppress(BaseException):
            try:
                attempt()
                os.write(write, b"+")
            except BaseException as error:  # noqa: BLE001 - nothing may unwind into the parent's stack
                os.write(write, str(error).encode("utf-8", "replace")[:_REPORT_BYTES])
        os._exit(0)
    os.close(write)
    said = os.read(read, _REPORT_BYTES)
    os.close(read)
    os.waitpid(pid, 0)
    return None if said == b"+" else said.decode("utf-8", "replace") or "the attempt was killed"


def _enter_landlock() -> None:
    version = landlock.abi()
    if version < landlock.ABI_LEAST:
        raise OSError(38, f"Landlock has ABI {version}; {landlock.ABI_LEAST} is needed")
    ruleset = landlock.make(version, [("/", landlock.READ)])
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
    landlock.enter(ruleset)


def _install_filter() -> None:
    architecture = numbers.here()
    if architecture is None:
        raise OSError(38, f"the processor is neither of {', '.join(numbers.ARCHITECTURES)}")
    code = seccomp.program(policy.rules(own_files=True, pid=os.getpid()), architecture)
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(code)


def _change_uid() -> None:
    os.setgroups([])
    os.setresgid(UIDS_FIRST, UIDS_FIRST, UIDS_FIRST)
    os.setresuid(UIDS_FIRST, UIDS_FIRST, UIDS_FIRST)


def _enter_namespaces() -> None:
    if os.geteuid() != 0:
        enter_user_namespace()
    system.unshare(system.CLONE_NEWPID | NAMESPACES)
    system.mount(None, "/", None, system.MS_REC | system.MS_PRIVATE)
    system.mount("tmpfs", "/tmp", "tmpfs", system.MS_NOSUID, "size=64k")
    system.restrict_mount("/tmp", system.MOUNT_ATTR_RDONLY)


def enter_user_namespace(flags: int = 0) -> None:
    """An ordinary user becomes the owner of namespaces; its uid is kept, as `UID_INSIDE`."""
    user, group = os.getuid(), os.getgid()
    system.unshare(system.CLONE_NEWUSER | flags)
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{UID_INSIDE} {user} 1"),
        ("gid_map", f"{UID_INSIDE} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(content)


UID_INSIDE: Final = 65_534
UIDS_FIRST: Final = 0x7000_0000
"""Far from those that people and daemons have, and from those that containers are usually given."""


def _landlock_remedy(version: int) -> str:
    if version:
        return "update Linux to 6.2 or newer"
    return (
        "start Linux with landlock in lsm= (CONFIG_SECURITY_LANDLOCK), 6.2 or newer; in a container, allow landlock_*"
    )


_SECCOMP_REMEDY: Final = "run a Linux with CONFIG_SECCOMP_FILTER on x86_64 or aarch64"


_UID_REMEDY: Final = "run as an ordinary user, or give this root all user ids, CAP_SETUID and CAP_SETGID"


def _namespaces_remedy(root: bool) -> str:
    if root:
        return "give the container CAP_SYS_ADMIN and a seccomp profile that allows unshare and mount"
    for file, bad, what in (
        (_APPARMOR, "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with userns"),
        (_CLONE_SWITCH, "0", "sysctl kernel.unprivileged_userns_clone=1"),
        (_MOST, "0", "sysctl user.max_user_namespaces=10000"),
    ):
        with contextlib.suppress(OSError), open(file) as content:
            if content.read().strip() == bad:
                return what
    return "allow user namespaces (in a container: a seccomp profile that allows unshare and mount)"
