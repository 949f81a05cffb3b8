"""The chain of the audit. Owns: the keyed hash of a row over its predecessor, and the seals of both ends. Never: I/O.

The key follows from the master key, so nobody without it can write a row, or say where the rows begin and end. Lengths come
before contents, so that two different rows never have the same encoding. These bytes are for ever (`test_audit_chain.py` has
golden samples); a change is a new `DOMAIN`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import Any, Final

from solo_trio.model.audit import AuditEntry, KeptEntry

DOMAIN: Final = b"solo/audit/1\0"
HASH_BYTES: Final = 32
GENESIS: Final = bytes(HASH_BYTES)
"""The predecessor of entry 1."""

COLUMNS: Final = (
    "id",
    "at_us",
    "duration_us",
    "tenant_id",
    "incarnation",
    "credential",
    "operation",
    "subject",
    "outcome",
    "request_id",
    "peer",
    "chain",
)
"""The order in which rows are written, read and checked."""
_TEXTS: Final = 8
_FIXED: Final = struct.Struct(f">qqq{_TEXTS}i")
"""id, at_us, duration_us, then the length of each text, -1 for None."""
_ENDS: Final = struct.Struct(">q")

End = tuple[int, bytes]
"""The id and the hash of a row: the newest one, or the one before the oldest."""
NOTHING: Final[End] = (0, GENESIS)


class BrokenChain(Exception):
    """A row, or an end, that is not what was written. The message names it."""


def link(key: bytes, previous: bytes, row: Sequence[Any]) -> bytes:
    """The hash of a row, given without it. Raises TypeError, AttributeError or struct.error for cells of a wrong type."""
    id_, at_us, duration_us, *texts = row
    parts = [b"" if text is None else text.encode() for text in texts]
    lengths = [-1 if text is None else len(part) for text, part in zip(texts, parts, strict=True)]
    fixed = _FIXED.pack(id_, at_us, duration_us, *lengths)
    return hmac.digest(key, b"".join((DOMAIN, previous, fixed, *parts)), hashlib.sha256)


def seal(key: bytes, what: str, end: End) -> bytes:
    """What says that an end is there by our hand."""
    id_, hash_ = end
    return hmac.digest(key, DOMAIN + what.encode() + b"\0" + _ENDS.pack(id_) + hash_, hashlib.sha256)


def row_of(key: bytes, previous: bytes, id_: int, entry: AuditEntry, at_us: int) -> tuple[Any, ...]:
    """An entry as the row to be written, in the order of `COLUMNS`."""
    row = (
        id_,
        at_us,
        entry.duration_us,
        entry.tenant_id,
        entry.incarnation,
        entry.credential,
        entry.operation,
        entry.subject,
        entry.outcome,
        entry.request_id,
        entry.peer,
    )
    return (*row, link(key, previous, row))


def verify(key: bytes, after: End, rows: Sequence[Sequence[Any]]) -> End:
    """The last of `rows`, which must follow `after`. Raises `BrokenChain` naming the first that does not."""
    id_, previous = after
    for row in rows:
        id_ += 1
        if row[0] != id_:
            raise BrokenChain(f"entry {id_} is missing: entry {row[0]} stands in its place")
        try:
            previous = link(key, previous, row[:-1])
        except (TypeError, AttributeError, ValueError, struct.error) as error:
            raise BrokenChain(f"entry {id_}: a column has a wrong type ({error})") from error
        if not isinstance(row[-1], bytes) or not hmac.compare_digest(previous, row[-1]):
            raise BrokenChain(f"entry {id_} does not match the chain: a column of it, or its place, was changed")
    return id_, previous


def entry_of(row: Sequence[Any]) -> KeptEntry:
    id_, at_us, duration_us, tenant, incarnation, credential, operation, subject, outcome, request_id, peer, _ = row
    entry = AuditEntry(
        at_us, operation, outcome, duration_us, tenant, incarnation, credential, subject, request_id, peer
    )
    return KeptEntry(id_, entry)
