"""The reading side, synchronous. Owns: every query. Never: writes, or leaves a read transaction open behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from attrs import field, frozen

from solo_trio.errors import SoloError
from solo_trio.journal import chain, erasing, pruning, shape
from solo_trio.journal.archive import Archive, Row
from solo_trio.journal.chain import COLUMNS, GENESIS
from solo_trio.journal.erasing import Mask, Proofs
from solo_trio.journal.library import READ_ERRORS, at_open, damaged, driver
from solo_trio.journal.schema import tables
from solo_trio.journal.witness import NO_EVENTS, Head
from solo_trio.model.record import Artifact, EventQuery, IdempotencyRow, KeyRow, Scan, SecretRow, StoredEvent

REPLAY_PAGE_ROWS: Final = 2_000
SCAN_ROWS_MAX: Final = 20_000
SCAN_BYTES_MAX: Final = 1_048_576
"""Of payloads found by one scan; it finds at least one event."""
"""Looked at in one scan: some tens of milliseconds."""
REWRITES_MAX: Final = 5
"""So often a segment is looked for again that is being written anew."""
INTEGRITY_ERRORS_MAX: Final = 1
"""One finding is enough to refuse."""
GIVE_WAY_OPERATIONS: Final = 10_000
"""Of SQLite, after which a check of the tables asks whether it is in the way: some tens of milliseconds."""
SQLITE_INTERRUPT: Final = 9

_ROWS: Final = f"SELECT {', '.join(COLUMNS)} FROM events"  # noqa: S608
_PAGE: Final = f"{_ROWS} WHERE id > ? ORDER BY id LIMIT {REPLAY_PAGE_ROWS}"
_CHAIN: Final = "SELECT chain FROM events WHERE id = ?"
_ARTIFACT: Final = "SELECT content FROM artifacts WHERE digest = ?"


def head(connection: driver.Connection) -> Head:
    """The last event's id and hash, as stored."""
    row = connection.execute("SELECT id, chain FROM events ORDER BY id DESC LIMIT 1").fetchone()
    return NO_EVENTS if row is None else (int(row[0]), _hash(row[0], row[1]))


def oldest_id(connection: driver.Connection) -> int:
    """The first event's id, as stored; 1 where there is none."""
    (found,) = connection.execute("SELECT min(id) FROM events").fetchone()
    return 1 if found is None else int(found)


def hash_at(connection: driver.Connection, id_: int) -> bytes | None:
    """The stored hash of one event; that of event 0 is fixed."""
    if id_ == 0:
        return GENESIS
    row = connection.execute(_CHAIN, (id_,)).fetchone()
    return None if row is None else _hash(id_, row[0])


def _hash(id_: int, cell: object) -> bytes:
    """The cell of a damaged row may hold anything."""
    if not isinstance(cell, bytes):
        raise damaged(f"event {id_} has no hash: its row was changed")
    return cell


@frozen
class Whole:
    """What one replay needs beside the rows of the database."""

    archive: Archive
    key: bytes
    proofs: Proofs = field(factory=Proofs)
    in_the_way: Callable[[], bool] | None = None
    """Whether a long read has to end now: something waits until nobody reads. From another thread."""


@frozen
class Page:
    """Events that were checked, and the head they end at. `last`: there are no more at the moment."""

    events: list[StoredEvent]
    at: Head
    last: bool


def page(connection: driver.Connection, after: Head, floor: Head, whole: Whole | None = None) -> Page:
    """The next events after a checked one, from wherever they are. `floor` must be met if it is among them.

    `whole` None: the database is from before there was an archive.
    """
    id_, hash_ = after
    rows, erased = _at_once(connection, id_, masked=whole is not None)
    moved = False
    if whole is not None and (not rows or rows[0][0] != id_ + 1):
        # They are looked for in the archive after they were not found here: what is moved is in both for a while.
        moved = id_ < pruning.anchor(connection, whole.key)[0]
        if moved:
            rows, erased = _archived_after(connection, id_, whole), erasing.mask(connection)
    events, hash_ = chain.verify(id_, hash_, rows)
    if id_ < floor[0] <= id_ + len(events) and rows[floor[0] - id_ - 1][-1] != floor[1]:
        raise damaged(f"event {floor[0]} is not the one that was acknowledged")
    if whole is not None:
        events = whole.proofs.apply(rows, events, erased)
    return Page(events, (id_ + len(events), hash_), last=not moved and len(events) < REPLAY_PAGE_ROWS)


def _at_once(connection: driver.Connection, after: int, masked: bool) -> tuple[list[Row], Mask]:
    """The next rows, and what counted as erased when they were read.

    An erasure that is committed later is proved by an event that is not among these rows, and perhaps on no later page.
    """
    connection.execute("BEGIN")
    try:
        return _rows_after(connection, after), erasing.mask(connection) if masked else NOTHING_ERASED
    finally:
        if connection.in_transaction:  # some errors end it
            connection.execute("ROLLBACK")


def _rows_after(connection: driver.Connection, after: int) -> list[Row]:
    try:
        return connection.execute(_PAGE, (after,)).fetchall()
    except READ_ERRORS as error:
        raise _locate(connection, after, error) from error


def _archived_after(connection: driver.Connection, after: int, whole: Whole) -> list[Row]:
    """The rest of the segment that event `after` + 1 is in."""
    rows, first_id = archived(connection, after + 1, whole.archive, whole.key)
    return rows[after + 1 - first_id :]


def archived(connection: driver.Connection, event_id: int, archive: Archive, key: bytes) -> tuple[list[Row], int]:
    """The rows of the segment that holds an event, and the id of the first. Raises `Faulted("data_damaged")`."""
    looked_for = ""
    for _ in range(REWRITES_MAX):
        segment = pruning.segment_of(connection, event_id, key)
        if segment is None:
            raise damaged(f"event {event_id} is missing: it is neither in the database nor in the archive")
        try:
            return archive.rows(segment), segment.first_id
        except FileNotFoundError:
            if segment.file == looked_for:
                break
            looked_for = segment.file  # another one may have taken its place just now
    raise damaged(f"archive/{looked_for} is missing, and with it event {event_id} and those beside it")


def hash_behind(connection: driver.Connection, id_: int, whole: Whole) -> bytes | None:
    """The hash of an event that is no longer in the database."""
    anchored, hash_ = pruning.anchor(connection, whole.key)
    if id_ == anchored:
        return hash_
    if id_ > anchored:
        return None
    rows, first_id = archived(connection, id_, whole.archive, whole.key)
    return bytes(rows[id_ - first_id][-1])


def raw(connection: driver.Connection, after: Head, upto: int, erased: Mask) -> tuple[list[Row], Head]:
    """The next rows after a checked one, up to event `upto`, checked, as they are to be kept."""
    rows = [row for row in _rows_after(connection, after[0]) if row[0] <= upto]
    events, hash_ = chain.verify(*after, rows)
    return [erasing.blank(row, erased) for row in rows], (after[0] + len(events), hash_)


def _locate(connection: driver.Connection, after: int, error: Exception) -> SoloError:
    """Read one by one what could not be read together, to name the event."""
    for id_ in range(after + 1, after + REPLAY_PAGE_ROWS + 1):
        try:
            connection.execute(f"{_ROWS} WHERE id = ?", (id_,)).fetchone()
        except READ_ERRORS as single:
            return damaged(f"event {id_} cannot be read ({single})")
    return damaged(f"the events after {after} cannot be read ({error})")


def check_tables(connection: driver.Connection, in_the_way: Callable[[], bool] | None = None) -> bool:
    """Compare tables and indexes: the chain covers rows, not the ways to find them. False: it gave way before its end."""
    connection.set_progress_handler(in_the_way, GIVE_WAY_OPERATIONS)
    try:
        shape.check(connection)
        (finding,) = connection.execute(f"PRAGMA integrity_check({INTEGRITY_ERRORS_MAX})").fetchone()
    except READ_ERRORS as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == SQLITE_INTERRUPT:
            return False
        raise at_open(error, "the data directory") from error
    finally:
        connection.set_progress_handler(None, 0)
    if finding != "ok":
        raise damaged(f"the database is inconsistent ({finding})")
    return True


NOTHING_ERASED: Final[Mask] = {}


def scan(
    connection: driver.Connection, query: EventQuery, before: int | None = None, erased: Mask = NOTHING_ERASED
) -> Scan:
    """Look at `SCAN_ROWS_MAX` rows at the most, of the index that leads to them.

    With `newest` from the end, or from `before` (exclusive), downwards: `looked_at` then is the lowest id looked at.
    """
    where = ["id > :after"] + (["id < :before"] if before is not None else [])
    values: dict[str, Any] = {"after": query.after, "before": before, "limit": query.limit, "rows": SCAN_ROWS_MAX - 1}
    for column in ("tenant_id", "subject"):
        value = getattr(query, column)
        if value is not None:
            where.append(f"{column} = :{column}")
            values[column] = value
    order = "DESC" if query.newest else "ASC"
    # Only names from this file are put into the text; every value is bound. The index alone answers how far to look.
    range_ = f"FROM events WHERE {' AND '.join(where)}"
    last = connection.execute(f"SELECT id {range_} ORDER BY id {order} LIMIT 1 OFFSET :rows", values).fetchone()
    # What is appended meanwhile is behind this: it is for the next scan.
    end = query.after if query.newest else max(query.after, head(connection)[0])
    values["edge"] = edge = end if last is None else int(last[0])
    where.append("id >= :edge" if query.newest else "id <= :edge")

    if query.incarnation is not None:
        where.append("incarnation = :incarnation")
        values["incarnation"] = query.incarnation
    if query.types is not None:
        names = {f"type{number}": type_ for number, type_ in enumerate(query.types)}
        where.append(f"type IN ({', '.join(f':{name}' for name in names)})")
        values.update(names)
    sql = f"{_ROWS} WHERE {' AND '.join(where)} ORDER BY id {order} LIMIT :limit"
    events, size_bytes = [], 0
    for row in connection.execute(sql, values):
        events.append(erasing.masked(chain.event_of(row), erased))
        size_bytes += len(events[-1].payload or b"")
        if len(events) >= query.limit or size_bytes >= SCAN_BYTES_MAX:
            edge = events[-1].id
            break
    return Scan(events[::-1] if query.newest else events, edge, complete=edge == end)


def artifact(connection: driver.Connection, digest: str) -> Artifact:
    row = connection.execute(_ARTIFACT, (digest,)).fetchone()  # each start reads one: nothing is asked about the table
    if row is None:
        raise damaged(f"artifact {digest} is missing")
    (content,) = row
    if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != digest:
        raise damaged(f"artifact {digest} does not have its digest: it was changed")
    return Artifact(digest, content)


def holds_artifacts(connection: driver.Connection) -> bool:
    (found,) = connection.execute("SELECT EXISTS (SELECT 1 FROM artifacts)").fetchone()
    return bool(found)


def keys(connection: driver.Connection) -> list[KeyRow]:
    return [KeyRow(**row) for row in tables(connection).table("keys").rows_where(order_by="key_id")]


def secret(connection: driver.Connection, incarnation: str, name: str, version: int) -> SecretRow:
    where = "incarnation = ? AND name = ? AND version = ?"
    rows = list(tables(connection).table("secrets").rows_where(where, [incarnation, name, version]))
    if not rows:
        raise damaged(f"version {version} of a secret is missing")
    return SecretRow(**rows[0])


def idempotency(connection: driver.Connection, since_us: int) -> list[IdempotencyRow]:
    rows = tables(connection).table("idempotency").rows_where("at_us >= ?", [since_us], order_by="at_us, scope, key")
    return [IdempotencyRow(**row) for row in rows]
