"""When the state is kept, which kept state a start goes on from, and that nothing about it ever stops the kernel."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from attrs import evolve
from kernel_rig import Actor, GatedJournal, check_log, crashing, history, opened, recorded
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio.errors import Faulted, StorageFull
from solo_trio.kernel import checkpoints
from solo_trio.kernel.checkpoints import CHECKPOINT_RETRY_S, newest_usable, reducer_version
from solo_trio.kernel.staging import Submission
from solo_trio.model import snapshot
from solo_trio.model.checkpoint import CheckpointWritten
from solo_trio.model.record import Checkpoint
from solo_trio.model.state import KernelState, fold
from solo_trio.model.system import BeginShutdown
from solo_trio.operations.settings import Settings
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.testing import MemoryKernel


class Notes(Diagnostics):
    """Telemetry whose notes can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str, **fields: Any) -> None:
        self.notes.append(f"{message} {fields}")


class RefusingJournal(GatedJournal):
    """A journal that has no room for checkpoints while `full`, and counts those asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.asked: list[float] = []

    async def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.asked.append(trio.current_time())
        if self.full:
            raise StorageFull
        await super().write_checkpoint(checkpoint)


def rules(events: int = 1_000_000, seconds: float = 1_000_000) -> Settings:
    return Settings(checkpoint_interval_events=events, checkpoint_interval_s=seconds)


def memory_kernel(settings: Settings, journal: GatedJournal | None = None) -> MemoryKernel:
    return MemoryKernel({"actor": Actor()}, settings=settings, journal=journal or RefusingJournal(), telemetry=Notes())


def notes(memory: MemoryKernel) -> list[str]:
    assert isinstance(memory.telemetry, Notes)
    return memory.telemetry.notes


async def written(memory: MemoryKernel) -> list[int]:
    """The events after which the log says that a checkpoint was written."""
    found = [record.event for record in await history(memory, None, "checkpoint_written")]
    return [event.event_id for event in found if isinstance(event, CheckpointWritten)]


async def happen(kernel: Any, count: int) -> None:
    for _ in range(count):
        await kernel.system.core.loop.report(Submission(BeginShutdown("an event that changes nothing")))


async def check_kept(memory: MemoryKernel) -> None:
    """Each checkpoint is what the events up to its own come to."""
    records = await history(memory)
    for event_id in await memory.journal.checkpoint_ids():
        kept = await memory.journal.checkpoint(event_id)
        assert snapshot.decode(kept.body) == fold(records[:event_id])
        assert kept.reducer == reducer_version()


async def test_after_so_many_events(autojump_clock: MockClock) -> None:
    memory = memory_kernel(rules(events=10))
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await wait_all_tasks_blocked()
        base = kernel.system.core.loop.state.last_id
        await happen(kernel, 9 - base)
        await wait_all_tasks_blocked()
        assert await written(memory) == []
        await happen(kernel, 1)
        await wait_all_tasks_blocked()
        assert await written(memory) == [10]
        await happen(kernel, 9)
        await wait_all_tasks_blocked()
        assert await written(memory) == [10], "what says that one was written does not count"
        await happen(kernel, 1)
        await wait_all_tasks_blocked()
        assert await written(memory) == [10, 21]
        await check_kept(memory)


async def test_by_age_only_if_something_happened(autojump_clock: MockClock) -> None:
    journal = RefusingJournal()
    memory = memory_kernel(rules(seconds=100), journal)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        began = trio.current_time()
        await trio.sleep(80_000)
        assert len(journal.asked) <= 2, "nothing happens, but for what the kernel says about its own start"
        journal.asked.clear()
        at = trio.current_time()
        await happen(kernel, 3)
        await trio.sleep(99)
        assert journal.asked == []
        await happen(kernel, 1)
        await trio.sleep(80_000)
        assert journal.asked == [pytest.approx(at + 100)]
        assert began < at
        await check_kept(memory)


async def test_at_shutdown_so_that_the_next_start_reads_almost_nothing(autojump_clock: MockClock) -> None:
    memory = memory_kernel(rules())
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("actor", memory.callables["actor"])
        await happen(kernel, 50)
    records = await history(memory)
    assert [record.stored.type for record in records[-2:]] == ["checkpoint_written", "system_shutdown_complete"]
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        report = kernel.system.core.report
        assert report is not None
        assert (report.checkpoint, report.replayed) == (records[-3].stored.id, 2)
        assert report.events == records[-1].stored.id
        assert (report.wanted, report.ready) == (1, 1)
    assert notes(memory) == []


async def test_not_in_a_crash_and_the_start_then_reads_the_tail(autojump_clock: MockClock) -> None:
    memory = memory_kernel(rules())
    async with crashing(memory) as kernel:
        await happen(kernel, 5)
        await kernel.system.core.checkpoints.write()
        await happen(kernel, 7)
        last = kernel.system.core.loop.state.last_id
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        report = kernel.system.core.report
        assert report is not None and report.checkpoint is not None
        assert report.replayed == last - report.checkpoint == 8
        assert kernel.system.core.recovery.state == fold((await history(memory))[:last])


async def test_a_long_tail_is_covered_soon_after_the_start(autojump_clock: MockClock) -> None:
    memory = memory_kernel(rules(events=50))
    async with crashing(memory) as kernel:
        await happen(kernel, 45)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await happen(kernel, 5)
        await wait_all_tasks_blocked()
        assert len(await written(memory)) == 1


async def test_a_full_disk_is_noted_and_it_is_tried_again(autojump_clock: MockClock) -> None:
    journal = RefusingJournal()
    journal.full = True
    memory = memory_kernel(rules(events=10), journal)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await happen(kernel, 20)
        await trio.sleep(3.5 * CHECKPOINT_RETRY_S)
        assert [each - journal.asked[0] for each in journal.asked] == [
            pytest.approx(number * CHECKPOINT_RETRY_S) for number in range(4)
        ]
        assert len(notes(memory)) == 4 and "could not be written" in notes(memory)[0]
        assert not kernel.system.core.loop.storage_full, "it says nothing about ordinary work"
        with pytest.raises(StorageFull):
            await kernel.system.core.checkpoints.write()
        journal.full = False
        await trio.sleep(CHECKPOINT_RETRY_S)
        assert len(await written(memory)) == 1
        await check_kept(memory)


async def test_a_defect_in_it_is_contained(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_kernel(rules(events=10))

    def broken(state: KernelState) -> bytes:
        raise TypeError("a value that has no form")

    with monkeypatch.context() as patched:
        async with opened(memory, bugs=1) as kernel:
            await kernel.wait_recovered()
            patched.setattr(checkpoints.snapshot, "encode", broken)
            await happen(kernel, 20)
            await wait_all_tasks_blocked()
            assert (await kernel.tenant("acme")).tenant_id == "acme"
            patched.undo()
    assert [record.stored.type for record in await history(memory)][-1] == "system_shutdown_complete"


async def test_the_events_of_a_moment_when_one_was_being_written_are_behind_it(autojump_clock: MockClock) -> None:
    journal = RefusingJournal()
    memory = memory_kernel(rules(events=10), journal)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(kernel.system.core.checkpoints.write)
            nursery.start_soon(happen, kernel, 100)
        await check_kept(memory)
    await check_kept(memory)


# -- which one a start goes on from


async def kept_kernel() -> tuple[MemoryKernel, list[int]]:
    """A log with two checkpoints, and their events, newest first."""
    memory = memory_kernel(rules())
    async with crashing(memory) as kernel:
        for _ in range(2):
            await happen(kernel, 10)
            await kernel.system.core.checkpoints.write()
        await happen(kernel, 10)
    return memory, await memory.journal.checkpoint_ids()


async def replace(memory: MemoryKernel, event_id: int, **changes: Any) -> None:
    kept = await memory.journal.checkpoint(event_id)
    await memory.journal.write_checkpoint(evolve(kept, **changes))


async def used(memory: MemoryKernel) -> int | None:
    """The checkpoint that a start goes on from; and its state is what the whole log says."""
    last = len(await history(memory))
    async with crashing(memory) as kernel:
        await kernel.wait_recovered()
        assert kernel.system.core.recovery.state == fold((await history(memory))[:last])
        return kernel.system.core.recovery.checkpoint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"body": b"{}"}, "cannot be used"),
        ({"body": b"\xff"}, "cannot be used"),
        ({"reducer": "0" * 64}, "another version"),
        ({"format": "json/0"}, "another version"),
    ],
)
async def test_one_that_is_no_good_is_left_out_for_an_older_one(
    autojump_clock: MockClock, changes: dict[str, Any], says: str
) -> None:
    memory, (newer, older) = await kept_kernel()
    assert await used(memory) == newer
    await replace(memory, newer, **changes)
    assert notes(memory) == []
    assert await used(memory) == older
    assert len(notes(memory)) == 1 and says in notes(memory)[0] and str(newer) in notes(memory)[0]
    await replace(memory, older, **changes)
    assert await used(memory) is None
    assert len(notes(memory)) == 3


async def test_one_under_the_id_of_another_event_is_left_out(autojump_clock: MockClock) -> None:
    memory, (newer, older) = await kept_kernel()
    await replace(memory, newer, body=(await memory.journal.checkpoint(older)).body)
    assert await used(memory) == older


async def test_what_is_not_damage_is_not_passed_over(autojump_clock: MockClock) -> None:
    class Unreadable(GatedJournal):
        async def checkpoint_ids(self) -> list[int]:
            return [7]

        async def checkpoint(self, event_id: int) -> Checkpoint:
            raise Faulted("data_unwritable", "correct that")

    with pytest.raises(Faulted, match="data_unwritable"):
        await newest_usable(Unreadable(), Diagnostics(), "")


def test_the_reducers_version_follows_from_its_sources() -> None:
    version = reducer_version()
    assert len(version) == 64 and version == reducer_version()
    reducer_version.cache_clear()
    assert reducer_version() == version


async def test_a_large_state_is_encoded_in_a_thread_while_the_kernel_goes_on() -> None:
    many = checkpoints.INLINE_SERVICES_MAX + 10
    memory = memory_kernel(evolve(rules(), max_per_tenant=1_000))
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        async with trio.open_nursery() as nursery:
            for number in range(many):
                nursery.start_soon(tenant.deploy, f"s{number}", memory.callables["actor"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.system.core.checkpoints.write)
            await happen(kernel, 20)
        await check_kept(memory)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        assert kernel.system.core.recovery.checkpoint is not None
        assert len(await (await kernel.tenant("acme")).services()) == many
    await check_log(memory)


@pytest.mark.parametrize(
    ("config", "inline"),
    [({}, True), ({"a": [[]] * 1_000}, True), ({"a": [[]] * 20_000}, False), ({"a": "x" * 40_000}, False)],
)
async def test_few_services_with_much_configuration_do_not_hold_up_the_kernel(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], inline: bool
) -> None:
    """Neither a checkpoint nor a verification encodes what is large, by whichever measure, in the kernel's own thread."""
    memory = memory_kernel(rules())
    encode, threads = snapshot.encode, set()

    def watched(state: KernelState) -> bytes:
        threads.add(threading.get_ident())
        return encode(state)

    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for name in ("one", "two"):
            await tenant.deploy(name, memory.callables["actor"], config=config)
        monkeypatch.setattr(checkpoints.snapshot, "encode", watched)
        await kernel.system.core.checkpoints.write()
        assert threads, "it was watched"
        assert (threading.get_ident() in threads) == inline
        threads.clear()
        assert (await kernel.system.core.verification.verify(full=True)).status == "ok"
        assert threads, "it was watched"
        assert (threading.get_ident() in threads) == inline


async def test_the_operation_answers_with_what_it_wrote(autojump_clock: MockClock) -> None:
    from solo_trio.model.capability import EMBEDDER
    from solo_trio.operations.caller import Caller
    from solo_trio.operations.system import checkpoint
    from solo_trio.operations.table import Nothing

    memory = memory_kernel(rules())
    async with opened(memory) as kernel:
        last = kernel.system.core.loop.state.last_id
        answer = await checkpoint(Caller(kernel.system, EMBEDDER), Nothing())
        assert set(answer.body) == {"event_id", "bytes", "duration_ms"}
        assert answer.body["event_id"] == last
        assert answer.body["bytes"] == len((await memory.journal.checkpoint(last)).body)
        stored = await recorded(kernel, None, "checkpoint_written")
        assert stored.payload == b'{"event_id":%d,"size_bytes":%d}' % (last, answer.body["bytes"])
