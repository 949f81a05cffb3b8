"""States of the past: what the first events come to, wherever it is folded from, beside everything else that a kernel does."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from kernel_rig import Actor, crash_at, history, opened, recorded
from trio.testing import MockClock

from solo_trio.errors import Faulted, Rejected
from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel import past
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.past import past_state
from solo_trio.kernel.staging import Submission
from solo_trio.model.record import Erasure, EventQuery, Scan
from solo_trio.model.state import fold
from solo_trio.model.system import BeginShutdown
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.testing import MemoryKernel


class CountingJournal(MemoryJournal):
    """Which events were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[int] = []

    async def scan(self, query: EventQuery) -> Scan:
        self.after.append(query.after)
        return await super().scan(query)


class SlowToErase(CountingJournal):
    """Checkpoints from before a removal stay."""

    async def erase(self, erasure: Erasure) -> bool:
        await trio.sleep(10_000)
        return await super().erase(erasure)


async def filled(kernel: Any, count: int = 0) -> None:
    tenant = await kernel.tenant("acme")
    await tenant.deploy("calm", kernel._callables["calm"])
    await tenant.deploy("wild", kernel._callables["wild"])
    await recorded(kernel, "wild", "service_crashed")
    await tenant.kill("calm")
    for _ in range(count):
        await kernel.system.core.loop.report(Submission(BeginShutdown("an event that changes nothing")))


def memory_kernel(journal: MemoryJournal | None = None) -> MemoryKernel:
    callables = {"calm": Actor(), "wild": Actor(crash_at(3.0))}
    return MemoryKernel(callables, journal=journal or CountingJournal())


async def test_every_state_is_what_the_events_up_to_it_come_to(autojump_clock: MockClock) -> None:
    memory = memory_kernel()
    async with opened(memory) as kernel:
        await filled(kernel)
        core = kernel.system.core
        middle = await core.checkpoints.write()
        await filled_more(kernel)
        records = await history(memory)
        for event_id in (0, 1, *range(len(records), 0, -1)):
            found = await core.past.at(event_id)
            assert found.state == fold(records[:event_id]), event_id
            if event_id < core.loop.state.last_id:
                assert found.checkpoint == (middle.event_id if event_id >= middle.event_id else None)
    for event_id in range(len(records) + 1):
        found = await past_state(memory.journal, Diagnostics(), reducer_version(), event_id, len(records))
        assert found.state == fold(records[:event_id]), event_id


async def filled_more(kernel: Any) -> None:
    tenant = await kernel.tenant("blau")
    await tenant.deploy("calm", kernel._callables["calm"])
    await tenant.pause("calm")


async def test_the_newest_that_was_asked_for_is_gone_on_from(autojump_clock: MockClock) -> None:
    journal = CountingJournal()
    async with opened(memory_kernel(journal)) as kernel:
        await filled(kernel, 50)
        core = kernel.system.core
        journal.after.clear()
        first = await core.past.at(20)
        assert journal.after == [0] and first.replayed == 20
        assert await core.past.at(20) == first and journal.after == [0]
        assert (await core.past.at(30)).replayed == 30 and journal.after == [0, 20]
        await core.past.at(10)
        assert journal.after == [0, 20, 0], "what is later than it is no use"
        await trio.sleep(past.KEPT_S + 1)
        await core.past.at(10)
        assert journal.after == [0, 20, 0, 0], "it is not kept for ever"
        written = await core.checkpoints.write()
        await filled_more(kernel)
        journal.after.clear()
        assert (await core.past.at(written.event_id)).replayed == 0 and journal.after == []
        await core.past.at(written.event_id + 1)
        assert journal.after == [written.event_id]


async def test_no_such_event(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(memory_kernel()) as kernel:
        await filled(kernel, 50)
        core = kernel.system.core
        newest = core.loop.state.last_id
        with pytest.raises(Rejected, match=f"the newest is {newest}") as refusal:
            await core.past.at(newest + 1)
        assert refusal.value.code == "event_not_found"
        monkeypatch.setattr(past, "FOLD_EVENTS_MAX", 10)
        with pytest.raises(Rejected, match="make a backup"):
            await core.past.at(newest - 1)
        assert (await core.past.at(newest)).state is core.loop.state


async def test_what_was_pruned_is_told_with_the_oldest_event(autojump_clock: MockClock) -> None:
    memory = memory_kernel()
    async with opened(memory) as kernel:
        await filled(kernel, 10)
        core = kernel.system.core
        written = await core.checkpoints.write()
        await core.past.at(written.event_id - 3)
        memory.journal.oldest_id = written.event_id + 1
        with pytest.raises(Rejected, match=f"name event {written.event_id + 1} or a later one") as refusal:
            await core.past.at(written.event_id - 3)
        assert refusal.value.extra["oldest_id"] == written.event_id + 1
        assert (await core.past.at(written.event_id)).checkpoint == written.event_id
        memory.journal.oldest_id = 1


async def test_a_large_one_holds_nobody_up() -> None:
    memory = memory_kernel()
    async with memory.open() as kernel:
        core = kernel.system.core
        async with trio.open_nursery() as nursery:
            for _ in range(5_000):
                nursery.start_soon(core.loop.report, Submission(BeginShutdown("an event that changes nothing")))
        late: list[float] = []

        async def tick() -> None:
            while True:
                began = trio.current_time()
                await trio.sleep(0.01)
                late.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            found = await core.past.at(4_900)
            nursery.cancel_scope.cancel()
        assert found.state.last_id == 4_900 and found.replayed == 4_900
        assert late and max(late) < 0.5, "beside it, everything goes on"


async def test_a_removed_tenant_is_in_no_state_of_the_past(autojump_clock: MockClock) -> None:
    """Neither in one that was asked for before, nor in one that is folded from a checkpoint which still has it."""
    memory = memory_kernel(SlowToErase())
    async with opened(memory) as kernel:
        await filled(kernel)
        core = kernel.system.core
        await core.checkpoints.write()
        event_id = core.loop.state.last_id - 1
        assert "acme" in (await core.past.at(event_id)).state.tenants
        with pytest.raises(Faulted, match="its removal goes on"):
            await kernel.remove_tenant("acme")
        assert "acme" not in core.loop.state.tenants
        assert await core.journal.checkpoint_ids()
        for asked in (event_id, event_id + 1):
            state = (await core.past.at(asked)).state
            assert "acme" not in state.tenants
            assert not [each for each in state.capabilities.values() if each.incarnation is not None]
