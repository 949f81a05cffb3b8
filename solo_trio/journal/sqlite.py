"""The durable journal. Owns: `ports.Journal` over SQLite: who waits for which thread. Never: SQL, or what is in a row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio
from attrs import evolve

from solo_trio.errors import JournalFailed, KernelBug
from solo_trio.journal import checkpoints, pruning, reads
from solo_trio.journal.archive import Archive
from solo_trio.journal.chain import GENESIS
from solo_trio.journal.inventory import inventory
from solo_trio.journal.library import damaged, driver, warning_for
from solo_trio.journal.opening import Readers, close_store, open_store
from solo_trio.journal.retaining import Retaining
from solo_trio.journal.store import Store
from solo_trio.journal.turns import Lane, Turns
from solo_trio.journal.witness import Head
from solo_trio.journal.writer import Writer
from solo_trio.model.record import (
    Archived,
    ArchiveState,
    Artifact,
    Attachment,
    Checkpoint,
    Erasure,
    EventQuery,
    IdempotencyRow,
    Inventory,
    KeyRow,
    Scan,
    SecretRow,
    StoredEvent,
)

POINT_ROWS_MAX: Final = 16
"""So many events may be read by their ids alone on the connection of the kernel's own reads."""

CHECK_TRIES_MAX: Final = 60
"""So often the check of the tables gives way to what waits until nobody reads."""
CHECK_RETRY_S: Final = 1.0

T = TypeVar("T")


async def open_journal(directory: Path, witness_key: bytes) -> SqliteJournal:
    """Open or make the journal in `directory`, which the caller has locked (`DataLock`) and closes.

    Checks the WAL, the schema and the witness; the chain is checked by `replay`. Raises `Faulted` with `data_damaged`,
    `data_newer` or `data_unwritable`, `StorageFull`, or `JournalFailed`.
    """
    with trio.CancelScope(shield=True):
        store, readers = await trio.to_thread.run_sync(open_store, directory, witness_key)
        key = pruning.key_of(witness_key)
        anchor = await trio.to_thread.run_sync(pruning.anchor, readers.points[0], key)
    return SqliteJournal(store, readers, Archive(directory), key, anchor)


class SqliteJournal:
    """`ports.Journal` on a directory; made by `open_journal`."""

    def __init__(self, store: Store, readers: Readers, archive: Archive, archive_key: bytes, anchor: Head) -> None:
        self.warning = warning_for(driver.sqlite_version_info)
        """A sentence for the operator about this SQLite, or None."""
        self._store = store
        self._writer = Writer("solo-journal")
        self._readers = readers
        self._scans = Lane(readers.scans)
        self._points = Lane(readers.points)
        self._turns = Turns()
        self._beside = trio.Lock()
        self.closing = False
        """What goes on beside the appends is to end."""
        self._retaining = Retaining(store, self._writer, self._points, self._scans, archive, archive_key, anchor)
        self._closed = False

    @property
    def oldest_id(self) -> int:
        return self._retaining.oldest_id

    async def append(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
    ) -> None:
        """See `ports.Journal`. Never raises Cancelled: a cancelled caller too waits for its write and hears its outcome."""
        work = partial(self._store.append, tuple(events), tuple(attachments), reserved)
        await self._writer.run(work, after=self._store.tidy)

    def replay(self, after: int = 0) -> AsyncIterator[Sequence[StoredEvent]]:
        return Replay(self, self._store.head, after, self._retaining.whole())

    async def archive(self, upto: int, *, fewest: int = 1) -> Archived | None:
        return await self._retaining.archive(upto, fewest)

    async def prune(self, upto: int) -> int:
        return await self._retaining.prune(upto)

    async def archive_state(self) -> ArchiveState:
        return await self._retaining.state()

    async def erasures(self) -> list[Erasure]:
        return await self._retaining.waiting()

    async def erase(self, erasure: Erasure) -> bool:
        return await self._retaining.erase(erasure)

    async def sweep(self) -> bool:
        return await self._retaining.sweep()

    async def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        await self._writer.run(partial(self._store.write_checkpoint, checkpoint), after=self._store.tidy)

    async def checkpoint_ids(self) -> list[int]:
        return await self._points.run(checkpoints.ids)

    async def checkpoint(self, event_id: int) -> Checkpoint:
        key = self._store.checkpoint_key

        def query(connection: driver.Connection) -> Checkpoint:
            return checkpoints.read(connection, event_id, reads.hash_at(connection, event_id), key)

        return await self._points.run(query)

    async def read(self, query: EventQuery) -> list[StoredEvent]:
        found: list[StoredEvent] = []
        before: int | None = None
        while True:
            scan = await self._scan(query, before)
            found = scan.events + found if query.newest else found + scan.events
            query = evolve(query, limit=query.limit - len(scan.events))
            if query.newest and scan.complete and query.limit > 0 and self.oldest_id > 1:
                before = found[0].id if found else self._store.head[0] + 1
                return await self._retaining.newest_before(query, before) + found
            if scan.complete or query.limit <= 0:
                return found
            if query.newest:
                before = scan.looked_at
            else:
                query = evolve(query, after=scan.looked_at)

    async def scan(self, query: EventQuery) -> Scan:
        if query.newest:
            raise KernelBug("a scan goes forward: read the newest by `read`")
        return await self._scan(query)

    async def artifact(self, digest: str) -> Artifact:
        return await self._points.run(lambda connection: reads.artifact(connection, digest))

    async def holds_artifacts(self) -> bool:
        """Whether there is any source: then services are likely to be started from it."""
        return await self._points.run(reads.holds_artifacts)

    async def keys(self) -> list[KeyRow]:
        return await self._points.run(reads.keys)

    async def inventory(self) -> Inventory:
        return await self._scans.run(inventory)

    async def secret(self, incarnation: str, name: str, version: int) -> SecretRow:
        return await self._points.run(lambda connection: reads.secret(connection, incarnation, name, version))

    async def idempotency(self, since_us: int) -> list[IdempotencyRow]:
        await self._writer.run(partial(self._store.forget_idempotency, since_us))
        return await self._points.run(lambda connection: reads.idempotency(connection, since_us))

    async def close(self) -> None:
        """Move the WAL into the database, force the witness out, close everything. Idempotent.

        Raises `JournalFailed` if that fails; everything is closed all the same, and nothing acknowledged is lost.
        """
        if self._closed:
            return
        self._closed = self.closing = True
        with trio.CancelScope(shield=True):
            async with self._beside:
                pass
            await self._points.wait_closed()
            await self._scans.wait_closed()
            try:
                await self._writer.run(partial(close_store, self._store, self._readers))
            except OSError as error:
                raise JournalFailed(f"the journal could not be closed in order ({error}): check the disk") from error
            finally:
                await self._writer.close()

    async def beside_appends(self, work: Callable[[driver.Connection], T]) -> T:
        """Run what does little at a time over the connection that writes, in a thread of its own: see `backups`.

        It must end soon once `closing` is set.
        """
        async with self._beside:
            if self.closing:
                raise KernelBug("the journal was used after it was closed")
            return await trio.to_thread.run_sync(self._store.beside_appends, work)

    async def in_reader(self, query: Callable[[driver.Connection], T]) -> T:
        """Run a query beside the scans of events."""
        return await self._scans.run(query)

    async def _scan(self, query: EventQuery, before: int | None = None) -> Scan:
        work = partial(reads.scan, query=query, before=before, erased=self._store.erased)
        if _is_point(query):
            return await self._points.run(work)
        async with self._turns.of(query.tenant_id):
            return await self._scans.run(work)


def _is_point(query: EventQuery) -> bool:
    """Nothing but ids is asked for, and few of them: no row is looked at that is not answered."""
    unfiltered = query.tenant_id is None and query.incarnation is None and query.subject is None and query.types is None
    return unfiltered and query.limit <= POINT_ROWS_MAX


class _Read(Protocol):
    async def in_reader(self, query: Callable[[driver.Connection], T]) -> T:
        """Run a query in a thread."""
        ...


class Replay:
    """Pages of checked events. A class, not a generator: one that is left half-way has nothing to clean up."""

    def __init__(self, journal: _Read, floor: Head, after: int, whole: reads.Whole | None) -> None:
        self._journal = journal
        self._whole = whole
        self._floor = floor
        """What was acknowledged when the replay began: it must be met on the way, with this hash."""
        self._after = after
        self._at: Head | None = None
        self._ended = False

    def __aiter__(self) -> Replay:
        return self

    async def __anext__(self) -> Sequence[StoredEvent]:
        if self._ended:
            raise StopAsyncIteration
        if self._at is None:
            self._at = await self._journal.in_reader(self._begin)
        query = partial(reads.page, after=self._at, floor=self._floor, whole=self._whole)
        page = await self._journal.in_reader(query)
        self._at = at = page.at
        if page.last:
            self._ended = True
            if at[0] < self._floor[0]:
                raise damaged(f"events {at[0] + 1} to {self._floor[0]} are missing")
            if self._whole is not None:
                self._whole.proofs.check()
            if self._after == 0:
                await self._check_tables()
        if not page.events:
            raise StopAsyncIteration
        return page.events

    async def _check_tables(self) -> None:
        in_the_way = None if self._whole is None else self._whole.in_the_way
        if in_the_way is not None:
            for _ in range(CHECK_TRIES_MAX):
                if await self._journal.in_reader(partial(reads.check_tables, in_the_way=in_the_way)):
                    return
                await trio.sleep(CHECK_RETRY_S)
        await self._journal.in_reader(reads.check_tables)

    def _begin(self, connection: driver.Connection) -> Head:
        if self._after == 0:
            return 0, GENESIS
        hash_ = reads.hash_at(connection, self._after)
        if hash_ is None and self._whole is not None:
            hash_ = reads.hash_behind(connection, self._after, self._whole)
        if hash_ is None or (self._after == self._floor[0] and hash_ != self._floor[1]):
            raise damaged(f"event {self._after} is missing or was changed")
        return self._after, hash_
