"""A process that appends and says which id was acknowledged, one a line. Modes: see the functions."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import trio
from journal_samples import KEY, checkpoint, events, replayed

from solo_trio.errors import JournalFailed, StorageFull
from solo_trio.journal.library import driver
from solo_trio.journal.lock import DataLock
from solo_trio.journal.sqlite import SqliteJournal, open_journal
from solo_trio.model.record import Checkpoint


def say(text: object) -> None:
    print(text, flush=True)


async def write_for_ever(directory: Path, seed: str) -> None:
    """Continue from the head in transactions of random sizes until killed."""
    chance = random.Random(int(seed))
    journal = await open_journal(directory, KEY)
    last = len(await replayed(journal))
    while True:
        size = chance.choice((1, 1, 2, 7, 40))
        await journal.append(events(last + 1, last + size))
        last += size
        say(last)


async def keep_for_ever(directory: Path, seed: str) -> None:
    """As `write_for_ever`, with checkpoints of all sizes after random events, beside the appends."""
    chance = random.Random(int(seed))
    journal = await open_journal(directory, KEY)
    last = len(await replayed(journal))
    async with trio.open_nursery() as nursery:
        while True:
            size = chance.choice((1, 1, 2, 7, 40))
            await journal.append(events(last + 1, last + size))
            last += size
            say(last)
            if chance.random() < 0.3:
                nursery.start_soon(journal.write_checkpoint, whole(chance.randint(max(0, last - 30), last)))


def whole(event_id: int) -> Checkpoint:
    """A checkpoint whose body follows from its event."""
    return checkpoint(event_id, b"%d " % event_id * (event_id * 7_919 % 20_000))


async def write_and_die(directory: Path, transactions: str, size: str) -> None:
    """Append a number of transactions, then die without closing: the WAL stays behind."""
    journal = await open_journal(directory, KEY)
    last = 0
    for _ in range(int(transactions)):
        await journal.append(events(last + 1, last + int(size)))
        last += int(size)
        say(last)
    os.kill(os.getpid(), signal.SIGKILL)


async def harm_and_die(directory: Path, statement: str) -> None:
    """Run it as an intruder with a database tool would, then die: it is in the WAL only."""
    connection = driver.connect(str(directory / "kernel.db"), isolation_level=None)
    connection.execute(statement).fetchall()
    os.kill(os.getpid(), signal.SIGKILL)


async def write_until_failure(directory: Path, transactions: str, file_bytes: str) -> None:
    """Append until the disk fails; then show that nothing is taken any more, close, and say so."""
    say("opening")
    journal = await open_journal(directory, KEY)
    if int(file_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_bytes), int(file_bytes)))
    last = len(await replayed(journal))
    say("appending")
    try:
        for _ in range(int(transactions)):
            await journal.append(events(last + 1, last + 4))
            last += 4
            say(last)
    except StorageFull:
        await _ends_as(journal, "full")
    except JournalFailed:
        for reserved in (False, True):
            try:
                await journal.append(events(last + 1, last + 1), reserved=reserved)
            except JournalFailed:
                continue
            say("an append was taken after the journal had failed")
        await _ends_as(journal, "failed")
    else:
        await _ends_as(journal, "done")


async def _ends_as(journal: SqliteJournal, end: str) -> None:
    try:
        await journal.close()
    except JournalFailed:
        end += " at close"
    say(end)


async def hold_lock(directory: Path) -> None:
    """Take the lock and wait to be killed."""
    with DataLock(directory):
        say("held")
        await trio.sleep_forever()


MODES: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    function.__name__: function
    for function in (write_for_ever, keep_for_ever, write_and_die, harm_and_die, write_until_failure, hold_lock)
}

if __name__ == "__main__":
    trio.run(MODES[sys.argv[2]], Path(sys.argv[1]), *sys.argv[3:])
