"""The journal on the simulated disk. Owns: `ports.Journal` whose transactions are frames that a crash may tear. Never: SQL.

What is read is in memory, as in the page cache of SQLite; what a kernel finds at its start was read back from the disk, row by
row, with the product's own chain, witness and proof of checkpoints.
"""

from __future__ import annotations

import errno
import marshal
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import attrs
import trio

from simulation.disk import Dead, SimDisk
from simulation.wal_file import WalFile, damaged
from solo_trio.errors import JournalFailed, StorageFull
from solo_trio.journal import checkpoints, witness
from solo_trio.journal.chain import GENESIS, SALT_BYTES, seal, verify
from solo_trio.journal.memory import MemoryJournal
from solo_trio.journal.witness import Head
from solo_trio.model import record as kinds
from solo_trio.model.record import Archived, Attachment, Checkpoint, Erasure, StoredEvent

HEAD: Final = "kernel.head"
LOG_BYTES_MAX: Final = 40_000
"""Then the log is moved into the database."""
PAGE_EVENTS: Final = 64
"""In a page of a replay: so few that nothing is folded in a thread."""
APPEND_S: Final = 0.02
"""About what the disk takes."""
_FORMAT: Final = 2
"""Of `marshal`: without references, whose use would follow from what else a process has in memory."""

Content = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], tuple[Any, ...] | None, tuple[Any, ...] | None]
"""Of a transaction: rows of events, attachments, a checkpoint, what was archived, pruned and erased so far."""


class SimJournal(MemoryJournal):
    """That of one process. Everything that it does to the disk can be its last."""

    def __init__(
        self,
        disk: SimDisk,
        key: bytes,
        chance: random.Random,
        tried: Callable[[StoredEvent], None] = lambda event: None,
    ) -> None:
        """`tried` is told each event before it is written."""
        super().__init__()
        self._tried = tried
        self.failure: str | None = None
        self.head: Head = witness.NO_EVENTS
        self.by_request: dict[str, list[int]] = {}
        """Correlation id -> the events of that request."""
        self.newest_start: dict[tuple[str, str], tuple[int, int]] = {}
        """(incarnation, service) -> the newest `service_started`, and how many events there were before."""
        self._disk = disk
        self._process = disk.process
        self._key = key
        self._checkpoint_key = checkpoints.key_of(key)
        self._chance = chance
        self._file = WalFile(disk, self._process, chance)
        self._reserve = 2
        """So many reserved transactions find room on a full disk."""
        self._hashes: list[bytes] = []
        self._done: list[str] = []
        """Incarnations that are erased."""
        self._turn = trio.Lock()

    # -- opening

    async def open(self) -> None:
        """Read what the disk has. Raises `Faulted("data_damaged")`, `JournalFailed`."""
        await self._pause()
        known = self._disk.read(HEAD)
        try:
            transactions = self._file.open()
        except OSError as error:
            raise self._fail(error) from error
        await self._pause()
        events: list[StoredEvent] = []
        attachments: list[Attachment] = []
        kept: list[tuple[Any, ...]] = []
        moved = None
        for content in transactions:
            rows, attached, row, moved_now = marshal.loads(content)
            found, last = verify(*self.head, rows)
            if rows:
                self.head = (found[-1].id, last)
            self._hashes.extend(each[-1] for each in rows)
            events += found
            attachments += [getattr(kinds, name)(*values) for name, *values in attached]
            if row is not None:
                kept.append(row)
            if moved_now is not None:
                moved = moved_now
                kept = [each for each in kept if each[0] >= moved[3]]
        await self._remember(events, attachments)
        for row in kept:
            await self._take_checkpoint(row)
        if moved is not None:
            self._archived = [Archived(*each) for each in moved[0]]
            self.oldest_id = moved[1]
            for incarnation in moved[2]:
                self._erasures.pop(incarnation, None)
                self._done.append(incarnation)
        if known:
            self._check_head(witness.decode(known, self._key))
            return
        if self.head != witness.NO_EVENTS:
            raise damaged("the witness is missing")
        self.write_witness()
        self._disk.sync(self._process, HEAD)

    async def _take_checkpoint(self, row: tuple[Any, ...]) -> None:
        if not checkpoints._is_authentic(row, self._checkpoint_key) or row[5] != self._hash_of(row[0]):
            raise damaged(f"the checkpoint after event {row[0]} is not one that was written")
        await super().write_checkpoint(Checkpoint(*row[:4], row[7]))

    def _check_head(self, known: Head) -> None:
        id_, hash_ = known
        if self.head[0] < id_:
            raise damaged(f"events {self.head[0] + 1} to {id_} are missing")
        if self._hash_of(id_) != hash_:
            raise damaged(f"event {id_} is not the one that the witness knows")

    def _hash_of(self, event_id: int) -> bytes:
        return self._hashes[event_id - 1] if event_id else GENESIS

    # -- writing

    async def append(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
    ) -> None:
        await self._alive(self._append, events, attachments, reserved)

    async def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        await self._alive(self._write_checkpoint, checkpoint)

    async def _alive(self, work: Callable[..., Any], *arguments: Any) -> None:
        try:
            with trio.CancelScope(shield=True):
                async with self._turn:
                    await work(*arguments)
        except Dead:
            await trio.sleep_forever()  # whoever waits is no more either, and is cancelled

    async def _append(self, events: Sequence[StoredEvent], attachments: Sequence[Attachment], reserved: bool) -> None:
        self._check_alive()
        rows, (id_, hash_) = [], self.head
        for event in events:
            self._tried(event)
            row = seal(hash_, event, self._chance.randbytes(SALT_BYTES))
            rows.append(row)
            id_, hash_ = event.id, row[-1]
        attached = [(type(each).__name__, *attrs.astuple(each, recurse=False)) for each in attachments]
        await self._commit((rows, attached, None, None), reserved, id_)
        self.head = (id_, hash_)
        self._hashes.extend(row[-1] for row in rows)
        if rows:
            self.write_witness()
        await self._remember(events, attachments)

    async def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._check_alive()
        row = checkpoints.row_of(checkpoint, self._hash_of(checkpoint.event_id), self._checkpoint_key)
        await self._commit(([], [], row, None), False, None)
        await super().write_checkpoint(checkpoint)

    async def archive(self, upto: int, *, fewest: int = 1) -> Archived | None:
        made = await super().archive(upto, fewest=fewest)
        await self._alive(self._moved, 0)
        return made

    async def prune(self, upto: int) -> int:
        oldest_id = await super().prune(upto)
        await self._alive(self._moved, 0)
        return oldest_id

    async def erase(self, erasure: Erasure) -> bool:
        done = await super().erase(erasure)
        self._done.append(erasure.incarnation)
        await self._alive(self._moved, erasure.event_id or 0)
        return done

    async def _moved(self, checkpoints_from: int) -> None:
        """Keep what was archived, pruned and erased, as a whole."""
        self._check_alive()
        archived = [(each.first_id, each.last_id, each.size_bytes) for each in self._archived]
        await self._commit(([], [], None, (archived, self.oldest_id, list(self._done), checkpoints_from)), False, None)

    async def _commit(self, content: Content, reserved: bool, mark: int | None) -> None:
        """Raises `StorageFull` (nothing was written), `JournalFailed`."""
        if self._disk.full:
            if not reserved or not self._reserve:
                raise StorageFull
            self._reserve -= 1
            self._disk.lent = True
        try:
            self.write_frames(marshal.dumps(content, _FORMAT), mark)
            await self._pause()
            self.force_out()
            await self._pause()
            if self._file.log_bytes > LOG_BYTES_MAX and not self._disk.full:
                self._file.move(cut=self._chance.random() < 0.5)
        except OSError as error:
            raise self._fail(error) from error
        finally:
            if self._disk.process == self._process:
                self._disk.lent = False

    def write_frames(self, content: bytes, mark: int | None) -> None:
        self._file.commit(content, mark=mark)

    def force_out(self) -> None:
        self._file.force()

    def write_witness(self) -> None:
        try:
            self._disk.write(self._process, HEAD, 0, witness.encode(self.head, self._key))
        except OSError as error:
            raise self._fail(error) from error

    async def _remember(self, events: Sequence[StoredEvent], attachments: Sequence[Attachment]) -> None:
        await super().append(events, attachments)
        for event in events:
            if event.correlation_id is not None:
                self.by_request.setdefault(event.correlation_id, []).append(event.id)
            if event.type == "service_started":
                self.newest_start[event.incarnation or "", event.subject or ""] = (event.id, len(self._events))

    def age_us(self, event_id: int) -> int:
        """How long ago it was by the time that the kernel believes: that of its newest event."""
        return self._events[-1].at_us - self._events[event_id - 1].at_us

    async def close(self) -> None:
        """In order: everything is in the database and forced out."""
        await self._alive(self._close)

    async def _close(self) -> None:
        if self.failure is not None:
            return
        try:
            if not self._disk.full:
                self._file.move(cut=True)
            self._disk.sync(self._process, HEAD)
        except OSError as error:
            raise self._fail(error) from error

    # -- reading

    def replay(self, after: int = 0) -> AsyncIterator[Sequence[StoredEvent]]:
        return _Pages(self._events, after)

    @property
    def events(self) -> Sequence[StoredEvent]:
        """What is committed, as this process sees it."""
        return self._events

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise JournalFailed(self.failure)

    def _fail(self, error: OSError) -> JournalFailed:
        self.failure = f"the simulated disk failed ({errno.errorcode.get(error.errno or 0)})"
        return JournalFailed(self.failure)

    async def _pause(self) -> None:
        """What a disk takes; the process may be gone afterwards."""
        if self._chance.random() < 0.5:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(self._chance.expovariate(1 / APPEND_S))
        if self._disk.process != self._process:
            raise Dead


class _Pages:
    def __init__(self, events: Sequence[StoredEvent], after: int) -> None:
        self._events = events
        self._at = after
        if after > len(events):
            raise damaged(f"event {after} is missing")

    def __aiter__(self) -> _Pages:
        return self

    async def __anext__(self) -> Sequence[StoredEvent]:
        await trio.lowlevel.checkpoint()
        page = self._events[self._at : self._at + PAGE_EVENTS]
        if not page:
            raise StopAsyncIteration
        self._at += len(page)
        return page
