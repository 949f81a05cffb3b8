"""When old events leave the database, how far, and what is erased of a removed tenant: in memory, on the mock clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from attrs import evolve
from kernel_rig import Actor, GatedJournal, crashing, history, opened
from trio.testing import MockClock

from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted, Rejected, StorageFull
from solo_trio.kernel.erasing import ERASE_RETRY_S
from solo_trio.kernel.retention import AUTOMATIC_EVENTS_MIN, LOOK_EVERY_S, Done
from solo_trio.kernel.staging import Idempotency, Submission
from solo_trio.model.compaction import LogCompacted
from solo_trio.model.record import Archived, Attachment, EraseEvents, Erasure, StoredEvent
from solo_trio.model.system import BeginShutdown
from solo_trio.operations.settings import Settings
from solo_trio.policy.retention import bound
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.testing import MemoryKernel


class Notes(Diagnostics):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str, **fields: Any) -> None:
        self.notes.append(message)


class Failing(GatedJournal):
    """Archiving or erasing may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.erased: list[str] = []

    async def archive(self, upto: int, *, fewest: int = 1) -> Archived | None:
        if self.error is not None:
            raise self.error
        return await super().archive(upto, fewest=fewest)

    async def erase(self, erasure: Erasure) -> bool:
        if self.error is not None:
            raise self.error
        self.erased.append(erasure.incarnation)
        return await super().erase(erasure)


def memory_kernel(**settings: Any) -> MemoryKernel:
    chosen = Settings(**{"checkpoint_interval_events": 10**9, "checkpoint_interval_s": 31_536_000.0} | settings)
    return MemoryKernel({"actor": Actor()}, settings=chosen, journal=Failing(), telemetry=Notes())


def notes(memory: MemoryKernel) -> list[str]:
    assert isinstance(memory.telemetry, Notes)
    return memory.telemetry.notes


async def happen(kernel: Kernel, count: int) -> None:
    for _ in range(count):
        await kernel.system.core.loop.report(Submission(BeginShutdown("an event that changes nothing")))


async def compacted(kernel: Kernel, keep_events: int | None = None) -> Done:
    return await kernel.system.core.compaction.compact(keep_events)


async def test_by_hand_as_far_as_it_is_asked_for(autojump_clock: MockClock) -> None:
    memory = memory_kernel()
    async with opened(memory) as kernel:
        await happen(kernel, 100)
        last_id = kernel.system.core.loop.state.last_id
        done = await compacted(kernel, 20)
        assert (done.oldest_id, done.events, done.bound.reason) == (last_id - 19, last_id - 20, "policy")
        [record] = await history(memory, None, "log_compacted")
        assert record.event == LogCompacted(done.oldest_id, done.events, done.segments)
        ids = await memory.journal.checkpoint_ids()
        assert len(ids) == 2 and min(ids) >= done.oldest_id, "a start has two to go on from, both at hand"
        again = await compacted(kernel, 1_000)
        assert (again.events, again.oldest_id) == (0, done.oldest_id)
        assert len(await history(memory, None, "log_compacted")) == 1
    async with crashing(memory) as kernel:
        assert kernel.system.core.recovery.checkpoint is not None
    for event_id in await memory.journal.checkpoint_ids():  # as after an update of the program
        kept = await memory.journal.checkpoint(event_id)
        await memory.journal.write_checkpoint(evolve(kept, reducer="another"))
    async with opened(memory) as kernel:
        assert kernel.system.core.recovery.checkpoint is None, "the whole log can still be folded"


async def test_it_is_configured_what_stays(autojump_clock: MockClock) -> None:
    memory = memory_kernel(keep_events=30, keep_days=0.0)
    async with opened(memory) as kernel:
        await happen(kernel, 100)
        last_id = kernel.system.core.loop.state.last_id
        assert (await compacted(kernel)).oldest_id == last_id - 29
    memory = memory_kernel(keep_events=30, keep_days=1.0)
    async with opened(memory) as kernel:
        await happen(kernel, 100)
        done = await compacted(kernel)
        assert (done.oldest_id, done.events) == (1, 0), "they are too young"
        assert await memory.journal.checkpoint_ids() == []


async def test_by_age(autojump_clock: MockClock) -> None:
    memory = memory_kernel(keep_events=0, keep_days=1.0)
    async with crashing(memory) as kernel:
        await happen(kernel, 40)
    journal: Any = memory.journal
    young = len(journal._events) - 7
    day_us = 86_400 * 1_000_000
    journal._events = [
        evolve(each, at_us=each.at_us - (2 * day_us if each.id <= young else 0)) for each in journal._events
    ]
    async with crashing(memory) as kernel:
        assert (await compacted(kernel)).oldest_id == young + 1


@pytest.mark.parametrize("which", [0, 1])
async def test_a_damaged_checkpoint_is_none_to_lean_on(autojump_clock: MockClock, which: int) -> None:
    """The kernel by itself waits for others: it goes only as far as the older of two good ones."""
    memory = memory_kernel(compact=False)
    async with crashing(memory) as kernel:
        core = kernel.system.core
        for _ in range(2):
            await happen(kernel, 10)
            await core.checkpoints.write()
        await happen(kernel, 10)
        ids = await memory.journal.checkpoint_ids()
        assert await core.compaction._covered() == min(ids)
        kept = await memory.journal.checkpoint(ids[which])
        await memory.journal.write_checkpoint(evolve(kept, body=b"{}"))
        assert await core.compaction._covered() == 0
        assert (await core.compaction._compact(core.loop.state.last_id, 1)).events == 0
        await compacted(kernel, 0)
        assert await core.compaction._covered() >= memory.journal.oldest_id, "by hand it makes new ones"


async def test_by_itself_and_beside_everything_else(autojump_clock: MockClock) -> None:
    memory = memory_kernel(keep_events=50, keep_days=0.0, checkpoint_interval_events=1_000)
    async with opened(memory) as kernel:
        await happen(kernel, AUTOMATIC_EVENTS_MIN - 1_000)
        await trio.sleep(LOOK_EVERY_S + 1)
        assert memory.journal.oldest_id == 1, "it is not worth a segment yet"
        await happen(kernel, 3_500)
        await trio.sleep(LOOK_EVERY_S + 1)
        oldest_id = memory.journal.oldest_id
        assert oldest_id > AUTOMATIC_EVENTS_MIN
        assert len(await history(memory, None, "log_compacted")) == 1
        await trio.sleep(10 * LOOK_EVERY_S)
        assert memory.journal.oldest_id == oldest_id
    memory = memory_kernel(keep_events=50, keep_days=0.0, checkpoint_interval_events=1_000, compact=False)
    async with opened(memory) as kernel:
        await happen(kernel, AUTOMATIC_EVENTS_MIN + 3_000)
        await trio.sleep(3 * LOOK_EVERY_S)
        assert memory.journal.oldest_id == 1


async def test_what_fails_is_noted_and_tried_again(autojump_clock: MockClock) -> None:
    memory = memory_kernel(keep_events=50, keep_days=0.0, checkpoint_interval_events=1_000)
    journal: Any = memory.journal
    async with opened(memory, bugs=1) as kernel:
        journal.error = StorageFull()
        await happen(kernel, AUTOMATIC_EVENTS_MIN + 3_000)
        await trio.sleep(2 * LOOK_EVERY_S + 1)
        assert "old events stay in the database for now" in notes(memory)
        with pytest.raises(StorageFull):
            await compacted(kernel, 10)
        journal.error = RuntimeError("a defect")
        await trio.sleep(LOOK_EVERY_S)
        journal.error = None
        await trio.sleep(LOOK_EVERY_S)
        assert memory.journal.oldest_id > 1_000
    assert len(memory.telemetry.bugs) == 1


async def test_a_repeated_request_gets_its_answer(autojump_clock: MockClock) -> None:
    memory = memory_kernel()
    async with crashing(memory) as kernel:
        loop = kernel.system.core.loop
        await happen(kernel, 20)
        key = Idempotency("system", "k", "f")
        await loop.submit(Submission(BeginShutdown("asked"), idempotency=key))
        first = loop.state.last_id
        await happen(kernel, 20)
        done = await compacted(kernel, 5)
        assert (done.oldest_id, done.bound.reason) == (first, "repeatable_requests")
        repeated = await loop.submit(Submission(BeginShutdown("asked"), idempotency=key))
        assert repeated.event_id == first
        assert loop.oldest_repeatable(loop.now().at_us + 1) is None, "a day later"
        again = await loop.submit(Submission(BeginShutdown("asked"), idempotency=key))
        assert again is None and loop.state.last_id > first, "it is a new request then"
        assert loop.oldest_repeatable(0) == loop.state.last_id


async def test_what_is_not_over_stays(autojump_clock: MockClock) -> None:
    memory = memory_kernel()
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        core = kernel.system.core
        await happen(kernel, 20)

        async def never(ctx: Any, task_status: Any) -> None:
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:

            async def start() -> None:
                with pytest.raises(Rejected):
                    await tenant.deploy("slow", never, ephemeral=True)

            nursery.start_soon(start)
            await trio.sleep(0.1)
            service = core.loop.state.service("acme", "slow")
            assert service is not None and not service.confirmed
            done = await compacted(kernel, 0)
            assert (done.oldest_id, done.bound.reason) == (service.deployment, "unfinished_work")


async def test_a_watcher_in_the_same_process_is_told(autojump_clock: MockClock) -> None:
    memory = memory_kernel()
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await happen(kernel, 20)
        done = await compacted(kernel, 5)
        await tenant.deploy("web", Actor(), ephemeral=True)
        async with tenant.watch(since_id=0) as records:
            assert records.compacted is None
            first = await anext(records)
            assert records.compacted == done.oldest_id <= first["id"]
        async with tenant.watch(since_id=done.oldest_id) as records:
            await anext(records)
            assert records.compacted is None


# -- erasing


async def gone(kernel: Kernel) -> str:
    """A tenant with something that ran, removed; its incarnation."""
    tenant = await kernel.tenant("acme")
    await tenant.deploy("web", Actor(), ephemeral=True, config={"key": "canary"})
    incarnation = kernel.system.core.loop.state.tenants["acme"].incarnation
    await kernel.remove_tenant("acme")
    return incarnation


async def payloads(memory: MemoryKernel, incarnation: str) -> set[str]:
    """The types of its events that still have one."""
    found = [each.stored for each in await history(memory) if each.stored.incarnation == incarnation]
    return {each.type for each in found if each.payload is not None}


async def test_a_removed_tenants_events_are_erased(autojump_clock: MockClock) -> None:
    memory = memory_kernel()
    async with opened(memory) as kernel:
        await kernel.tenant("blau")
        await kernel.system.core.checkpoints.write()
        incarnation = await gone(kernel)
        assert await payloads(memory, incarnation) == {"tenant_erased"}
        assert memory.journal.erased == [incarnation]  # type: ignore[attr-defined]
        ids = await memory.journal.checkpoint_ids()
        assert len(ids) == 2 and min(ids) > 0
        report = await kernel.system.core.verification.verify(full=True)
        assert report.status == "ok", report
    async with opened(memory) as kernel:
        assert list(kernel.system.core.loop.state.tenants) == ["blau"]


async def test_what_could_not_be_erased_is_tried_again(autojump_clock: MockClock) -> None:
    memory = memory_kernel()
    journal: Any = memory.journal
    async with opened(memory) as kernel:
        journal.error = StorageFull()
        incarnation = await gone(kernel)
        assert "events of a removed tenant are erased later" in notes(memory)
        assert await payloads(memory, incarnation) == {"tenant_erased"}, "they count as erased already"
        assert (await kernel.system.core.verification.verify(full=True)).status == "ok"
        journal.error = None
        await trio.sleep(ERASE_RETRY_S + 1)
        assert journal.erased == [incarnation] and await journal.erasures() == []


async def test_one_that_cannot_be_erased_keeps_nobody_waiting(autojump_clock: MockClock) -> None:
    """Such as one of a tenant that is there."""
    memory = memory_kernel()
    journal: Any = memory.journal
    async with opened(memory, bugs=9) as kernel:
        await kernel.tenant("blau")
        lives = kernel.system.core.loop.state.tenants["blau"].incarnation
        journal._erasures[lives] = Erasure("blau", lives, None, 1)
        journal.error = StorageFull()
        incarnation = await gone(kernel)
        journal.error = None
        await trio.sleep(ERASE_RETRY_S + 1)
        assert journal.erased == [incarnation]
        assert [each.incarnation for each in await journal.erasures()] == [lives]


async def test_the_next_kernel_goes_on_with_it(autojump_clock: MockClock) -> None:
    memory = memory_kernel()
    journal: Any = memory.journal
    async with crashing(memory) as kernel:
        await kernel.tenant("blau")
        await kernel.system.core.checkpoints.write()
        journal.error = Faulted("data_unwritable", "the archive cannot be written")
        incarnation = await gone(kernel)
    journal.error = None
    async with opened(memory) as kernel:
        # It starts from a state that still has the tenant, by way of events that are erased.
        assert list(kernel.system.core.recovery.state.tenants) == ["blau"]
        await kernel.wait_recovered()
        await trio.sleep(1)
        assert journal.erased == [incarnation]
        assert (await kernel.system.core.verification.verify(full=True)).status == "ok"


async def test_a_tenant_removed_by_an_older_program_is_erased_too(autojump_clock: MockClock) -> None:
    class Old(Failing):
        """Does not know of erasing; but the journal that opens it next finds what was removed."""

        async def append(
            self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
        ) -> None:
            kept = [each for each in attachments if not (self.old and isinstance(each, EraseEvents))]
            await super().append(events, kept, reserved=reserved)

        old = True

    memory = evolve(memory_kernel(), journal=Old())
    journal: Any = memory.journal
    async with crashing(memory) as kernel:
        incarnation = await gone(kernel)
    events = journal._events
    place = next(index for index, each in enumerate(events) if each.type == "tenant_erased")
    removed_at = events[place - 1].at_us
    del events[place:]
    journal.old = False
    journal._checkpoints.clear()
    journal._erasures[incarnation] = Erasure("acme", incarnation, None, removed_at)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await trio.sleep(1)
        assert journal.erased == [incarnation]
        assert await payloads(memory, incarnation) == {"tenant_erased"}
        assert kernel.system.core.loop.state.removed.since_us("acme") == removed_at
        assert (await kernel.system.core.verification.verify(full=True)).status == "ok"


async def test_a_verification_while_a_tenant_is_erased(autojump_clock: MockClock) -> None:
    """The state that it compares is from before, the events that it reads are from after."""
    memory = memory_kernel()
    async with opened(memory) as kernel:
        await kernel.tenant("blau")
        await happen(kernel, 5)
        core = kernel.system.core
        await core.checkpoints.write()
        journal: Any = memory.journal
        journal.error = StorageFull()
        await gone(kernel)
        assert (await core.verification.verify(full=True)).status == "ok"
        journal.error = None


# -- the policy


def test_how_far() -> None:
    assert bound(100, 30, 100, ()).event_id == 70
    assert bound(100, 30, 50, ()).event_id == 50
    assert bound(100, 200, 50, ()).event_id == 0
    assert bound(100, 30, 100, [(0, "checkpoints")]).event_id == 0
    found = bound(100, 30, 100, [(90, "checkpoints"), (61, "unfinished_work"), (65, "repeatable_requests")])
    assert (found.event_id, found.reason) == (60, "unfinished_work")
    assert bound(100, 30, 100, [(71, "checkpoints")]).reason == "policy"
