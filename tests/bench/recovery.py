"""Recovery. Owns: seconds from opening a killed kernel's directory until everything it ran is ready again.

The kernel is a process of its own (`kernel_child.py`) that is killed with SIGKILL. The floor is reading the same log raw and,
for processes, forking as many, all alive at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from figures import heading, rounds, seconds
from floors import fork_together, read_all

from solo_trio.bootstrap import DATABASE_FILE, LOCKS_DIRECTORY
from solo_trio.runtimes.tenant_lock import take_over

ROUNDS = 3
CHILD = Path(__file__).with_name("kernel_child.py")
KINDS = {"process": (100, 4), "task": (1_000, 10)}
"""How many services, in how many tenants."""


def child(data: Path, kind: str, action: str) -> dict[str, Any]:
    """Run a kernel until it has deployed or recovered everything, then kill it; returns what it said."""
    count, tenants = KINDS[kind]
    command = [sys.executable, str(CHILD), str(data), kind, action, str(count), str(tenants)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
        finally:
            process.kill()
        if not line:
            raise RuntimeError(f"the kernel ended: {command}")
    found: dict[str, Any] = json.loads(line)
    return found


async def measure(directory: Path) -> None:
    heading("recovery after kill -9 (floor: raw read of the log, and for processes as many forks)")
    for kind, (count, tenants) in KINDS.items():
        data = directory / f"recovery_{kind}"
        ours, floor, replay, reading = [], [], [], []
        try:
            child(data, kind, "deploy")
            for _ in range(ROUNDS):
                found = child(data, kind, "recover")
                assert found["ready"] == count, found
                ours.append(found["seconds"])
                replay.append(found["replay_seconds"])
                await take_over(data / LOCKS_DIRECTORY, 10.0)
                read, rows = read_all(data / DATABASE_FILE)
                reading.append(read)
                floor.append(read + (fork_together(count) if kind == "process" else 0.0))
        finally:
            await take_over(data / LOCKS_DIRECTORY, 10.0)
        rounds(f"{count} {kind} services in {tenants} tenants", ours, floor)
        rounds("  of that, folding the log", replay, reading)
        print(f"    {len(rows)} events in the log; {seconds(min(ours) / count)} a service", flush=True)
