"""Operations on logs. Owns: which entries may be asked for, following them. Never: where they are kept."""

from __future__ import annotations

from typing import Any, Final, Literal

import trio
from attrs import evolve, frozen

from solo_trio.errors import Rejected
from solo_trio.model.ids import check_id
from solo_trio.operations.caller import Caller
from solo_trio.operations.paging import PAGE_DEFAULT, check_page
from solo_trio.operations.table import Answer, LogStream, operation, query
from solo_trio.ports import LogQuery

STREAM_PAGE: Final = 100
STREAM_PAGE_CHARACTERS: Final = 16_384
"""Of messages. What a stream takes at a time, at least one entry: a reader that stalls holds it."""


@frozen
class FollowLogsInput:
    """`since`: the id of the last entry seen (exclusive). `tail`: the newest so many."""

    service_id: str | None = query(None)
    level: Literal["debug", "info", "warning", "error", "critical"] | None = query(None)
    tail: int | None = query(None)
    since: int | None = query(None)


@frozen
class LogsInput(FollowLogsInput):
    limit: int = query(PAGE_DEFAULT)


def _query(caller: Caller, given: FollowLogsInput, limit: int) -> LogQuery:
    tenant = caller.tenant()
    if given.service_id is not None:
        check_id("service_id", given.service_id)
    if given.since is not None and given.since < 0:
        raise Rejected("invalid_field", "since must be the id of an entry, or 0")
    tail = None if given.tail is None else check_page(given.tail, "tail")
    return LogQuery(tenant.incarnation, given.service_id, given.level, given.since or 0, tail, limit)


@operation("GET", "/logs", scope="tenant", input=LogsInput, right=("logs", "read"))
async def list_logs(caller: Caller, given: LogsInput) -> Answer:
    """Read what services wrote and logged; works after a service died, and after it was deleted."""
    limit = check_page(given.limit)
    query = _query(caller, given, limit + 1)
    entries = await caller.core.logs.read(query)
    dropped = caller.core.logs.dropped_lines(query.incarnation, query.service_id)
    if query.tail is not None:
        return Answer({"logs": entries, "next": None, "dropped_lines": dropped})
    page = entries[:limit]
    following = page[-1]["id"] if len(entries) > limit else None
    return Answer({"logs": page, "next": following, "dropped_lines": dropped})


@operation("GET", "/logs", scope="tenant", input=FollowLogsInput, stream=True, right=("logs", "read"))
async def follow_logs(caller: Caller, given: FollowLogsInput) -> LogStream:
    """Follow logs as they are written, from `since` (or the `Last-Event-ID`) on, or from the newest `tail` entries."""
    query = _query(caller, given, STREAM_PAGE)
    if given.since is None:
        first, newest = await caller.core.logs.scan(evolve(query, tail=query.tail or 1))
        begin = first[0]["id"] - 1 if first and query.tail is not None else newest
    else:
        begin = given.since
    return LogStream(LogFollow(caller, evolve(query, after=begin, tail=None)))


class LogFollow:
    """A cursor over a tenant's logs. Not to be used by two tasks at once."""

    def __init__(self, caller: Caller, query: LogQuery) -> None:
        self._core = caller.core
        self._tenant_id = caller.tenant_id or ""
        self._query = query
        self._limit = query.limit
        self.cursor = query.after
        """Everything up to this id was looked at."""
        self.over = False
        """The kernel is closed, or the tenant removed, and nothing is left."""
        self._changed: trio.Event | None = None

    @property
    def closing(self) -> bool:
        """The kernel is closed."""
        return self._core.closed.is_set()

    async def wait(self) -> None:
        """Until there is something to look at."""
        if self._changed is not None:
            await self._either(self._changed)

    async def take(self) -> list[dict[str, Any]]:
        """The next entries of what is there, perhaps none."""
        last = self._core.closed.is_set() or self._is_gone()
        changed = self._core.logs.changed(self._query.incarnation)
        query = evolve(self._query, after=self.cursor, limit=self._limit)
        found, seen = await self._core.logs.scan(query)
        page = _cut(found)
        if len(page) < len(found):  # big entries: not to read again and again what does not fit into a page
            seen, self._limit = page[-1]["id"], len(page)
        else:
            self._limit = min(self._query.limit, 2 * self._limit)
        self.cursor = max(self.cursor, seen)
        self._changed = None if page else changed
        self.over = last and not page
        return page

    def _is_gone(self) -> bool:
        tenant = self._core.loop.state.tenants.get(self._tenant_id)
        return tenant is None or tenant.incarnation != self._query.incarnation

    async def _either(self, changed: trio.Event) -> None:
        async with trio.open_nursery() as nursery:

            async def until_closed() -> None:
                await self._core.closed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_closed)
            await changed.wait()
            nursery.cancel_scope.cancel()


def _cut(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    size = 0
    for count, entry in enumerate(entries, start=1):
        size += len(entry["message"])
        if size >= STREAM_PAGE_CHARACTERS:
            return entries[:count]
    return entries
