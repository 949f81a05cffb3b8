"""The loop: durable, believed, told, done. Owns: the state, the one place that appends. Never: starts or stops a service.

1. Durable: what waits is drained, each submission decided against a draft, and all events appended in one transaction.
2. Believed: the draft becomes the state. 3. Told: the hub gets the records, callers get their replies.
4. Done: whoever converges is told which services were touched.

A defect while deciding one submission is contained to it; only a failure on committed rows, or of the journal, ends the
loop (and with it the kernel: starting is recovering).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio
from attrs import define, field, frozen
from rpds import HashTrieMap

from solo_trio.errors import Faulted, JournalFailed, KernelBug, Rejected, SoloError, StorageFull
from solo_trio.kernel.hub import Hub
from solo_trio.kernel.kernel_time import KernelTime
from solo_trio.kernel.staging import Draft, Seen, Submission, stage
from solo_trio.model.event import Now, Record
from solo_trio.model.record import DropArtifact, IdempotencyRow
from solo_trio.model.state import KernelState
from solo_trio.ports import Clock, Journal, Telemetry

QUEUE_SUBMISSIONS_MAX: Final = 4_096
BATCH_SUBMISSIONS_MAX: Final = 512
BATCH_BYTES_MAX: Final = 8 * 1_048_576
"""Of payloads and attachments in one transaction; a single submission may be larger."""
BATCH_DECIDE_SECONDS_MAX: Final = 0.05
"""Deciding yields to the rest of the kernel at least this often."""
STORAGE_PROBE_S: Final = 1.0
IDEMPOTENCY_SECONDS: Final = 24 * 3_600
IDEMPOTENCY_ROWS_MAX: Final = 100_000


@define
class _Waiting:
    """A submission and the slot for its reply."""

    submission: Submission
    done: trio.Event = field(factory=trio.Event)
    reply: Any = None
    error: SoloError | None = None

    def fail(self, error: SoloError) -> None:
        self.error = error
        self.done.set()


@frozen
class Answered:
    """A submission whose reply waits for the commit."""

    waiting: _Waiting
    reply: Any


Touched = Callable[[Sequence[Record]], None]


class Loop:
    """The single writer. `state` is what is believed: read it freely, it never changes in place."""

    def __init__(self, journal: Journal, clock: Clock, hub: Hub, telemetry: Telemetry, state: KernelState) -> None:
        self.state = state
        self._journal = journal
        self._hub = hub
        self._telemetry = telemetry
        self._seen: Seen = HashTrieMap()
        self._forgotten: set[tuple[str, str]] = set()
        """Keys that the next decision is not to know any more."""
        self._send, self._receive = trio.open_memory_channel[_Waiting](QUEUE_SUBMISSIONS_MAX)
        self._clock = clock
        self._time = KernelTime(clock, state.last_at_us, state.kernel_time, suspect=state.system.clock_held)
        self._stopped: SoloError | None = None
        self.refusing = False
        """Only the kernel itself is served any more."""
        self.storage_full = False
        """Whether the last append without a claim to reserved space found none; shown in /health."""
        self.touched: Touched = lambda records: None

    def remember(self, rows: Sequence[IdempotencyRow]) -> None:
        for row in rows[-IDEMPOTENCY_ROWS_MAX:]:
            self._seen = self._seen.insert((row.scope, row.key), row)

    def oldest_repeatable(self, since_us: int) -> int | None:
        """Forget the keys from before `since_us`; the first event that a request with one of the others caused.

        Nobody is in the middle of a decision: that is made between two waits.
        """
        old = [each for each, row in self._seen.items() if row.at_us < since_us]
        self._forgotten.update(old)
        return min((row.event_id for each, row in self._seen.items() if row.at_us >= since_us), default=None)

    def now(self) -> Now:
        """What time it is for everything that is decided; see `policy.time_jumps`."""
        return self._time.now(self.state.last_at_us, self.state.kernel_time)

    @property
    def held_s(self) -> float:
        """By how much the wall clock is ahead of what is believed, because it leapt; 0 if it is believed."""
        self.now()
        return self._time.held_s

    def accept_clock(self) -> None:
        """Believe the wall clock, however far it leapt."""
        self._time.accept()

    @property
    def queued(self) -> int:
        return self._receive.statistics().current_buffer_used

    async def submit(self, submission: Submission) -> Any:
        """Submit from outside and wait for the commit. Raises `SoloError`; `overloaded` if the queue is full.

        Cancelling the caller gives up the reply; it never cancels the append.
        """
        if self.refusing:
            raise shutting_down()
        waiting = _Waiting(submission)
        self._check_alive()
        try:
            self._send.send_nowait(waiting)
        except trio.WouldBlock:
            raise Faulted("overloaded", "send the request again in a moment", retry_after_s=1) from None
        return await self._reply(waiting)

    async def report(self, submission: Submission) -> Any:
        """Submit from inside the kernel: waits for a place in the queue instead of being refused."""
        waiting = _Waiting(submission)
        self._check_alive()
        try:
            await self._send.send(waiting)
        except trio.BrokenResourceError:
            self._check_alive()
            raise
        return await self._reply(waiting)

    def refuse_outside(self) -> None:
        """From now on only the kernel itself is served."""
        self.refusing = True

    def _check_alive(self) -> None:
        if self._stopped is not None:
            raise Faulted("kernel_stopped", f"start the kernel again: {self._stopped.detail}")

    async def _reply(self, waiting: _Waiting) -> Any:
        await waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error
        return waiting.reply

    async def run(self) -> None:
        """Commit until cancelled. Raises `JournalFailed` or `KernelBug`: the kernel must stop then."""
        batch: list[_Waiting] = []
        try:
            while True:
                batch = [await self._next()]
                await self._commit(batch)
                batch = []
        except SoloError as error:
            self._stopped = error
            raise
        finally:
            if self._stopped is None:
                self._stopped = Faulted("kernel_stopped", "the kernel has ended")
            self._fail_all(batch)

    async def _next(self) -> _Waiting:
        """The next submission; while the disk is full, looks again and again whether it still is."""
        while self.storage_full:
            with trio.move_on_after(STORAGE_PROBE_S):
                return await self._receive.receive()
            try:
                await self._journal.append((), (DropArtifact(""),))  # deletes nothing, but takes back the reserve first
                self.storage_full = False
            except StorageFull:
                continue
        return await self._receive.receive()

    def _fail_all(self, batch: list[_Waiting]) -> None:
        assert self._stopped is not None
        while True:
            try:
                batch.append(self._receive.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                break
        self._receive.close()
        for waiting in batch:
            if not waiting.done.is_set():
                waiting.fail(self._stopped)

    async def _commit(self, batch: list[_Waiting]) -> None:
        draft, answered = self._decide(batch, more=True)
        if draft.records or draft.attachments:
            reserved = all(each.submission.reserved for each in batch)
            try:
                await self._journal.append(
                    [record.stored for record in draft.records], draft.attachments, reserved=reserved
                )
                if not reserved:  # what fits into the space held back says nothing about the disk
                    self.storage_full = False
            except StorageFull as full:
                self.storage_full = True
                draft, answered = await self._commit_reserved(batch, full)
        self._believe(draft)
        for each in answered:
            each.waiting.reply = each.reply
            each.waiting.done.set()
        self._hub.publish(draft.records)
        self.touched(draft.records)

    async def _commit_reserved(self, batch: list[_Waiting], full: StorageFull) -> tuple[Draft, list[Answered]]:
        """The disk is full: refuse the rest, decide the reserved commands again, alone, on the space held back."""
        kept = []
        for each in batch:
            if each.done.is_set():
                continue
            if each.submission.reserved:
                kept.append(each)
            else:
                each.fail(full)
        draft, answered = self._decide(kept, more=False)
        if draft.records or draft.attachments:
            try:
                await self._journal.append(
                    [record.stored for record in draft.records], draft.attachments, reserved=True
                )
            except StorageFull as still_full:
                for answer in answered:
                    answer.waiting.fail(still_full)
                return Draft(self.state, self._seen), []
        return draft, answered

    def _decide(self, batch: list[_Waiting], *, more: bool) -> tuple[Draft, list[Answered]]:
        """Decide what is in `batch`, and with `more` what else is waiting, up to the batch's bounds."""
        now = self.now()
        for each in self._forgotten:
            self._seen = self._seen.discard(each)
        self._forgotten.clear()
        draft = Draft(self.state, self._seen)
        answered: list[Answered] = []
        batch_bytes, position, began = 0, 0, self._clock.monotonic()
        while True:
            if position == len(batch):
                full = (
                    len(batch) >= BATCH_SUBMISSIONS_MAX
                    or batch_bytes >= BATCH_BYTES_MAX
                    or self._clock.monotonic() - began >= BATCH_DECIDE_SECONDS_MAX
                )
                if not more or full:
                    break
                try:
                    batch.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
            waiting = batch[position]
            position += 1
            known, recorded = len(draft.attachments), len(draft.records)
            try:
                draft, reply = stage(draft, waiting.submission, now)
            except SoloError as error:
                if isinstance(error, KernelBug):
                    self._telemetry.bug("deciding", error)
                waiting.fail(error)
            except Exception as error:  # noqa: BLE001 - contained to this one submission; the draft before it stands
                self._telemetry.bug(f"deciding {type(waiting.submission.command).__name__}", error)
                waiting.fail(KernelBug("the request met a defect; nothing was written"))
            else:
                answered.append(Answered(waiting, reply))
                attached = draft.attachments[known:]
                batch_bytes += sum(len(getattr(each, "content", getattr(each, "sealed", b""))) for each in attached)
                batch_bytes += sum(len(record.stored.payload or b"") for record in draft.records[recorded:])
        return draft, answered

    def _believe(self, draft: Draft) -> None:
        self.state = draft.state
        self._seen = draft.seen
        if len(self._seen) > IDEMPOTENCY_ROWS_MAX:
            self._forget_old_keys()

    def _forget_old_keys(self) -> None:
        """Forget the older half of the scope that has the most keys: nobody loses his through somebody else's."""
        scopes = Counter(scope for scope, _ in self._seen)
        [(greedy, count)] = scopes.most_common(1)
        rows = sorted((row for row in self._seen.values() if row.scope == greedy), key=lambda row: row.event_id)
        for row in rows[: (count + 1) // 2]:
            self._seen = self._seen.remove((row.scope, row.key))


def shutting_down() -> Faulted:
    return Faulted("shutting_down", "send the request again once the kernel has restarted", retry_after_s=5)


def submission_error(error: BaseException) -> bool:
    """Whether a failed report means that the kernel has stopped, so that the reporter should end quietly."""
    return isinstance(error, JournalFailed) or (isinstance(error, SoloError) and error.code == "kernel_stopped")


__all__ = ["Answered", "Loop", "Rejected", "shutting_down", "submission_error"]
