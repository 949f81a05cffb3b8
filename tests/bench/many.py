"""Many services. Owns: seconds to start, show, list, recover and stop them all; the memory of an idle one.

The kernel is a process of its own (`kernel_child.py`) that is killed with SIGKILL. The floor is writing (or reading) the rows
of the same events raw and, for processes, forking as many, all alive at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from figures import heading, rounds, seconds
from floors import RawTable, fork_together, read_all

from solo_trio.bootstrap import DATABASE_FILE, LOCKS_DIRECTORY
from solo_trio.journal.chain import COLUMNS
from solo_trio.runtimes.tenant_lock import take_over

ROUNDS = 3
CHILD = Path(__file__).with_name("kernel_child.py")
KINDS = {"process": (300, 4), "task": (1_000, 10)}
"""How many services, in how many tenants."""
STOP_EVENTS = 2
"""Recorded for each service that is stopped."""
GROUP_ROWS = 64
"""Rows in a transaction of the floor."""


def child(data: Path, kind: str, action: str, count: int, tenants: int) -> dict[str, Any]:
    """Run a kernel until it has deployed, recovered or stopped everything, then kill it; returns what it said."""
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
    heading("many services (floor: the same rows raw, written or read, and for processes as many forks)")
    for kind, (count, tenants) in KINDS.items():
        data = directory / f"many_{kind}"
        ours, floor, replay, reading = [], [], [], []
        try:
            started = child(data, kind, "deploy", count, tenants)
            await take_over(data / LOCKS_DIRECTORY, 10.0)
            _, rows = read_all(data / DATABASE_FILE)
            forks = fork_together(count) if kind == "process" else 0.0
            writing = raw_write(directory / f"raw_{kind}.db", rows, len(rows)) + forks
            for _ in range(ROUNDS):
                found = child(data, kind, "recover", count, tenants)
                assert found["ready"] == count, found
                ours.append(found["seconds"])
                replay.append(found["replay_seconds"])
                await take_over(data / LOCKS_DIRECTORY, 10.0)
                read, rows = read_all(data / DATABASE_FILE)
                reading.append(read)
                floor.append(read + (fork_together(count) if kind == "process" else 0.0))
            stopped = child(data, kind, "stop", count, tenants)
            stop_floor = raw_write(directory / f"raw_stop_{kind}.db", rows, STOP_EVENTS * count)
        finally:
            await take_over(data / LOCKS_DIRECTORY, 10.0)
        print(f"  {count} {kind} services in {tenants} tenants", flush=True)
        rounds("start, all at once, until ready", [started["seconds"]], [writing])
        rounds("recovery after kill -9", ours, floor)
        rounds("  of that, folding the log", replay, reading)
        rounds("stop, all at once, until gone", [stopped["seconds"]], [stop_floor])
        print(f"    {len(rows)} events in the log; recovery {seconds(min(ours) / count)} a service", flush=True)
        print(
            f"    status of one {seconds(started['status'])}, a list of {count // tenants} {seconds(started['list'])}"
        )
        print(
            f"    idle memory a service: {started['kernel_bytes'] / 1_024:.0f} KiB in the kernel, "
            f"{started['outside_bytes'] / 1_048_576:.2f} MiB outside it (a process alone "
            f"{started['service_bytes'] / 1_048_576:.2f} MiB)",
            flush=True,
        )


def raw_write(path: Path, rows: list[tuple[Any, ...]], count: int) -> float:
    """Seconds to write so many rows like these, in transactions as the loop makes them."""
    table = RawTable(path, COLUMNS)
    try:
        return table.write(rows, [GROUP_ROWS] * (count // GROUP_ROWS))
    finally:
        table.close()
