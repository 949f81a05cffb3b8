"""Asks about the kernel itself. Owns: health, state, verification, backups, holding everything back. Never: sends a request."""

from __future__ import annotations

from typing import Final

from solo_trio.client.asks.request import Ask, Document, present, whole


def health() -> Ask[Document]:
    """Whether the kernel does its work: `{status, components}`; `status` is `ok` or `failing`."""
    return Ask("GET", "/health", whole, tenant=False, expected=(503,))


def ready() -> Ask[bool]:
    """Whether recovery is over."""
    return Ask(
        "GET", "/health/ready", lambda document: bool(document["status"] == "ready"), tenant=False, expected=(503,)
    )


def accept_clock(*, idempotency_key: str | None = None) -> Ask[Document]:
    """Have the kernel believe the machine's clock although it leapt ahead. System credentials only."""
    return Ask("POST", "/system/accept-clock", whole, tenant=False, idempotency_key=idempotency_key)


def system() -> Ask[Document]:
    """The kernel itself: version, start, services in each state, its last recovery. System credentials only."""
    return Ask("GET", "/system", whole, tenant=False)


STATE_PATIENCE_S: Final = 300.0
"""Of a state that is far from a kept one, so many events are read."""


def state(
    *, at: int | None = None, tenant_id: str | None = None, limit: int | None = None, cursor: str | None = None
) -> Ask[Document]:
    """A page of what the events up to `at` come to: `{event_id, at, counts, tenants, services, capabilities, secrets, next}`.

    `at` is inclusive; without it the newest event counts. `next` is the `cursor` of the following page, whose lists are to be
    added to these. Never a key, nor a value of a secret. System credentials only.
    """
    query = present(at=at, tenant_id=tenant_id, limit=limit, cursor=cursor)
    return Ask("GET", "/system/state", whole, query, tenant=False, patience_s=STATE_PATIENCE_S)


def openapi() -> Ask[Document]:
    """The API described as OpenAPI."""
    return Ask("GET", "/openapi.json", whole, tenant=False)


def pause_all(*, idempotency_key: str | None = None) -> Ask[Document]:
    """End every service of every tenant and hold it back: `{paused, held}`. System credentials only."""
    return Ask("POST", "/system/pause", whole, tenant=False, idempotency_key=idempotency_key)


def resume_all(*, idempotency_key: str | None = None) -> Ask[Document]:
    """Start what is held back: `{paused, held, resumed}`. What was paused by itself stays so. System credentials only."""
    return Ask("POST", "/system/resume", whole, tenant=False, idempotency_key=idempotency_key)


VERIFY_PATIENCE_S: Final = 3_600.0
"""A long log takes minutes to be read."""


def verify(*, fix: bool = False, accept_loss: bool = False) -> Ask[Document]:
    """Verify everything: what runs, the whole log, every source; the answer is the report. System credentials only.

    `fix`: mend what can be mended safely first. `accept_loss`: no more warnings of what a repair could not save.
    """
    body = {name: True for name, asked in (("fix", fix), ("accept_loss", accept_loss)) if asked}
    return Ask("POST", "/system/verify", whole, tenant=False, body=body or None, patience_s=VERIFY_PATIENCE_S)


def backup() -> Ask[Document]:
    """Have the server write and check a backup: `{name, path, event_id, bytes, digest, ...}`. System credentials only."""
    return Ask("POST", "/system/backup", whole, tenant=False, patience_s=VERIFY_PATIENCE_S)


def compact(*, keep_events: int | None = None) -> Ask[Document]:
    """Move old events into the archive, all but the newest `keep_events`. System credentials only.

    `{oldest_id, events, segments, bytes, duration_ms, held_by, detail}`.
    """
    body = None if keep_events is None else {"keep_events": keep_events}
    return Ask("POST", "/system/compact", whole, tenant=False, body=body, patience_s=VERIFY_PATIENCE_S)


def checkpoint() -> Ask[Document]:
    """Keep the state now: `{event_id, bytes, duration_ms}`. System credentials only."""
    return Ask("POST", "/system/checkpoint", whole, tenant=False)
