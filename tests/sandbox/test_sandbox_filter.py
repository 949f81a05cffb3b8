"""The filter of system calls as a program: run here, as Linux would, for both architectures."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.runtimes.sandbox import numbers, policy, seccomp

PID = 4711
WORD = 2**32
STEPS_MAX = 4096
ALLOW, DENY, KILL = seccomp.ALLOW, seccomp.DENY, seccomp.KILL
ABSENT, PRETEND = seccomp.fails(38), seccomp.fails(0)
X86, ARM = numbers.X86_64, numbers.AARCH64


def evaluate(code: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> tuple[int, int]:
    """What the program answers, and after how many instructions. Classic BPF, as far as filters use it."""
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, architecture, 0x7F00_0000_0000, *(each % 2**64 for each in given))
    instructions = list(struct.iter_unpack("=HBBI", code))
    at = accumulator = 0
    for step in range(1, STEPS_MAX):
        operation, if_true, if_false, value = instructions[at]  # an IndexError: it ran off the end
        at += 1
        match operation:
            case 0x20:
                assert value % 4 == 0 and value + 4 <= len(data)
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x05:
                at += value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x54:
                accumulator &= value
            case 0x06:
                return value, step
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")
    raise AssertionError("it does not end")


RULES = policy.rules(own_files=True, pid=PID)
CODE = {each.name: seccomp.program(RULES, each) for each in (X86, ARM)}
architectures = st.sampled_from([X86, ARM])
anything = st.integers(0, 2**64 - 1)
arguments = st.lists(st.one_of(anything, st.integers(0, 64)), min_size=6, max_size=6).map(tuple)


def answer(architecture: numbers.Architecture, call: str | int, *given: int) -> int:
    number = architecture.numbers[call] if isinstance(call, str) else call
    return evaluate(CODE[architecture.name], architecture.audit, number, given)[0]


@given(architectures, st.one_of(st.integers(0, numbers.BEYOND - 1), st.integers(0, WORD - 1)), arguments)
def test_what_the_policy_does_not_name_fails(
    architecture: numbers.Architecture, number: int, values: tuple[int, ...]
) -> None:
    names = {value: name for name, value in architecture.numbers.items()}
    found = answer(architecture, number, *values)
    name = names.get(number, "")
    if architecture.foreign_from is not None and number >= architecture.foreign_from:
        assert found == KILL
    elif number >= numbers.BEYOND:
        assert found == ABSENT
    elif name in RULES.allowed:
        assert found == ALLOW
    elif name in RULES.answered:
        assert found == RULES.answered[name]
    elif name not in RULES.checked:
        assert found == DENY
    else:
        assert found in (ALLOW, DENY, PRETEND)


@given(architectures, st.integers(0, WORD - 1), st.integers(0, WORD - 1), arguments)
def test_another_architecture_kills(
    architecture: numbers.Architecture, audit: int, number: int, values: tuple[int, ...]
) -> None:
    expected = {evaluate(CODE[architecture.name], audit, number, values)[0]}
    if audit != architecture.audit:
        assert expected == {KILL}


@pytest.mark.parametrize("architecture", [X86, ARM], ids=lambda each: each.name)
def test_it_is_a_program_that_linux_takes(architecture: numbers.Architecture) -> None:
    code = CODE[architecture.name]
    instructions = list(struct.iter_unpack("=HBBI", code))
    assert len(instructions) <= 4096  # BPF_MAXINSNS
    for at, (operation, if_true, if_false, value) in enumerate(instructions):
        if operation == 0x05:
            assert at + 1 + value < len(instructions)
        elif operation & 0x07 == 0x05:
            assert at + 1 + max(if_true, if_false) < len(instructions)
    steps = [evaluate(code, architecture.audit, number)[1] for number in range(numbers.BEYOND)]
    assert max(steps) <= 50  # a search, not a list


@pytest.mark.parametrize("architecture", [X86, ARM], ids=lambda each: each.name)
def test_every_call_of_the_policy_is_one_of_the_table(architecture: numbers.Architecture) -> None:
    """But those that aarch64 has under another name only. A name that no table has would be a call that is not allowed."""
    named = {*RULES.allowed, *RULES.answered, *RULES.checked}
    assert named <= X86.numbers.keys() | ARM.numbers.keys()
    old = {
        *("access", "dup2", "epoll_wait", "getpgrp", "lstat", "mkdir", "open", "poll", "readlink", "rename", "rmdir"),
        *("select", "stat", "time", "unlink"),
    }
    assert named - architecture.numbers.keys() == (set() if architecture is X86 else old)
    assert len(set(architecture.numbers.values())) == len(architecture.numbers)


# -- arguments

THREAD = 0x3D0F00  # what glibc asks for
UPPER = 1 << 32


@pytest.mark.parametrize("architecture", [X86, ARM], ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("call", "values", "expected"),
    [
        ("clone", (THREAD,), ALLOW),
        ("clone", (17,), DENY),  # fork
        ("clone", (0x4111,), DENY),  # vfork
        ("clone", (0x00010000 | 0x100,), DENY),  # not all of what a thread shares
        ("mmap", (0, 4096, 3, 0x22), ALLOW),
        ("mmap", (0, 4096, 5, 2, 5), ALLOW),
        ("mmap", (0, 4096, 7, 0x22), DENY),
        ("mmap", (0, 4096, 6, 0x22), DENY),
        ("mprotect", (0, 4096, 3), ALLOW),
        ("mprotect", (0, 4096, 4), DENY),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (1, 1 | 0o2004000), ALLOW),
        ("socketpair", (1, 2), DENY),
        ("socketpair", (1, 5), DENY),
        ("socketpair", (2, 1), DENY),
        ("sendto", (3, 1, 1, 0x4000, 0, 0), ALLOW),
        ("sendto", (3, 1, 1, 0x20000000, 0, 0), DENY),
        ("sendto", (3, 1, 1, 0, 1, 0), DENY),
        ("sendto", (3, 1, 1, 0, UPPER, 0), DENY),
        ("sendto", (3, 1, 1, 0, 0, 16), DENY),
        ("sendmsg", (3, 1, 0x4000), ALLOW),
        ("sendmsg", (3, 1, 0x20004000), DENY),
        ("setsockopt", (3, 6, 1), PRETEND),
        ("setsockopt", (3, 1, 7), PRETEND),
        ("setsockopt", (3, 1, 8), PRETEND),
        ("setsockopt", (3, 1, 32), DENY),
        ("setsockopt", (3, 1, 33), DENY),
        ("setsockopt", (3, 0, 9), DENY),
        ("getsockopt", (3, 1, 17), ALLOW),
        ("getsockopt", (3, 6, 1), ALLOW),
        ("getsockopt", (3, 1, 77), DENY),
        ("prlimit64", (0, 7, 0, 1), ALLOW),
        ("prlimit64", (0, 7, 1, 0), DENY),
        ("prlimit64", (0, 7, UPPER, 0), DENY),
        ("prlimit64", (1, 7, 0, 1), DENY),
        ("prctl", (15,), ALLOW),
        ("prctl", (4, 1), DENY),
        ("prctl", (22, 2), DENY),
        ("fcntl", (3, 4), ALLOW),
        ("fcntl", (3, 8, 1), DENY),
        ("fcntl", (3, 1031), DENY),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), DENY),
        ("ioctl", (0, UPPER | 0x5412), DENY),
        ("kill", (PID, 9), ALLOW),
        ("kill", (PID + 1, 0), DENY),
        ("kill", (0, 0), DENY),
        ("kill", (2**64 - 1, 0), DENY),
        ("kill", (2**64 - PID, 0), DENY),
        ("tgkill", (PID, 3, 6), ALLOW),
        ("tgkill", (1, 1, 6), DENY),
        ("clone3", (), ABSENT),
        ("memfd_create", (), ABSENT),
        ("io_uring_setup", (), ABSENT),
    ],
)
def test_arguments(architecture: numbers.Architecture, call: str, values: tuple[int, ...], expected: int) -> None:
    assert answer(architecture, call, *values) == expected


@given(architectures, anything)
def test_no_clone_makes_a_process_or_a_namespace(architecture: numbers.Architecture, flags: int) -> None:
    found = answer(architecture, "clone", flags)
    is_thread = flags & 0x10900 == 0x10900
    new = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x4000, 0x80)
    assert (found == ALLOW) is (is_thread and not any(flags & each for each in new))
    assert found in (ALLOW, DENY)


@given(architectures, st.sampled_from(["mmap", "mprotect"]), anything)
def test_no_memory_is_written_and_run(architecture: numbers.Architecture, call: str, protection: int) -> None:
    found = answer(architecture, call, 0, 4096, protection)
    runs, writes = bool(protection & 4), bool(protection & 2)
    assert (found == DENY) is (runs and (writes or call == "mprotect"))


@given(architectures, anything, anything)
def test_signals_reach_nobody_else(architecture: numbers.Architecture, target: int, number: int) -> None:
    """A pid is an int: only the lower half of the argument counts."""
    assert (answer(architecture, "kill", target, number) == ALLOW) is (target % WORD == PID)


def test_attributes_of_files_are_changed_only_where_all_files_are_its_own() -> None:
    code = seccomp.program(policy.rules(own_files=False, pid=PID), X86)
    for call in ("fchmod", "fchmodat", "utimensat"):
        assert evaluate(code, X86.audit, X86.numbers[call])[0] == DENY
        assert answer(X86, call) == ALLOW
