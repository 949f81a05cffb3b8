"""Landlock: which files a process may reach. Owns: making and entering a domain. Never: decides which.

See landlock(7). Beside files it refuses all TCP, and signals and abstract unix sockets to outside of the domain, where the
kernel's ABI has that. It does not look at chdir, stat, chmod, chown, utime and flock.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Final

from solo_trio.runtimes.sandbox.system import syscall

ABI_LEAST: Final = 3
"""Linux 6.2. Before, a file could be truncated without the right to write it."""
_ABI_NET: Final = 4
_ABI_IOCTL: Final = 5
_ABI_SCOPES: Final = 6
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15
_ALL: Final = (1 << 15) - 1
"""Those of ABI 3."""
READ: Final = _READ_FILE | _READ_DIR
OWN: Final = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
"""No devices, sockets, pipes and links, and nothing is run."""
USE: Final = _READ_FILE | _WRITE_FILE
_OF_FILES: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE
_NET: Final = 0b11
"""Binding and connecting TCP."""
_SCOPES: Final = 0b11
"""Abstract unix sockets and signals."""


def abi() -> int:
    """Which version this kernel has; 0: none, or it is switched off."""
    try:
        return syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def make(version: int, rights: Iterable[tuple[str, int]]) -> int:
    """A ruleset of (path, what may be done there and below), as a descriptor; everything else is refused.

    `version`: what `abi` says.
    """
    handled = _ALL | (_IOCTL_DEV if version >= _ABI_IOCTL else 0)
    settings = struct.pack(
        "=QQQ", handled, _NET if version >= _ABI_NET else 0, _SCOPES if version >= _ABI_SCOPES else 0
    )
    size = 24 if version >= _ABI_SCOPES else 16 if version >= _ABI_NET else 8
    ruleset = syscall("landlock_create_ruleset", settings, size, 0)
    try:
        for path, right in rights:
            _allow(ruleset, path, right)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _allow(ruleset: int, path: str, right: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            right &= _OF_FILES
        syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", right, place), 0)
    finally:
        os.close(place)


def enter(ruleset: int) -> None:
    """For this thread and all that come of it, for good. Needs `PR_SET_NO_NEW_PRIVS`; closes `ruleset`."""
    try:
        syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
