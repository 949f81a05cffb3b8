"""The chain. Owns: the hash of a row over its predecessor, and the salted digest that stands for a payload. Never: I/O.

A payload (with its salt) may be erased later: the row keeps the digest, so the chain can still be checked, and without
the salt nobody can confirm a guess of what the payload was. Lengths come before contents, so two different rows never
have the same encoding. These bytes are for ever: `test_journal_chain.py` holds golden samples; a change is a new `DOMAIN`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any, Final

from solo_trio.errors import Faulted
from solo_trio.journal.library import damaged
from solo_trio.model.record import StoredEvent

DOMAIN: Final = b"solo/event/1\0"
GENESIS: Final = bytes(32)
"""The predecessor of event 1."""
HASH_BYTES: Final = 32
SALT_BYTES: Final = 16

COLUMNS: Final = (
    "id",
    "at_us",
    "kernel_time",
    "tenant_id",
    "incarnation",
    "subject",
    "type",
    "schema",
    "payload",
    "salt",
    "payload_digest",
    "causation_id",
    "correlation_id",
    "chain",
)
"""The order in which rows are written, read and checked."""

_FIXED: Final = struct.Struct(">qqdq?qiiiiii")
"""id, at_us, kernel_time, schema, has causation, causation_id, then the length of each variable part, -1 for None."""

_sha256 = hashlib.sha256


def payload_digest(salt: bytes, payload: bytes) -> bytes:
    """The salt has a fixed length, so where it ends is never in doubt."""
    return _sha256(salt + payload).digest()


def link(
    previous: bytes,
    id_: int,
    at_us: int,
    kernel_time: float,
    tenant_id: str | None,
    incarnation: str | None,
    subject: str | None,
    type_: str,
    schema: int,
    digest: bytes | None,
    causation_id: int | None,
    correlation_id: str | None,
) -> bytes:
    """The chain hash of one row."""
    tenant = b"" if tenant_id is None else tenant_id.encode()
    life = b"" if incarnation is None else incarnation.encode()
    about = b"" if subject is None else subject.encode()
    kind = type_.encode()
    correlation = b"" if correlation_id is None else correlation_id.encode()
    fixed = _FIXED.pack(
        id_,
        at_us,
        kernel_time,
        schema,
        causation_id is not None,
        causation_id or 0,
        -1 if tenant_id is None else len(tenant),
        -1 if incarnation is None else len(life),
        -1 if subject is None else len(about),
        len(kind),
        -1 if correlation_id is None else len(correlation),
        -1 if digest is None else len(digest),
    )
    return _sha256(b"".join((DOMAIN, previous, fixed, tenant, life, about, kind, correlation, digest or b""))).digest()


def seal(previous: bytes, event: StoredEvent, salt: bytes) -> tuple[Any, ...]:
    """One event as the row to be written, in the order of `COLUMNS`; the last cell is its chain hash.

    Raises TypeError, AttributeError, ValueError or struct.error for an event whose fields have a wrong type or range.
    """
    kernel_time = event.kernel_time + 0.0  # SQLite keeps no -0.0: it would come back as another hash.
    if kernel_time != kernel_time:
        raise ValueError("kernel_time is not a number")
    kept_salt = None if event.payload is None else salt
    digest = None if event.payload is None else payload_digest(salt, event.payload)
    chain = link(
        previous,
        event.id,
        event.at_us,
        kernel_time,
        event.tenant_id,
        event.incarnation,
        event.subject,
        event.type,
        event.schema,
        digest,
        event.causation_id,
        event.correlation_id,
    )
    return (
        event.id,
        event.at_us,
        kernel_time,
        event.tenant_id,
        event.incarnation,
        event.subject,
        event.type,
        event.schema,
        event.payload,
        kept_salt,
        digest,
        event.causation_id,
        event.correlation_id,
        chain,
    )


def verify(previous_id: int, previous: bytes, rows: Sequence[tuple[Any, ...]]) -> tuple[list[StoredEvent], bytes]:
    """Rows that follow event `previous_id`, checked; returns them and the last hash, or raises naming the first bad one."""
    events: list[StoredEvent] = []
    expected = previous_id
    for row in rows:
        expected += 1
        id_, at_us, kernel_time, tenant, life, about, kind, schema, payload, salt, digest, cause, correlation, chain = (
            row
        )
        if id_ != expected:
            raise damaged(f"event {expected} is missing: event {id_} stands in its place")
        try:
            fault = payload_fault(payload, salt, digest)
            previous = link(
                previous, id_, at_us, kernel_time, tenant, life, about, kind, schema, digest, cause, correlation
            )
        except (TypeError, AttributeError, ValueError, struct.error) as error:
            raise damaged(f"event {id_}: a column has a wrong type ({error})") from error
        if previous != chain:
            raise damaged(f"event {id_} does not match the chain: a column of it, or its place, was changed")
        if fault is not None:
            raise _payload_damaged(id_, fault)
        events.append(
            StoredEvent(id_, at_us, kernel_time, tenant, life, about, kind, schema, payload, cause, correlation)
        )
    return events, previous


def payload_fault(payload: bytes | None, salt: bytes | None, digest: bytes | None) -> str | None:
    """What is wrong between a payload and its digest; an erased payload has neither itself nor its salt."""
    if payload is None:
        return None if salt is None else "is missing, but was not erased"
    if salt is None or digest is None:
        return "has no digest to be checked with"
    return None if payload_digest(salt, payload) == digest else "was changed"


def _payload_damaged(id_: int, fault: str) -> Faulted:
    return damaged(f"event {id_}: its payload {fault}")


def event_of(row: tuple[Any, ...]) -> StoredEvent:
    """One row outside a replay: its payload is checked, its place in the chain is not."""
    id_, at_us, kernel_time, tenant, life, about, kind, schema, payload, salt, digest, cause, correlation, _ = row
    try:
        fault = payload_fault(payload, salt, digest)
    except (TypeError, ValueError) as error:
        raise damaged(f"event {id_}: a column has a wrong type ({error})") from error
    if fault is not None:
        raise _payload_damaged(id_, fault)
    return StoredEvent(id_, at_us, kernel_time, tenant, life, about, kind, schema, payload, cause, correlation)
