"""A process that records without end, and says how far what it recorded was written, one number a line."""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from audit_samples import START_US, Notes, entry, opened

APART_US = 300_000_000
"""Between two entries: five minutes, so that there is soon something too old to be kept."""


async def record_for_ever(directory: Path, days: int) -> None:
    """As fast as the queue takes it, with flushes now and then; continue behind what is there."""
    async with opened(directory, Notes(), used=(directory / "audit.db").exists(), days=days) as audit:
        if audit.state.status != "ok":
            print(f"it is {audit.state}", flush=True)
            return
        number = audit.state.newest_id
        while True:
            for _ in range(number % 97 + 1):
                audit.record(entry(number, at_us=START_US + number * APART_US, subject=f"n-{number}"))
                number += 1
            await audit.flush()
            print(number, flush=True)


if __name__ == "__main__":
    trio.run(record_for_ever, Path(sys.argv[1]), int(sys.argv[2]))
