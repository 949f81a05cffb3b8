"""Opening and closing a data directory. Owns: the order of the checks before anything is believed. Never: repairs.

A check that fails refuses to start and says what is wrong: which rows to believe is not for a program to guess. Every
raw read happens here, before the first connection: to open a database file beside SQLite's own connection, and to close
it again, drops SQLite's locks on it.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from attrs import frozen

from solo_trio.errors import Faulted
from solo_trio.journal import checkpoints, erasing, pruning, reads, repair, schema, shape, wal, witness
from solo_trio.journal.archive import Archive
from solo_trio.journal.library import READ_ERRORS, at_open, damaged, driver, means
from solo_trio.journal.lock import prepare_directory, sync_directory
from solo_trio.journal.reserve import (
    PAGE_BYTES,
    RESERVE_BYTES_MIN,
    RESERVE_FILE,
    TINY_DISK_SHARE,
    Reserve,
    disk_bytes,
    reserve_bytes,
)
from solo_trio.journal.store import CHECKPOINT_PAGES_MAX, Store
from solo_trio.journal.witness import NEW_WITNESS_FILE, NO_EVENTS, WITNESS_FILE, Head, Witness

SCAN_READERS: Final = 2
POINT_READERS: Final = 1
MAGIC: Final = b"SQLite format 3\0"
WRITE_VERSION_AT: Final = 18
HEADER_BYTES: Final = 20
"""So much is looked at, up to the two versions of the file format."""
FORMAT_VERSIONS: Final = (b"\1\1", b"\2\2")
"""For writing and for reading: without and with a WAL. Source: sqlite.org/fileformat2.html."""
_OPENED_AS_THEY_ARE: Final = (WITNESS_FILE, NEW_WITNESS_FILE, RESERVE_FILE)


@frozen
class Readers:
    """Connections for reading: for scans of events, and for the kernel's own reads by key."""

    scans: list[driver.Connection]
    points: list[driver.Connection]


def open_store(directory: Path, key: bytes) -> tuple[Store, Readers]:
    """The writing side and the connections of the reading side; raises what `open_journal` says."""
    try:
        return _open(directory, key)
    except (*READ_ERRORS, OSError) as error:
        # The reserve is there so that a kernel can still stop services on a full disk; for that it must start.
        if not _is_full(directory, error) or not Reserve(directory, 0).free():
            raise at_open(error, directory) from error
    try:
        return _open(directory, key)
    except (*READ_ERRORS, OSError) as error:
        raise at_open(error, directory) from error


def close_store(store: Store, readers: Readers) -> None:
    """Close everything; raises `JournalFailed` or OSError if the last checkpoint or fsync failed.

    The last connection that can write moves the WAL into the database when it closes. After a failure that must not
    happen (an fsync that failed would be tried again, and the WAL deleted on its word), so the readers outlive it then.
    """
    connections = [*readers.scans, *readers.points]
    with ExitStack() as stack:
        if store.failure is None:
            try:
                stack.callback(store.close_connection)
                stack.callback(_close_all, connections)
                stack.callback(store.close_witness)
                store.settle()
                return
            except BaseException:
                stack.pop_all()
                _close_failed(store, connections)
                raise
        _close_failed(store, connections)


def _close_failed(store: Store, connections: list[driver.Connection]) -> None:
    with ExitStack() as stack:
        stack.callback(_close_all, connections)
        stack.callback(store.close_connection)
        stack.callback(store.close_witness)


def _close_all(connections: list[driver.Connection]) -> None:
    for connection in connections:
        connection.close()


def _is_full(directory: Path, error: Exception) -> bool:
    """SQLite reports a full disk as a plain I/O error when it cannot make its shared memory file."""
    if means(error) == "full":
        return True
    try:
        status = os.statvfs(directory)
    except OSError:
        return False
    return means(error) == "other" and status.f_bavail * status.f_frsize < RESERVE_BYTES_MIN


def _open(directory: Path, key: bytes) -> tuple[Store, Readers]:
    prepare_directory(directory)
    check_kinds(directory)
    known = witness.read(directory, key)
    check_files(directory, known)
    schema.create_file(directory)
    readers: list[driver.Connection] = []
    with ExitStack() as stack:
        # Closed after the writer: the last connection that can write would move the WAL into the database, also where this
        # is refused, and on the word of another fsync where one has failed.
        stack.callback(_close_all, readers)
        connection = schema.connect_writer(directory)
        stack.callback(connection.close)
        used = schema.claimed(connection) != 0 or (directory / schema.DATABASE_FILE).stat().st_size > 0
        if used:  # before anything may be refused
            readers.append(_reader(directory))
        version = schema.version(connection)
        shape.check(connection)
        head = reads.head(connection) if version else NO_EVENTS
        check_witness(connection, known, head)
        checkpoint_key = checkpoints.key_of(key)
        if version >= schema.CHECKPOINTS_SINCE:
            checkpoints.check_not_ahead(connection, head, checkpoint_key)
        schema.use_wal(connection)
        if not used:
            readers.append(_reader(directory))
        schema.migrate(connection)
        segments = pruning.check(connection, pruning.key_of(key))
        kept = Witness.open(directory, key)
        stack.callback(kept.close)

        disk = disk_bytes(directory)
        pages = min(CHECKPOINT_PAGES_MAX, disk // PAGE_BYTES // TINY_DISK_SHARE)
        store = Store(connection, kept, Reserve(directory, reserve_bytes(disk)), head, pages, checkpoint_key)
        # What a former kernel could not force out may sit in the page cache, clean: it is written anew before use.
        store.settle()
        # SQLite overlooks an error when it makes the name of its WAL durable, so it is done here, before any append.
        sync_directory(directory)
        store.hold_reserve_if_possible()
        store.erased = erasing.mask(connection)
        Archive(directory).sweep(segments)

        while len(readers) < SCAN_READERS + POINT_READERS:
            readers.append(_reader(directory))
        stack.pop_all()
    return store, Readers(scans=readers[:SCAN_READERS], points=readers[SCAN_READERS:])


def _reader(directory: Path) -> driver.Connection:
    """One that has read: it holds its lock, which what is above and `close_store` rely on."""
    connection = schema.connect_reader(directory)
    try:
        schema.claimed(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def check_files(directory: Path, known: Head | None) -> None:
    """What can be seen before SQLite looks, and perhaps throws something away."""
    try:
        with (directory / schema.DATABASE_FILE).open("rb") as database:
            header = database.read(HEADER_BYTES)
            database_bytes = os.fstat(database.fileno()).st_size
    except FileNotFoundError:
        header, database_bytes = b"", 0
    if header.startswith(MAGIC) and header[WRITE_VERSION_AT:] not in FORMAT_VERSIONS:
        # SQLite refuses what has another beginning; this it would open, and let us only read.
        raise damaged(f"{schema.DATABASE_FILE}: its header is not as SQLite writes it")
    try:
        log = (directory / schema.WAL_FILE).read_bytes()
    except FileNotFoundError:
        log = b""
    if database_bytes == 0 and known is not None and known[0] > 0:
        raise damaged(f"{schema.DATABASE_FILE} is missing or empty, but {WITNESS_FILE} knows {known[0]} events")
    if database_bytes == 0 and len(log) > wal.WAL_HEADER_BYTES:
        raise damaged(f"{schema.DATABASE_FILE} is missing or empty, but {schema.WAL_FILE} is not")
    bad = wal.find_damage(log)
    if bad is not None:
        raise damaged(
            f"{schema.WAL_FILE}: frame {bad.bad_frame} is bad, and the later transaction that frame {bad.lost_commit} "
            "commits would be lost"
        )


def check_kinds(directory: Path) -> None:
    """A directory or a device in the place of a file: to open one may fail oddly, or wait for ever. A half-made repair."""
    if repair.interrupted(directory):
        raise Faulted("data_damaged", "a repair of this directory was interrupted: go on with it with: solo repair")
    for name in (schema.DATABASE_FILE, schema.WAL_FILE, WITNESS_FILE, NEW_WITNESS_FILE, RESERVE_FILE):
        try:
            # What is opened through a symbolic link is judged by what it leads to; see the flags of each.
            status = (directory / name).lstat() if name in _OPENED_AS_THEY_ARE else (directory / name).stat()
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            continue
        if name in (RESERVE_FILE, NEW_WITNESS_FILE):
            # Nothing that must be believed is in it.
            raise Faulted("data_unwritable", f"{directory / name} is not a plain file: move it away, then start again")
        raise damaged(f"{name} is not a plain file")


def check_witness(connection: driver.Connection, known: Head | None, head: Head) -> None:
    if known is None:
        if head != NO_EVENTS:
            raise damaged(f"{WITNESS_FILE} is missing, but there are {head[0]} events")
        return
    id_, hash_ = known
    if head[0] < id_:
        raise damaged(
            f"events {head[0] + 1} to {id_} are missing: {schema.DATABASE_FILE} was cut or replaced by an older copy"
        )
    if reads.hash_at(connection, id_) != hash_:
        raise damaged(f"event {id_} is not the one that {WITNESS_FILE} knows: {schema.DATABASE_FILE} was replaced")
