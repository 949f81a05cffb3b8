"""Removing a tenant, in memory and on the mock clock: the order of its end, who waits for it, what may go wrong meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from kernel_rig import Actor, GatedJournal, Plan, PlannedRuntime, crashing, history, opened, recorded, stubborn
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio.embedding import Kernel, Tenant
from solo_trio.errors import Faulted, Rejected, StorageFull
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.record import StoredEvent
from solo_trio.operations.caller import Caller
from solo_trio.operations.tenants import REMOVAL_MARGIN_S, remove
from solo_trio.testing import MemoryKernel

REMOVAL = ["tenant_removal_started", "service_stopped", "tenant_removed", "tenant_erased"]


def planned(plans: dict[str, Sequence[Plan]], **more: Any) -> tuple[MemoryKernel, PlannedRuntime]:
    runtime = PlannedRuntime(plans)
    return MemoryKernel(runtimes={"process": runtime}, **more), runtime


async def events_of(memory: MemoryKernel, after: int = 0) -> list[str]:
    return [record.stored.type for record in await history(memory) if record.stored.id > after]


async def remove_acme(kernel: Kernel, grace_ms: int = 5_000) -> dict[str, Any]:
    return await remove(Caller(kernel.system, EMBEDDER), "acme", grace_ms)


async def running(kernel: Kernel, tenant_id: str = "acme", *names: str) -> Tenant:
    tenant = await kernel.tenant(tenant_id)
    for name in names:
        await tenant.deploy(name, source=name)
    return tenant


async def test_everything_of_it_ends_and_nothing_of_another(autojump_clock: MockClock) -> None:
    memory, runtime = planned({"web": [Plan(stops_s=1)], "idle": [Plan(stops_s=2)]})
    async with opened(memory) as kernel:
        other = await running(kernel, "blau", "idle")
        acme = await running(kernel, "acme", "web", "idle")
        incarnation = kernel.system.core.loop.state.tenants["acme"].incarnation
        before, began = kernel.system.core.loop.state.last_id, trio.current_time()
        assert await remove_acme(kernel) == {"tenant_id": "acme", "status": "removed"}
        assert trio.current_time() - began == 2, "all at once, each within the grace"
        assert await events_of(memory, before) == [REMOVAL[0], REMOVAL[1], *REMOVAL[1:]]
        assert runtime.forgotten == [incarnation] and list(kernel.system.core.tenants) == ["blau"]
        assert [each.ended.is_set() for each in runtime.alive] == [False, True, True]
        with pytest.raises(Rejected) as caught:
            await acme.status("web")
        assert caught.value.code == "tenant_not_found"
        assert (await other.status("idle"))["status"] == "ready"
        assert [row.incarnation for row in await memory.journal.keys() if row.incarnation == incarnation] == []
        assert len(await memory.journal.keys()) == 2, "the system's, and the other tenant's"
        with pytest.raises(Rejected) as caught:
            await kernel.remove_tenant("acme")
        assert caught.value.code == "tenant_not_found"


async def test_what_does_not_stop_is_killed_and_the_second_to_ask_may_be_shorter_of_patience(
    autojump_clock: MockClock,
) -> None:
    memory, _ = planned({"deaf": [Plan(dies_s=0.5)]})
    answers: list[tuple[float, dict[str, Any]]] = []
    async with opened(memory) as kernel:
        await running(kernel, "acme", "deaf")
        began = trio.current_time()

        async def ask(grace_ms: int) -> None:
            answers.append((trio.current_time() - began, await remove_acme(kernel, grace_ms)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 60_000)
            await trio.sleep(1)
            nursery.start_soon(ask, 60_000)  # joins
            await trio.sleep(1)
            nursery.start_soon(ask, 1_000)
        assert trio.current_time() - began == 2 + 1 + 0.5
        assert [answer["status"] for _, answer in answers] == ["removed"] * 3
    assert (await events_of(memory)).count("tenant_removal_started") == 2


async def test_the_id_is_refused_while_it_goes_on_and_free_at_once_after(autojump_clock: MockClock) -> None:
    memory, _ = planned({"web": [Plan(stops_s=3)]})
    async with opened(memory) as kernel:
        first = await running(kernel, "acme", "web")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove_acme, kernel)
            await trio.sleep(1)
            with pytest.raises(Rejected, match="being removed") as caught:
                await kernel.tenant("acme")
            assert caught.value.code == "tenant_exists"
            with pytest.raises(Rejected, match="being removed"):
                await first.deploy("more", source="web")
        second = await running(kernel, "acme", "web")
        assert (await second.status("web"))["status"] == "ready"
        with pytest.raises(Rejected):
            await first.status("web")
        assert {each["type"] for each in await second.events()} >= {"tenant_created"}
        assert "tenant_removed" not in {each["type"] for each in await second.events()}
        supervisor = kernel.system.core.tenants["acme"]
        assert supervisor.incarnation == kernel.system.core.loop.state.tenants["acme"].incarnation


async def test_whoever_waits_for_something_of_it_hears_that_it_is_gone(autojump_clock: MockClock) -> None:
    memory, _ = planned({"web": [Plan(stops_s=3)], "slow": [Plan(ready_s=4, stops_s=0)]})
    codes: list[str] = []
    async with opened(memory) as kernel:
        tenant = await running(kernel, "acme", "web")
        await tenant.pause("web")

        async def wait(what: Any, *given: Any, **more: Any) -> None:
            with pytest.raises((Rejected, Faulted)) as caught:
                await what(*given, **more)
            codes.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, tenant.call, "web", "run")
            nursery.start_soon(lambda: wait(tenant.deploy, "slow", source="slow"))
            await wait_all_tasks_blocked()
            await remove_acme(kernel)
        assert sorted(codes) == ["service_deleted", "tenant_not_found"]


async def test_on_a_full_disk_it_frees_space(autojump_clock: MockClock) -> None:
    journal = GatedJournal()
    memory, _ = planned({"web": [Plan(stops_s=1)]}, journal=journal)

    def full(events: Sequence[StoredEvent], reserved: bool) -> Exception | None:
        return None if reserved else StorageFull()

    async with opened(memory) as kernel:
        await running(kernel, "acme", "web")
        journal.failures.append(full)
        with pytest.raises(StorageFull):
            await kernel.tenant("blau")
        assert (await remove_acme(kernel))["status"] == "removed"
        journal.failures.clear()


async def test_not_even_that_fits_for_a_while(autojump_clock: MockClock) -> None:
    journal = GatedJournal()
    memory, _ = planned({"web": [Plan(stops_s=1)]}, journal=journal)
    until = 0.0

    def full(events: Sequence[StoredEvent], reserved: bool) -> Exception | None:
        removed = any(event.type == "tenant_removed" for event in events)
        return StorageFull() if removed and trio.current_time() < until else None

    async with opened(memory) as kernel:
        await running(kernel, "acme", "web")
        until = trio.current_time() + 10
        journal.failures.append(full)
        assert (await remove_acme(kernel))["status"] == "removed"
        assert trio.current_time() >= until


async def test_a_task_that_does_not_end_holds_it_up_and_is_said(autojump_clock: MockClock) -> None:
    actor = Actor(lambda number, ctx: stubborn(100))
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("it", actor)
        began = trio.current_time()
        assert (await remove_acme(kernel, 1_000)) == {"tenant_id": "acme", "status": "removing", "unresponsive": True}
        assert trio.current_time() - began == 1 + REMOVAL_MARGIN_S
        assert "tenant_removed" not in await events_of(memory)
        await recorded(kernel, None, "tenant_removed")
        assert trio.current_time() - began == pytest.approx(100, abs=1)


async def test_a_defect_in_ending_it_is_contained_and_it_is_tried_again(autojump_clock: MockClock) -> None:
    memory, runtime = planned({"web": [Plan(stops_s=0)]})
    forget, failures = runtime.forget, [OSError("no"), ValueError("defect")]

    async def failing(incarnation: str) -> None:
        if failures:
            raise failures.pop()
        await forget(incarnation)

    runtime.forget = failing  # type: ignore[method-assign]
    async with opened(memory, bugs=2) as kernel:
        other = await running(kernel, "blau", "web")
        await running(kernel, "acme", "web")
        assert (await remove_acme(kernel))["status"] == "removed"
        assert (await other.status("web"))["status"] == "ready"
    assert (await events_of(memory)).count("tenant_removed") == 1


@pytest.mark.parametrize("after", ["tenant_removal_started", "service_stopped", "forget", "tenant_removed"])
async def test_the_next_kernel_goes_on_wherever_it_was(autojump_clock: MockClock, after: str) -> None:
    journal = GatedJournal()
    memory, runtime = planned({"web": [Plan(stops_s=1)]}, journal=journal)
    async with crashing(memory) as kernel:
        await running(kernel, "blau", "web")
        await running(kernel, "acme", "web")
        incarnation = kernel.system.core.loop.state.tenants["acme"].incarnation
        async with trio.open_nursery() as nursery:
            if after == "forget":
                never = trio.Event()

                async def stuck(incarnation: str) -> None:
                    never.set()
                    await trio.sleep_forever()

                runtime.forget = stuck  # type: ignore[method-assign]
                nursery.start_soon(remove_acme, kernel)
                await never.wait()
            else:
                nursery.start_soon(remove_acme, kernel)
                await recorded(kernel, "web" if after == "service_stopped" else None, after)
            nursery.cancel_scope.cancel()
    memory, runtime = planned({"web": [Plan(stops_s=1)]}, journal=journal)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await kernel.system.core.removals.wait_over(incarnation)
        assert runtime.starts == {"web": 1}, "the other tenant's: nothing of a tenant that is removed is recovered"
        assert list(kernel.system.core.loop.state.tenants) == ["blau"]
        assert {row.incarnation for row in await journal.keys()} & {incarnation} == set()
    types = await events_of(memory)
    assert [types.count(each) for each in REMOVAL] == [1, 1, 1, 1]


async def test_a_shutdown_in_the_middle_waits_for_no_grace_and_the_next_goes_on(autojump_clock: MockClock) -> None:
    journal = GatedJournal()
    memory, _ = planned({"web": [Plan(stops_s=60)]}, journal=journal)
    codes: list[str] = []
    async with opened(memory) as kernel:
        await running(kernel, "acme", "web")
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(Faulted) as caught:
                    await remove_acme(kernel, 100_000)
                codes.append(caught.value.code)

            nursery.start_soon(ask)
            await recorded(kernel, None, "tenant_removal_started")
            began = trio.current_time()
            await kernel.system.core.shutdown(5, "asked")
        assert codes == ["shutting_down"] and trio.current_time() - began < 6
    async with opened(planned({}, journal=journal)[0]) as kernel:
        await recorded(kernel, None, "tenant_removed")
        assert not len(kernel.system.core.loop.state.tenants)
