"""What /proc says. Owns: reading other processes' numbers. Never: signals anything; imports more than the standard library."""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

# Positions in /proc/PID/stat after the name in brackets, which is field 2 (see proc(5)).
_STATE: Final = 3 - 3
_PPID: Final = 4 - 3
_UTIME: Final = 14 - 3
_STIME: Final = 15 - 3
_THREADS: Final = 20 - 3
_START: Final = 22 - 3
_RSS: Final = 24 - 3

_ENDED: Final = ("Z", "X")
"""A zombie, and one that is being reaped just now."""

_UNSHARED: Final = re.compile(rb"^Rss(?:Anon|Shmem):\s*(\d+) kB", re.MULTILINE)


def _stat(pid: int) -> list[str] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode("ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to its start: with the pid, the identity of a process. None: there is no such process."""
    fields = _stat(pid)
    return None if fields is None else int(fields[_START])


LITTLE_BYTES: Final = 8 * 1_048_576
"""A process that has grown by less than this since its fork is not looked at more closely: half of what reading it costs."""


class Inherited(NamedTuple):
    """What a process has in memory that its zygote brought in, and that therefore is not its own."""

    rss_bytes: int = 0
    own_bytes: int = 0


def inherited(pid: int) -> Inherited:
    """To be read right after the fork. Nothing, if there is no such process any more."""
    fields, unshared = _stat(pid), _unshared(pid)
    return Inherited(int(fields[_RSS]) * _PAGE_BYTES, unshared) if fields and unshared else Inherited()


def usage(pid: int, inherited: Inherited | None = None, *, exactly: bool = False) -> dict[str, float]:
    """`{rss_bytes, memory_bytes, cpu_s, threads, fds}`, or {} if there is no such process. Costs about 35 µs.

    `memory_bytes`: without files and what is `inherited`; never more than what it has for itself. No `fds` where nobody may
    count those of another user's process. `exactly`: of a little one too; it costs half as much again.
    """
    fields = _stat(pid)
    if fields is None or fields[_STATE] in _ENDED:
        return {}
    before = Inherited() if inherited is None else inherited
    rss_bytes = int(fields[_RSS]) * _PAGE_BYTES
    memory_bytes = max(0, rss_bytes - before.rss_bytes)
    if exactly or memory_bytes > LITTLE_BYTES:
        unshared = _unshared(pid)
        if unshared is None:
            return {}
        memory_bytes = max(0, unshared - before.own_bytes)
    found: dict[str, float] = {
        "rss_bytes": rss_bytes,
        "memory_bytes": memory_bytes,
        "cpu_s": (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S,
        "threads": int(fields[_THREADS]),
    }
    fds = open_fds(pid)
    return found if fds is None else found | {"fds": fds}


def open_fds(pid: int | str) -> int | None:
    """How many descriptors a process has open; None if that cannot be told."""
    try:
        # Since Linux 6.2 the size of the directory; before, 0.
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def _unshared(pid: int) -> int | None:
    """Resident bytes that no file is behind: memory it allocated, and memory it shares by intent."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return sum(int(kib) * 1_024 for kib in _UNSHARED.findall(text))


def children(pid: int) -> list[int]:
    """Its direct children, zombies too, whichever of its threads started them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):
        return _children_by_parent(pid)
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended: its children are another thread's now
    return list(dict.fromkeys(found))


def _children_by_parent(pid: int) -> list[int]:
    """The same on a kernel without CONFIG_PROC_CHILDREN."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields is not None and int(fields[_PPID]) == pid:
                found.append(int(name))
    return found


def descendants(pid: int) -> list[int]:
    """Its children, theirs, and so on; parents first."""
    found, waiting = [], [pid]
    while waiting:
        kids = children(waiting.pop())
        found += kids
        waiting += kids
    return found
