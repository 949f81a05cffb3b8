"""The operation on states of the log. Owns: which event and page is meant. Never: folds, or says what a state looks like."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.kernel.checkpoints import is_small, maybe_in_thread
from solo_trio.model.ids import check_id
from solo_trio.operations.caller import Caller
from solo_trio.operations.paging import PAGE_DEFAULT, check_page
from solo_trio.operations.state_view import counts_of, head_view, page_of
from solo_trio.operations.table import Answer, operation, query

CURSOR_PATTERN: Final = r"[0-9]{1,18}\.[0-9]{1,18}"
"""The event of the state, and how many of its entries came before: a state that is past never changes."""
_CURSOR: Final = re.compile(CURSOR_PATTERN, re.ASCII)


@frozen
class StateInput:
    at: int | None = query(None)
    tenant_id: str | None = query(None)
    limit: int = query(PAGE_DEFAULT)
    cursor: str | None = query(None)


@operation("GET", "/system/state", scope="system", input=StateInput)
async def show_state(caller: Caller, given: StateInput) -> Answer:
    """Show what the events up to `at` (itself included; without: all) come to: tenants, services, capabilities, secrets."""
    limit = check_page(given.limit)
    if given.at is not None and given.at < 0:
        raise Rejected("invalid_field", "at must be the id of an event, or 0")
    if given.tenant_id is not None:
        check_id("tenant_id", given.tenant_id)
    event_id, position = _place(given, caller.core.loop.state.last_id)
    past = await caller.core.past.at(event_id)
    state = past.state
    if given.tenant_id is not None and given.tenant_id not in state.tenants:
        raise Rejected("tenant_not_found", f"there was no tenant '{given.tenant_id}' at event {event_id}")
    page = await maybe_in_thread(partial(page_of, state, given.tenant_id, position, limit), not is_small(state))
    return Answer(
        head_view(state)
        | {
            "oldest_event_id": caller.core.journal.oldest_id,
            "last_event_id": caller.core.loop.state.last_id,
            "counts": counts_of(state, given.tenant_id),
            **page.entries,
            "next": None if page.next is None else f"{event_id}.{page.next}",
        }
    )


def _place(given: StateInput, last_id: int) -> tuple[int, int]:
    """Which state, and where in it."""
    if given.cursor is None:
        return last_id if given.at is None else given.at, 0
    if _CURSOR.fullmatch(given.cursor) is None:
        raise Rejected("invalid_field", "cursor must be the `next` of an earlier page")
    event_id, position = (int(part) for part in given.cursor.split("."))
    if given.at not in (None, event_id):
        raise Rejected("invalid_field", "cursor is of the state at another event: leave one of them out")
    return event_id, position
