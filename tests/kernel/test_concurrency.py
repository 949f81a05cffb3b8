"""Verbs against each other: whatever the order, what is wanted runs exactly once and nothing else does."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any

import pytest
import trio
from kernel_rig import (
    DEPLOYED,
    Actor,
    FixedEntropy,
    GatedJournal,
    Plan,
    PlannedRuntime,
    SlowActor,
    crash_after,
    history,
    opened,
    recorded,
    story,
    stubborn,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio import service
from solo_trio.embedding import Kernel, Tenant
from solo_trio.errors import Faulted, Rejected, SoloError
from solo_trio.model.service import Status
from solo_trio.model.state import fold
from solo_trio.testing import MemoryKernel

# -- restart by hand


async def test_a_restart_by_hand_while_running_stops_then_starts(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(2)

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        assert (await tenant.restart("web"))["status"] == "ready"
        assert trio.current_time() == pytest.approx(2)
        assert actor.began == [0.0, pytest.approx(2)] and actor.alive_max == 1
    assert await story(memory, "web") == [*DEPLOYED, "restart_requested", "started manual", "ready"]


async def test_a_restart_by_hand_kills_what_is_deaf_after_its_stop_timeout(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"it": [Plan(), Plan(stops_s=0)]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", limits={"stop_timeout_s": 3})
        await tenant.restart("web")
        assert trio.current_time() == pytest.approx(3)
    assert await history(memory, "web", "service_crashed") == []


async def test_a_restart_by_hand_in_backoff_starts_at_once(autojump_clock: MockClock) -> None:
    actor = Actor(crash_after(0))
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=1_000, max_seconds=86_400)
        await trio.sleep(1_000)
        before, starts = trio.current_time(), len(actor.began)
        assert (await tenant.restart("web"))["status"] == "ready"
        assert actor.began[starts:] == [before]
        await recorded(kernel, "web", "service_started", count=starts + 2)
        assert trio.current_time() - before <= 0.1  # and the backoff begins anew


async def test_a_restart_by_hand_whose_start_fails_says_so_and_is_retried(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        if number == 2:
            raise OSError("cannot start")

    actor = SlowActor(start)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        with pytest.raises(Rejected) as caught:
            await tenant.restart("web")
        assert caught.value.code == "service_start_failed" and "OSError" in caught.value.detail
        await recorded(kernel, "web", "service_ready", count=2)
        assert (await tenant.status("web"))["restarts"] == 1


async def test_a_restart_by_hand_of_a_first_start_or_of_nothing_is_refused(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        await trio.sleep(2)

    actor = SlowActor(start)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel, trio.open_nursery() as nursery:
        tenant = await kernel.tenant("acme")
        nursery.start_soon(tenant.deploy, "web", actor)
        await trio.sleep(1)
        for service_id, code in (("web", "service_not_running"), ("none", "service_not_found")):
            with pytest.raises(Rejected) as caught:
                await tenant.restart(service_id)
            assert caught.value.code == code
    assert len(actor.began) == 1


async def test_two_restarts_at_once_both_end_with_one_that_runs(autojump_clock: MockClock) -> None:
    actor, views = Actor(), list[dict[str, Any]]()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)

        async def restart() -> None:
            views.append(await tenant.restart("web"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(restart)
        assert [view["status"] for view in views] == ["ready"] * 5
        assert actor.alive == actor.alive_max == 1


# -- deleting


async def test_deleting_twice_at_once_answers_both(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(1)

    actor, answers = Actor(behave), list[dict[str, Any]]()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)

        async def kill(after_s: float) -> None:
            await trio.sleep(after_s)
            answers.append(await tenant.kill("web"))

        async with trio.open_nursery() as nursery:
            for after_s in (0, 0, 0.5):
                nursery.start_soon(kill, after_s)
        assert answers == [{"service_id": "web", "status": "stopped", "reason": "stopped"}] * 3
        with pytest.raises(Rejected) as caught:
            await tenant.kill("web")
        assert (caught.value.code, caught.value.status) == ("service_not_found", 404)
    assert await story(memory, "web") == [*DEPLOYED, "killed", "stopped stopped"]


@pytest.mark.parametrize("delete_first", [False, True])
async def test_a_deploy_and_a_delete_at_once(autojump_clock: MockClock, delete_first: bool) -> None:
    actor, outcomes = Actor(), dict[str, str]()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")

        async def attempt(name: str, what: Any) -> None:
            try:
                outcomes[name] = (await what())["status"]
            except SoloError as error:
                outcomes[name] = error.code

        order = [("deploy", partial(tenant.deploy, "web", actor)), ("delete", partial(tenant.kill, "web"))]
        async with trio.open_nursery() as nursery:
            for name, what in reversed(order) if delete_first else order:
                nursery.start_soon(attempt, name, what)
                if delete_first:
                    await wait_all_tasks_blocked()
        listed = await tenant.services()
        assert outcomes in (
            {"deploy": "ready", "delete": "service_not_found"},
            {"deploy": "ready", "delete": "stopped"},
            {"deploy": "service_deleted", "delete": "stopped"},
        )
        assert len(listed) == actor.alive == (outcomes["delete"] == "service_not_found")


async def test_a_deploy_in_the_same_batch_as_the_end_of_its_predecessor_gets_a_supervisor_of_its_own(
    autojump_clock: MockClock,
) -> None:
    async def start(number: int) -> None:
        if number == 1:
            await trio.sleep(1)
            raise OSError("cannot start")

    journal, actor, codes = GatedJournal(), SlowActor(start), list[str]()
    memory = MemoryKernel({"it": actor}, journal=journal)

    async def deploy(tenant: Tenant, max_restarts: int) -> None:
        try:
            codes.append((await tenant.deploy("web", actor, max_restarts=max_restarts))["status"])
        except Rejected as error:
            codes.append(error.code)

    async with opened(memory) as kernel, trio.open_nursery() as nursery:
        tenant = await kernel.tenant("acme")
        nursery.start_soon(deploy, tenant, 1)
        await trio.sleep(0.5)
        journal.hold()
        nursery.start_soon(kernel.tenant, "other")  # its append is held up, and what follows gathers behind it
        await trio.sleep(1)
        nursery.start_soon(deploy, tenant, 2)
        await wait_all_tasks_blocked()
        journal.gate.set()
        with trio.fail_after(10):
            await recorded(kernel, "web", "service_deployed")
        await wait_all_tasks_blocked()
        assert sorted(codes) == ["ready", "service_start_failed"] and actor.alive == 1
    assert ["service_deployment_failed", "service_deployment_started"] in journal.appends


async def test_of_many_deploys_at_once_one_wins(autojump_clock: MockClock) -> None:
    actor, codes = Actor(), Counter[str]()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")

        async def deploy(number: int) -> None:
            try:
                await tenant.deploy("web", actor, config={"number": number})
                codes["ready"] += 1
            except Rejected as error:
                codes[error.code] += 1

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(deploy, number)
    assert codes == {"ready": 1, "service_exists": 29}
    assert len(actor.began) == 1


async def test_a_quota_holds_against_deploys_at_once(autojump_clock: MockClock) -> None:
    actor, codes = Actor(), Counter[str]()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")

        async def deploy(number: int) -> None:
            try:
                await tenant.deploy(f"s{number}", actor)
                codes["ready"] += 1
            except Rejected as error:
                codes[error.code] += 1

        async with trio.open_nursery() as nursery:
            for number in range(150):
                nursery.start_soon(deploy, number)
    assert codes == {"ready": 100, "quota_exceeded": 50} and len(actor.began) == 100


async def test_calls_in_flight_when_the_service_is_deleted_are_answered(autojump_clock: MockClock) -> None:
    @service.export
    async def slow() -> None:
        await trio.sleep(20)

    codes: list[str] = []
    web = {"slow": slow}
    memory = MemoryKernel({"it": web})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", web)

        async def call() -> None:
            with pytest.raises(Faulted) as caught:
                await tenant.call("web", "slow")
            codes.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            nursery.start_soon(call)
            await trio.sleep(1)
            assert (await tenant.kill("web"))["reason"] == "stopped"
    assert codes == ["call_interrupted"] * 2 and trio.current_time() == pytest.approx(1)


# -- defects of our own are contained to one service


async def test_a_defect_of_a_supervising_task_ends_that_run_and_the_service_runs_again(
    autojump_clock: MockClock,
) -> None:
    class Broken(PlannedRuntime):
        async def start(self, launch: Any, nursery: trio.Nursery) -> Any:
            running = await super().start(launch, nursery)
            if launch.service_id == "web" and self.starts["web"] == 2:
                raise ZeroDivisionError("a defect of the runtime")
            return running

    memory = MemoryKernel(runtimes={"process": Broken({"it": [Plan(stops_s=0)]})})
    async with opened(memory, bugs=1) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it")
        await tenant.deploy("sibling", source="it")
        with pytest.raises(Rejected):
            await tenant.restart("web")
        await recorded(kernel, "web", "service_ready", count=2)
        assert {each["status"] for each in await tenant.services()} == {"ready"}
    assert memory.telemetry.bug_count == 1
    assert await story(memory, "sibling") == DEPLOYED
    [crash] = await history(memory, "web", "service_crashed")
    assert not crash.event.counted  # type: ignore[union-attr]


# -- many random operations at once


class Population:
    """Services that write themselves down: what runs is what is in `alive`, twice if it runs twice."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.alive: Counter[tuple[str, str]] = Counter()
        self.twice: list[tuple[str, str]] = []

    async def main(self, ctx: service.Context, task_status: Any) -> None:
        luck = random.Random(f"{self.seed} {ctx.tenant_id} {ctx.service_id} {ctx.generation} {trio.current_time()}")
        key = (ctx.tenant_id, ctx.service_id)
        self.alive[key] += 1
        if self.alive[key] > 1:
            self.twice.append(key)
        try:
            await trio.sleep(luck.choice([0, 0, 0.2, 7]))
            if luck.random() < 0.1:
                raise OSError("cannot start")
            task_status.started()
            await trio.sleep(luck.choice([0, 0.3, 4, 1_000, 1_000]))
            if luck.random() < 0.8:
                raise luck.choice([ValueError, SystemExit, KeyboardInterrupt])("crash")
        finally:
            await stubborn(luck.choice([0, 0, 0, 0.5, 6]))
            self.alive[key] -= 1
            if luck.random() < 0.1:
                raise RuntimeError("cannot tidy up")


async def client(tenant: Tenant, target: object, luck: random.Random, steps: int, codes: Counter[str]) -> None:
    for _ in range(steps):
        await trio.sleep(luck.choice([0, 0, 0.05, 1, 3]))
        service_id = f"s{luck.randrange(8)}"
        what = luck.choices(["deploy", "restart", "kill", "call", "read"], [6, 3, 3, 2, 1])[0]
        with trio.CancelScope() as scope:
            if luck.random() < 0.15:
                scope.deadline = trio.current_time() + luck.choice([0, 0.1, 2])  # a client that goes away
            try:
                if what == "deploy":
                    restart: Any = luck.choice(["permanent", "permanent", "transient", "temporary"])
                    await tenant.deploy(service_id, target, restart=restart, max_restarts=luck.choice([0, 2, 5]))
                elif what == "restart":
                    await tenant.restart(service_id)
                elif what == "kill":
                    await tenant.kill(service_id, grace_ms=luck.choice([0, 500, 5_000]), force=luck.random() < 0.3)
                elif what == "call":
                    await tenant.call(service_id, "nothing")
                else:
                    await tenant.services()
                codes[f"{what} done"] += 1
            except SoloError as error:
                codes[f"{what} {error.code}"] += 1


def check_population(kernel: Kernel, population: Population) -> None:
    """Each ready service runs exactly once; what is given up, stopped, deleted or waits does not run."""
    state = kernel.system.core.loop.state
    expected = Counter({(t.tenant_id, s.service_id): 1 for t, s in state.services() if s.status is Status.READY})
    may_run = {
        (t.tenant_id, s.service_id)
        for t, s in state.services()
        if s.status in (Status.STARTING, Status.RESTARTING, Status.STOPPING)
    }
    running = Counter({key: count for key, count in population.alive.items() if count and key not in may_run})
    assert running == expected, [(t.tenant_id, s) for t, s in state.services()]
    assert population.twice == []


@pytest.mark.parametrize("seed", range(4))
async def test_random_operations_at_once_keep_state_log_and_world_together(
    autojump_clock: MockClock, seed: int
) -> None:
    population, codes = Population(seed), Counter[str]()
    memory = MemoryKernel({"it": population.main}, entropy=FixedEntropy(0.3))
    target = memory.callables["it"]
    for round_ in range(2):
        async with opened(memory) as kernel:
            await kernel.wait_recovered()
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    tenant = await kernel.tenant(f"t{number % 3}")
                    luck = random.Random(f"{seed} {round_} {number}")
                    nursery.start_soon(client, tenant, target, luck, 40, codes)
            await wait_all_tasks_blocked()
            check_population(kernel, population)
            assert kernel.system.core.loop.state == fold(await history(memory))
            await trio.sleep(500)
            await wait_all_tasks_blocked()
            check_population(kernel, population)
            supervised = {
                (tenant_id, service_id)
                for tenant_id, each in kernel.system.core.tenants.items()
                for service_id in each.supervisors
            }
            wanted = {
                (t.tenant_id, s.service_id)
                for t, s in kernel.system.core.loop.state.services()
                if s.wants_to_run or s.stop is not None
            }
            assert supervised == wanted  # no supervising task is left behind, none is missing
            assert kernel.system.core.hub._follows == {}
        assert not +population.alive, f"seed {seed}: left running after the shutdown"
    assert not any("kernel_bug" in code for code in codes), f"seed {seed}: {codes}"
    assert codes["deploy done"] > 100 and codes["kill done"] > 100 and codes["restart done"] > 20, codes


@pytest.mark.parametrize("seed", range(6))
async def test_random_operations_with_crashes_of_the_kernel_between(autojump_clock: MockClock, seed: int) -> None:
    population, codes = Population(seed), Counter[str]()
    memory = MemoryKernel({"it": population.main})
    target, luck = memory.callables["it"], random.Random(seed)
    for round_ in range(5):
        with trio.CancelScope() as crash:
            async with memory.open() as kernel:
                tenant = await kernel.tenant("acme")
                async with trio.open_nursery() as nursery:
                    for number in range(10):
                        nursery.start_soon(
                            client, tenant, target, random.Random(f"{seed} {round_} {number}"), 30, codes
                        )
                    await trio.sleep(luck.choice([0, 0.01, 2, 20]))
                    crash.cancel()
        assert not +population.alive  # a crash leaves nothing running either
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await wait_all_tasks_blocked()
        check_population(kernel, population)
    assert population.twice == [] and memory.telemetry.bug_count == 0
