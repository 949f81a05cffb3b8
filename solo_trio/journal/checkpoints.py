"""Kept states as rows. Owns: what proves that a row is ours and about this very log. Never: knows what is in a body.

A checkpoint stands in for all events up to its own: they are not read at a start that uses it. So its row carries the chain
hash of that event, and a MAC, under a key that is derived as the witness's is, over everything that is said in it. An authentic
one is also a witness: the log that it is about had its event once.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any, Final

from solo_trio.errors import Faulted
from solo_trio.journal.chain import HASH_BYTES
from solo_trio.journal.library import READ_ERRORS, damaged, driver, means
from solo_trio.journal.witness import Head
from solo_trio.model.record import Checkpoint

CHECKPOINTS_KEPT: Final = 2
"""The newest, and one to fall back on. A body may be some megabytes."""

COLUMNS: Final = ("event_id", "at_us", "reducer", "format", "digest", "chain", "mac", "body")
"""The body comes last, so that reading the rest of a row does not touch its pages."""
_DOMAIN: Final = b"solo/checkpoint/1\0"
_FIXED: Final = struct.Struct(">qqii")

_HEADS: Final = f"SELECT {', '.join(COLUMNS[:-1])} FROM checkpoints ORDER BY event_id DESC"  # noqa: S608
_ONE: Final = f"SELECT {', '.join(COLUMNS)} FROM checkpoints WHERE event_id = ?"  # noqa: S608
WRITE: Final = f"INSERT OR REPLACE INTO checkpoints ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
PRUNE: Final = (
    "DELETE FROM checkpoints WHERE event_id NOT IN (SELECT event_id FROM checkpoints ORDER BY event_id DESC LIMIT ?)"
)


def key_of(witness_key: bytes) -> bytes:
    """The key of the checkpoints' MACs: another than the witness's, so that neither can be taken for the other."""
    return hmac.digest(witness_key, _DOMAIN, hashlib.sha256)


def row_of(checkpoint: Checkpoint, chain: bytes, key: bytes) -> tuple[Any, ...]:
    """The row to be written, in the order of `COLUMNS`."""
    digest = hashlib.sha256(checkpoint.body).digest()
    head = (checkpoint.event_id, checkpoint.at_us, checkpoint.reducer, checkpoint.format, digest, chain)
    return (*head, _mac(head, key), checkpoint.body)


def _mac(head: tuple[Any, ...], key: bytes) -> bytes:
    event_id, at_us, reducer, format_, digest, chain = head
    by, form = reducer.encode(), format_.encode()
    if len(digest) != HASH_BYTES or len(chain) != HASH_BYTES:
        raise ValueError("a digest has a wrong length")
    fixed = _FIXED.pack(event_id, at_us, len(by), len(form))
    return hmac.digest(key, b"".join((_DOMAIN, fixed, by, form, digest, chain)), hashlib.sha256)


def _is_authentic(row: tuple[Any, ...], key: bytes) -> bool:
    try:
        return hmac.compare_digest(_mac(row[:6], key), row[6])
    except (TypeError, AttributeError, ValueError, struct.error):
        return False


def ids(connection: driver.Connection) -> list[int]:
    """Of the events that checkpoints were made after, newest first; whether they are any good is not said."""
    return [int(row[0]) for row in _readable(connection)]


def read(connection: driver.Connection, event_id: int, chain: bytes | None, key: bytes) -> Checkpoint:
    """One checkpoint; `chain` is the hash of its event in the log. Raises `Faulted("data_damaged")`, saying what is wrong."""
    try:
        row = connection.execute(_ONE, (event_id,)).fetchone()
    except READ_ERRORS as error:
        if means(error) != "damaged":
            raise
        raise _useless(event_id, f"cannot be read ({error})") from error
    if row is None:
        raise _useless(event_id, "is missing")
    if not _is_authentic(row, key):
        raise _useless(event_id, "was changed, or made with another master key")
    id_, at_us, reducer, format_, digest, known, _, body = row
    if not isinstance(body, bytes) or hashlib.sha256(body).digest() != digest:
        raise _useless(event_id, "has another body than was written")
    if known != chain:
        raise _useless(event_id, "belongs to another log")
    return Checkpoint(id_, at_us, reducer, format_, body)


def authentic(row: tuple[Any, ...], key: bytes) -> tuple[Checkpoint, bytes] | None:
    """What a row, in the order of `COLUMNS`, proves by itself: a kept state, and the hash that its event had in the log."""
    id_, at_us, reducer, format_, digest, known, _, body = row
    if not _is_authentic(row, key) or not isinstance(body, bytes) or hashlib.sha256(body).digest() != digest:
        return None
    return Checkpoint(id_, at_us, reducer, format_, body), known


def _useless(event_id: int, what: str) -> Faulted:
    return Faulted("data_damaged", f"the checkpoint after event {event_id} {what}: it is not used")


def check_not_ahead(connection: driver.Connection, head: Head, key: bytes) -> None:
    """Raise `Faulted("data_damaged")` if an authentic checkpoint knows more events than there are."""
    for row in _readable(connection):
        if _is_authentic(row, key) and row[0] > head[0]:
            raise damaged(f"events {head[0] + 1} to {row[0]} are missing: a checkpoint was made after the last of them")


def _readable(connection: driver.Connection) -> list[tuple[Any, ...]]:
    """Up to the first that is damaged so that SQLite does not read on."""
    found: list[tuple[Any, ...]] = []
    try:
        found.extend(connection.execute(_HEADS))
    except READ_ERRORS as error:
        if means(error) != "damaged":
            raise
    return found
