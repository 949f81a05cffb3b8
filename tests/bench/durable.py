"""Durable appends. Owns: events acknowledged to concurrent writers, through the loop and by the journal alone.

The floor is SQLite writing rows of the same bytes in transactions of the same sizes, those that the loop came to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import trio
from attrs import evolve
from figures import heading, rounds
from floors import RawTable, read_all

from solo_trio.bootstrap import DATABASE_FILE, running_system
from solo_trio.journal.chain import COLUMNS
from solo_trio.journal.sqlite import SqliteJournal, open_journal
from solo_trio.kernel.staging import Submission
from solo_trio.model.record import Attachment, StoredEvent
from solo_trio.model.system import BeginShutdown
from solo_trio.operations.caller import System
from solo_trio.operations.settings import Settings

ROUNDS = 15
TRANSACTIONS = {1: 60, 16: 25, 256: 6}
"""For so many writers, so many commands of each in a round. Rounds are short, so that what disturbs one disturbs its floor."""
COMMAND = BeginShutdown("a command that comes to one event of some two hundred bytes and changes nothing else; " * 2)
SAMPLE_ROWS = 1_000
WARM_UP = 300
"""Transactions until a journal's log file has its size (see `RawTable`)."""


class Counted:
    """The journal of a kernel, with the sizes of its transactions written down."""

    def __init__(self, journal: Any) -> None:
        self.sizes: list[int] = []
        self._append = journal.append
        journal.append = self._counted

    async def _counted(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
    ) -> None:
        self.sizes.append(len(events))
        await self._append(events, attachments, reserved=reserved)


async def submit(system: System, writers: int, each: int) -> float:
    """Seconds until `writers` tasks have had `each` commands answered, one after the other."""

    async def write() -> None:
        for _ in range(each):
            await system.core.loop.submit(Submission(COMMAND))

    began = perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(writers):
            nursery.start_soon(write)
    return perf_counter() - began


async def append(journal: SqliteJournal, events: Sequence[StoredEvent], last: int, sizes: Sequence[int]) -> float:
    """Seconds to append transactions of these sizes after event `last`."""
    transactions = []
    for size in sizes:
        ids = range(last + 1, last + size + 1)
        transactions.append([evolve(events[number % len(events)], id=number, at_us=number) for number in ids])
        last += size
    began = perf_counter()
    for each in transactions:
        await journal.append(each)
    return perf_counter() - began


async def measure(directory: Path) -> None:
    sample = directory / "sample"
    async with running_system(sample, Settings()) as system:
        await submit(system, 1, SAMPLE_ROWS)
    _, rows = read_all(sample / DATABASE_FILE)
    rows = rows[-SAMPLE_ROWS:]
    names = [name for name in COLUMNS if name not in ("salt", "payload_digest", "chain")]
    events = [StoredEvent(**{name: row[COLUMNS.index(name)] for name in names}) for row in rows]

    heading("durable append, seconds an event (floor: raw SQLite, WAL, fsync, same bytes, same transactions)")
    for writers, each in TRANSACTIONS.items():
        through_loop, alone, floor, sizes = [], [], [], []
        table = RawTable(directory / f"raw{writers}.db", COLUMNS)
        journal = await open_journal(_made(directory / f"journal{writers}"), bytes(32))
        async with running_system(directory / f"loop{writers}", Settings()) as system:
            await submit(system, 1, WARM_UP)
            await append(journal, events, 0, [1] * WARM_UP)
            last = WARM_UP
            counted = Counted(system.core.journal)
            for _ in range(ROUNDS):
                counted.sizes.clear()
                count = writers * each
                through_loop.append(await submit(system, writers, each) / count)
                alone.append(await append(journal, events, last, counted.sizes) / count)
                floor.append(table.write(rows, counted.sizes) / count)
                last += sum(counted.sizes)  # the kernel may have recorded something of its own
                sizes += counted.sizes
        await journal.close()
        table.close()
        group = f"{sum(sizes) / len(sizes):.3g} a transaction"
        rounds(f"{writers:>3} writers, through the loop ({group})", through_loop, floor)
        rounds(f"{writers:>3} writers, the journal alone", alone, floor)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
