"""The audit of requests. Owns: `ports.Audit` over `audit.db`: the queue, the thread that writes, who waits for what. Never:
makes a request wait, or stops the kernel.

Entries are written a batch at a time, off the path of requests and without forcing each to the disk: `kill -9` costs those of
the last `BATCH_S`, a loss of power those since SQLite's last checkpoint. What cannot be kept is counted, and the count is kept.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import trio
from attrs import evolve

from solo_trio.errors import Faulted
from solo_trio.journal import audit_head, audit_reads
from solo_trio.journal.audit_chain import BrokenChain
from solo_trio.journal.audit_file import AuditFile, NoRoom, Row, check_witness
from solo_trio.journal.audit_reads import AUDIT_FILE as AUDIT_FILE
from solo_trio.journal.audit_shares import FREE_SHARE, SYSTEM, Detail, Shares, Tally, whose
from solo_trio.journal.library import damaged, driver
from solo_trio.journal.turns import Turns
from solo_trio.model.audit import AuditEntry, AuditFinding, AuditPage, AuditQuery, AuditState
from solo_trio.ports import Telemetry

QUEUE_ENTRIES_MAX: Final = 10_000
"""Waiting to be written; one more is dropped and counted."""
BATCH_S: Final = 0.2
"""Entries are gathered so long before they are written together."""
BATCH_ENTRIES_MAX: Final = 2_000
"""In one transaction."""
RETAIN_ENTRIES: Final = 1_000
"""After so many it is looked what is too old or too much."""
REOPEN_BATCHES: Final = 10
"""A file that could not be opened is tried again after so many batches."""
READERS_MAX: Final = 2
FLUSH_S: Final = 2.0
"""So long a reader waits for what was recorded before it asked."""
CLOSE_S: Final = 5.0
MEBIBYTE: Final = 1_048_576


class _Mark:
    """Something in the queue that is told when everything before it was dealt with."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.token = trio.lowlevel.current_trio_token()

    def tell(self) -> None:
        with suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self.reached.set)


class AuditLog:
    """Made by `open_audit`; `record` is for tasks of one Trio run, and costs an append to a queue."""

    def __init__(
        self,
        directory: Path,
        key: bytes,
        telemetry: Telemetry,
        *,
        at_us: int,
        used: bool,
        days: int,
        size_mb: int,
        detail: Detail | None = None,
    ) -> None:
        self._directory = directory
        self._key = key
        self._telemetry = telemetry
        self._opened_at_us = at_us
        self._used = used
        self._days = days
        self._size_mb = size_mb
        self._shares = None if detail is None else Shares(detail)
        self._waiting: deque[AuditEntry | _Mark] = deque()
        self._overflowed = 0
        """Written by who records."""
        self._told = self._failed = 0
        """Written by the thread: how many of the overflowed are in a gap, how many could not be written."""
        self._unsaid = 0
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._closing = False
        self._file: AuditFile | None = None
        self._state = AuditState()
        self._since_retained = RETAIN_ENTRIES
        self._skip = 0
        self._turns = Turns()
        self._readers = trio.CapacityLimiter(READERS_MAX)
        # A daemon, because a kernel that died without closing must not hang at the exit of its process.
        self._thread = threading.Thread(target=self._serve, name="solo-audit", daemon=True)

    async def start(self) -> None:
        """Returns when the file is open, or could not be opened."""
        self._thread.start()
        await self.flush()

    def record(self, entry: AuditEntry) -> None:
        if len(self._waiting) >= QUEUE_ENTRIES_MAX or self._closing:
            self._overflowed += 1
        else:
            self._waiting.append(entry)
        if not self._wake.is_set():
            self._wake.set()

    def skip(self) -> None:
        self._overflowed += 1
        if not self._wake.is_set():
            self._wake.set()

    @property
    def state(self) -> AuditState:
        return evolve(self._state, dropped=self._overflowed + self._failed)

    async def flush(self) -> None:
        """Until what was recorded so far is written, or `FLUSH_S`."""
        mark = _Mark()
        self._waiting.append(mark)
        self._hurry.set()
        self._wake.set()
        with trio.move_on_after(FLUSH_S):
            await mark.reached.wait()

    async def page(self, query: AuditQuery) -> AuditPage:
        """Entries, with all that was recorded before. Raises `Faulted`."""
        await self.flush()
        async with self._turns.of(query.incarnation):
            try:
                return await trio.to_thread.run_sync(
                    audit_reads.one_page, self._directory, query, limiter=self._readers
                )
            except driver.Error as error:
                raise unreadable(error) from error

    async def check(self, newest: int | None = None) -> AuditFinding:
        """Read the chain of all, or of the `newest` so many entries."""
        await self.flush()
        return await trio.to_thread.run_sync(check_file, self._directory, self._key, newest, limiter=self._readers)

    async def close(self) -> None:
        """Write what waits, and bring it to the disk; bounded. Idempotent."""
        self._closing = True
        self._hurry.set()
        self._wake.set()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join, CLOSE_S)

    # -- the thread

    def _serve(self) -> None:
        self._reopen()
        while True:
            self._wake.wait()
            if not self._closing:
                self._hurry.wait(BATCH_S)
            closing = self._closing  # before the queue is emptied: nothing comes after it
            self._wake.clear()
            self._hurry.clear()
            while self._waiting or self._overflowed > self._told:
                self._write_batch()
            if closing:
                break
        if self._file is not None:
            try:
                if self._shares is not None and (left_out := self._shares.told(0, everything=True)):
                    self._file.append(left_out)
                self._file.close()
            except (driver.Error, OSError, NoRoom) as error:
                self._telemetry.note("the audit could not be closed in order", error=error)

    def _write_batch(self) -> None:
        entries: list[AuditEntry] = []
        marks: list[_Mark] = []
        while self._waiting and len(entries) < BATCH_ENTRIES_MAX:
            each = self._waiting.popleft()
            if isinstance(each, _Mark):
                marks.append(each)
            else:
                entries.append(each)
        overflowed = self._overflowed
        self._unsaid += overflowed - self._told
        self._told = overflowed
        try:
            if entries or self._unsaid:
                self._write(entries)
        finally:
            for mark in marks:
                mark.tell()

    def _write(self, entries: list[AuditEntry]) -> None:
        try:
            if self._file is None and self._skip <= 0:
                self._reopen()
            self._skip -= 1
            if self._file is None:
                raise NoRoom
            entries = self._within_shares(self._file, entries)
            self._file.append(entries, self._unsaid)
            self._unsaid = 0
            self._since_retained += len(entries)
            if self._since_retained >= RETAIN_ENTRIES:
                self._since_retained = 0
                fault, gone = self._file.retain(self._days, self._size_mb, tally=self._shares is not None)
                if self._shares is not None:
                    self._shares.forget(tally_of(self._shares.detail, gone))
                if fault is not None:
                    self._telemetry.note("entries of the audit were damaged, and too old to be kept", what=fault)
            self._measure("begun_anew" if self._file.why else "ok")
        except (driver.Error, OSError, NoRoom) as error:
            self._unsaid += len(entries)
            self._failed += len(entries)
            self._recount()
            self._say_dropping(error)
        except Exception as error:  # noqa: BLE001 - contained: without its thread nothing more would be kept
            self._unsaid += len(entries)
            self._failed += len(entries)
            self._recount()
            self._telemetry.bug("writing the audit", error)

    def _within_shares(self, file: AuditFile, entries: list[AuditEntry]) -> list[AuditEntry]:
        """Those that are to be written, once the file is so full that one tenant's push out others'."""
        shares, limit, used = self._shares, self._size_mb * MEBIBYTE, self._state.bytes
        if shares is None:
            return entries
        if used < limit * FREE_SHARE:
            shares.counts = None
            return [*shares.told(0, everything=True), *entries]
        if shares.counts is None:
            shares.counts = tally_of(shares.detail, file.tally())
        shares.plan(self._state.entries * limit / used)
        return shares.admit(entries)

    def _recount(self) -> None:
        if self._shares is not None:
            self._shares.counts = None

    def _reopen(self) -> None:
        self._skip = REOPEN_BATCHES
        try:
            self._file = AuditFile.open(self._directory, self._key, self._opened_at_us, used=self._used)
        except (driver.Error, OSError, NoRoom) as error:
            self._say_dropping(error)
            return
        if self._file.why is not None:
            aside = self._file.set_aside
            self._telemetry.note(
                f"the audit of requests begins anew ({self._file.why})",
                set_aside="nothing" if aside is None else aside,
            )
        self._measure("begun_anew" if self._file.why else "ok")

    def _measure(self, status: str) -> None:
        assert self._file is not None
        oldest, used_bytes = self._file.measure()
        newest = self._file.head[0]
        if self._state.status == "dropping":
            self._telemetry.note("the audit is written again", dropped=self._failed)
        skipped = 0 if self._shares is None else self._shares.skipped
        self._state = AuditState(
            status, newest - oldest + 1, oldest, newest, used_bytes, 0, skipped, self._file.set_aside
        )

    def _say_dropping(self, error: Exception) -> None:
        if self._state.status != "dropping":
            self._telemetry.note("the audit cannot be written; entries are dropped and counted", error=error)
        self._state = evolve(self._state, status="dropping")


async def open_audit(
    directory: Path,
    key: bytes,
    telemetry: Telemetry,
    *,
    at_us: int,
    used: bool,
    days: int,
    size_mb: int,
    detail: Detail | None = None,
) -> AuditLog:
    """The audit in `directory`, which the caller has locked and closes. Whatever is wrong with it, there is one afterwards.

    `used`: there were events before, so there should have been an audit. `days`, `size_mb`: what is kept. `detail`: what goes
    first when tenants have more than their share; None: nobody has a share.
    """
    audit = AuditLog(directory, key, telemetry, at_us=at_us, used=used, days=days, size_mb=size_mb, detail=detail)
    await audit.start()
    return audit


def tally_of(detail: Detail, rows: Sequence[Row]) -> Tally:
    """Rows of `AuditFile.tally`, by whose they are."""
    found: Tally = {}
    for incarnation, nobody, operation, outcome, count in rows:
        key = whose(incarnation, None if nobody else SYSTEM), detail.has(operation, outcome)
        found[key] = found.get(key, 0) + count
    return found


def check_file(
    directory: Path, key: bytes, newest: int | None = None, progress: audit_reads.Progress | None = None
) -> AuditFinding:
    """The check of a file, open or not; one that cannot be read has that as its fault."""
    try:
        seen = audit_head.read(directory, key)  # first: the file goes on meanwhile, and must not be behind it
        connection = audit_reads.connect(directory, "ro")
        try:
            finding = audit_reads.check(connection, key, newest, progress)
            if finding.fault is None:
                check_witness(connection, key, seen)
            return finding
        finally:
            connection.close()
    except (driver.Error, OSError) as error:
        return AuditFinding(0, 0, f"{AUDIT_FILE} cannot be read ({error})")
    except (BrokenChain, ValueError) as error:
        return AuditFinding(0, 0, str(error))


def read_page(directory: Path, query: AuditQuery) -> tuple[AuditPage, int]:
    """Entries of a directory that no kernel uses, and the newest id. Raises `Faulted`."""
    try:
        connection = audit_reads.connect(directory, "ro")
        try:
            return audit_reads.page(connection, query), audit_reads.bounds(connection)[1]
        finally:
            connection.close()
    except driver.Error as error:
        raise damaged(f"{AUDIT_FILE} cannot be read ({error})") from error


@contextmanager
def looking(directory: Path) -> Iterator[None]:
    """While the audit of a directory is read that no kernel uses: its files stay what they are."""
    made = [
        directory / f"{AUDIT_FILE}{end}" for end in ("-wal", "-shm") if not (directory / f"{AUDIT_FILE}{end}").exists()
    ]
    try:
        yield
    finally:
        for path in made:  # SQLite makes them for reading too; they hold nothing
            path.unlink(missing_ok=True)


def unreadable(error: Exception) -> Faulted:
    return Faulted("storage_full", f"the audit cannot be read now ({error}); look at GET /health", retry_after_s=5)
