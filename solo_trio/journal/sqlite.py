"""The durable journal. Owns: `ports.Journal` over SQLite: who waits for which thread. Never: SQL, or what is in a row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from solo_trio.errors import JournalFailed, KernelBug
from solo_trio.journal import reads
from solo_trio.journal.chain import GENESIS
from solo_trio.journal.library import at_open, damaged, driver, warning_for
from solo_trio.journal.opening import READERS_MAX, close_store, open_store
from solo_trio.journal.store import Store
from solo_trio.journal.witness import Head
from solo_trio.journal.writer import Writer
from solo_trio.model.record import Artifact, Attachment, EventQuery, IdempotencyRow, KeyRow, StoredEvent

T = TypeVar("T")


async def open_journal(directory: Path, witness_key: bytes) -> SqliteJournal:
    """Open or make the journal in `directory`, which the caller has locked (`DataLock`) and closes.

    Checks the WAL, the schema and the witness; the chain is checked by `replay`. Raises `Faulted` with `data_damaged`,
    `data_newer` or `data_unwritable`, `StorageFull`, or `JournalFailed`.
    """
    with trio.CancelScope(shield=True):
        store, readers = await trio.to_thread.run_sync(open_store, directory, witness_key)
    return SqliteJournal(store, readers)


class SqliteJournal:
    """`ports.Journal` on a directory; made by `open_journal`."""

    def __init__(self, store: Store, readers: list[driver.Connection]) -> None:
        self.warning = warning_for(driver.sqlite_version_info)
        """A sentence for the operator about this SQLite, or None."""
        self._store = store
        self._writer = Writer("solo-journal")
        self._idle = readers
        self._reading = trio.CapacityLimiter(READERS_MAX)
        self._closed = False

    async def append(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
    ) -> None:
        """See `ports.Journal`. Never raises Cancelled: a cancelled caller too waits for its write and hears its outcome."""
        work = partial(self._store.append, tuple(events), tuple(attachments), reserved)
        await self._writer.run(work, after=self._store.tidy)

    def replay(self, after: int = 0) -> AsyncIterator[Sequence[StoredEvent]]:
        return _Replay(self, self._store.head, after)

    async def read(self, query: EventQuery) -> list[StoredEvent]:
        return await self.in_reader(lambda connection: reads.read(connection, query))

    async def artifact(self, digest: str) -> Artifact:
        return await self.in_reader(lambda connection: reads.artifact(connection, digest))

    async def keys(self) -> list[KeyRow]:
        return await self.in_reader(reads.keys)

    async def idempotency(self, since_us: int) -> list[IdempotencyRow]:
        await self._writer.run(partial(self._store.forget_idempotency, since_us))
        return await self.in_reader(lambda connection: reads.idempotency(connection, since_us))

    async def close(self) -> None:
        """Move the WAL into the database, force the witness out, close everything. Idempotent.

        Raises `JournalFailed` if that fails; everything is closed all the same, and nothing acknowledged is lost.
        """
        if self._closed:
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            readers = [object() for _ in range(READERS_MAX)]
            for reader in readers:
                await self._reading.acquire_on_behalf_of(reader)
            try:
                await self._writer.run(partial(close_store, self._store, self._idle))
            except OSError as error:
                raise JournalFailed(f"the journal could not be closed in order ({error}): check the disk") from error
            finally:
                await self._writer.close()
                for reader in readers:
                    self._reading.release_on_behalf_of(reader)

    async def in_reader(self, query: Callable[[driver.Connection], T]) -> T:
        """Run a query in a thread with a connection to itself; on return it is finished, and its transaction over."""
        async with self._reading:
            if self._closed:
                raise KernelBug("the journal was read after it was closed")
            connection = self._idle.pop()
            try:
                return await trio.to_thread.run_sync(_query, query, connection)
            finally:
                self._idle.append(connection)


def _query(query: Callable[[driver.Connection], T], connection: driver.Connection) -> T:
    try:
        return query(connection)
    except driver.Error as error:
        raise at_open(error, "the data directory") from error


class _Replay:
    """Pages of checked events. A class, not a generator: one that is left half-way has nothing to clean up."""

    def __init__(self, journal: SqliteJournal, floor: Head, after: int) -> None:
        self._journal = journal
        self._floor = floor
        """What was acknowledged when the replay began: it must be met on the way, with this hash."""
        self._after = after
        self._at: Head | None = None
        self._ended = False

    def __aiter__(self) -> _Replay:
        return self

    async def __anext__(self) -> Sequence[StoredEvent]:
        if self._ended:
            raise StopAsyncIteration
        if self._at is None:
            self._at = await self._journal.in_reader(self._begin)
        query = partial(reads.page, after=self._at, floor=self._floor)
        events, at = await self._journal.in_reader(query)
        self._at = at
        if len(events) < reads.REPLAY_PAGE_ROWS:
            self._ended = True
            if at[0] < self._floor[0]:
                raise damaged(f"events {at[0] + 1} to {self._floor[0]} are missing")
            if self._after == 0:
                await self._journal.in_reader(reads.check_tables)
        if not events:
            raise StopAsyncIteration
        return events

    def _begin(self, connection: driver.Connection) -> Head:
        if self._after == 0:
            return 0, GENESIS
        hash_ = reads.hash_at(connection, self._after)
        if hash_ is None or (self._after == self._floor[0] and hash_ != self._floor[1]):
            raise damaged(f"event {self._after} is missing or was changed")
        return self._after, hash_
