"""Operations on events. Owns: pages and streams of the log. Never: how they are framed."""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Final

import trio
from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.kernel.hub import Compacted, Restored, Watch
from solo_trio.model import codec
from solo_trio.model.event import KINDS
from solo_trio.model.ids import check_id
from solo_trio.model.record import EventQuery, StoredEvent
from solo_trio.operations.caller import Caller
from solo_trio.operations.paging import PAGE_DEFAULT, check_page
from solo_trio.operations.table import Answer, EventStream, operation, query

TYPES_MAX: Final = 32
ID_MAX: Final = 2**63 - 1
STREAM_PAGE: Final = 128
STREAM_PAGE_BYTES: Final = 16_384
"""Of payloads. What a stream takes at a time, at least one event: a reader that stalls holds it."""
_OWN_TYPE: Final = re.compile(r"x_[a-z0-9_]+", re.ASCII)
"""The types that services may record themselves."""


@frozen
class WatchInput:
    """`since_id` is exclusive; absent: a page begins with the oldest, a stream with what comes."""

    since_id: int | None = query(None)
    service_id: str | None = query(None)
    type: str | None = query(None)


@frozen
class EventsInput(WatchInput):
    limit: int = query(PAGE_DEFAULT)


def _query(caller: Caller, given: WatchInput, *, after: int, limit: int) -> EventQuery:
    if not 0 <= after <= ID_MAX:
        raise Rejected("invalid_field", "since_id must be the id of an event, or 0")
    types: tuple[str, ...] | None = None
    if given.type is not None:
        types = tuple(given.type.split(","))
        if len(types) > TYPES_MAX:
            raise Rejected("invalid_field", f"type may name {TYPES_MAX} types, separated by commas")
        for each in types:
            if each not in KINDS and _OWN_TYPE.fullmatch(each) is None:
                raise Rejected("invalid_field", f"type must name event types; known are {', '.join(sorted(KINDS))}")
    if given.service_id is not None:
        check_id("service_id", given.service_id)
    return EventQuery(
        after=after,
        limit=limit,
        tenant_id=caller.tenant_id,
        incarnation=caller.incarnation,
        subject=given.service_id,
        types=types,
    )


@operation("GET", "/events", scope="either", input=EventsInput, right=("events", "read"))
async def list_events(caller: Caller, given: EventsInput) -> Answer:
    """Read a page of events, oldest first; `next` is the `since_id` of the following page, null when there is none.

    `compacted: {oldest_id}` is there if events after `since_id` are no longer at hand: the page goes on with `oldest_id`.
    """
    limit = check_page(given.limit)
    scan = await caller.core.journal.scan(_query(caller, given, after=given.since_id or 0, limit=limit + 1))
    events: list[dict[str, Any]] = [codec.public(stored) for stored in scan.events[:limit]]
    if len(scan.events) > limit:
        following: int | None = scan.events[limit - 1].id
    else:  # what was looked at is bounded too: a page may be short, even empty, and another follow it
        following = None if scan.complete else scan.looked_at
    answer: dict[str, Any] = {"events": events, "next": following}
    oldest_id = caller.core.hub.oldest_id
    if given.since_id is not None and given.since_id + 1 < oldest_id:
        answer["compacted"] = {"oldest_id": oldest_id}
    return Answer(answer)


@operation("GET", "/events", scope="either", input=WatchInput, stream=True, right=("events", "read"))
async def watch_events(caller: Caller, given: WatchInput) -> EventStream:
    """Follow events as they are recorded, from `since_id` (or the `Last-Event-ID`) on."""
    return _stream(caller, given)


@operation(
    "GET",
    "/events/watch",
    scope="either",
    input=WatchInput,
    stream=True,
    transport="websocket",
    right=("events", "read"),
)
async def watch_events_socket(caller: Caller, given: WatchInput) -> EventStream:
    """Follow events over a WebSocket, from `since_id` on, with bookmarks to resume from."""
    return _stream(caller, given)


class Records:
    """An async iterator of public events, for who is in the same process. It holds one page, whatever it is not asked for.

    `compacted`: None, or the event that it went on with because those before it are not at hand: read the state anew then.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.compacted: int | None = None
        self._page: deque[StoredEvent] = deque()

    def __aiter__(self) -> Records:
        return self

    async def __anext__(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        while not self._page:
            try:
                page = await self._watch.next_page()
            except Compacted as gap:  # what is gone cannot be shown
                self.compacted = gap.oldest_id
                continue
            except Restored:  # the ids tell
                continue
            if not page:
                raise StopAsyncIteration
            self._page.extend(page)
        return codec.public(self._page.popleft())


def _stream(caller: Caller, given: WatchInput) -> EventStream:
    hub = caller.core.hub
    after = hub.last_id if given.since_id is None else given.since_id
    watch = hub.watch(_query(caller, given, after=after, limit=STREAM_PAGE), bytes_max=STREAM_PAGE_BYTES)
    restored_id = caller.core.loop.state.system.restored_id
    if restored_id and after > hub.last_id:
        watch.begin_again(restored_id)
    return EventStream(watch)
