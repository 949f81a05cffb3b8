"""Telling. Owns: the newest records, who follows them. Never: buffers per watcher, reads inside a transaction it keeps.

A watcher is a cursor, not a queue: it takes from the ring what it has not seen, and from the journal what the ring no longer
holds. So a stalled watcher costs nothing, and none can miss or repeat a record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio
from attrs import define, evolve, field

from solo_trio.model.event import Record
from solo_trio.model.record import EventQuery, StoredEvent
from solo_trio.ports import Journal

RING_RECORDS_MAX: Final = 4_096
RING_BYTES_MAX: Final = 16 * 1_048_576
"""Of payloads; the newest record is kept whatever its size."""
PAGE_RECORDS_MAX: Final = 256
PAGE_BYTES_MAX: Final = 262_144
"""Of payloads; a page has at least one record."""


@define(eq=False)
class Follow:
    """The new records about one service, for a caller that waits for an outcome."""

    records: deque[Record] = field(factory=deque)
    arrived: trio.Event = field(factory=trio.Event)

    async def next(self) -> Record:
        while not self.records:
            await self.arrived.wait()
        record = self.records.popleft()
        if not self.records:
            self.arrived = trio.Event()
        return record


class Hub:
    def __init__(self, journal: Journal, last_id: int) -> None:
        self._journal = journal
        self._ring: deque[StoredEvent] = deque()
        self._ring_bytes = 0
        self._published = trio.Event()
        self._follows: dict[tuple[str, str], set[Follow]] = {}
        self.last_id = last_id
        self.closed = False

    def publish(self, records: Sequence[Record]) -> None:
        if not records:
            return
        for record in records:
            self._keep(record.stored)
            for follow in self._follows.get((record.stored.tenant_id or "", record.stored.subject or ""), ()):
                follow.records.append(record)
                follow.arrived.set()
        self.last_id = records[-1].stored.id
        self._wake()

    def _keep(self, stored: StoredEvent) -> None:
        self._ring.append(stored)
        self._ring_bytes += len(stored.payload or b"")
        while len(self._ring) > RING_RECORDS_MAX or (self._ring_bytes > RING_BYTES_MAX and len(self._ring) > 1):
            self._ring_bytes -= len(self._ring.popleft().payload or b"")

    def close(self) -> None:
        """Open streams end; nothing is published any more."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        published, self._published = self._published, trio.Event()
        published.set()

    @contextmanager
    def follow(self, tenant_id: str, service_id: str) -> Iterator[Follow]:
        """Collect the records about one service from now on. Open it before submitting, so that nothing is missed."""
        follow = Follow()
        key = (tenant_id, service_id)
        self._follows.setdefault(key, set()).add(follow)
        try:
            yield follow
        finally:
            self._follows[key].discard(follow)
            if not self._follows[key]:
                del self._follows[key]

    def watch(self, query: EventQuery) -> Watch:
        """Everything that matches `query` with id > `query.after`, then what comes."""
        return Watch(self, query)

    async def page(self, query: EventQuery) -> tuple[list[StoredEvent], int]:
        """Up to a page of matches after `query.after`, and the id up to which everything was looked at."""
        oldest = self._ring[0].id if self._ring else self.last_id + 1
        if query.after + 1 < oldest:
            scan = await self._journal.scan(evolve(query, limit=min(query.limit, PAGE_RECORDS_MAX)))
            return scan.events, scan.looked_at
        matches, seen, size_bytes = [], query.after, 0
        for index in range(query.after + 1 - oldest, len(self._ring)):
            stored = self._ring[index]
            seen = stored.id
            if matches_query(stored, query):
                matches.append(stored)
                size_bytes += len(stored.payload or b"")
                if len(matches) >= min(query.limit, PAGE_RECORDS_MAX) or size_bytes >= PAGE_BYTES_MAX:
                    break
        return matches, seen


class Watch:
    """A cursor over the log. Not to be used by two tasks at once."""

    def __init__(self, hub: Hub, query: EventQuery) -> None:
        self._hub = hub
        self._query = query

    @property
    def cursor(self) -> int:
        """Everything up to this id was looked at."""
        return self._query.after

    async def next_page(self) -> list[StoredEvent]:
        """The next matches, at least one; an empty list once the hub is closed and nothing is left."""
        while True:
            closed = self._hub.closed
            published = self._hub._published
            page, seen = await self._hub.page(self._query)
            self._query = evolve(self._query, after=max(seen, self._query.after))
            if page:
                return page
            if self._query.after < self._hub.last_id:
                continue
            if closed:
                return []
            await published.wait()


def matches_query(stored: StoredEvent, query: EventQuery) -> bool:
    return (
        (query.tenant_id is None or stored.tenant_id == query.tenant_id)
        and (query.incarnation is None or stored.incarnation == query.incarnation)
        and (query.subject is None or stored.subject == query.subject)
        and (query.types is None or stored.type in query.types)
    )
