"""Operations on logs. Owns: which entries may be asked for. Never: where they are kept."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.model.ids import check_id
from solo_trio.operations.caller import Caller
from solo_trio.operations.paging import PAGE_DEFAULT, check_page
from solo_trio.operations.table import Answer, operation, query
from solo_trio.ports import LogQuery


@frozen
class LogsInput:
    """`since`: the id of the last entry seen (exclusive). `tail`: the newest so many."""

    service_id: str | None = query(None)
    level: Literal["debug", "info", "warning", "error", "critical"] | None = query(None)
    tail: int | None = query(None)
    since: int = query(0)
    limit: int = query(PAGE_DEFAULT)


@operation("GET", "/logs", scope="tenant", input=LogsInput)
async def list_logs(caller: Caller, given: LogsInput) -> Answer:
    """Read what services wrote and logged; works after a service died, and after it was deleted."""
    tenant = caller.tenant()
    if given.service_id is not None:
        check_id("service_id", given.service_id)
    if given.since < 0:
        raise Rejected("invalid_field", "since must be the id of an entry, or 0")
    limit = check_page(given.limit)
    tail = None if given.tail is None else check_page(given.tail, "tail")
    query = LogQuery(tenant.incarnation, given.service_id, given.level, given.since, tail, limit + 1)
    entries = await caller.core.logs.read(query)
    if tail is not None:
        return Answer({"logs": entries, "next": None})
    page = entries[:limit]
    return Answer({"logs": page, "next": page[-1]["id"] if len(entries) > limit else None})
