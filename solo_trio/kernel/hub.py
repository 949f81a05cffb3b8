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
GONE_TENANTS_MAX: Final = 1_000
"""Removed tenants whose followers are told that it is over; older ones have been told."""
PAGE_RECORDS_MAX: Final = 256
PAGE_BYTES_MAX: Final = 262_144
"""Of payloads; a page has at least one record."""


class Compacted(Exception):
    """What a watcher would read next is no longer in the log; it goes on with `oldest_id`."""

    def __init__(self, oldest_id: int) -> None:
        super().__init__(f"the oldest event is {oldest_id}")
        self.oldest_id = oldest_id


class Restored(Exception):
    """A watcher comes from another life of the log, which had more events; it goes on with `event_id`, where this one began."""

    def __init__(self, event_id: int) -> None:
        super().__init__(f"the log was restored: what is from event {event_id} on is something else than before")
        self.event_id = event_id


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
        self._gone: dict[str, None] = {}
        """Incarnations of tenants that were removed."""
        self.last_id = last_id
        self.closed = False

    def publish(self, records: Sequence[Record]) -> None:
        if not records:
            return
        for record in records:
            self._keep(record.stored)
            for follow in self._followers(record.stored):
                follow.records.append(record)
                follow.arrived.set()
        self.last_id = records[-1].stored.id
        self._wake()

    def _followers(self, stored: StoredEvent) -> list[Follow]:
        """Who follows what it is about; what is about the kernel as a whole is about every service."""
        if stored.tenant_id is None:
            return [follow for follows in self._follows.values() for follow in follows]
        return list(self._follows.get((stored.tenant_id, stored.subject or ""), ()))

    def _keep(self, stored: StoredEvent) -> None:
        self._ring.append(stored)
        self._ring_bytes += len(stored.payload or b"")
        while len(self._ring) > RING_RECORDS_MAX or (self._ring_bytes > RING_BYTES_MAX and len(self._ring) > 1):
            self._ring_bytes -= len(self._ring.popleft().payload or b"")

    def close(self) -> None:
        """Open streams end; nothing is published any more."""
        self.closed = True
        self._wake()

    def forget(self, incarnation: str) -> None:
        """Its last event was published: whoever follows that tenant alone has nothing to wait for."""
        self._gone[incarnation] = None
        while len(self._gone) > GONE_TENANTS_MAX:
            del self._gone[next(iter(self._gone))]
        self._wake()

    def erase(self, incarnation: str, before: int) -> None:
        """What its events before that one held is told to nobody any more."""
        self._ring = deque(
            evolve(stored, payload=None) if stored.id < before and stored.incarnation == incarnation else stored
            for stored in self._ring
        )
        self._ring_bytes = sum(len(stored.payload or b"") for stored in self._ring)

    def is_over(self, query: EventQuery) -> bool:
        """Whether nothing more that matches will be published."""
        return self.closed or query.incarnation in self._gone

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

    @property
    def oldest_id(self) -> int:
        """The id of the oldest event that can still be read (of the next one, if there is none)."""
        return self._journal.oldest_id

    def watch(self, query: EventQuery, *, bytes_max: int = PAGE_BYTES_MAX) -> Watch:
        """Everything that matches `query` with id > `query.after`, then what comes; `bytes_max`: of payloads, in a page."""
        return Watch(self, query, bytes_max)

    def newest(self, query: EventQuery, after: int, limit: int, bytes_max: int) -> tuple[list[StoredEvent], int] | None:
        """Matches after `after`, and the id up to which all was looked at; None if the ring does not go back so far."""
        ring = self._ring
        oldest = ring[0].id if ring else self.last_id + 1
        if after + 1 < oldest:
            return None
        matches, seen, size_bytes = [], after, 0
        for index in range(after + 1 - oldest, len(ring)):
            stored = ring[index]
            seen = stored.id
            if matches_query(stored, query):
                matches.append(stored)
                size_bytes += len(stored.payload or b"")
                if len(matches) >= limit or size_bytes >= bytes_max:
                    break
        return matches, seen

    async def older(self, query: EventQuery, after: int, limit: int, bytes_max: int) -> tuple[list[StoredEvent], int]:
        """As `newest`, from the journal. What is more than `bytes_max` is left there, to be read again."""
        scan = await self._journal.scan(evolve(query, after=after, limit=limit))
        size_bytes = 0
        for count, stored in enumerate(scan.events, start=1):
            size_bytes += len(stored.payload or b"")
            if size_bytes >= bytes_max and count < len(scan.events):
                return scan.events[:count], stored.id
        return scan.events, scan.looked_at


class Watch:
    """A cursor over the log. Not to be used by two tasks at once."""

    def __init__(self, hub: Hub, query: EventQuery, bytes_max: int = PAGE_BYTES_MAX) -> None:
        self._hub = hub
        self._query = query
        self._bytes_max = bytes_max
        self._limit = self._limit_max = min(query.limit, PAGE_RECORDS_MAX)
        self.cursor = query.after
        """Everything up to this id was looked at."""
        self._restored_id = 0
        self.over = False
        """The hub is closed, or the tenant removed, and nothing is left."""

    def begin_again(self, event_id: int) -> None:
        """It comes from another life of the log: the next `take` says so, and what follows is from `event_id` on."""
        self._restored_id = event_id
        self.cursor = event_id - 1

    @property
    def closing(self) -> bool:
        """The hub is closed."""
        return self._hub.closed

    async def next_page(self) -> list[StoredEvent]:
        """The next matches, at least one; an empty list once it is over. Raises `Compacted` as `take` does."""
        while True:
            page = await self.take()
            if page or self.over:
                return page
            await self.wait()

    async def wait(self) -> None:
        """Until there is something to look at."""
        while self.cursor >= self._hub.last_id and not self._hub.is_over(self._query):
            await self._hub._published.wait()

    async def take(self) -> list[StoredEvent]:
        """The next matches of what is there, perhaps none; waits for the journal at most.

        Raises `Compacted`, once for each gap; what follows the gap is the next page. Raises `Restored` once after
        `begin_again`.
        """
        last = self._hub.is_over(self._query)
        if self._restored_id:
            event_id, self._restored_id = self._restored_id, 0
            raise Restored(event_id)
        self._check_gap()
        found = self._hub.newest(self._query, self.cursor, self._limit_max, self._bytes_max)
        if found is None:
            found = await self._hub.older(self._query, self.cursor, self._limit, self._bytes_max)
            self._check_gap()  # it may have arisen while that was read
            # Big records: not to read again and again what does not fit into a page.
            cut = found[0] and found[0][-1].id == found[1] and len(found[0]) < self._limit
            self._limit = len(found[0]) if cut else min(self._limit_max, 2 * self._limit)
        page, seen = found
        self.cursor = max(seen, self.cursor)
        self.over = last and not page and self.cursor >= self._hub.last_id
        return page

    def _check_gap(self) -> None:
        if self.cursor + 1 < self._hub.oldest_id:
            self.cursor = self._hub.oldest_id - 1
            raise Compacted(self._hub.oldest_id)


def matches_query(stored: StoredEvent, query: EventQuery) -> bool:
    return (
        (query.tenant_id is None or stored.tenant_id == query.tenant_id)
        and (query.incarnation is None or stored.incarnation == query.incarnation)
        and (query.subject is None or stored.subject == query.subject)
        and (query.types is None or stored.type in query.types)
    )
