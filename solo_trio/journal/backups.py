"""Copies of the databases. Owns: copying one that is in use, what belongs beside it, cutting a log that nobody uses.
Never: packs.

The log is copied over the connection that writes it, in steps of a few pages, from another thread. SQLite does one thing
at a time on a connection, so an append waits for one step at the most; and what is appended over the same connection
meanwhile goes into the copy too, so that it never has to begin again, and is the log as it is at the last step. Between
two steps no transaction is open: the WAL is moved and emptied as always. A step that fails fails the copy alone.
(sqlite.org/c3ref/backup_finish.html)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from solo_trio.errors import Faulted, Rejected, SoloError, StorageFull
from solo_trio.journal import audit_reads, chain, pruning, reads, schema, witness
from solo_trio.journal.archive import ARCHIVE_DIRECTORY, Archive
from solo_trio.journal.audit_chain import BrokenChain
from solo_trio.journal.audit_head import HeadFile
from solo_trio.journal.audit_reads import AUDIT_FILE
from solo_trio.journal.library import damaged, driver, means
from solo_trio.journal.lock import sync_directory
from solo_trio.journal.reserve import PAGE_BYTES
from solo_trio.journal.witness import Head
from solo_trio.model.record import KeyRow, StoredEvent

STEP_PAGES: Final = 64
"""Copied at a time: less than a millisecond, for which an append may have to wait."""
REST_SHARE: Final = 2.0
REST_S_MIN: Final = 0.001
"""After each step, so many times as long as it took, and this at least: the connection is there for the appends."""
REST_S_MAX: Final = 0.1
STEPS_SHARE_MAX: Final = 20
STEPS_MIN: Final = 10_000
"""A copy that took so many times the steps that it should is given up."""
SNAPSHOT_STEP_PAGES: Final = 256

Progress = Callable[[int, int], None]
"""Told how many bytes were copied, and of how many. What it raises ends the copy."""


def copy_log(connection: driver.Connection, directory: Path, key: bytes, progress: Progress) -> Head:
    """The log of `connection` into `directory`, with the witness of what it came to; its head. Not for the writer's thread.

    Raises `StorageFull`, `Faulted("backup_failed")`, and whatever `progress` raises; the log itself is as it was.
    """
    target = directory / schema.DATABASE_FILE
    _copy(connection, target, progress, STEP_PAGES, rests=True)
    copied = look(target)
    try:
        head = reads.head(copied)
    except driver.Error as error:
        raise _failed(target, error) from error
    finally:
        copied.close()
    witness.replace(directory, head, key)
    return head


def copy_audit(data: Path, directory: Path, key: bytes, progress: Progress) -> None:
    """The audit of `data`, which may be written meanwhile, and its witness. Raises what `copy_log` does."""
    target = directory / AUDIT_FILE
    source = audit_reads.connect(data, "ro")
    try:
        # Who writes it may be another connection: this one keeps to one moment. Nobody waits for a reader here.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM ends").fetchone()
        _copy(source, target, progress, SNAPSHOT_STEP_PAGES, rests=False)
    except driver.Error as error:
        raise _failed(data / AUDIT_FILE, error) from error
    finally:
        source.close()
    copied = look(target)
    try:
        head = audit_reads.end(copied, key, audit_reads.HEAD)
    except (driver.Error, BrokenChain) as error:
        raise _failed(data / AUDIT_FILE, error) from error
    finally:
        copied.close()
    seen = HeadFile(directory, key)
    try:
        seen.write(head, closed=True)
    finally:
        seen.close()


def _copy(source: driver.Connection, target: Path, progress: Progress, pages: int, *, rests: bool) -> None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    copy = _connect(target, "rw")
    steps = 0
    began = time.monotonic()

    def step(_: int, left: int, total: int) -> None:
        nonlocal steps, began
        took_s = time.monotonic() - began
        progress((total - left) * PAGE_BYTES, total * PAGE_BYTES)
        steps += 1
        if steps > STEPS_MIN + STEPS_SHARE_MAX * (total // pages):
            raise Faulted("backup_failed", "the log changes faster than it can be copied: try again when less happens")
        if rests:
            time.sleep(min(max(REST_SHARE * took_s, REST_S_MIN), REST_S_MAX))
        began = time.monotonic()

    try:
        # It is forced to the disk as a whole once it is packed; until then nobody believes it.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1024"):
            copy.execute(f"PRAGMA {pragma}").fetchall()
        source.backup(copy, pages=pages, progress=step, sleep=REST_S_MIN)
    except driver.Error as error:
        raise _failed(target, error) from error
    finally:
        copy.close()


def _connect(path: Path, mode: str) -> driver.Connection:
    return driver.connect(
        f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )


def look(path: Path) -> driver.Connection:
    """A connection to a copy that nobody writes; it makes no other file."""
    return _connect(path, "ro&immutable=1")


def _failed(path: Path, error: Exception) -> SoloError:
    if means(error) == "full":
        return StorageFull(f"no space to copy {path.name}: free disk space, or name another backup_dir")
    return Faulted("backup_failed", f"{path.name} could not be copied ({error}): check the disk")


def segments_of(directory: Path, key: bytes) -> list[str]:
    """The files of the archive that a copied log has a part in, below its directory. Raises `Faulted`."""
    copied = look(directory / schema.DATABASE_FILE)
    try:
        if schema.version(copied) < schema.ARCHIVE_SINCE:
            return []
        return [f"{ARCHIVE_DIRECTORY}/{each.file}" for each in pruning.segments(copied, pruning.key_of(key))]
    except driver.Error as error:
        raise _failed(directory / schema.DATABASE_FILE, error) from error
    finally:
        copied.close()


TAKES_AWAY: Final = ("capability_revoked",)
"""Events that say that a right is gone."""
_AFTER: Final = (
    # What is asked for without an event comes of a removal. If that is cut away, the tenant lives.
    "DELETE FROM erasures WHERE event_id IS NULL AND incarnation IN "
    "(SELECT incarnation FROM events WHERE id > ? AND type = 'tenant_removed')",
    "DELETE FROM events WHERE id > ?",
    "DELETE FROM checkpoints WHERE event_id > ?",
    "DELETE FROM idempotency WHERE event_id > ?",
    "DELETE FROM segment_subjects WHERE first_id IN (SELECT first_id FROM segments WHERE last_id > ?)",
    "DELETE FROM segments WHERE last_id > ?",
)


def cut(directory: Path, key: bytes, event_id: int) -> list[StoredEvent]:
    """Drop every event after `event_id`, and what was made of those; nobody uses the directory.

    Returns what went of the types `TAKES_AWAY`. Raises `Rejected("invalid_field")` where it cannot be cut there.
    """
    connection = schema.connect_writer(directory)
    try:
        schema.migrate(connection)
        hash_ = _cut_at(connection, key, event_id)
        marks = ", ".join("?" * len(TAKES_AWAY))
        gone = connection.execute(
            f"SELECT {', '.join(chain.COLUMNS)} FROM events WHERE id > ? AND type IN ({marks}) ORDER BY id",  # noqa: S608
            (event_id, *TAKES_AWAY),
        ).fetchall()
        taken = [chain.event_of(row) for row in gone]
        connection.execute("BEGIN IMMEDIATE")
        for statement in _AFTER:
            connection.execute(statement, (event_id,))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        named = {str(file) for (file,) in connection.execute("SELECT file FROM segments")}
    except driver.Error as error:
        raise _failed(directory / schema.DATABASE_FILE, error) from error
    finally:
        connection.close()
    witness.replace(directory, (event_id, hash_), key)
    # Nothing would ever remove these: no erasure knows of what is in them.
    Archive(directory).keep_only(named)
    sync_directory(directory)
    return taken


def _cut_at(connection: driver.Connection, key: bytes, event_id: int) -> bytes:
    """The hash of that event, after which the log is to end."""
    last_id = reads.head(connection)[0]
    first_id = pruning.anchor(connection, pruning.key_of(key))[0] + 1
    if not first_id <= event_id <= last_id:
        raise Rejected("invalid_field", f"the log can be cut after one of the events {first_id} to {last_id}")
    (erased_id,) = connection.execute("SELECT max(event_id) FROM erasures WHERE event_id > ?", (event_id,)).fetchone()
    if erased_id is not None:
        raise Rejected(
            "invalid_field",
            f"event {erased_id} erased what events before {event_id} held: the log can be cut there, or after it",
        )
    hash_ = reads.hash_at(connection, event_id)
    if hash_ is None:
        raise damaged(f"event {event_id} is missing")
    return hash_


def secret_rows(connection: driver.Connection) -> list[tuple[str, str, int]]:
    """Incarnation, name and version of every sealed value."""
    return list(
        connection.execute("SELECT incarnation, name, version FROM secrets ORDER BY incarnation, name, version")
    )


def key_rows(directory: Path) -> list[KeyRow]:
    """The wrapped keys of a log that nobody uses."""
    copied = look(directory / schema.DATABASE_FILE)
    try:
        return reads.keys(copied) if schema.version(copied) else []
    except driver.Error as error:
        raise _failed(directory / schema.DATABASE_FILE, error) from error
    finally:
        copied.close()


def head_of(directory: Path) -> Head:
    """The last event of a log that nobody uses, and its hash."""
    copied = look(directory / schema.DATABASE_FILE)
    try:
        return reads.head(copied)
    except driver.Error as error:
        raise _failed(directory / schema.DATABASE_FILE, error) from error
    finally:
        copied.close()
