"""Asks for what was recorded. Owns: logs, events, the audit. Never: follows one (`watching` does)."""

from __future__ import annotations

from solo_trio.client.asks.request import Ask, Document, present, whole


def logs(
    service_id: str | None = None,
    *,
    level: str | None = None,
    tail: int | None = None,
    since: int | None = None,
    limit: int | None = None,
) -> Ask[Document]:
    """Log entries, oldest first: `{logs, next}`; `tail` asks for the newest so many, `since` for those after an id."""
    query = present(service_id=service_id, level=level, tail=tail, since=since, limit=limit)
    return Ask("GET", "/logs", whole, query)


def events(
    *, since_id: int | None = None, service_id: str | None = None, type: str | None = None, limit: int | None = None
) -> Ask[Document]:
    """A page of events, oldest first: `{events, next}`; `since_id` is exclusive, `type` may name several with commas."""
    return Ask("GET", "/events", whole, present(since_id=since_id, service_id=service_id, type=type, limit=limit))


def audit(
    *,
    since: str | None = None,
    until: str | None = None,
    operation: str | None = None,
    outcome: str | None = None,
    credential: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Ask[Document]:
    """A page of who called what, oldest first: `{entries, next}`; `next` is the `cursor` of the following page, or None.

    `since` and `until` are times like "2026-01-31T12:00:00Z"; `outcome` is a status ("201") or an error's code. Of the client's
    tenant, or with a system token and no tenant, of all.
    """
    query = present(
        since=since,
        until=until,
        operation=operation,
        outcome=outcome,
        credential=credential,
        limit=limit,
        cursor=cursor,
    )
    return Ask("GET", "/audit", whole, query)
