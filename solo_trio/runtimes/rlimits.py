"""Limits of a process that runs. Owns: changing them from outside. Never: what they are at the start (`child` sets those)."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Final

from solo_trio.runtimes.child import CPU_GRACE_S, MEBIBYTE

BYTES: Final = {"memory_mb": resource.RLIMIT_DATA, "disk_mb": resource.RLIMIT_FSIZE}
COUNTS: Final = {"fds": resource.RLIMIT_NOFILE}


def adjust(pid: int, limits: Mapping[str, float]) -> frozenset[str]:
    """Set what can be set on the process `pid`; the names of what was. An ordinary user may only lower a limit."""
    done = set()
    for name, value in limits.items():
        if name in BYTES:
            which, soft = BYTES[name], int(value * MEBIBYTE)
            hard = soft
        elif name in COUNTS:
            which, soft = COUNTS[name], int(value)
            hard = soft
        elif name == "cpu_seconds":
            which, soft = resource.RLIMIT_CPU, max(1, int(value))
            hard = soft + CPU_GRACE_S
        else:
            continue
        try:
            resource.prlimit(pid, which, (soft, hard))
        except (OSError, ValueError):
            continue  # gone, or not allowed: the next start brings it
        done.add(name)
    return frozenset(done)
