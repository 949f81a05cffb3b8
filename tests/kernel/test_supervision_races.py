"""Verbs that meet other verbs, crashes and holds: nobody waits for ever, and nothing is forgotten or brought back wrongly."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from kernel_rig import Actor, Plan, PlannedRuntime, crash_after, crashing, opened, recorded
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio.embedding import Kernel, Tenant
from solo_trio.errors import SoloError
from solo_trio.kernel.staging import Idempotency, Submission
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.system import PauseSystem, ResumeSystem
from solo_trio.operations import changing
from solo_trio.operations.caller import Caller
from solo_trio.operations.inputs import checked
from solo_trio.operations.services import ServiceInput
from solo_trio.operations.settings import Settings
from solo_trio.testing import MemoryKernel

NEVER = Plan(ready_s=10_000)
BAD_AT_10 = Plan(ready_s=1_000, ends_s=10)
SLOW = {"limits": {"start_timeout_s": 600}}


async def code_of(what: Any) -> str:
    """What it is refused with; "" if it is not."""
    with trio.fail_after(5_000):
        try:
            await what
        except SoloError as error:
            return error.code
    return ""


async def hold(kernel: Kernel, command: PauseSystem | ResumeSystem) -> None:
    await kernel.system.core.loop.submit(Submission(command, EMBEDDER))


def planned(**plans: list[Plan]) -> tuple[PlannedRuntime, MemoryKernel]:
    runtime = PlannedRuntime(plans)
    return runtime, MemoryKernel(runtimes={"process": runtime})


@pytest.mark.parametrize("first", [PauseSystem, ResumeSystem])
async def test_a_hold_that_begins_or_ends_during_a_replacement_counts_for_what_is_put_back(
    autojump_clock: MockClock, first: type[PauseSystem] | type[ResumeSystem]
) -> None:
    _, memory = planned(old=[Plan()], bad=[BAD_AT_10])
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="old")
        if first is ResumeSystem:
            await hold(kernel, PauseSystem())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(code_of, tenant.deploy("web", source="bad", replace=True, **SLOW))
            await recorded(kernel, "web", "service_deployment_started", count=2)
            await hold(kernel, first())
        await trio.sleep(100)
        shown = await tenant.status("web")
        assert (shown["status"], shown["version"], shown["held"]) == (
            ("paused", 1, True) if first is PauseSystem else ("ready", 1, False)
        )


async def test_what_was_held_before_a_replacement_runs_after_a_crash_and_an_ordinary_start(
    autojump_clock: MockClock,
) -> None:
    _, memory = planned(old=[Plan()], bad=[BAD_AT_10])
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="old")
        await hold(kernel, PauseSystem())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(code_of, tenant.deploy("web", source="bad", replace=True, **SLOW))
            await recorded(kernel, "web", "service_started", count=2)
            nursery.cancel_scope.cancel()
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await trio.sleep(100)
        shown = await (await kernel.tenant("acme")).status("web")
        assert (shown["status"], shown["version"], shown["held"]) == ("ready", 1, False)


async def test_who_restarts_hears_that_it_was_replaced(autojump_clock: MockClock) -> None:
    _, memory = planned(old=[Plan(), NEVER], new=[Plan()])
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="old", **SLOW)
        codes: list[str] = []

        async def restart() -> None:
            codes.append(await code_of(tenant.restart("web")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await recorded(kernel, "web", "service_started", count=2)
            await tenant.deploy("web", source="new", replace=True)
        assert codes == ["wrong_status"]


async def test_the_old_version_counts_for_circles_and_for_who_is_needed(autojump_clock: MockClock) -> None:
    _, memory = planned(b=[Plan()], a1=[Plan()], a2=[BAD_AT_10], b2=[Plan()])
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("b", source="b")
        await tenant.deploy("a", source="a1", depends_on=["b"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(code_of, tenant.deploy("a", source="a2", replace=True, **SLOW))
            await recorded(kernel, "a", "service_deployment_started", count=2)
            assert await code_of(tenant.deploy("b", source="b2", depends_on=["a"], replace=True)) == "dependency_cycle"
            assert await code_of(tenant.kill("b")) == "service_required"
        await trio.sleep(100)
        assert [each["status"] for each in await tenant.services()] == ["ready", "ready"]


async def test_a_limit_changed_while_it_starts_counts_for_what_is_started(autojump_clock: MockClock) -> None:
    runtime, memory = planned(it=[Plan(stops_s=0), Plan(ready_s=5)])
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", limits={"memory_mb": 200, **SLOW["limits"]})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tenant.restart, "web")
            await recorded(kernel, "web", "service_started", count=2)
            with trio.CancelScope() as scope:  # whoever asked leaves: what is recorded counts all the same
                scope.cancel()
                await tenant.update("web", limits={"memory_mb": 64})
            await tenant.update("web", limits={"fds": 32})
        found: dict[str, float] = {}
        for change in runtime.alive[-1].adjusted:
            found |= change
        assert found["fds"] == 32
        spec = (await tenant.status("web"))["spec"]
        assert spec["limits"].get("memory_mb") == found.get("memory_mb", 200)


def keyed(tenant: Tenant, key: str) -> Caller:
    caller = tenant._caller
    incarnation = caller.incarnation
    assert incarnation is not None
    return Caller(
        caller.system,
        caller.authority,
        caller.tenant_id,
        incarnation,
        idempotency=Idempotency(incarnation, key, "fingerprint"),
    )


async def ask(tenant: Tenant, verb: str, key: str) -> Any:
    given = checked(ServiceInput, service_id="web")
    with trio.fail_after(5_000):
        try:
            return (await getattr(changing, f"{verb}_service")(keyed(tenant, key), given)).body
        except SoloError as error:
            return error.code


@pytest.mark.parametrize("verb", ["resume", "pause", "restart"])
async def test_the_same_request_again_gets_the_same_answer_whatever_happened_before(
    autojump_clock: MockClock, verb: str
) -> None:
    _, memory = planned(old=[Plan()], bad=[Plan(ready_s=9, ends_s=1)])
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="old")
        assert await code_of(tenant.deploy("web", source="bad", replace=True)) == "service_start_failed"
        if verb == "pause":
            await tenant.pause("web")
            assert await code_of(tenant.deploy("web", source="bad", replace=True)) == "service_start_failed"
        first = await ask(tenant, verb, "key")
        assert first["version"] == 1
        assert await ask(tenant, verb, "key") == first
        await hold(kernel, PauseSystem())
        await hold(kernel, ResumeSystem())
        await recorded(kernel, "web", "service_started")
        for key in ("key", "other", "other"):
            assert (await ask(tenant, verb, key))["version"] == 1
        await tenant.update("web", max_restarts=1)
        assert await ask(tenant, verb, "key") == first
        await tenant.kill("web")
        assert await ask(tenant, verb, "key") == first


async def test_resuming_what_restarts_after_a_crash_waits_until_it_is_ready(autojump_clock: MockClock) -> None:
    _, memory = planned(it=[Plan(ends_s=1), Plan(ready_s=3)])
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it")
        await recorded(kernel, "web", "service_crashed")
        answer = await tenant.resume("web")
        shown = await tenant.status("web")
        assert (answer["status"], shown["status"], answer["revision"]) == ("ready", "ready", shown["revision"])


async def test_deploying_what_is_held_before_its_first_start_does_not_hang(autojump_clock: MockClock) -> None:
    runtime, memory = planned(it=[NEVER, Plan()])
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(tenant.deploy, "web", source="it", **SLOW))
            await recorded(kernel, "web", "service_started")
            await wait_all_tasks_blocked()
            assert len(runtime.alive) == 1
            nursery.cancel_scope.cancel()
    memory.settings = Settings(start_paused=True, boot_loop_starts=0)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        assert await code_of(tenant.deploy("web", source="it", **SLOW)) == "wrong_status"
        assert (await tenant.resume("web"))["status"] == "ready"
        assert (await tenant.deploy("web", source="it", **SLOW))["status"] == "ready"


async def test_who_resumes_a_first_start_hears_why_it_failed(autojump_clock: MockClock) -> None:
    _, memory = planned(it=[NEVER, Plan(ready_s=9, ends_s=1)])
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(tenant.deploy, "web", source="it", **SLOW))
            await recorded(kernel, "web", "service_started")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    memory.settings = Settings(start_paused=True, boot_loop_starts=0)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        assert await code_of(tenant.resume("web")) == "service_start_failed"


async def test_who_waits_for_a_start_hears_that_a_dependency_was_paused(autojump_clock: MockClock) -> None:
    _, memory = planned(a=[Plan(ends_s=5), NEVER], b=[Plan()])
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("a", source="a", **SLOW)
        await tenant.deploy("b", source="b", depends_on=["a"])
        await recorded(kernel, "a", "service_started", count=2)
        codes: list[str] = []

        async def restart() -> None:
            codes.append(await code_of(tenant.restart("b")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await wait_all_tasks_blocked()
            await tenant.pause("a")
        assert codes == ["dependency_not_running"]


async def test_the_answer_to_a_change_is_of_that_change_however_many_there_were(autojump_clock: MockClock) -> None:
    _, memory = planned(it=[Plan()])
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it")
        for number in range(300):
            answer = await tenant.update("web", max_restarts=number % 7 + 6)
            assert answer["spec"]["restart_limits"]["max_restarts"] == number % 7 + 6


async def test_ephemeral_callables_are_let_go_of(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for _ in range(20):
            await tenant.deploy("web", Actor(), ephemeral=True)
            await tenant.deploy("web", Actor(), ephemeral=True, replace=True)
            await tenant.kill("web")
        assert await code_of(tenant.deploy("web", Actor(crash_after(0)), ephemeral=True, limits={"fds": 1})) != ""
        assert len(tenant._callables) == 0
    life, other = Actor(), Actor()
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("done", life, ephemeral=True, restart="temporary")
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("done", other, ephemeral=True, restart="temporary")
        assert other.alive == 1
