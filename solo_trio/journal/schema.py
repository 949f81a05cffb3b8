"""The tables. Owns: connections to `kernel.db`, their pragmas, and the migrations in order. Never: reads or writes events."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlite_utils import Database

from solo_trio.errors import Faulted
from solo_trio.journal.library import damaged, driver
from solo_trio.journal.lock import sync_directory
from solo_trio.journal.reserve import PAGE_BYTES

DATABASE_FILE: Final = "kernel.db"
WAL_FILE: Final = "kernel.db-wal"
SHARED_MEMORY_FILE: Final = "kernel.db-shm"
BUSY_TIMEOUT_MS: Final = 5_000
"""How long a statement waits for a foreign tool on the file, and a truncating checkpoint for our own readers."""


def create_file(directory: Path) -> None:
    """Make an empty database file (0600) if there is none; only before the first connection of this process."""
    try:
        fd = os.open(directory / DATABASE_FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    os.close(fd)
    sync_directory(directory)


def connect_writer(directory: Path) -> driver.Connection:
    """The one connection that writes; transactions are begun and ended by name."""
    connection = _connect(directory, "rw")
    try:
        for pragma in (
            f"page_size = {PAGE_BYTES}",
            "synchronous = FULL",
            "secure_delete = ON",
            "wal_autocheckpoint = 0",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def use_wal(connection: driver.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise Faulted(
            "data_unwritable", "the file system cannot hold a write-ahead log: put the data directory on a local disk"
        )


def connect_reader(directory: Path) -> driver.Connection:
    return _connect(directory, "ro")


def connect_onlooker(directory: Path) -> driver.Connection:
    """A reader of a database that nobody writes, which leaves what a killed kernel left in the shared memory's file, too."""
    known = (directory / SHARED_MEMORY_FILE).exists()  # without one SQLite must make one, or cannot read
    return _connect(directory, "ro", "&readonly_shm=1" if known else "")


def _connect(directory: Path, mode: str, more: str = "") -> driver.Connection:
    return driver.connect(
        f"file:{quote(str(directory / DATABASE_FILE))}?mode={mode}{more}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_MS / 1000,
    )


def tables(connection: driver.Connection) -> Database:
    """The same connection through sqlite-utils."""
    return Database(connection, recursive_triggers=False, execute_plugins=False)


def _first(db: Database) -> None:
    db.table("events").create(
        {
            "id": int,
            "at_us": int,
            "kernel_time": float,
            "tenant_id": str,
            "incarnation": str,
            "subject": str,
            "type": str,
            "schema": int,
            "payload": bytes,
            "salt": bytes,
            "payload_digest": bytes,
            "causation_id": int,
            "correlation_id": str,
            "chain": bytes,
        },
        pk="id",
        not_null={"at_us", "kernel_time", "type", "schema", "chain"},
    )
    # Each index ends in the id by itself. Reads by type walk their tenant's events: an index more costs every append.
    db.table("events").create_index(["tenant_id"], "events_tenant")
    db.table("events").create_index(["tenant_id", "subject"], "events_subject")
    db.table("artifacts").create({"digest": str, "content": bytes}, pk="digest", not_null={"content"})
    db.table("keys").create(
        {"key_id": str, "incarnation": str, "purpose": str, "wrapped": bytes},
        pk="key_id",
        not_null={"incarnation", "purpose", "wrapped"},
    )
    db.table("idempotency").create(
        {"scope": str, "key": str, "fingerprint": str, "event_id": int, "at_us": int},
        pk=("scope", "key"),
        not_null={"fingerprint", "event_id", "at_us"},
    )
    db.table("idempotency").create_index(["at_us"], "idempotency_age")
    db.table("meta").create({"key": str, "value": str}, pk="key")


def _checkpoints(db: Database) -> None:
    db.table("checkpoints").create(
        {
            "event_id": int,
            "at_us": int,
            "reducer": str,
            "format": str,
            "digest": bytes,
            "chain": bytes,
            "mac": bytes,
            "body": bytes,
        },
        pk="event_id",
        not_null={"at_us", "reducer", "format", "digest", "chain", "mac", "body"},
    )


def _secrets(db: Database) -> None:
    db.table("secrets").create(
        {"incarnation": str, "name": str, "version": int, "version_id": str, "key_id": str, "sealed": bytes},
        pk=("incarnation", "name", "version"),
        not_null={"version_id", "key_id", "sealed"},
    )


def _archive(db: Database) -> None:
    db.table("segments").create(
        {
            "first_id": int,
            "last_id": int,
            "previous": bytes,
            "chain": bytes,
            "file": str,
            "digest": bytes,
            "size_bytes": int,
            "mac": bytes,
        },
        pk="first_id",
        not_null={"last_id", "previous", "chain", "file", "digest", "size_bytes", "mac"},
    )
    db.table("segments").create_index(["last_id"], "segments_last", unique=True)
    # What is in which segment: which are to be written anew without a tenant, and where the last events of a service are.
    db.table("segment_subjects").create(
        {"incarnation": str, "subject": str, "first_id": int, "events": int}, pk=("incarnation", "subject", "first_id")
    )
    db.table("anchor").create({"only": int, "event_id": int, "chain": bytes, "mac": bytes}, pk="only")
    db.table("erasures").create(
        {"incarnation": str, "tenant_id": str, "event_id": int, "removed_at_us": int, "done": int},
        pk="incarnation",
        not_null={"tenant_id", "removed_at_us", "done"},
    )
    # Tenants that were removed before their events were erased too: the next kernel sees to it.
    db.execute(
        "INSERT OR IGNORE INTO erasures (incarnation, tenant_id, event_id, removed_at_us, done) "
        "SELECT incarnation, tenant_id, NULL, at_us, 0 FROM events WHERE type = 'tenant_removed' AND incarnation IS NOT NULL"
    )


MIGRATIONS: Final[tuple[Callable[[Database], None], ...]] = (_first, _checkpoints, _secrets, _archive)
"""Migration n makes version n + 1 of the schema; one that was shipped is never changed."""


CHECKPOINTS_SINCE: Final = 2
"""The schema version that has the table of checkpoints."""
ARCHIVE_SINCE: Final = 4
"""The schema version that has the tables of the archive and of erasures."""


def claimed(connection: driver.Connection) -> int:
    """The schema version that the file says it has, whatever that is; reads no table, also not that of the tables."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def version(connection: driver.Connection) -> int:
    """The schema version of the file, 0 for an empty one.

    Raises `Faulted`: `data_newer` for one that is not known yet, `data_damaged` for one that never will be.
    """
    found = claimed(connection)
    if found < 0:
        raise damaged(f"{DATABASE_FILE} has schema version {found}")
    if found > len(MIGRATIONS):
        raise Faulted(
            "data_newer",
            f"{DATABASE_FILE} has schema version {found}, this program knows {len(MIGRATIONS)}: install a newer version",
        )
    return found


def migrate(connection: driver.Connection, to: int = len(MIGRATIONS)) -> None:
    """Bring the file to version `to`, one transaction a step."""
    db = tables(connection)
    for number in range(version(connection), to):
        with db.atomic():
            MIGRATIONS[number](db)
            connection.execute(f"PRAGMA user_version = {number + 1}")
