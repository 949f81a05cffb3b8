"""Nothing waits for ever: hung starts, impatient stops, a full disk that has space again; nothing is kept for ever."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import trio
from attrs import evolve
from kernel_rig import Actor, GatedJournal, Plan, PlannedRunning, PlannedRuntime, history, opened, recorded, story
from trio.testing import MockClock

from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted, Rejected, StorageFull
from solo_trio.kernel import loop as loop_module
from solo_trio.ports import Launch
from solo_trio.testing import MemoryKernel


class HungRuntime(PlannedRuntime):
    """Never answers a start, as one whose zygote was stopped."""

    async def start(self, launch: Launch, nursery: trio.Nursery) -> PlannedRunning:
        if launch.source != "hung":
            return await super().start(launch, nursery)
        await trio.sleep_forever()
        raise AssertionError


def with_runtime(kernel: Kernel, runtime: PlannedRuntime) -> None:
    kernel.system.core.runtimes = {**kernel.system.core.runtimes, "process": runtime}


async def test_a_start_that_the_runtime_never_answers_can_be_deleted(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        with_runtime(kernel, HungRuntime({}))
        tenant = await kernel.tenant("acme")
        async with trio.open_nursery() as nursery:

            async def deploy() -> None:
                with pytest.raises(Rejected, match="service_deleted"):
                    await tenant.deploy("web", source="hung")

            nursery.start_soon(deploy)
            await recorded(kernel, "web", "service_started")
            assert (await tenant.kill("web"))["status"] == "stopped"
    assert trio.current_time() < 1


async def test_a_kernel_is_left_in_time_although_a_start_hangs(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    with trio.fail_after(6):
        async with opened(memory) as kernel:
            with_runtime(kernel, HungRuntime({}))
            tenant = await kernel.tenant("acme")
            async with trio.open_nursery() as nursery:

                async def deploy() -> None:
                    with pytest.raises(Faulted, match="shutting_down"):
                        await tenant.deploy("web", source="hung")

                nursery.start_soon(deploy)
                await recorded(kernel, "web", "service_started")
                await kernel.system.core.shutdown(5, "test")


async def test_more_starts_than_places_do_not_wait_for_one_that_hangs_to_die(autojump_clock: MockClock) -> None:
    """A start that is over its time and cannot be killed at once gives its place back all the same."""
    stuck = [Plan(ready_s=1_000, dies_s=1_000)]
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        with_runtime(kernel, PlannedRuntime({"stuck": stuck, "good": [Plan()]}))
        tenant = await kernel.tenant("acme")
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(_ignore, tenant.deploy, f"stuck{number}", "stuck")
            await recorded(kernel, None, "service_started", count=16)
            with trio.fail_after(30):
                await tenant.deploy("web", source="good")
            nursery.cancel_scope.cancel()


async def _ignore(deploy: Any, service_id: str, source: str) -> None:
    await deploy(service_id, source=source)


async def test_force_reaches_a_stop_that_is_under_way(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        with_runtime(kernel, PlannedRuntime({"deaf": [Plan()]}))
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="deaf")
        async with trio.open_nursery() as nursery:

            async def patient() -> None:
                assert (await tenant.kill("web", grace_ms=40_000))["reason"] == "killed"

            nursery.start_soon(patient)
            await recorded(kernel, "web", "service_killed")
            assert (await tenant.kill("web", force=True))["reason"] == "killed"
    assert trio.current_time() < 1
    assert (await story(memory, "web"))[-3:] == ["killed", "killed", "stopped killed"]


async def test_force_reaches_a_service_that_is_being_restarted_by_hand(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        with_runtime(kernel, PlannedRuntime({"deaf": [Plan()]}))
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="deaf", limits={"stop_timeout_s": 60})
        async with trio.open_nursery() as nursery:

            async def restart() -> None:
                with pytest.raises(Rejected, match="service_deleted"):
                    await tenant.restart("web")

            nursery.start_soon(restart)
            await recorded(kernel, "web", "service_restart_requested")
            await trio.sleep(1)
            assert (await tenant.kill("web", force=True))["status"] == "stopped"
    assert trio.current_time() < 2


async def test_a_kernel_finds_out_by_itself_that_there_is_space_again(autojump_clock: MockClock) -> None:
    journal, full = GatedJournal(), [False]
    journal.failures.append(lambda events, reserved: StorageFull() if full[0] and not reserved else None)
    async with opened(MemoryKernel(journal=journal)) as kernel:
        tenant = await kernel.tenant("acme")
        full[0] = True
        with pytest.raises(StorageFull):
            await tenant.deploy("web", source="x")
        assert kernel.system.core.loop.storage_full
        await trio.sleep(10)
        assert kernel.system.core.loop.storage_full
        full[0] = False
        await trio.sleep(2)
        assert not kernel.system.core.loop.storage_full


async def kept(memory: MemoryKernel, source: str) -> bool:
    try:
        await memory.journal.artifact(hashlib.sha256(source.encode()).hexdigest())
    except Faulted:
        return False
    return True


async def test_a_source_is_kept_as_long_as_a_service_has_it(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        with_runtime(kernel, PlannedRuntime({"good": [Plan()], "bad": [Plan(ready_s=9, ends_s=1)]}))
        one, two = await kernel.tenant("one"), await kernel.tenant("two")
        with pytest.raises(Rejected, match="service_start_failed"):
            await one.deploy("web", source="bad")
        assert not await kept(memory, "bad")
        for tenant in (one, two):
            await tenant.deploy("web", source="good")
        await one.kill("web")
        assert await kept(memory, "good")
        await one.deploy("web", source="good")
        await two.kill("web")
        assert await kept(memory, "good")
        await one.kill("web")
        assert not await kept(memory, "good")
        await one.deploy("web", source="good")
        assert await kept(memory, "good")
    async with opened(evolve(memory, telemetry=memory.telemetry)) as kernel:
        assert kernel.system.core.loop.state.sources.get(hashlib.sha256(b"good").hexdigest()) == 1


async def test_a_source_that_cannot_be_read_fails_the_start_for_good(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        with_runtime(kernel, PlannedRuntime({"good": [Plan(ends_s=1)]}))
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="good", max_restarts=2)
        memory.journal._artifacts.clear()
        await recorded(kernel, "web", "service_given_up")
    assert (await history(memory, "web", "service_given_up"))[0].event is not None


async def test_an_equal_deploy_says_how_the_service_really_is(autojump_clock: MockClock) -> None:
    async def end(number: int, ctx: Any) -> None:
        raise ValueError

    actor = Actor(end)
    async with opened(MemoryKernel({"it": actor})) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=0, config={"pair": (1, 2)})
        await recorded(kernel, "web", "service_given_up")
        again = await tenant.deploy("web", actor, max_restarts=0, config={"pair": [1, 2]})
        assert again["status"] == "given_up"


async def test_keys_are_forgotten_from_the_scope_that_has_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "IDEMPOTENCY_ROWS_MAX", 10)
    async with opened(MemoryKernel()) as kernel:
        loop = kernel.system.core.loop
        loop.remember([_row("modest", 1)])
        loop.remember([_row("greedy", number) for number in range(2, 12)])
        await kernel.tenant("acme")
        assert ("modest", "key1") in loop._seen
        assert ("greedy", "key2") not in loop._seen
        assert ("greedy", "key11") in loop._seen


def _row(scope: str, number: int) -> Any:
    return loop_module.IdempotencyRow(scope, f"key{number}", "f", number, 0)
