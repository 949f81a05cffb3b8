"""The supervision table, rows 13 to 15 and 17: stopping, shutting down, and errors that must stay a service's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from kernel_rig import (
    DEPLOYED,
    Actor,
    Plan,
    PlannedRuntime,
    SlowActor,
    forever,
    history,
    opened,
    recorded,
    story,
    stubborn,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio import service
from solo_trio.errors import Faulted, JournalFailed, Rejected, SoloError
from solo_trio.kernel.siblings import START_LIMIT_PER_TENANT
from solo_trio.operations.changing import KILL_MARGIN_S, TASK_MARGIN_S
from solo_trio.operations.settings import Settings
from solo_trio.testing import FaultyJournal, MemoryKernel


class OwnError(BaseException):
    """Not an `Exception`, as some libraries have them."""


async def attempt(codes: list[str], what: Callable[[], Awaitable[Any]]) -> None:
    try:
        await what()
    except SoloError as error:
        codes.append(error.code)


# -- 13: one service is stopped


async def test_row_13_a_graceful_stop_ends_it_by_itself(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(2)  # it tidies up

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        assert await tenant.kill("web") == {"service_id": "web", "status": "stopped", "reason": "stopped"}
        assert trio.current_time() == pytest.approx(2) and actor.alive == 0
    assert await story(memory, "web") == [*DEPLOYED, "killed", "stopped stopped"]


@pytest.mark.parametrize("grace_ms", [0, 1, 700, 30_000])
async def test_row_13_deaf_to_a_request_it_is_killed_after_the_grace(autojump_clock: MockClock, grace_ms: int) -> None:
    runtime = PlannedRuntime({"it": [Plan(dies_s=0.25)]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it")
        assert await tenant.kill("web", grace_ms=grace_ms) == {
            "service_id": "web",
            "status": "stopped",
            "reason": "killed",
        }
        assert trio.current_time() == pytest.approx(grace_ms / 1_000 + 0.25)
    assert await story(memory, "web") == [*DEPLOYED, "killed", "stopped killed"]


async def test_row_13_without_a_grace_of_its_own_the_stop_timeout_counts(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(runtimes={"process": PlannedRuntime({"it": [Plan()]})})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", limits={"stop_timeout_s": 1.5})
        await tenant.kill("web")
        assert trio.current_time() == pytest.approx(1.5)


async def test_row_13_force_is_no_grace_at_all(autojump_clock: MockClock) -> None:
    actor = Actor()
    runtime = PlannedRuntime({"it": [Plan(stops_s=0.01)]})
    memory = MemoryKernel({"it": actor}, runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it")
        await tenant.deploy("task", actor)
        for service_id in ("web", "task"):
            assert (await tenant.kill(service_id, force=True))["reason"] == "killed"
        assert trio.current_time() == 0.0
    assert await story(memory, "web") == [*DEPLOYED, "killed", "stopped killed"]


async def test_asked_to_stop_while_it_is_being_killed_it_is_gone_when_that_is_answered(
    autojump_clock: MockClock,
) -> None:
    """Found by the simulation: it was answered at once, and the next of that id ran beside the one that was dying."""
    runtime = PlannedRuntime({"it": [Plan(dies_s=8), Plan()]})
    memory, codes = MemoryKernel(runtimes={"process": runtime}), list[str]()
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", limits={"stop_timeout_s": 1.0})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, codes, lambda: tenant.restart("web"))
            await trio.sleep(2)  # killed, and still dying
            await tenant.kill("web", grace_ms=0)
            assert trio.current_time() == pytest.approx(9) and runtime.alive[0].ended.is_set()
        await tenant.deploy("web", source="it")
    assert codes == ["service_deleted"]


async def test_a_pause_is_not_answered_as_done_by_a_kernel_that_ends_meanwhile(autojump_clock: MockClock) -> None:
    """Found by the simulation: the disk fails while the paused service is still dying."""
    journal, codes = FaultyJournal(), list[str]()
    memory = MemoryKernel(journal=journal, runtimes={"process": PlannedRuntime({"it": [Plan(dies_s=8)]})})
    async with trio.open_nursery() as nursery:
        with pytest.raises(JournalFailed):
            async with memory.open() as kernel:
                tenant = await kernel.tenant("acme")
                await tenant.deploy("web", source="it", limits={"stop_timeout_s": 1.0})
                nursery.start_soon(attempt, codes, lambda: tenant.pause("web"))
                await trio.sleep(2)  # killed, and still dying
                journal.fail()
                await attempt([], lambda: tenant.set_secret("name", "value"))
                await trio.sleep_forever()
    assert codes == ["shutting_down"]


@pytest.mark.parametrize("force", [False, True])
async def test_row_13_a_shielded_task_is_unresponsive_at_the_end_of_grace(
    autojump_clock: MockClock, force: bool
) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        await stubborn(60)

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        answer = await tenant.kill("web", grace_ms=3_000, force=force)
        assert answer == {"service_id": "web", "status": "stopping", "unresponsive": True}
        assert trio.current_time() == pytest.approx((0 if force else 3) + TASK_MARGIN_S)
        assert (await tenant.status("web"))["status"] == "stopping" and actor.alive == 1
        for refused in (tenant.deploy("web", actor), tenant.restart("web")):
            with pytest.raises(Rejected) as caught:
                await refused
            assert (caught.value.code, caught.value.status) == ("service_stopping", 409)
        assert await history(memory, "web", "service_stopped") == []
        await recorded(kernel, "web", "service_stopped")
        assert trio.current_time() == pytest.approx(60) and actor.alive == 0
        assert await tenant.services() == []
        await tenant.deploy("web", actor)  # and the id is free again
    assert (await story(memory, "web"))[:6] == [*DEPLOYED, "killed", "stopped killed"]


async def test_row_13_a_process_that_outlives_its_kill_is_answered_unresponsive(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(runtimes={"process": PlannedRuntime({"it": [Plan(dies_s=100)]})})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it")
        assert (await tenant.kill("web", grace_ms=1_000))["unresponsive"] is True
        assert trio.current_time() == pytest.approx(1 + KILL_MARGIN_S)
        await recorded(kernel, "web", "service_stopped")
        assert trio.current_time() == pytest.approx(101)


async def test_row_13_a_service_that_is_still_starting_can_be_stopped(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        await trio.sleep_forever()

    actor = SlowActor(start)
    memory = MemoryKernel({"it": actor})
    codes: list[str] = []
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def deploying() -> None:
                with pytest.raises(Rejected) as caught:
                    await tenant.deploy("web", actor)
                codes.append(caught.value.code)

            await trio.sleep(1)
            assert (await tenant.kill("web"))["reason"] == "stopped"
        assert trio.current_time() == pytest.approx(1)
        assert codes == ["service_deleted"] and await tenant.services() == []
    assert await story(memory, "web") == ["deployment_started", "started deploy", "killed", "stopped stopped"]


@pytest.mark.parametrize("sooner", [{"force": True}, {"grace_ms": 1_000}, {"grace_ms": 900_000 - 300_000}])
async def test_row_13_asking_again_with_less_patience_shortens_the_grace(
    autojump_clock: MockClock, sooner: dict[str, Any]
) -> None:
    memory = MemoryKernel(runtimes={"process": PlannedRuntime({"it": [Plan(dies_s=0.5)]})})
    answers: list[dict[str, Any]] = []
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it")

        async def kill(**how: Any) -> None:
            answers.append(await tenant.kill("web", **how))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(kill, grace_ms=600_000))
            await trio.sleep(10)
            nursery.start_soon(partial(kill, **sooner))
        assert answers == [{"service_id": "web", "status": "stopped", "reason": "killed"}] * 2
        grace_s = {"force": 10.0, "grace_ms": 10 + sooner.get("grace_ms", 0) / 1_000}[next(iter(sooner))]
        assert trio.current_time() == pytest.approx(min(600.0, grace_s) + 0.5)
        assert await tenant.services() == []


@pytest.mark.parametrize("how", ["delete", "shutdown"])
async def test_row_13_a_runtime_that_does_not_answer_holds_up_no_stop(autojump_clock: MockClock, how: str) -> None:
    class Stuck(PlannedRuntime):
        async def start(self, launch: Any, nursery: trio.Nursery) -> Any:
            await trio.sleep(1_000)
            return await super().start(launch, nursery)

    memory, codes = MemoryKernel(runtimes={"process": Stuck({"it": [Plan()]})}), list[str]()
    async with trio.open_nursery() as nursery, opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        nursery.start_soon(attempt, codes, partial(tenant.deploy, "web", source="it"))
        await trio.sleep(1)
        if how == "delete":
            assert (await tenant.kill("web"))["status"] == "stopped"
            assert trio.current_time() == pytest.approx(1)
    assert trio.current_time() <= 1 + 5
    assert codes == (["service_deleted"] if how == "delete" else ["shutting_down"])


async def test_row_13_starts_that_time_out_and_do_not_die_take_no_places(autojump_clock: MockClock) -> None:
    plans = {"deaf": [Plan(ready_s=1e9, dies_s=1e5)], "good": [Plan(stops_s=0)]}
    memory, codes = MemoryKernel(runtimes={"process": PlannedRuntime(plans)}), list[str]()
    async with trio.open_nursery() as nursery, opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for number in range(START_LIMIT_PER_TENANT):
            nursery.start_soon(attempt, codes, partial(tenant.deploy, f"deaf-{number}", source="deaf"))
        await wait_all_tasks_blocked()
        assert (await tenant.deploy("good", source="good"))["status"] == "ready"
        assert trio.current_time() == pytest.approx(5)  # when the others had timed out
    assert codes == ["shutting_down"] * START_LIMIT_PER_TENANT


# -- 14: a tenant, or all of the kernel, is shut down


async def test_row_14_a_shutdown_takes_one_shared_timeout(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(runtimes={"process": PlannedRuntime({"deaf": [Plan()], "good": [Plan(stops_s=0.5)]})})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for number in range(20):
            await tenant.deploy(f"deaf-{number}", source="deaf")
            await tenant.deploy(f"good-{number}", source="good")
        before = trio.current_time()
    assert 1 < trio.current_time() - before <= 5
    [complete] = await history(memory, None, "system_shutdown_complete")
    assert complete.event.killed == 20  # type: ignore[union-attr]
    assert await history(memory, None, "service_stopped", "service_crashed", "service_killed") == []


async def test_row_14_shielded_tasks_share_the_timeout_too(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(4)

    actors = {f"s{number}": Actor(behave) for number in range(20)}
    memory = MemoryKernel(actors)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for name, actor in actors.items():
            await tenant.deploy(name, actor)
    assert trio.current_time() == pytest.approx(4)
    assert [actor.alive for actor in actors.values()] == [0] * 20


@pytest.mark.parametrize("how", ["delete", "restart"])
async def test_row_14_a_stop_under_way_takes_part_in_the_timeout_of_the_shutdown(
    autojump_clock: MockClock, how: str
) -> None:
    memory = MemoryKernel(
        runtimes={"process": PlannedRuntime({"deaf": [Plan()]})}, settings=Settings(shutdown_timeout_ms=2_000)
    )
    codes: list[str] = []
    async with trio.open_nursery() as nursery, opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="deaf", limits={"stop_timeout_s": 500})
        stop = partial(tenant.kill, "web") if how == "delete" else partial(tenant.restart, "web")
        nursery.start_soon(attempt, codes, stop)
        await trio.sleep(10)
        before = trio.current_time()
    assert 1 < trio.current_time() - before <= 2
    assert codes == ["shutting_down"]
    [complete] = await history(memory, None, "system_shutdown_complete")
    assert complete.event.killed == 1  # type: ignore[union-attr]
    assert (await story(memory, "web"))[4:] == (
        ["killed", "stopped killed"] if how == "delete" else ["restart_requested"]
    )


@pytest.mark.parametrize("when_s", [1, 11])
async def test_row_14_a_start_under_way_does_not_hold_up_a_shutdown(autojump_clock: MockClock, when_s: float) -> None:
    runtime = PlannedRuntime({"deaf": [Plan(ready_s=1e9, dies_s=50)]})
    memory = MemoryKernel(runtimes={"process": runtime}, settings=Settings(shutdown_timeout_ms=2_000))
    codes: list[str] = []
    async with trio.open_nursery() as nursery, opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        limits = {"start_timeout_s": 10}
        nursery.start_soon(attempt, codes, partial(tenant.deploy, "web", source="deaf", limits=limits))
        await trio.sleep(when_s)  # before, and after the start timed out
        before = trio.current_time()
    assert trio.current_time() - before == pytest.approx(2)
    assert codes == ["shutting_down"]
    assert await story(memory, "web") == ["deployment_started", "started deploy"]


async def test_row_14_an_unkillable_stop_at_the_end_of_a_shutdown_is_finished_by_the_next_start(
    autojump_clock: MockClock,
) -> None:
    memory = MemoryKernel(runtimes={"process": PlannedRuntime({"deaf": [Plan(dies_s=1e6)]})})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="deaf")
        assert (await tenant.kill("web", grace_ms=0))["unresponsive"] is True
        before = trio.current_time()
    assert trio.current_time() - before == pytest.approx(5)
    assert await history(memory, "web", "service_stopped") == []
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        assert await (await kernel.tenant("acme")).services() == []
    assert (await story(memory, "web"))[-2:] == ["killed", "stopped kernel_restarted"]


async def test_row_14_who_waits_is_told_that_the_kernel_closes(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        await trio.sleep_forever()

    actor = SlowActor(start)
    memory = MemoryKernel({"it": actor})
    codes: list[str] = []
    async with trio.open_nursery() as nursery, opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        nursery.start_soon(attempt, codes, partial(tenant.deploy, "web", actor))
        await trio.sleep(1)
        nursery.start_soon(attempt, codes, partial(tenant.call, "web", "f"))
        await trio.sleep(1)
    assert codes == ["shutting_down"] * 2 and trio.current_time() == pytest.approx(2)


async def test_row_14_who_waits_outside_is_told_that_the_kernel_crashed(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        await trio.sleep_forever()

    actor = SlowActor(start)
    memory = MemoryKernel({"it": actor})
    codes: list[str] = []
    with trio.fail_after(1_000):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as crash:
                async with memory.open() as kernel:
                    tenant = await kernel.tenant("acme")
                    nursery.start_soon(attempt, codes, partial(tenant.deploy, "web", actor))
                    await trio.sleep(1)
                    nursery.start_soon(attempt, codes, partial(tenant.call, "web", "f"))
                    await trio.sleep(1)
                    crash.cancel()
    assert codes == ["shutting_down"] * 2 and trio.current_time() == pytest.approx(2)


async def test_row_14_a_second_shutdown_at_the_same_time_changes_nothing(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(runtimes={"process": PlannedRuntime({"deaf": [Plan()]})})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="deaf")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.system.core.shutdown, 5, "first")
            nursery.start_soon(kernel.system.core.shutdown, 5, "second")
        with pytest.raises(Faulted) as caught:
            await tenant.deploy("more", source="deaf")
        assert caught.value.code == "shutting_down"
    assert trio.current_time() <= 5
    assert len(await history(memory, None, "system_shutdown_started")) == 1


# -- 15: it crashes while it stops


@pytest.mark.parametrize("force", [False, True])
async def test_row_15_a_crash_while_stopping_is_recorded_and_not_restarted(
    autojump_clock: MockClock, force: bool
) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cannot tidy up")

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        assert (await tenant.kill("web", force=force))["reason"] == "crashed"
        await trio.sleep(1_000)
        assert await tenant.services() == []
    assert len(actor.began) == 1
    assert await story(memory, "web") == [*DEPLOYED, "killed", "crashed", "stopped crashed"]
    [record] = await history(memory, "web", "service_crashed")
    crashed: Any = record.event
    assert crashed.reason == "ValueError: cannot tidy up" and not crashed.counted and not crashed.restart
    assert "raise ValueError" in crashed.traceback


async def test_row_15_a_crash_just_before_the_stop_leaves_nothing_running(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        await trio.sleep_until(7)
        raise ValueError("crash")

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        await trio.sleep_until(7)
        assert (await tenant.kill("web"))["reason"] in ("crashed", "stopped", "not_running")
        await trio.sleep(1_000)
        assert await tenant.services() == []
    assert len(actor.began) == 1 and actor.alive == 0


async def test_row_15_a_crash_during_a_shutdown_is_no_crash_of_the_service(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cannot tidy up")

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", actor, max_restarts=0)
    assert await story(memory, "web") == DEPLOYED
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        assert (await (await kernel.tenant("acme")).status("web"))["status"] == "ready"


# -- 17: nothing that a service raises reaches the kernel

ERRORS: dict[str, Any] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "BaseException": lambda: OwnError("own"),
    "ExceptionGroup": lambda: BaseExceptionGroup("both", [ValueError("one"), OwnError("own")]),
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "str fails": lambda: Unprintable(),
}


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit("even this")


async def mixed(error: BaseException) -> None:
    """Raises a group that mixes `Cancelled` with an error of clean-up, two levels deep."""

    async def child() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            raise BaseExceptionGroup("inner", [cancelled, error]) from None

    async with trio.open_nursery() as outer:
        outer.start_soon(trio.sleep_forever)
        async with trio.open_nursery() as inner:
            inner.start_soon(child)
            await trio.testing.wait_all_tasks_blocked()
            outer.cancel_scope.cancel()


@pytest.mark.parametrize("depth", ["bare", "nursery", "mixed with Cancelled"])
@pytest.mark.parametrize("name", ERRORS)
async def test_row_17_what_main_raises_is_a_crash_of_that_service_only(
    autojump_clock: MockClock, name: str, depth: str
) -> None:
    async def fail() -> None:
        raise ERRORS[name]()

    async def behave(number: int, ctx: service.Context) -> None:
        if number > 1:
            await trio.sleep_forever()
        await trio.sleep(1)
        if depth == "bare":
            raise ERRORS[name]()
        if depth == "nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail)
        await mixed(ERRORS[name]())

    actor, sibling, other = Actor(behave), Actor(), Actor()
    memory = MemoryKernel({"it": actor, "sibling": sibling, "other": other})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        await tenant.deploy("sibling", sibling)
        await (await kernel.tenant("blau")).deploy("other", other)
        await trio.sleep(100)
        assert (await tenant.status("web"))["status"] == "ready"
        assert sibling.alive == other.alive == 1
    assert await story(memory, "web") == [*DEPLOYED, "crashed", "started restart", "ready"]
    assert await story(memory, "sibling") == await story(memory, "other") == DEPLOYED
    [record] = await history(memory, "web", "service_crashed")
    crashed: Any = record.event
    assert crashed.counted and crashed.reason and "Cancelled" not in crashed.reason


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("depth", ["bare", "mixed with Cancelled"])
async def test_row_17_what_its_clean_up_raises_is_the_reason_of_its_end(
    autojump_clock: MockClock, name: str, depth: str
) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            if depth == "bare":
                raise ERRORS[name]() from None
            raise BaseExceptionGroup("o", [BaseExceptionGroup("i", [cancelled, ERRORS[name]()]), cancelled]) from None

    actor, sibling = Actor(behave), Actor()
    memory = MemoryKernel({"it": actor, "sibling": sibling})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("sibling", sibling)
        await tenant.deploy("web", actor)
        assert (await tenant.kill("web"))["reason"] == "crashed"
        await tenant.deploy("web", actor)  # and its end in a shutdown, too, is nobody else's
        assert sibling.alive == 1
    assert await story(memory, "web") == [*DEPLOYED, "killed", "crashed", "stopped crashed", *DEPLOYED]
    assert await story(memory, "sibling") == DEPLOYED


@pytest.mark.parametrize("depth", ["bare", "mixed with Cancelled"])
@pytest.mark.parametrize("name", [*ERRORS, "ValueError"])
async def test_row_17_what_a_called_function_raises(autojump_clock: MockClock, name: str, depth: str) -> None:
    error = ERRORS.get(name, lambda: ValueError("no"))

    @service.export
    async def fail() -> None:
        if depth == "bare":
            raise error()
        await mixed(error())

    @service.export
    async def works() -> int:
        return 5

    web = SimpleNamespace(fail=fail, works=works)
    sibling = Actor()
    memory = MemoryKernel({"it": web, "sibling": sibling})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("sibling", sibling)
        await tenant.deploy("web", web)
        with pytest.raises(Faulted) as caught:
            await tenant.call("web", "fail")
        ordinary = isinstance(error(), Exception)
        assert caught.value.code == ("call_failed" if ordinary else "call_interrupted")
        if not ordinary:  # it was the end of the program
            await recorded(kernel, "web", "service_crashed")
        assert await tenant.call("web", "works") == 5  # waits for the restart
        await trio.sleep(100)
        assert sibling.alive == 1
    crash = [] if ordinary else ["crashed", "started restart", "ready"]
    assert await story(memory, "web") == [*DEPLOYED, *crash]
    assert await story(memory, "sibling") == DEPLOYED


@pytest.mark.parametrize("name", ERRORS)
async def test_row_17_what_a_start_raises_refuses_the_deploy(autojump_clock: MockClock, name: str) -> None:
    async def start(number: int) -> None:
        raise ERRORS[name]()

    actor, sibling = SlowActor(start), Actor(forever)
    memory = MemoryKernel({"it": actor, "sibling": sibling})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("sibling", sibling)
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("web", actor)
        assert caught.value.code == "service_start_failed"
        assert sibling.alive == 1
