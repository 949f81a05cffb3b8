"""The filter of system calls. Owns: turning rules into a BPF program, and installing one. Never: decides what is allowed.

The program is a binary search over the numbers, so a call costs some ten instructions whatever is allowed. Classic BPF as in
seccomp(2): the data it sees are the number, the architecture and the arguments, each of these as two 32-bit words.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from attrs import frozen

from solo_trio.runtimes.sandbox.numbers import BEYOND, Architecture
from solo_trio.runtimes.sandbox.system import syscall

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000

_LOAD: Final = 0x20
_JUMP: Final = 0x05
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_AT_LEAST: Final = 0x35
_JUMP_IF_ANY_BIT: Final = 0x45
_AND: Final = 0x54
_RETURN: Final = 0x06
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_ARGUMENTS_AT: Final = 16
_SECCOMP_SET_MODE_FILTER: Final = 1
JUMP_MAX: Final = 255
"""How far a condition can jump."""
LEAF_CALLS: Final = 4
"""So many numbers are compared one after the other at the end of the search."""

Instruction = tuple[int, int, int, int]
"""(code, jump if true, jump if false, value)"""


def fails(number: int) -> int:
    """The action that makes a call fail with an errno; 0: it does nothing and says it did."""
    return _ERRNO | number


DENY: Final = fails(errno.EPERM)


@frozen
class Check:
    """If the low 32 bits of an argument compare so, then the action, else the next check; at the end `DENY`.

    `is`, `is_not`; `any_of`, `none_of`, `all_of` bits; `masked`: equal to `value` under `mask`. `high_is_not`: of the upper 32.
    """

    argument: int
    test: Literal["is", "is_not", "any_of", "none_of", "all_of", "masked", "high_is_not"]
    value: int
    action: int = ALLOW
    mask: int = 0


@frozen
class Rules:
    """`allowed` by name; `answered`: always with an action; `checked`: by their arguments; the rest is denied."""

    allowed: frozenset[str]
    answered: Mapping[str, int]
    checked: Mapping[str, Sequence[Check]]


def program(rules: Rules, architecture: Architecture) -> bytes:
    """The filter, for `install`. Calls of another architecture or ABI kill; numbers that are not known yet do not exist."""
    numbers = architecture.numbers
    bodies: dict[int, list[Instruction]] = {}
    for name, checks in rules.checked.items():
        if name in numbers:
            bodies[numbers[name]] = _body(checks)
    for name, action in rules.answered.items():
        if name in numbers:
            bodies[numbers[name]] = [_return(action)]
    for name in rules.allowed:
        if name in numbers:
            bodies[numbers[name]] = [_return(ALLOW)]
    head: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, architecture.audit),
        _return(KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if architecture.foreign_from is not None:
        head += [(_JUMP_IF_AT_LEAST, 0, 1, architecture.foreign_from), _return(KILL)]
    head += [(_JUMP_IF_AT_LEAST, 0, 1, BEYOND), _return(fails(errno.ENOSYS))]
    return b"".join(struct.pack("=HBBI", *each) for each in [*head, *_search(sorted(bodies.items()))])


def _return(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _body(checks: Iterable[Check]) -> list[Instruction]:
    body: list[Instruction] = []
    for check in checks:
        at = _ARGUMENTS_AT + 8 * check.argument + (4 if check.test == "high_is_not" else 0)
        body.append((_LOAD, 0, 0, at))
        match check.test:
            case "is":
                body.append((_JUMP_IF_EQUAL, 0, 1, check.value))
            case "is_not" | "high_is_not":
                body.append((_JUMP_IF_EQUAL, 1, 0, check.value))
            case "any_of":
                body.append((_JUMP_IF_ANY_BIT, 0, 1, check.value))
            case "none_of":
                body.append((_JUMP_IF_ANY_BIT, 1, 0, check.value))
            case "all_of":
                body += [(_AND, 0, 0, check.value), (_JUMP_IF_EQUAL, 0, 1, check.value)]
            case "masked":
                body += [(_AND, 0, 0, check.mask), (_JUMP_IF_EQUAL, 0, 1, check.value)]
        body.append(_return(check.action))
    body.append(_return(DENY))
    if len(body) > JUMP_MAX:
        raise ValueError("too many checks of one call")
    return body


def _search(calls: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    if len(calls) <= LEAF_CALLS:
        leaf: list[Instruction] = []
        for number, body in calls:
            leaf += [(_JUMP_IF_EQUAL, 0, len(body), number), *body]
        return [*leaf, _return(DENY)]
    middle = len(calls) // 2
    lower, upper = _search(calls[:middle]), _search(calls[middle:])
    # An unconditional jump reaches farther than a condition.
    return [(_JUMP_IF_AT_LEAST, 0, 1, calls[middle][0]), (_JUMP, 0, 0, len(lower)), *lower, *upper]


def install(code: bytes) -> None:
    """From now on, for this process, for good. Needs `PR_SET_NO_NEW_PRIVS`."""
    instructions = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(instructions))
    syscall("seccomp", _SECCOMP_SET_MODE_FILTER, 0, ctypes.create_string_buffer(described, 16))
