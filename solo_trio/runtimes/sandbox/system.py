"""System calls that Python does not have. Owns: the one `syscall`, and a thin name for each call. Never: knows an order.

Everything raises `OSError`. `os.unshare` and `os.setns` exist from Python 3.12 on, so they are made here.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

from solo_trio.runtimes.sandbox.numbers import here

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_MDWE: Final = 65
PR_MDWE_REFUSE_EXEC_GAIN: Final = 1
CAPABILITIES: Final = 64
"""More than any kernel has."""
TURN_NS: Final = 200_000
"""How long a service computes before another may: with the usual milliseconds, a call that passes three processes waits for
each of them as long while somebody else computes."""
_SCHED_ATTR_BYTES: Final = 48
_SCHED_NORMAL: Final = 0
_CAPABILITY_VERSION_3: Final = 0x20080522

_architecture = here()
NUMBERS: Final = _architecture.numbers if _architecture is not None else {}
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make the call `name`; the result, or `OSError`."""
    number = NUMBERS.get(name)
    if number is None:
        raise OSError(38, f"{name} is not known on this architecture")
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *given), name)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def prctl(option: int, value: int) -> None:
    """Set `option` of this process."""
    long = ctypes.c_ulong
    _checked(_libc.prctl(ctypes.c_int(option), long(value), long(0), long(0), long(0)), f"prctl {option}")


def unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    given = [None if each is None else os.fsencode(each) for each in (source, target, kind, data)]
    source_, target_, kind_, data_ = given
    _checked(_libc.mount(source_, target_, kind_, ctypes.c_ulong(flags), data_), f"mount {target}")


def unmount(target: str) -> None:
    """Now from the tree, for good once nothing uses it."""
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def restrict_mount(target: str, attributes: int) -> None:
    """Add `MOUNT_ATTR_*` to a mount and all below it; what was restricted stays so."""
    settings = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0), 32)
    syscall("mount_setattr", _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, settings, 32)


def change_root(directory: str) -> None:
    """Make `directory`, a mount, the root of this mount namespace; the old root is gone."""
    os.chdir(directory)
    syscall("pivot_root", b".", b".")
    unmount(".")
    os.chdir("/")


def take_short_turns() -> None:
    """Let this thread be preempted soon by whoever waits for a processor, and so preempt others that are (Linux 6.12).

    Not a priority: its share stays the same. What it forks inherits that. What Linux is too old for is left as it is.
    """
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = struct.pack("=IIQiIQQQ", _SCHED_ATTR_BYTES, _SCHED_NORMAL, 0, nice, 0, TURN_NS, 0, 0)
    try:
        syscall("sched_setattr", 0, ctypes.create_string_buffer(attributes, _SCHED_ATTR_BYTES), 0)
    except OSError:
        return


def drop_capabilities() -> None:
    """All of them, for good."""
    for capability in range(CAPABILITIES):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # the last one this kernel has
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    syscall("capset", header, ctypes.create_string_buffer(bytes(24), 24))
