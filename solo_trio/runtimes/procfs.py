"""What /proc says. Owns: reading other processes' numbers. Never: signals anything; imports more than the standard library."""

from __future__ import annotations

import os
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

# Positions in /proc/PID/stat after the name in brackets, which is field 2 (see proc(5)).
_STATE: Final = 3 - 3
_PPID: Final = 4 - 3
_UTIME: Final = 14 - 3
_STIME: Final = 15 - 3
_START: Final = 22 - 3
_RSS: Final = 24 - 3


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


def usage(pid: int) -> dict[str, float]:
    """`{rss_bytes, cpu_s}`, or {} if there is no such process."""
    fields = _stat(pid)
    if fields is None or fields[_STATE] == "Z":
        return {}
    return {
        "rss_bytes": int(fields[_RSS]) * _PAGE_BYTES,
        "cpu_s": (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S,
    }


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
