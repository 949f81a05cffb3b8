"""Backups. Owns: what writers notice of one, beside the same writers without one in the same run. Never: asserts a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import trio
from durable import COMMAND, submit
from figures import heading, percentile, seconds

from solo_trio.bootstrap import running_system
from solo_trio.kernel.staging import Submission
from solo_trio.operations.caller import System
from solo_trio.operations.settings import Settings

EVENTS = 60_000
WRITERS = 4
PAUSE_S = 0.002
"""Between two commands of a writer: a kernel that has something to do, and is not flooded."""
QUIET_S = 4.0
ROUNDS = 3


async def write(system: System, taken: list[float]) -> None:
    while True:
        began = perf_counter()
        await system.core.loop.submit(Submission(COMMAND))
        taken.append(perf_counter() - began)
        await trio.sleep(PAUSE_S)


def shown(taken: Sequence[float]) -> str:
    return "  ".join(
        f"{name} {seconds(percentile(taken, at))}" for name, at in (("p50", 50), ("p99", 99), ("max", 100))
    )


async def measure(directory: Path) -> None:
    heading(f"backup: durable appends of {WRITERS} writers while one of {EVENTS} events is written")
    data = directory / "backed-up"
    async with running_system(data, Settings()) as system:
        assert system.backups is not None
        await submit(system, 256, EVENTS // 256)
        for _ in range(ROUNDS):
            quiet: list[float] = []
            busy: list[float] = []
            for taken in (quiet, busy):
                async with trio.open_nursery() as writers:
                    for _ in range(WRITERS):
                        writers.start_soon(write, system, taken)
                    if taken is quiet:
                        await trio.sleep(QUIET_S)
                    else:
                        made = await system.backups.write()
                    writers.cancel_scope.cancel()
            print(f"  without  {shown(quiet)}")
            print(f"  with     {shown(busy)}  ({made.size_bytes / 1_048_576:.1f} MiB in {made.duration_s:.1f} s)")
            print(f"  ratio of the p99s: {percentile(busy, 99) / percentile(quiet, 99):.2f}")
