"""Archiving, pruning and erasing, step by step. Owns: the order of a step's parts, and whose thread. Never: SQL, or when.

Each step is small, so that appends take turns with it, and can be the last: whoever comes next finds the old or the new. A
segment is read from the database and checked, made, forced out and read back, and only then named by the database; events are
deleted only after the segment that holds them was looked at again. Steps of one journal are made one at a time.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from solo_trio.errors import Faulted, SoloError, StorageFull
from solo_trio.journal import chain, erasing, pruning, reads
from solo_trio.journal.archive import (
    SEGMENT_BYTES_MAX,
    SEGMENT_EVENTS_MAX,
    Archive,
    Row,
    Segment,
    encode,
    name_of,
    next_name,
)
from solo_trio.journal.chain import COLUMNS
from solo_trio.journal.erasing import Mask
from solo_trio.journal.library import damaged, driver, no_space
from solo_trio.journal.pruning import PRUNE_EVENTS_MAX
from solo_trio.journal.store import Store
from solo_trio.journal.turns import Lane
from solo_trio.journal.witness import Head
from solo_trio.journal.writer import Writer
from solo_trio.model.record import Archived, ArchiveState, Erasure, EventQuery, StoredEvent

BLANKED_PAGES: Final = 2
"""About how many pages an erased event dirties."""
SHRED_RETRY_S: Final = 0.1
"""After a step that came to nothing, because somebody reads."""
_PAYLOAD: Final = COLUMNS.index("payload")


class Retaining:
    """That of one open journal. `oldest_id`: of the events that are in the database."""

    def __init__(
        self, store: Store, writer: Writer, points: Lane, scans: Lane, archive: Archive, key: bytes, anchor: Head
    ) -> None:
        self._store = store
        self._writer = writer
        self._points = points
        self._scans = scans
        self._archive = archive
        self._key = key
        self._turn = trio.Lock()
        self._progress: dict[str, tuple[int, int]] = {}
        """Of erasures that have begun: up to which event the rows are done, and which segment was the last."""
        self._seen: tuple[Segment, list[bytes]] | None = None
        """The segment that was looked at before its events are deleted, and their hashes in it."""
        self.oldest_id = anchor[0] + 1

    def whole(self) -> reads.Whole:
        """For one replay."""
        return reads.Whole(self._archive, self._key, in_the_way=lambda: self._store.to_be_shredded)

    async def state(self) -> ArchiveState:
        return await self._points.run(pruning.archive_state)

    # -- archiving

    async def archive(self, upto: int, fewest: int) -> Archived | None:
        async with self._turn:
            upto = min(upto, self._store.head[0])
            at = await self._points.run(lambda connection: pruning.archived(connection, self._key))
            if upto - at[0] < max(1, fewest):
                return None
            rows = await self._rows(at, min(upto, at[0] + SEGMENT_EVENTS_MAX))
            segment = await trio.to_thread.run_sync(self._made, at, rows)
            await self._name(segment, rows)
            return Archived(segment.first_id, segment.last_id, segment.size_bytes)

    async def _rows(self, after: Head, upto: int) -> list[Row]:
        """The next rows of the database, checked."""
        rows: list[Row] = []
        size_bytes, at = 0, after
        while at[0] < upto and size_bytes < SEGMENT_BYTES_MAX:
            found, at = await self._scans.run(partial(reads.raw, after=at, upto=upto, erased=self._store.erased))
            if not found:
                raise damaged(f"event {at[0] + 1} is missing")
            rows += found
            size_bytes += sum(len(row[_PAYLOAD] or b"") for row in found)
        return rows

    def _made(self, after: Head, rows: list[Row]) -> Segment:
        """A new segment, durable and read back; nothing names it yet."""
        first_id = after[0] + 1
        return self._written(first_id, after[1], rows, name_of(first_id, after[0] + len(rows), 0))

    def _written(self, first_id: int, previous: bytes, rows: list[Row], file: str) -> Segment:
        data = encode(first_id, rows)
        segment = pruning.sealed_between(first_id, previous, rows, file, data)
        try:
            self._archive.write(file, data)
            self._check(segment)
        except OSError as error:
            if no_space(error):
                raise StorageFull from error
            raise Faulted(
                "data_unwritable", f"the archive cannot be written ({error}): check the disk; nothing is lost"
            ) from error
        return segment

    def _check(self, segment: Segment) -> list[Row]:
        """The rows of a segment, which must lead from its beginning to its end."""
        rows = self._archive.rows(segment)
        _, ends = chain.verify(segment.first_id - 1, segment.previous, rows)
        if ends != segment.chain:
            raise damaged(f"archive/{segment.file} does not end as it must")
        return rows

    async def _name(self, segment: Segment, rows: list[Row]) -> None:
        """Make it part of the log; if that fails, the file is removed, unless it may have been named."""
        try:
            await self._writer.run(
                partial(self._store.change, pruning.put_segment(segment, rows, self._key)), after=self._store.tidy
            )
        except StorageFull:
            await trio.to_thread.run_sync(self._archive.remove, segment.file)
            raise

    # -- pruning

    async def prune(self, upto: int) -> int:
        async with self._turn:
            upto = min(upto, self.oldest_id - 1 + PRUNE_EVENTS_MAX, self._store.head[0] - 1)
            if upto < self.oldest_id:
                return self.oldest_id
            oldest_id = self.oldest_id
            segment = await self._points.run(lambda connection: pruning.segment_of(connection, oldest_id, self._key))
            if segment is None:
                return self.oldest_id  # not in the archive: it stays
            if self._seen is None or self._seen[0] != segment:
                rows = await trio.to_thread.run_sync(self._archive_rows, segment)
                self._seen = segment, [row[-1] for row in rows]
            work = partial(self._prune, min(upto, segment.last_id), segment, self._seen[1])
            await self._writer.run(work, after=self._store.tidy)
            return self.oldest_id

    def _prune(self, upto: int, segment: Segment, hashes: list[bytes]) -> None:
        chain_ = self._store.hash_at(upto)
        if chain_ is None or hashes[upto - segment.first_id] != chain_:
            raise damaged(f"event {upto} in the archive is not the one that is to be deleted")
        oldest_id, self.oldest_id = self.oldest_id, upto + 1  # first: who reads meanwhile must not take it for whole
        try:
            self._store.prune((upto, chain_), self._key, upto + 1 - oldest_id)
        except SoloError:
            self.oldest_id = oldest_id
            raise

    def _archive_rows(self, segment: Segment) -> list[Row]:
        try:
            return self._archive.rows(segment)
        except OSError as error:
            raise damaged(f"archive/{segment.file} cannot be read ({error})") from error

    # -- erasing

    async def waiting(self) -> list[Erasure]:
        return await self._points.run(erasing.waiting)

    async def erase(self, erasure: Erasure) -> bool:
        if erasure.event_id is None:
            raise ValueError("what no event says is not erased")
        async with self._turn:
            row, segment = self._progress.get(erasure.incarnation, (0, 0))
            ids = await self._points.run(partial(erasing.rows_to_blank, erasure=erasure, after=row))
            if ids:
                blanking = partial(self._store.change, erasing.blank_rows(ids), pages=len(ids) * BLANKED_PAGES)
                await self._writer.run(blanking, after=self._store.tidy)
                self._progress[erasure.incarnation] = (ids[-1], segment)
                return False
            next_ = await self._points.run(partial(erasing.segment_after, erasure=erasure, after=segment))
            if next_ is not None:
                await self._without(next_)
                self._progress[erasure.incarnation] = (row, next_)
                return False
            dropping = partial(self._store.change, erasing.drop_checkpoints(erasure), shred=True)
            if not await self._writer.run(dropping):
                await trio.sleep(SHRED_RETRY_S)
                return False  # somebody reads: what was erased may still be in the WAL
            await self._writer.run(partial(self._store.change, erasing.done(erasure)), after=self._store.tidy)
            self._progress.pop(erasure.incarnation, None)
            return True

    async def sweep(self) -> bool:
        async with self._turn:
            if not await self._points.run(erasing.unswept):
                return True
            if not await self._writer.run(lambda: self._store.is_small and self._store.sweep()):
                return False
            await self._writer.run(partial(self._store.change, erasing.swept()), after=self._store.tidy)
            return True

    async def _without(self, first_id: int) -> None:
        """Write the segment that begins with `first_id` anew, without what is erased; the old file is removed."""

        def find(connection: driver.Connection) -> Segment | None:
            return pruning.segment_of(connection, first_id, self._key)

        old = await self._points.run(find)
        if old is None:
            raise damaged(f"the archive lacks the events from {first_id} on")
        made = await trio.to_thread.run_sync(self._rewritten, old, self._store.erased)
        if made is None:
            return
        segment, rows = made
        await self._name(segment, rows)
        try:
            await trio.to_thread.run_sync(self._archive.remove, old.file)
        except OSError as error:
            raise Faulted(
                "data_unwritable", f"archive/{old.file} cannot be removed ({error}): check the disk"
            ) from error

    def _rewritten(self, old: Segment, erased: Mask) -> tuple[Segment, list[Row]] | None:
        try:
            rows = self._check(old)
        except OSError as error:
            raise damaged(f"archive/{old.file} cannot be read ({error})") from error
        if not erasing.holds(rows, erased):
            return None
        rows = [erasing.blank(row, erased) for row in rows]
        return self._written(old.first_id, old.previous, rows, next_name(old.file)), rows

    # -- reading

    async def newest_before(self, query: EventQuery, before: int) -> list[StoredEvent]:
        """Of the archive, the newest that match with an id below `before`, ascending: for a query about one subject.

        No segment is opened that ends before what the query is about, nor more than it allows.
        """
        if query.incarnation is None or query.subject is None:
            return []
        found: list[StoredEvent] = []
        before = min(before, self.oldest_id)
        segments = 0
        while len(found) < query.limit and before - 1 > query.after and segments != query.segments_max:
            rows = await self._scans.run(partial(self._newest_of, query=query, before=before))
            if not rows:
                break
            before = rows[0][0]
            segments += 1
            events = [erasing.masked(chain.event_of(row), self._store.erased) for row in rows if _matches(row, query)]
            found = events[max(0, len(events) + len(found) - query.limit) :] + found
        return found

    def _newest_of(self, connection: driver.Connection, query: EventQuery, before: int) -> list[Row]:
        """The rows of the newest segment that has some about the subject, those that are before `before`."""
        assert query.incarnation is not None
        segment = pruning.segments_about(connection, query.incarnation, query.subject, before, self._key)
        if segment is None or segment.last_id <= query.after:
            return []
        rows, first_id = reads.archived(connection, segment.first_id, self._archive, self._key)
        return rows[: max(0, before - first_id)]


_INCARNATION: Final = COLUMNS.index("incarnation")
_SUBJECT: Final = COLUMNS.index("subject")
_TYPE: Final = COLUMNS.index("type")


def _matches(row: Row, query: EventQuery) -> bool:
    return (
        row[_INCARNATION] == query.incarnation
        and row[_SUBJECT] == query.subject
        and row[0] > query.after
        and (query.types is None or row[_TYPE] in query.types)
    )
