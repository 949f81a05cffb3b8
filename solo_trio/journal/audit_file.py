"""The writing side of the audit, synchronous. Owns: opening `audit.db`, setting a bad one aside, appending, forgetting by whole
prefixes. Never: guesses what a damaged file said, or stops anything but itself.

The file is never opened but through the one SQLite driver while this process writes it (`library.py`, `opening.py` say why).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from solo_trio.journal import audit_chain, audit_head, audit_reads
from solo_trio.journal.audit_chain import COLUMNS, NOTHING, BrokenChain, End
from solo_trio.journal.audit_head import AUDIT_HEAD_FILE, HeadFile
from solo_trio.journal.audit_reads import ANCHOR, AUDIT_FILE, HEAD, connect
from solo_trio.journal.library import driver, means
from solo_trio.journal.lock import sync_directory
from solo_trio.journal.reserve import disk_bytes
from solo_trio.model.audit import BEGUN, DAMAGED, GAP, AuditEntry
from solo_trio.model.instant import rfc3339

SCHEMA: Final = 1
START_CHECK_ROWS: Final = 2_000
"""The newest so many entries are checked when the file is opened; all of them by `solo verify`."""
DELETE_ROWS_MAX: Final = 5_000
"""Forgotten in one transaction."""
SIZE_SHARE: Final = 0.9
"""What is above the size is cut to this part of it, so that it is not cut again at once."""
FAULT_CHARACTERS_MAX: Final = 200
WAL_BYTES_MAX: Final = 4_194_304
FREE_BYTES_KEPT: Final = 4_194_304
"""Of the disk, for the log of events: the audit does not take the last of it. On a tiny disk one part in:"""
TINY_DISK_SHARE: Final = 16
ENTRY_BYTES: Final = 1_024
"""What one takes of the disk at the most, about, in the write-ahead log and in the database."""
CHECKPOINT_PAGES_MAX: Final = 1_000
PAGE_BYTES: Final = 4_096
MEBIBYTE: Final = 1_048_576
DAY_US: Final = 86_400_000_000
FILES: Final = (AUDIT_FILE, f"{AUDIT_FILE}-wal", f"{AUDIT_FILE}-shm", AUDIT_HEAD_FILE)
_INSERT: Final = f"INSERT INTO audit ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_END: Final = "INSERT OR REPLACE INTO ends (name, id, chain, seal) VALUES (?, ?, ?, ?)"
_TABLES: Final = (
    """CREATE TABLE audit (id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, duration_us INTEGER NOT NULL, tenant_id TEXT,
    incarnation TEXT, credential TEXT, operation TEXT NOT NULL, subject TEXT, outcome TEXT NOT NULL, request_id TEXT,
    peer TEXT, chain BLOB NOT NULL)""",
    "CREATE INDEX audit_tenant ON audit (incarnation)",
    "CREATE TABLE ends (name TEXT PRIMARY KEY, id INTEGER NOT NULL, chain BLOB NOT NULL, seal BLOB NOT NULL)",
    f"PRAGMA user_version = {SCHEMA}",
)


Row = tuple[str | None, int, str, str, int]
"""Of a tally: incarnation, whether it is nobody's, operation, outcome, and how many entries."""
_TALLY: Final = (
    "SELECT incarnation, credential IS NULL, operation, outcome, count(*) FROM audit WHERE id <= ? GROUP BY 1, 2, 3, 4"
)


class NoRoom(Exception):
    """There is no space that the audit may take."""


class AuditFile:
    """One open file; used in one thread. `set_aside`: where a damaged one was put, `why`: what was wrong with it."""

    def __init__(self, directory: Path, key: bytes, connection: driver.Connection, head: End, at_us: int) -> None:
        self._directory = directory
        self._key = key
        self._connection = connection
        self._witness: HeadFile | None = None
        self.head = head
        self._at_us = at_us
        self.set_aside: str | None = None
        self.why: str | None = None

    @classmethod
    def open(cls, directory: Path, key: bytes, at_us: int, *, used: bool) -> AuditFile:
        """The file of `directory`, made if there is none; what cannot be believed is set aside first, under another name.

        `used`: a kernel has been here before, so there should be one. Raises OSError, `driver.Error` or `NoRoom`.
        """
        check_room(directory)
        why = _not_plain(directory)
        if why is None and (directory / AUDIT_FILE).exists():
            try:
                found = cls._open_sound(directory, key)
                if found is not None:
                    return found
            except BrokenChain as broken:
                why = str(broken)
            except driver.Error as error:
                if means(error) != "damaged":
                    raise
                why = str(error)
        if why is not None:
            reason = "damaged"
        elif used or audit_head.was_written(directory):
            reason, why = "missing", f"{AUDIT_FILE} was missing or empty"
        else:
            reason = "first"
        aside = None if why is None else _put_aside(directory, at_us)
        made = cls._create(directory, key, AuditEntry(at_us, BEGUN, reason, subject=aside))
        made.set_aside, made.why = aside, why
        return made

    @classmethod
    def _open_sound(cls, directory: Path, key: bytes) -> AuditFile | None:
        """None: it is empty, as one whose making was interrupted."""
        try:
            seen = audit_head.read(directory, key)
        except ValueError as error:
            raise BrokenChain(str(error)) from None
        connection = connect(directory, "rw")
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                connection.close()
                return None
            if version != SCHEMA:
                raise BrokenChain(f"{AUDIT_FILE} has schema version {version}, this program knows {SCHEMA}")
            finding = audit_reads.check(connection, key, START_CHECK_ROWS)
            if finding.fault is not None:
                raise BrokenChain(finding.fault)
            lost = check_witness(connection, key, seen)
            head = audit_reads.end(connection, key, HEAD)
            row = connection.execute("SELECT at_us FROM audit WHERE id = ?", (head[0],)).fetchone()
            made = cls(directory, key, connection, head, 0 if row is None else row[0])
            made._begin_writing()
            if seen is None:
                made._begin_witness()
            if lost:
                made.append([], lost)
        except BaseException:
            connection.close()
            raise
        return made

    @classmethod
    def _create(cls, directory: Path, key: bytes, first: AuditEntry) -> AuditFile:
        _remove(directory)  # what a start that was interrupted here has left
        os.close(os.open(directory / AUDIT_FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = connect(directory, "rw")
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            made = cls(directory, key, connection, NOTHING, first.at_us)
            made._begin_writing()
            connection.execute("PRAGMA synchronous = FULL")  # or a loss of power makes it look as if one was lost
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                connection.execute(statement)
            made._put_end(ANCHOR, NOTHING)
            made._insert([first])
            connection.execute("COMMIT")
            connection.execute("PRAGMA synchronous = NORMAL")
            made._begin_witness()
        except BaseException:
            connection.close()
            _remove(directory)
            raise
        return made

    def _begin_writing(self) -> None:
        disk_pages = disk_bytes(self._directory) // PAGE_BYTES
        pages = max(1, min(CHECKPOINT_PAGES_MAX, disk_pages // TINY_DISK_SHARE // 2))
        for pragma in (
            "journal_mode = WAL",
            "synchronous = NORMAL",
            f"journal_size_limit = {WAL_BYTES_MAX}",
            f"wal_autocheckpoint = {pages}",
        ):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        self._witness = HeadFile(self._directory, self._key)

    def append(self, entries: Sequence[AuditEntry], dropped: int = 0) -> None:
        """All of `entries` in one transaction, after one that says how many were `dropped` before them.

        Raises `driver.Error`, OSError or `NoRoom`; nothing of it is kept then.
        """
        check_room(self._directory, len(entries))
        gap = [AuditEntry(self._at_us, GAP, str(dropped))] if dropped else []
        head, at_us = self.head, self._at_us
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._insert([*gap, *entries])
            self._connection.execute("COMMIT")
        except BaseException:
            self.head, self._at_us = head, at_us
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._tell_witness()

    def _insert(self, entries: Sequence[AuditEntry]) -> None:
        """Times never decrease, so that they are in the order of the ids."""
        rows, (id_, previous), at_us = [], self.head, self._at_us
        for entry in entries:
            id_, at_us = id_ + 1, max(at_us, entry.at_us)
            row = audit_chain.row_of(self._key, previous, id_, entry, at_us)
            previous = row[-1]
            rows.append(row)
        self._connection.executemany(_INSERT, rows)
        self.head, self._at_us = (id_, previous), at_us
        self._put_end(HEAD, self.head)

    def _put_end(self, name: str, at: End) -> None:
        self._connection.execute(_END, (name, *at, audit_chain.seal(self._key, name, at)))

    def _tell_witness(self, *, closed: bool = False) -> None:
        if self._witness is not None:
            self._witness.write(self.head, closed=closed)

    def _begin_witness(self) -> None:
        """On the disk before there is a second entry: from then on one that is missing, or no witness, is damage."""
        self._tell_witness()
        if self._witness is not None:
            self._witness.sync()
        sync_directory(self._directory)

    def tally(self, until: int | None = None) -> list[Row]:
        """How many entries of each kind there are, up to that id."""
        found = self._connection.execute(_TALLY, (self.head[0] if until is None else until,)).fetchall()
        return [(row[0], row[1], str(row[2]), str(row[3]), row[4]) for row in found]

    def retain(self, days: int, size_mb: int, *, tally: bool = False) -> tuple[str | None, list[Row]]:
        """Forget the oldest: what is older than `days` (by the newest entry), and what is above the size.

        Returns what was wrong with what went, which is also an entry, and, if asked for, how many of each kind that was.
        """
        gone: list[Row] = []
        anchor = audit_reads.end(self._connection, self._key, ANCHOR)
        until = audit_reads.first_since(self._connection, self._at_us - days * DAY_US) - 1
        used, limit = self._used_bytes(), size_mb * MEBIBYTE
        if used > limit:
            share = 1 - SIZE_SHARE * limit / used
            until = max(until, anchor[0] + int((self.head[0] - anchor[0]) * share))
        until = min(until, self.head[0] - 1)  # the newest stays: the next one's time is not before it
        forgotten, fault = 0, None
        while anchor[0] < until:
            last, broken = self._sound_until(anchor, min(until, anchor[0] + DELETE_ROWS_MAX))
            fault = fault or broken
            forgotten += last[0] - anchor[0]
            gone += self.tally(last[0]) if tally else ()
            anchor = self._delete_until(last)
        if forgotten:
            self._connection.execute("PRAGMA incremental_vacuum").fetchall()
        if fault is not None:
            self.append([AuditEntry(self._at_us, DAMAGED, "forgotten", subject=fault[:FAULT_CHARACTERS_MAX])])
        return fault, gone

    def _sound_until(self, anchor: End, last: int) -> tuple[End, str | None]:
        """Where to delete up to, and what is wrong with what goes: after that nobody could see it any more."""
        try:
            return audit_reads.follow(self._connection, self._key, anchor, last), None
        except BrokenChain as broken:
            found = self._connection.execute(
                "SELECT id, chain FROM audit WHERE id > ? ORDER BY id <= ? DESC, abs(id - ?) LIMIT 1",
                (anchor[0], last, last),
            ).fetchone()
            return (found[0], bytes(found[1])), str(broken)

    def _delete_until(self, anchor: End) -> End:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.execute("DELETE FROM audit WHERE id <= ?", (anchor[0],))
            self._put_end(ANCHOR, anchor)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return anchor

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def measure(self) -> tuple[int, int]:
        """The oldest id, and the bytes used."""
        return audit_reads.bounds(self._connection)[0], self._used_bytes()

    def close(self) -> None:
        """Bring everything to the disk. Raises `driver.Error` or OSError; the file is closed all the same."""
        try:
            self._connection.execute("PRAGMA synchronous = FULL")
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._tell_witness(closed=not busy)
        finally:
            self._connection.close()
            if self._witness is not None:
                self._witness.close()


def check_room(directory: Path, entries: int = 1) -> None:
    """Raises `NoRoom` if the log of events needs what would be left after so many more."""
    status = os.statvfs(directory)
    kept = min(FREE_BYTES_KEPT, status.f_blocks * status.f_frsize // TINY_DISK_SHARE)
    try:
        in_wal = (directory / f"{AUDIT_FILE}-wal").stat().st_size  # it is copied before it is emptied
    except FileNotFoundError:
        in_wal = 0
    if status.f_bavail * status.f_frsize < kept + in_wal + entries * ENTRY_BYTES:
        raise NoRoom("the disk is nearly full")


def _remove(directory: Path) -> None:
    for name in FILES:
        (directory / name).unlink(missing_ok=True)


def _not_plain(directory: Path) -> str | None:
    """What is wrong with what lies there, as far as can be seen without opening it."""
    for name in FILES:
        try:
            status = (directory / name).lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is not a plain file"
    return None


def check_witness(connection: driver.Connection, key: bytes, seen: audit_head.Seen | None) -> int:
    """How many entries a loss of power took. Raises `BrokenChain` for a file that is not the one which was written last."""
    head = audit_reads.end(connection, key, HEAD)
    if seen is None:
        if head[0] > 1:  # a kill may come between the first entry and its witness
            raise BrokenChain(f"{AUDIT_HEAD_FILE} is missing")
        return 0
    id_, hash_ = seen.head
    if head[0] < id_:
        if seen.binding:
            raise BrokenChain(
                f"entries {head[0] + 1} to {id_} are missing: an older copy was put in the place of {AUDIT_FILE}"
            )
        return id_ - head[0]
    anchor = audit_reads.end(connection, key, ANCHOR)
    known = anchor[1] if id_ == anchor[0] else audit_reads.hash_at(connection, id_)
    if known != hash_ and id_ >= anchor[0]:
        raise BrokenChain(f"entry {id_} is not the one that {AUDIT_HEAD_FILE} knows: {AUDIT_FILE} was replaced")
    return 0


def _put_aside(directory: Path, at_us: int) -> str | None:
    """Give every file of an audit another name; what that of the database is, if there was one."""
    there = [name for name in FILES if os.path.lexists(directory / name)]
    stamp = rfc3339(at_us).replace(":", "").replace("-", "").replace(".", "")
    number = 0
    while (directory / f"{AUDIT_FILE}.damaged-{stamp}{number or ''}").exists():
        number += 1
    ending = f".damaged-{stamp}{number or ''}"
    for name in there:
        os.rename(directory / name, directory / f"{name}{ending}")
    sync_directory(directory)
    return f"{AUDIT_FILE}{ending}" if AUDIT_FILE in there else None
