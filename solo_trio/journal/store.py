"""The writing side, synchronous. Owns: the order of durability, the one connection that writes. Never: threads, Trio.

Per append: the rows and their hashes are made; one transaction is begun, written, committed and forced out; then the
witness is written; only then does the caller hear of it. An error that could mean that bytes are lost is final: a
second fsync would report success for pages the first one dropped, so nothing is tried again and nothing more is
acknowledged. A full disk is not such an error: nothing was committed.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from solo_trio.errors import JournalFailed, KernelBug, StorageFull
from solo_trio.journal import checkpoints, erasing, pruning, reads
from solo_trio.journal.chain import SALT_BYTES, seal
from solo_trio.journal.checkpoints import CHECKPOINTS_KEPT
from solo_trio.journal.library import damaged, driver, means
from solo_trio.journal.pruning import Statement
from solo_trio.journal.reserve import PAGE_BYTES, Reserve
from solo_trio.journal.statements import EVENT, SHREDDING, pages_of, statements_of
from solo_trio.journal.witness import Head, Witness
from solo_trio.model.record import (
    Attachment,
    Checkpoint,
    EraseEvents,
    KeyRow,
    StoredEvent,
)

CHECKPOINT_PAGES_MAX: Final = 1_000
"""About how many pages the WAL may hold before they are moved into the database."""
SWEEP_BYTES_MAX: Final = 256 * 1_048_576
"""What is stored, beyond which the database is not written anew while the kernel runs: some seconds, and that much memory."""
SQLITE_NOMEM: Final = 7
SHRED_WAIT_MS: Final = 50
"""How long appends wait at a time for readers to end, where nobody's answer depends on it that the WAL is emptied now."""
SHRED_RETRY_S: Final = 1.0
"""After appends, before it is tried again."""
TRANSACTION_PAGES: Final = 6
"""About how many pages one small transaction dirties: the ends of the table and its indexes."""
_DROP_CHECKPOINTS: Final = "DELETE FROM checkpoints"

T = TypeVar("T")


class _Full(Exception):
    """The disk is full; the transaction was rolled back."""


class Store:
    """Everything that changes the directory. Used from one thread at a time."""

    def __init__(
        self,
        connection: driver.Connection,
        witness: Witness,
        reserve: Reserve,
        head: Head,
        checkpoint_pages: int,
        checkpoint_key: bytes,
    ) -> None:
        self._connection = connection
        self._witness = witness
        self._reserve = reserve
        self._checkpoint_pages = checkpoint_pages
        self._wal_pages = 0
        self.to_be_shredded = False
        """Something was deleted that the WAL still has: a reader, or a full disk, is in the way. Who reads for long, ends."""
        self._shred_again_at = 0.0
        self.head = head
        self.checkpoint_key = checkpoint_key
        self.erased: erasing.Mask = {}
        """See `erasing`; set when it is known, replaced when it changes."""
        self.failure: str | None = None
        """Why nothing can be appended any more."""

    def append(self, events: Sequence[StoredEvent], attachments: Sequence[Attachment], reserved: bool) -> None:
        self._check_alive()
        statements, head = self._prepare(events, attachments)
        if not statements:
            return
        if not reserved:
            self._hold_reserve()
        self._write_with_room(statements, reserved)
        self.head = head
        self._wal_pages += TRANSACTION_PAGES + pages_of(statements)
        if events:
            try:
                self._witness.write(head)
            except OSError as error:
                raise self._fail(f"the witness cannot be written ({error})") from error
        if any(statement in SHREDDING for statement, _ in statements):
            self._shred()
        asked = {item.incarnation: item.event_id for item in attachments if isinstance(item, EraseEvents)}
        self.erased = {**self.erased, **asked} if asked else self.erased

    def change(self, statements: list[Statement], *, pages: int = 0, shred: bool = False) -> bool:
        """Write what is no event. Raises `StorageFull` (nothing written) or `JournalFailed`.

        `pages`: about how many it dirties beside the bytes that are given. `shred`: what it deletes is to be in
        no file any more; whether that is so.
        """
        self._check_alive()
        self._hold_reserve()
        self._write_with_room(statements, reserved=False)
        self._wal_pages += TRANSACTION_PAGES + pages + pages_of(statements)
        if shred:
            self._shred(SHRED_WAIT_MS)
        return not self.to_be_shredded

    @property
    def is_small(self) -> bool:
        """Whether `sweep` can be afforded: it takes the memory of all that is stored, and nothing is appended meanwhile."""
        pages, free = (
            self._connection.execute(f"PRAGMA {each}").fetchone()[0] for each in ("page_count", "freelist_count")
        )
        return bool((pages - free) * PAGE_BYTES <= SWEEP_BYTES_MAX)

    def sweep(self) -> bool:
        """Write the database anew, so that nothing is in it but what is stored; whether that is all that is in any file.

        `secure_delete` overwrites a deleted row, but not the copies that SQLite leaves between the rows of a page when it moves
        rows from one to another (`tests/faults/test_fault_archive.py`).
        Raises `StorageFull` (nothing changed) or `JournalFailed`.
        """
        self._check_alive()
        self._hold_reserve()
        try:
            self._connection.execute("VACUUM")
        except driver.Error as error:
            self._roll_back()
            if means(error) != "full" and getattr(error, "sqlite_errorcode", 0) & 0xFF != SQLITE_NOMEM:
                raise self._fail(f"the database could not be written anew ({error})") from error
            self._checkpoint("TRUNCATE")
            raise StorageFull from error
        self._shred(SHRED_WAIT_MS)
        return not self.to_be_shredded

    def prune(self, to: Head, key: bytes, count: int) -> None:
        """Delete the events up to `to`, which are in the archive: `count` of them."""
        self._check_alive()
        try:
            # It must not be found behind what the log begins with: after a crash it may be, until it is written again.
            self._witness.settle(self.head)
        except OSError as error:
            if means(error) == "full":
                raise StorageFull from error
            raise self._fail(f"the witness cannot be forced out ({error})") from error
        self.change(pruning.prune(to, key), pages=count * pruning.PRUNED_PAGES)

    def hash_at(self, id_: int) -> bytes | None:
        return reads.hash_at(self._connection, id_)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep it, and the newest few."""
        self._check_alive()
        if checkpoint.event_id > self.head[0]:
            raise KernelBug(f"a checkpoint after event {checkpoint.event_id}, where {self.head[0]} is the last")
        chain = reads.hash_at(self._connection, checkpoint.event_id)
        if chain is None:
            raise damaged(f"event {checkpoint.event_id} is missing")
        self._hold_reserve()
        row = checkpoints.row_of(checkpoint, chain, self.checkpoint_key)
        statements: list[Statement] = [(checkpoints.WRITE, [row]), (checkpoints.PRUNE, [(CHECKPOINTS_KEPT,)])]
        try:
            self._write_with_room(statements, reserved=False, dispensable=True)
        except StorageFull:
            self._checkpoint("TRUNCATE")  # what was tried to be written takes space that events need
            raise
        # What is pruned is overwritten with zeros, and is about as large.
        self._wal_pages += TRANSACTION_PAGES + 2 * pages_of(statements)

    def rewrap(self, rewrap: Callable[[KeyRow], KeyRow], old_key: bytes, new_key: bytes) -> int:
        """Put what `rewrap` makes of it in the place of each key, and drop the checkpoints; how many keys there are.

        What is said of the archive is proved with `new_key` from then on.
        """
        self._check_alive()
        rows = [rewrap(row) for row in reads.keys(self._connection)]
        archive = pruning.under_another_key(self._connection, pruning.key_of(old_key), pruning.key_of(new_key))
        statements: list[Statement] = [(_DROP_CHECKPOINTS, [()]), *statements_of(rows), *archive]
        try:
            self._write(statements)
        except _Full as error:
            raise StorageFull from error
        self._checkpoint("TRUNCATE")
        return len(rows)

    def forget_idempotency(self, before_us: int) -> None:
        """Delete what is older; on a full or failed disk it stays and does no harm."""
        if self.failure is not None:
            return
        try:
            self._write([("DELETE FROM idempotency WHERE at_us < ?", [(before_us,)])])
        except _Full:
            return

    def tidy(self) -> None:
        """After an append was acknowledged: move the WAL into the database when it has grown. Never raises.

        SQLite would do it by itself, but would also overlook an fsync that fails in it, and succeed the next time.
        """
        if self.failure is not None:
            return
        try:
            if self.to_be_shredded:
                if time.monotonic() >= self._shred_again_at:
                    self._shred(SHRED_WAIT_MS)
            elif self._wal_pages >= self._checkpoint_pages:
                self._checkpoint("PASSIVE")
        except JournalFailed:
            return  # Kept in `failure`: the next append says it.

    def hold_reserve_if_possible(self) -> None:
        try:
            self._hold_reserve()
        except StorageFull:
            return

    def settle(self) -> None:
        """Move the whole WAL into the database, so that what was read from it is also forced out again."""
        self._check_alive()
        self._checkpoint("TRUNCATE")

    def close_witness(self) -> None:
        """Force the witness out and close it."""
        try:
            if self.failure is None:
                self._witness.sync()
        finally:
            self._witness.close()

    def beside_appends(self, work: Callable[[driver.Connection], T]) -> T:
        """The one thing that another thread may do meanwhile: SQLite lets the two have turns on the connection."""
        return work(self._connection)

    def close_connection(self) -> None:
        self._connection.close()

    # -- below: one thing each

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise JournalFailed(self.failure)

    def _fail(self, what: str, cause: Exception | None = None) -> JournalFailed:
        way_on = "check the disk, then start the kernel again"
        if cause is not None and means(cause) == "damaged":
            way_on = "see what is damaged with: solo verify, and what can be saved with: solo repair"
        self.failure = f"{what}: nothing more is recorded; {way_on}"
        return JournalFailed(self.failure)

    def _prepare(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment]
    ) -> tuple[list[Statement], Head]:
        """Statements and the head they lead to; raises `KernelBug` for what must never reach the file."""
        id_, hash_ = self.head
        salts = os.urandom(SALT_BYTES * len(events))
        rows = []
        for index, event in enumerate(events):
            id_ += 1
            if event.id != id_:
                raise KernelBug(f"event {event.id} was to be appended where event {id_} is next")
            try:
                row = seal(hash_, event, salts[index * SALT_BYTES : (index + 1) * SALT_BYTES])
            except (TypeError, AttributeError, ValueError, struct.error) as error:
                raise KernelBug(f"event {event.id} ({event.type!r}) cannot be stored: {error}") from error
            rows.append(row)
            hash_ = row[-1]
        statements = [(EVENT, rows)] if rows else []
        statements += statements_of(attachments)
        return statements, (id_, hash_)

    def _hold_reserve(self) -> None:
        if self._reserve.held:
            return
        try:
            self._reserve.hold()
        except OSError as error:
            if means(error) == "full":
                raise StorageFull from error
            raise self._fail(f"the reserve cannot be written ({error})") from error

    def _write_with_room(self, statements: list[Statement], reserved: bool, *, dispensable: bool = False) -> None:
        """Write; on a full disk make room by emptying the WAL, then by giving up the reserve."""
        try:
            return self._write(statements, dispensable)
        except _Full:
            self._checkpoint("TRUNCATE")
        try:
            return self._write(statements, dispensable)
        except _Full as error:
            if not reserved or not self._free_reserve():
                raise StorageFull from error
            self._checkpoint("TRUNCATE")
        try:
            return self._write(statements)
        except _Full as error:
            raise StorageFull from error

    def _free_reserve(self) -> bool:
        try:
            return self._reserve.free()
        except OSError as error:
            raise self._fail(f"the reserve cannot be removed ({error})") from error

    def _write(self, statements: list[Statement], dispensable: bool = False) -> None:
        """All or nothing. `dispensable`: rows in a table of which nothing is lost if it is damaged."""
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            for statement, rows in statements:
                self._connection.executemany(statement, rows)
            execute("COMMIT")
        except Exception as error:
            self._roll_back()
            if means(error) == "full":
                raise _Full from error
            if not isinstance(error, OSError) and not hasattr(error, "sqlite_errorcode"):
                # The driver refused a value before SQLite saw it; only this call is wrong.
                raise KernelBug(f"a row cannot be stored: {error}") from error
            if dispensable and means(error) == "damaged":
                raise damaged(f"it cannot be stored ({error})") from error
            raise self._fail(f"an append failed ({error})", error) from error

    def _roll_back(self) -> None:
        # SQLite ends the transaction by itself after some errors.
        if not self._connection.in_transaction:
            return
        try:
            self._connection.execute("ROLLBACK")
        except driver.Error as error:
            raise self._fail(f"an append could not be taken back ({error})") from error

    def _shred(self, wait_ms_max: int | None = None) -> None:
        """Empty the WAL of what was deleted; it waits for those who read, or only so long. Raises `JournalFailed`."""
        self.to_be_shredded = True
        execute = self._connection.execute
        (usual_ms,) = execute("PRAGMA busy_timeout").fetchone()
        execute(f"PRAGMA busy_timeout = {usual_ms if wait_ms_max is None else min(usual_ms, wait_ms_max)}")
        try:
            self.to_be_shredded = not self._checkpoint("TRUNCATE")
        finally:
            execute(f"PRAGMA busy_timeout = {usual_ms}")
            self._shred_again_at = time.monotonic() + SHRED_RETRY_S

    def _checkpoint(self, mode: str) -> bool:
        """Whether all of it was done; a full disk and a reader in the way mean that the WAL stays for now.

        Raises `JournalFailed`.
        """
        self._wal_pages = 0
        try:
            (busy, *_) = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except driver.Error as error:
            if means(error) != "full":
                raise self._fail(f"the log cannot be moved into the database ({error})", error) from error
            return False
        return not busy
