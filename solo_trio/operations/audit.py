"""The operation on the audit. Owns: who may ask for which entries, and in which form. Never: what is recorded of calls."""

from __future__ import annotations

import re
from typing import Final, Literal

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.model.audit import AuditQuery
from solo_trio.model.instant import read_rfc3339
from solo_trio.operations import audit_csv
from solo_trio.operations.caller import Caller
from solo_trio.operations.paging import PAGE_DEFAULT, check_page
from solo_trio.operations.table import Answer, TextAnswer, operation, query

CURSOR_PATTERN: Final = "[0-9]{1,18}"
TIME_PATTERN: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z"
WORD_PATTERN: Final = "[a-z0-9_]{1,64}"
CREDENTIAL_PATTERN: Final = "[A-Za-z0-9_-]{1,128}"


@frozen
class AuditInput:
    """`since` (inclusive) and `until` (exclusive) are times in UTC; the rest is compared as it is."""

    since: str | None = query(None)
    until: str | None = query(None)
    operation: str | None = query(None)
    outcome: str | None = query(None)
    credential: str | None = query(None)
    limit: int = query(PAGE_DEFAULT)
    cursor: str | None = query(None)
    format: Literal["json", "csv"] = query("json")


@operation("GET", "/audit", scope="either", input=AuditInput)
async def list_audit(caller: Caller, given: AuditInput) -> Answer | TextAnswer:
    """Read who called what, and what was refused, oldest first; `next` is the `cursor` of the following page."""
    asked = AuditQuery(
        after=int(_like(CURSOR_PATTERN, "cursor", given.cursor) or 0),
        limit=check_page(given.limit),
        since_us=_time("since", given.since),
        until_us=_time("until", given.until),
        tenant_id=caller.tenant_id,
        incarnation=caller.incarnation,
        operation=_like(WORD_PATTERN, "operation", given.operation),
        outcome=_like(WORD_PATTERN, "outcome", given.outcome),
        credential=_like(CREDENTIAL_PATTERN, "credential", given.credential),
    )
    page = await caller.system.audit.log.page(asked)
    entries = [kept.view(whole=caller.authority.is_system) for kept in page.entries]
    following = None if page.next is None else str(page.next)
    if given.format == "json":
        return Answer({"entries": entries, "next": following})
    first = audit_csv.header() if given.cursor is None else ""
    return TextAnswer(first + audit_csv.rows(entries), audit_csv.CSV_TYPE, following)


def _like(pattern: str, name: str, text: str | None) -> str | None:
    if text is not None and re.fullmatch(pattern, text, re.ASCII) is None:
        what = "the `next` of an earlier page" if name == "cursor" else "as an entry of the audit names it"
        raise Rejected("invalid_field", f"{name} must be {what}")
    return text


def _time(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return read_rfc3339(text)
    except ValueError:
        raise Rejected("invalid_field", f"{name} must be a time in UTC, like 2026-01-01T00:00:00Z") from None
