"""Compaction. Owns: when old events leave the database for the archive, and how far. Never: deletes what a start may need soon.

Events go only up to the older of the two newest checkpoints that this program can go on from, each read back for it: so a start
has two chances before it must read the archive. And not beyond what is still to be read by id: the first event of a request
that may be repeated (`docs/decisions/0003-answers-come-from-the-log.md`), and of a verb whose end is waited for. Everything is
done in small steps, between which others write; whatever fails is noted and tried again.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final, Protocol

import trio
from attrs import evolve, frozen

from solo_trio.errors import Faulted, SoloError
from solo_trio.kernel.checkpoints import INLINE_BYTES_MAX, Checkpoints, maybe_in_thread
from solo_trio.kernel.loop import IDEMPOTENCY_SECONDS, Loop, submission_error
from solo_trio.kernel.staging import Submission
from solo_trio.model import snapshot
from solo_trio.model.compaction import RecordCompaction
from solo_trio.model.record import ArchiveState, EventQuery
from solo_trio.policy.retention import Bound, Reason, Retention, bound
from solo_trio.ports import Journal, Telemetry

LOOK_EVERY_S: Final = 60.0
AUTOMATIC_EVENTS_MIN: Final = 5_000
"""For fewer the kernel does not begin by itself: each time makes a segment more."""
CHECKPOINTS_BEHIND: Final = 2
STEP_PAUSE_S: Final = 0.005
"""Between two steps, for whoever else waits for the disk."""


class Compactable(Protocol):
    """What is compacted."""

    loop: Loop
    journal: Journal
    telemetry: Telemetry
    checkpoints: Checkpoints


@frozen
class Done:
    """What came of it. `bound`: up to where events may go now, and why not further."""

    oldest_id: int
    events: int
    segments: int
    size_bytes: int
    """Of the new segments."""
    duration_s: float
    bound: Bound


class Compaction:
    """That of one running kernel."""

    def __init__(self, core: Compactable, rules: Retention, reducer: str) -> None:
        self._core = core
        self._reducer = reducer
        self._turn = trio.Lock()
        self.rules = rules

    @property
    def oldest_id(self) -> int:
        return self._core.journal.oldest_id

    async def archive_state(self) -> ArchiveState:
        return await self._core.journal.archive_state()

    async def run(self, after: trio.Event) -> None:
        """See to it, until cancelled, if the operator wants that."""
        await after.wait()
        while self.rules.automatic:
            await self._try()
            await trio.sleep(LOOK_EVERY_S)

    async def _try(self) -> None:
        stored = self._core.loop.state.last_id + 1 - self._core.journal.oldest_id
        if stored < self.rules.keep_events + AUTOMATIC_EVENTS_MIN:
            return
        try:
            async with self._turn:
                await self._compact(await self._wanted(self.rules), AUTOMATIC_EVENTS_MIN)
        except SoloError as error:
            if not submission_error(error):
                self._core.telemetry.note("old events stay in the database for now", error=str(error))
        except Exception as error:  # noqa: BLE001 - contained: the log grows, no more
            self._core.telemetry.bug("compacting the log", error)

    async def compact(self, keep_events: int | None = None) -> Done:
        """Now; with `keep_events`, however young the others are. Raises `SoloError`: nothing is lost by that."""
        rules = self.rules if keep_events is None else evolve(self.rules, keep_events=keep_events, keep_days=0)
        async with self._turn:
            wanted = await self._wanted(rules)
            # Fresh checkpoints, if it is for want of them that not all can go that is wanted.
            for _ in range(CHECKPOINTS_BEHIND):
                if wanted >= self._core.journal.oldest_id and await self._covered() <= wanted:
                    await self._core.checkpoints.write()
            return await self._compact(wanted, 1)

    async def _compact(self, wanted: int, fewest: int) -> Done:
        journal, began = self._core.journal, trio.current_time()
        first_id = journal.oldest_id
        upto = await self._bound(wanted)
        segments = size_bytes = 0
        if upto.event_id + 1 - first_id >= fewest:
            while (archived := await journal.archive(upto.event_id)) is not None:
                segments, size_bytes = segments + 1, size_bytes + archived.size_bytes
                await trio.sleep(STEP_PAUSE_S)
            oldest_id = 0
            while oldest_id != journal.oldest_id <= upto.event_id:
                oldest_id = journal.oldest_id
                await journal.prune(upto.event_id)
                await trio.sleep(STEP_PAUSE_S)
        events = journal.oldest_id - first_id
        if events:
            await self._core.loop.report(Submission(RecordCompaction(journal.oldest_id, events, segments)))
        return Done(journal.oldest_id, events, segments, size_bytes, trio.current_time() - began, upto)

    async def _bound(self, wanted: int) -> Bound:
        holds: list[tuple[int, Reason]] = [(await self._covered(), "checkpoints")]
        repeatable = self._core.loop.oldest_repeatable(self._core.loop.now().at_us - IDEMPOTENCY_SECONDS * 1_000_000)
        if repeatable is not None:
            holds.append((repeatable, "repeatable_requests"))
        holds += [(event_id, "unfinished_work") for event_id in self._unfinished()]
        return bound(self._core.loop.state.last_id, 0, wanted, holds)

    async def _wanted(self, rules: Retention) -> int:
        """The last event that the operator does not want to keep."""
        last_id = self._core.loop.state.last_id
        old = last_id if rules.keep_us == 0 else await self._before(self._core.loop.now().at_us - rules.keep_us)
        return bound(last_id, rules.keep_events, old, ()).event_id

    async def _before(self, at_us: int) -> int:
        """The last event from before a time: their times never decrease."""
        low, high = self._core.journal.oldest_id - 1, self._core.loop.state.last_id
        while low < high:
            middle = (low + high + 1) // 2
            found = await self._core.journal.read(EventQuery(after=middle - 1, limit=1))
            if found and found[0].id == middle and found[0].at_us < at_us:
                low = middle
            else:
                high = middle - 1
        return low

    def _unfinished(self) -> Iterator[int]:
        state = self._core.loop.state
        for tenant in state.tenants.values():
            if tenant.removal is not None:
                yield tenant.removal.event_id
        for _, service in state.services():
            if service.stop is not None:
                yield service.stop.event_id
            if not service.confirmed:
                yield service.deployment

    async def _covered(self) -> int:
        """The event of the older of the two newest checkpoints that are any good; 0 if there are not two."""
        good = 0
        for event_id in await self._core.journal.checkpoint_ids():
            good += await self._is_good(event_id)
            if good == CHECKPOINTS_BEHIND:
                return event_id
        return 0

    async def _is_good(self, event_id: int) -> bool:
        try:
            kept = await self._core.journal.checkpoint(event_id)
            if (kept.reducer, kept.format) != (self._reducer, snapshot.FORMAT):
                return False
            work = partial(snapshot.decode, kept.body)
            return (await maybe_in_thread(work, len(kept.body) > INLINE_BYTES_MAX)).last_id == event_id
        except Faulted as fault:
            if fault.code != "data_damaged":
                raise
            return False
