"""What can be read of a damaged journal. Owns: the rows that lie in its files, and what the master key proves of them. Never:
writes, or asks SQLite: a damaged file is read page by page (`pages`).

Three things are sealed under the master key: the witness, each checkpoint (with the hash of its event), each wrapped key.
An event is proven by the chain from the beginning, or from a sealed hash. Everything else is held against the state that
those come to.
"""

from __future__ import annotations

import hashlib
import mmap
import stat
from collections.abc import Iterator
from itertools import chain as chain_
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from solo_trio.errors import Faulted
from solo_trio.journal import archive, chain, checkpoints, schema, wal, witness
from solo_trio.journal.archive import ARCHIVE_DIRECTORY
from solo_trio.journal.library import RESTORE, driver
from solo_trio.journal.pages import Bytes, Cell, Pages, Row
from solo_trio.journal.witness import WITNESS_FILE, Head
from solo_trio.model.record import (
    ERASED_TYPE,
    Artifact,
    Checkpoint,
    Erasure,
    IdempotencyRow,
    KeyRow,
    SecretRow,
    StoredEvent,
)

FILES_OPEN_MAX: Final = 3
FOLLOWED_ROWS_MAX: Final = 2_000
"""Given out at once."""
_EVENTS: Final = "events"
_ID: Final = chain.COLUMNS.index("id")
_TYPE: Final = chain.COLUMNS.index("type")
_INCARNATION: Final = chain.COLUMNS.index("incarnation")
_DIGEST: Final = chain.COLUMNS.index("payload_digest")
_KERNEL_TIME: Final = chain.COLUMNS.index("kernel_time")

EventRow = tuple[Any, ...]


@frozen
class Kept:
    """An authentic checkpoint, and the chain hash that its event had."""

    checkpoint: Checkpoint
    chain: bytes

    @property
    def head(self) -> Head:
        return self.checkpoint.event_id, self.chain


class Salvage:
    """All that lies in the files of one directory. `witness`: what it proves; `witness_fault`: why it proves nothing."""

    def __init__(self, directory: Path, key: bytes) -> None:
        logged, committed = wal.logged_pages(_read(directory / schema.WAL_FILE))
        self._pages = Pages(_mapped(directory / schema.DATABASE_FILE), logged, committed)
        self._events: dict[int, list[Row]] = {}
        self._rows: dict[str, list[Row]] = {}
        self._blank: frozenset[str] | None = None
        committed_id = 0
        for row, table in self._classified():
            if table == _EVENTS:
                self._events.setdefault(row.rowid, []).append(row)
                if row.page < self._pages.committed:
                    committed_id = max(committed_id, row.rowid)
            else:
                self._rows.setdefault(table, []).append(row)
        self._archive = _ArchivedRows(directory / ARCHIVE_DIRECTORY)
        self.archived = bool(self._archive.files)
        """Whether there are segments of an archive."""
        self.witness, self.witness_fault = _witness(directory, key)
        self.checkpoints = sorted(self._authentic(checkpoints.key_of(key)), key=lambda kept: kept.head, reverse=True)
        """Newest first."""
        known = [kept.checkpoint.event_id for kept in self.checkpoints]
        self.last_proven_id = max([*known, 0 if self.witness is None else self.witness[0]])
        """The newest event that something sealed says there was."""
        rows = len(self._events) + self._archive.last_id
        near = [id_ for id_ in self._events if id_ <= committed_id and id_ <= 2 * (self.last_proven_id + rows)]
        self.last_id = max([self.last_proven_id, *near])
        """The newest event that there was, as far as anything tells. Ids have no gaps: one far away is damaged itself."""

    def follow(self, base: Head, until: int) -> Iterator[list[tuple[EventRow, StoredEvent]]]:
        """Events after `base` that the chain proves, up to `until` or to the first that cannot be had."""
        (id_, previous), page = base, list[tuple[EventRow, StoredEvent]]()
        while id_ < until:
            found = self._next(id_, previous)
            if found is None:
                break
            page.append(found)
            id_, previous = id_ + 1, found[0][-1]
            if len(page) == FOLLOWED_ROWS_MAX:
                yield page
                page = []
        if page:
            yield page

    def why_not(self, base: Head) -> str:
        """Why the event after `base` cannot be had."""
        id_, previous = base
        said = f"event {id_ + 1} cannot be read, or is missing"
        for values in self._event(id_ + 1):
            try:
                chain.verify(id_, previous, [values])
            except Faulted as fault:
                said = plain(fault)
        return said

    def readable_after(self, id_: int) -> Iterator[EventRow]:
        """Rows of later events as they lie, whatever they are worth; one for each id."""
        for later in sorted(each for each in self._events if id_ < each <= self.last_id):
            for values in self._event(later):
                yield values
                break

    def artifact(self, digest: str) -> Artifact | None:
        if not hasattr(self, "_artifacts"):
            self._artifacts: dict[Cell, list[Row]] = {}
            for row in self._rows.get("artifacts", ()):
                for values in self._pages.contents(row):
                    self._artifacts.setdefault(values[0], []).append(row)
        for row in self._artifacts.get(digest, ()):
            for _, content in self._pages.contents(row):
                if isinstance(content, bytes) and hashlib.sha256(content).hexdigest() == digest:
                    return Artifact(digest, content)
        return None

    def erasures(self) -> dict[str, Erasure]:
        """By their incarnations."""
        rows = [Erasure(row[1], row[0], row[2], row[3]) for row in self._table("erasures")]
        return {each.incarnation: each for each in rows}

    def keys(self) -> list[KeyRow]:
        """As they lie; whoever has the master key knows which are whole."""
        return [KeyRow(*values) for values in self._table("keys")]

    def secrets(self) -> list[SecretRow]:
        return [SecretRow(*values) for values in self._table("secrets")]

    def idempotency(self) -> list[IdempotencyRow]:
        """The newest version of each."""
        rows = [IdempotencyRow(*values) for values in self._table("idempotency")]
        return list({(row.scope, row.key): row for row in rows}.values())

    def _table(self, name: str) -> list[tuple[Any, ...]]:
        """Every version of every row, the newest last; each once."""
        found: dict[tuple[Any, ...], None] = {}
        for row in self._rows.get(name, ()):
            for values in self._pages.contents(row):
                found.pop(values, None)
                found[values] = None
        return list(found)

    def _next(self, id_: int, previous: bytes) -> tuple[EventRow, StoredEvent] | None:
        for values in self._event(id_ + 1):
            try:
                events, _ = chain.verify(id_, previous, [values])
            except Faulted:
                continue
            if events[0].payload is None and values[_DIGEST] is not None and not self._may_be_blank(events[0]):
                continue  # nobody says that its tenant was erased: it was tampered with
            return values, events[0]
        return None

    def _may_be_blank(self, event: StoredEvent) -> bool:
        if self._blank is None:
            said = {each for each, found in self.erasures().items() if found.event_id is not None}
            rows = chain_.from_iterable((self.readable_after(0), self._archive.all()))
            said |= {row[_INCARNATION] for row in rows if row[_TYPE] == ERASED_TYPE}
            self._blank = frozenset(said)
        return event.incarnation in self._blank

    def _event(self, id_: int) -> Iterator[EventRow]:
        """What the event of that id may be, the newest version first."""
        yield from self._archive.rows(id_)
        for row in reversed(self._events.get(id_, ())):
            for values in self._pages.contents(row):
                cells: list[Any] = [*values]
                cells[_ID] = row.rowid
                cells[_KERNEL_TIME] = float(cells[_KERNEL_TIME])  # a whole number is stored as one
                yield tuple(cells)

    def _classified(self) -> Iterator[tuple[Row, str]]:
        declared = _declared()
        for row in self._pages.rows():
            types = self._pages.shape(row)
            for table in declared.get(len(types or ()), ()):
                if types is not None and all(fits(type_) for fits, type_ in zip(table[1], types, strict=True)):
                    yield row, table[0]

    def _authentic(self, key: bytes) -> Iterator[Kept]:
        for row in self._rows.get("checkpoints", ()):
            for values in self._pages.contents(row):
                kept = checkpoints.authentic((row.rowid, *values[1:]), key)
                if kept is not None:
                    yield Kept(*kept)


class _ArchivedRows:
    """Rows of the archive's files, each read when one of its events is asked for."""

    def __init__(self, directory: Path) -> None:
        self.files = sorted(parsed for path in directory.glob("*") if (parsed := archive.named(path)) is not None)
        """First and last event of each, which of several for the same events, where it is."""
        self.last_id = max([last for _, last, _, _ in self.files], default=0)
        self._open: dict[Path, dict[int, EventRow]] = {}

    def rows(self, id_: int) -> Iterator[EventRow]:
        """What the event of that id may be, the newest version first."""
        if id_ > self.last_id:
            return
        for first, last, _, path in reversed(self.files):
            if first <= id_ <= last and (row := self._content(path).get(id_)) is not None:
                yield row

    def all(self) -> Iterator[EventRow]:
        """Every row of every file."""
        for *_, path in self.files:
            yield from self._content(path).values()

    def _content(self, path: Path) -> dict[int, EventRow]:
        if path not in self._open:
            if len(self._open) >= FILES_OPEN_MAX:
                self._open.pop(next(iter(self._open)))
            self._open[path] = {row[_ID]: row for row in archive.readable(path.read_bytes())}
        return self._open[path]


def plain(fault: Faulted) -> str:
    """What is wrong, without the advice that is given where nothing can be repaired."""
    return fault.detail.removesuffix(f"; {RESTORE}")


def _witness(directory: Path, key: bytes) -> tuple[Head | None, str | None]:
    path = directory / WITNESS_FILE
    try:
        if path.exists() and not stat.S_ISREG(path.lstat().st_mode):
            return None, f"{WITNESS_FILE} is not a plain file"
        known = witness.read(directory, key)
    except Faulted as fault:
        return None, plain(fault)
    return known, f"{WITNESS_FILE} is missing" if known is None else None


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _mapped(path: Path) -> Bytes:
    if not path.is_file() or not path.stat().st_size:
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def _declared() -> dict[int, list[tuple[str, list[Any]]]]:
    """By their number of columns: the tables of this version, and which serial types each column may have."""
    connection = driver.connect(":memory:", isolation_level=None)
    try:
        schema.migrate(connection)
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found: dict[int, list[tuple[str, list[Any]]]] = {}
        for name in names:
            columns = list(connection.execute(f"PRAGMA table_info({name})"))
            primary = [column for column in columns if column[5]]
            rowid = primary[0][0] if len(primary) == 1 and primary[0][2] == "INTEGER" else None
            fitting = [_NULL if number == rowid else _FITTING[kind] for number, _, kind, *_ in columns]
            found.setdefault(len(columns), []).append((name, fitting))
        return found
    finally:
        connection.close()


def _NULL(type_: int) -> bool:
    return type_ == 0


def _integer(type_: int) -> bool:
    return type_ <= 6 or type_ in (8, 9)


def _float(type_: int) -> bool:
    return type_ <= 9


def _text(type_: int) -> bool:
    return type_ == 0 or (type_ >= 13 and type_ % 2 == 1)


def _blob(type_: int) -> bool:
    return type_ == 0 or (type_ >= 12 and type_ % 2 == 0)


_FITTING: Final = {"INTEGER": _integer, "TEXT": _text, "BLOB": _blob, "FLOAT": _float, "REAL": _float}
