"""What left the database for the archive. Owns: the rows that say so, the anchor, and what proves both. Never: files.

The log is one chain: the segments in their order, then the rows of `events`. A row of `segments` says which events are in which
file and between which hashes; the anchor says up to where rows were deleted, and with which hash the oldest one that is left
begins. Both carry a MAC under a key that is derived as the witness's is. Rows are deleted, and the anchor moved, in the same
transaction, only as far as segments go: whenever the kernel dies, each event is in the database, in a segment, or in both.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from solo_trio.journal.archive import Row, Segment
from solo_trio.journal.chain import COLUMNS, HASH_BYTES
from solo_trio.journal.library import damaged, driver
from solo_trio.journal.witness import NO_EVENTS, Head
from solo_trio.model.record import ArchiveState

PRUNE_EVENTS_MAX: Final = 500
"""Deleted in one transaction: some milliseconds, in which nothing can be appended."""
PRUNED_PAGES: Final = 2
"""About how many pages a deleted event dirties: it is overwritten with zeros."""

_DOMAIN: Final = b"solo/archive/1\0"
_SEGMENT: Final = struct.Struct(f">8sqq{HASH_BYTES}s{HASH_BYTES}s{HASH_BYTES}sq")
_ANCHOR: Final = struct.Struct(f">8sq{HASH_BYTES}s")
_COLUMNS: Final = ("first_id", "last_id", "previous", "chain", "file", "digest", "size_bytes", "mac")
_ROWS: Final = f"SELECT {', '.join(_COLUMNS)} FROM segments"  # noqa: S608
_PUT_SEGMENT: Final = (
    f"INSERT OR REPLACE INTO segments ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
)
_PUT_SUBJECT: Final = (
    "INSERT OR REPLACE INTO segment_subjects (incarnation, subject, first_id, events) VALUES (?, ?, ?, ?)"
)
_PUT_ANCHOR: Final = "INSERT OR REPLACE INTO anchor (only, event_id, chain, mac) VALUES (1, ?, ?, ?)"
_DELETE: Final = "DELETE FROM events WHERE id <= ?"
_INCARNATION: Final = COLUMNS.index("incarnation")
_SUBJECT: Final = COLUMNS.index("subject")

Statement = tuple[str, list[tuple[Any, ...]]]


def key_of(witness_key: bytes) -> bytes:
    """The key of these MACs: another than the witness's and the checkpoints'."""
    return hmac.digest(witness_key, _DOMAIN, hashlib.sha256)


def _segment_mac(segment: Segment, key: bytes) -> bytes:
    fixed = _SEGMENT.pack(
        b"segment\0",
        segment.first_id,
        segment.last_id,
        segment.previous,
        segment.chain,
        segment.digest,
        segment.size_bytes,
    )
    return hmac.digest(key, fixed + segment.file.encode(), hashlib.sha256)


def _anchor_mac(anchor: Head, key: bytes) -> bytes:
    return hmac.digest(key, _ANCHOR.pack(b"anchor\0\0", *anchor), hashlib.sha256)


def _read(row: tuple[Any, ...], key: bytes) -> Segment:
    segment = Segment(*row[:-1])
    try:
        authentic = hmac.compare_digest(_segment_mac(segment, key), row[-1])
    except (TypeError, AttributeError, ValueError, struct.error):
        authentic = False
    if not authentic:
        raise damaged(f"what is said of the archive's events from {segment.first_id} on was changed")
    return segment


# -- what is there


def segments(connection: driver.Connection, key: bytes) -> list[Segment]:
    """All of them in order, each following the one before. Raises `Faulted("data_damaged")`."""
    found: list[Segment] = []
    at: Head = NO_EVENTS
    for row in connection.execute(f"{_ROWS} ORDER BY first_id"):
        segment = _read(row, key)
        if segment.first_id != at[0] + 1 or segment.previous != at[1]:
            raise damaged(f"the archive lacks what must be before event {segment.first_id}")
        at = (segment.last_id, segment.chain)
        found.append(segment)
    return found


def segment_of(connection: driver.Connection, event_id: int, key: bytes) -> Segment | None:
    """The one that holds an event."""
    row = connection.execute(f"{_ROWS} WHERE last_id >= ? ORDER BY last_id LIMIT 1", (event_id,)).fetchone()
    segment = None if row is None else _read(row, key)
    return segment if segment is not None and segment.first_id <= event_id else None


def segments_about(
    connection: driver.Connection, incarnation: str, subject: str | None, before: int, key: bytes
) -> Segment | None:
    """The newest one that begins before event `before` and has events of an incarnation, or of one subject of it."""
    where = "incarnation = ?1 AND (?2 IS NULL OR subject = ?2) AND first_id < ?3"
    (first_id,) = connection.execute(
        f"SELECT max(first_id) FROM segment_subjects WHERE {where}",  # noqa: S608
        (incarnation, subject, before),
    ).fetchone()
    return None if first_id is None else segment_of(connection, first_id, key)


def archived(connection: driver.Connection, key: bytes) -> Head:
    """The last event that is in the archive, and its hash."""
    row = connection.execute(f"{_ROWS} ORDER BY last_id DESC LIMIT 1").fetchone()
    if row is None:
        return NO_EVENTS
    segment = _read(row, key)
    return segment.last_id, segment.chain


def archive_state(connection: driver.Connection) -> ArchiveState:
    row = connection.execute("SELECT count(*), coalesce(max(last_id), 0), coalesce(sum(size_bytes), 0) FROM segments")
    return ArchiveState(*row.fetchone())


def anchor(connection: driver.Connection, key: bytes) -> Head:
    """The last event that was deleted from the database, and its hash. Raises `Faulted("data_damaged")`."""
    row = connection.execute("SELECT event_id, chain, mac FROM anchor").fetchone()
    if row is None:
        return NO_EVENTS
    try:
        authentic = hmac.compare_digest(_anchor_mac((row[0], row[1]), key), row[2])
    except (TypeError, AttributeError, ValueError, struct.error):
        authentic = False
    if not authentic:
        raise damaged("what is said of where the database's part of the log begins was changed")
    return int(row[0]), bytes(row[1])


def check(connection: driver.Connection, key: bytes) -> list[Segment]:
    """The segments; raises `Faulted("data_damaged")` where they, the anchor and the oldest row do not fit together."""
    found, (anchored, chain) = segments(connection, key), anchor(connection, key)
    (oldest,) = connection.execute("SELECT min(id) FROM events").fetchone()
    if anchored and (oldest is None or oldest != anchored + 1):
        raise damaged(f"event {anchored + 1} is missing: the database's part of the log begins with it")
    if anchored > (found[-1].last_id if found else 0):
        raise damaged(f"event {anchored} was moved to the archive, but nothing says where it is")
    if not anchored and oldest is not None and oldest != 1:
        raise damaged(f"event 1 is missing: the log begins with event {oldest}")
    for segment in found:
        if segment.last_id == anchored and segment.chain != chain:
            raise damaged(f"event {anchored} in the archive is not the one that the log goes on from")
    return found


# -- what is written


def put_segment(segment: Segment, rows: Iterable[Row], key: bytes) -> list[Statement]:
    counts = Counter((row[_INCARNATION] or "", row[_SUBJECT] or "") for row in rows)
    subjects = [(*about, segment.first_id, count) for about, count in sorted(counts.items())]
    return [(_PUT_SEGMENT, [_row_of(segment, key)]), (_PUT_SUBJECT, subjects)]


def _row_of(segment: Segment, key: bytes) -> tuple[Any, ...]:
    return (
        segment.first_id,
        segment.last_id,
        segment.previous,
        segment.chain,
        segment.file,
        segment.digest,
        segment.size_bytes,
        _segment_mac(segment, key),
    )


def prune(to: Head, key: bytes) -> list[Statement]:
    return [(_DELETE, [(to[0],)]), (_PUT_ANCHOR, [(*to, _anchor_mac(to, key))])]


def under_another_key(connection: driver.Connection, old: bytes, new: bytes) -> list[Statement]:
    """All that has a MAC, with one under another key."""
    rows = [_row_of(segment, new) for segment in segments(connection, old)]
    at = anchor(connection, old)
    found: list[Statement] = [(_PUT_SEGMENT, rows)] if rows else []
    return [*found, (_PUT_ANCHOR, [(*at, _anchor_mac(at, new))])] if at != NO_EVENTS else found


def sealed_between(first_id: int, previous: bytes, rows: Sequence[Row], file: str, data: bytes) -> Segment:
    """What is to be said of a new segment."""
    return Segment(
        first_id,
        first_id + len(rows) - 1,
        previous,
        rows[-1][-1],
        file,
        hashlib.sha256(data).digest(),
        len(data),
    )
