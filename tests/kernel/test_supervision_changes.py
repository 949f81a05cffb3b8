"""The supervision table, rows 19 and 23, and replacing: what somebody may change about a service that is there."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import pytest
import trio
from kernel_rig import (
    DEPLOYED,
    Actor,
    Plan,
    PlannedRuntime,
    SlowActor,
    crash_after,
    crashing,
    history,
    opened,
    recorded,
    story,
    stubborn,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio import service
from solo_trio.errors import Faulted, Rejected, SoloError
from solo_trio.kernel.calls import CALLS_HELD_MAX
from solo_trio.kernel.staging import Submission
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.service import VERSIONS_MAX
from solo_trio.model.system import PauseSystem
from solo_trio.operations.deploying import digest_of
from solo_trio.operations.settings import Settings
from solo_trio.testing import MemoryKernel

LONG_S = 10_000


async def refused(what: Any) -> str:
    with pytest.raises(SoloError) as caught:
        await what
    return caught.value.code


async def kept(memory: MemoryKernel, *sources: str) -> set[str]:
    """Which of `sources` the journal still has."""
    found = set()
    for source in sources:
        with contextlib.suppress(Faulted):
            found.add((await memory.journal.artifact(digest_of(source.encode()))).content.decode())
    return found


# -- 19: the specification changes


async def test_row_19_a_new_policy_counts_at_once(autojump_clock: MockClock) -> None:
    actor = Actor(crash_after(1))
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=100, max_seconds=LONG_S)
        await recorded(kernel, "web", "service_crashed", count=2)
        answer = await tenant.update("web", max_restarts=3)
        assert answer["spec"]["restart_limits"] == {"max_restarts": 3, "max_seconds": LONG_S}
        await recorded(kernel, "web", "service_given_up")
        assert len(await history(memory, "web", "service_crashed")) == 4, "those before the change count too"
        await tenant.restart("web")
        before = len(await history(memory, "web", "service_crashed"))
        await tenant.update("web", restart="temporary")
        await recorded(kernel, "web", "service_crashed", count=before + 1)
        await trio.sleep(100)
        assert (await tenant.status("web"))["status"] == "stopped"


async def test_row_19_limits_count_for_what_runs_where_they_can(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"it": [Plan(stops_s=50)]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", limits={"fds": 64})
        answer = await tenant.update("web", limits={"memory_mb": 128, "threads": 4, "stop_timeout_s": 2})
        assert answer["applies_at_next_start"] == ["threads"]
        assert runtime.alive[0].adjusted == [{"memory_mb": 128, "threads": 4}]
        shown = await tenant.status("web")
        assert shown["spec"]["limits"] == {"fds": 64, "memory_mb": 128, "threads": 4, "stop_timeout_s": 2}
        before = trio.current_time()
        await tenant.pause("web")
        assert trio.current_time() - before == pytest.approx(2), "the new time-out"


async def test_row_19_a_bad_change_is_refused_and_changes_nothing(autojump_clock: MockClock) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        shown, before = await tenant.status("web"), await history(memory)
        bad: list[dict[str, Any]] = [
            {"restart": "always"},
            {"max_restarts": -1},
            {"max_restarts": 1.5},
            {"max_seconds": 0},
            {"max_seconds": float("inf")},
            {"limits": {"memory_mb": 1}},
            {"limits": {"memory": 100}},
            {"limits": {"fds": "64"}},
            {"limits": {"fds": 64, "threads": 0}},
        ]
        for change in bad:
            with pytest.raises(Rejected) as caught:
                await tenant.update("web", **change)
            assert caught.value.status == 400
        assert await refused(tenant.update("nobody", max_restarts=1)) == "service_not_found"
        assert await history(memory) == before
        assert (await tenant.status("web"))["spec"] == shown["spec"]
        await tenant.update("web", restart="permanent", max_restarts=5)  # as it is: nothing to record
        assert await history(memory) == before


async def test_row_19_a_change_survives_a_crash_of_the_kernel(autojump_clock: MockClock) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        await tenant.update("web", restart="transient", limits={"start_timeout_s": 7})
    async with opened(memory) as kernel:
        spec = (await (await kernel.tenant("acme")).status("web"))["spec"]
        assert spec["restart"] == "transient" and spec["limits"] == {"start_timeout_s": 7}


# -- 23: paused


async def test_row_23_paused_it_is_kept_and_nothing_starts_it(autojump_clock: MockClock) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        assert (await tenant.pause("web"))["status"] == "paused"
        assert actor.alive == 0
        assert await refused(tenant.restart("web")) == "wrong_status"
        assert (await tenant.pause("web"))["status"] == "paused"  # again: nothing to record
        await trio.sleep(LONG_S)
        assert len(actor.began) == 1
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await trio.sleep(LONG_S)
        tenant = await kernel.tenant("acme")
        assert (await tenant.status("web"))["status"] == "paused" and len(actor.began) == 1
        assert (await tenant.resume("web"))["status"] == "ready"
        assert (await tenant.resume("web"))["status"] == "ready"  # again: nothing to record
    assert await story(memory, "web") == [*DEPLOYED, "paused", "resumed", "started resume", "ready"]


async def test_row_23_pausing_ends_what_starts_or_waits_to_be_restarted(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"it": [Plan(ends_s=1), Plan(ready_s=100, dies_s=0.25)]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", limits={"start_timeout_s": 500, "stop_timeout_s": 1})
        await recorded(kernel, "web", "service_crashed")
        await tenant.pause("web")  # in its backoff
        await trio.sleep(100)
        assert runtime.starts == {"web": 1}
        async with trio.open_nursery() as nursery:
            codes: list[str] = []

            async def resume() -> None:
                codes.append(await refused(tenant.resume("web")))

            nursery.start_soon(resume)
            await recorded(kernel, "web", "service_started", count=2)
            await wait_all_tasks_blocked()
            before = trio.current_time()
            await tenant.pause("web")  # while it starts
            assert trio.current_time() - before == pytest.approx(1.25)
        assert codes == ["wrong_status"]
        await trio.sleep(1_000)
        assert (await tenant.status("web"))["status"] == "paused" and runtime.starts == {"web": 2}


async def test_row_23_the_window_is_neither_counted_nor_emptied_by_pausing(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"it": [Plan(ends_s=1)]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", max_restarts=2, max_seconds=LONG_S)
        for number in range(1, 3):
            await recorded(kernel, "web", "service_crashed", count=number)
            await tenant.pause("web")
            await tenant.resume("web")
        await recorded(kernel, "web", "service_given_up")
        assert len(await history(memory, "web", "service_crashed")) == 3
        assert await refused(tenant.resume("web")) == "wrong_status"
        assert await refused(tenant.pause("web")) == "wrong_status"


async def test_row_23_calls_wait_for_it_up_to_a_bound_and_their_deadlines_run(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"it": [Plan()]})
    memory = MemoryKernel(runtimes={"process": runtime}, settings=Settings(call_timeout_s=20))
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", limits={"stop_timeout_s": 0})
        await tenant.pause("web")
        results: list[Any] = []

        async def call() -> None:
            try:
                results.append(await tenant.call("web", "f"))
            except SoloError as error:
                results.append((error.code, trio.current_time() - before))

        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(CALLS_HELD_MAX + 1):
                nursery.start_soon(call)
            await wait_all_tasks_blocked()
            assert results == [("service_not_running", 0)], "one too many"
        assert results[1:] == [("service_not_running", pytest.approx(20))] * CALLS_HELD_MAX
        results.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(CALLS_HELD_MAX):  # the places are free again
                nursery.start_soon(call)
            await wait_all_tasks_blocked()
            await tenant.resume("web")
        assert results == ["f"] * CALLS_HELD_MAX


async def test_row_23_deleting_a_paused_service_and_one_that_is_still_being_paused(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(3)

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tenant.pause, "web")
            await wait_all_tasks_blocked()
            assert actor.alive == 1
            assert (await tenant.kill("web"))["status"] == "stopped"
            assert actor.alive == 0, "a deletion is answered when nothing runs"
        assert await tenant.services() == []
        await tenant.deploy("web", actor)
        await tenant.pause("web")
        assert (await tenant.kill("web"))["reason"] == "not_running"


async def test_row_23_resumed_while_it_is_still_being_paused(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(3)

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tenant.pause, "web")
            await wait_all_tasks_blocked()
            assert (await tenant.resume("web"))["status"] == "ready"
        assert (actor.alive, actor.alive_max, len(actor.began)) == (1, 1, 2)


# -- 23: the kernel as a whole


async def test_row_23_started_paused_everything_is_held_and_resumed_one_by_one(autojump_clock: MockClock) -> None:
    actors = {name: Actor() for name in "abc"}
    memory = MemoryKernel(actors)
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for name, actor in actors.items():
            await tenant.deploy(name, actor)
        await tenant.pause("c")
    memory.settings = Settings(start_paused=True, boot_loop_starts=0)
    async with crashing(memory) as kernel:
        await kernel.wait_recovered()
        assert kernel.system.core.report is not None and kernel.system.core.report.held == 2
        tenant = await kernel.tenant("acme")
        assert [each["status"] for each in await tenant.services()] == ["paused"] * 3
        await trio.sleep(LONG_S)
        assert (await tenant.resume("a"))["status"] == "ready"
        await trio.sleep(LONG_S)
        assert [len(actor.began) for actor in actors.values()] == [2, 1, 1]
    memory.settings = Settings(boot_loop_starts=0)
    async with opened(memory) as kernel:  # an ordinary start lets go of what was held, not of what was paused
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        assert [each["status"] for each in await tenant.services()] == ["ready", "ready", "paused"]


# -- replacing


async def test_a_replacement_stops_the_old_version_first_and_then_runs(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await stubborn(2)

    old, new = Actor(behave), Actor()
    memory = MemoryKernel({"old": old, "new": new})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", old)
        answer = await tenant.deploy("web", new, replace=True)
        assert (answer["version"], answer["status"]) == (2, "ready")
        assert old.alive == 0 and new.began == [pytest.approx(2)], "it was let end in its own time"
        assert [(each["version"], each["current"]) for each in await tenant.versions("web")] == [(1, False), (2, True)]
        await tenant.deploy("web", new, replace=True)  # an equal specification: nothing to do
        assert len(new.began) == 1
    assert await story(memory, "web") == [*DEPLOYED, *DEPLOYED]


async def test_a_replacement_that_fails_brings_the_old_version_back(autojump_clock: MockClock) -> None:
    async def fails(number: int) -> None:
        await trio.sleep(1)
        raise ValueError("no")

    old, bad = Actor(), SlowActor(fails)
    memory = MemoryKernel({"old": old, "bad": bad})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", old)
        shown = await tenant.status("web")
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("web", bad, replace=True)
        assert caught.value.code == "service_start_failed"
        assert caught.value.extra["restored"] == {"version": 1}
        again = await tenant.status("web")
        assert again["spec"] == shown["spec"] and again["status"] == "ready" and again["restarts"] == 0
        assert (old.alive, old.alive_max, len(old.began)) == (1, 1, 2)
        assert [each["version"] for each in await tenant.versions("web")] == [1]
        answer = await tenant.deploy("web", Actor(), ephemeral=True, replace=True)
        assert answer["version"] == 3, "a number is given once"


@pytest.mark.parametrize("status", ["paused", "given_up", "stopped"])
async def test_what_did_not_run_is_put_back_as_it_was(autojump_clock: MockClock, status: str) -> None:
    plans = {"paused": [Plan()], "given_up": [Plan(ends_s=1)], "stopped": [Plan(ends_s=1)]}
    runtime = PlannedRuntime({**plans, "bad": [Plan(ready_s=9, ends_s=1)], "good": [Plan()]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy(
            "web", source=status, restart="temporary" if status == "stopped" else "permanent", max_restarts=0
        )
        if status == "paused":
            await tenant.pause("web")
        await trio.sleep(10)
        assert (await tenant.status("web"))["status"] == status
        assert await refused(tenant.deploy("web", source="bad", replace=True)) == "service_start_failed"
        await trio.sleep(10)
        assert (await tenant.status("web"))["status"] == status
        assert (await tenant.deploy("web", source="good", replace=True))["status"] == "ready"


@pytest.mark.parametrize("good", [True, False])
async def test_a_crash_of_the_kernel_in_the_middle_of_a_replacement(autojump_clock: MockClock, good: bool) -> None:
    runtime = PlannedRuntime(
        {"old": [Plan()], "new": [Plan(ready_s=100), Plan() if good else Plan(ready_s=9, ends_s=1)]}
    )
    memory = MemoryKernel(runtimes={"process": runtime})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="old")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                refused, tenant.deploy("web", source="new", replace=True, limits={"start_timeout_s": 500})
            )
            await recorded(kernel, "web", "service_started", count=2)
            nursery.cancel_scope.cancel()
    runtime.starts["web"] = 1  # plans are numbered by source
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        shown = await tenant.status("web")
        assert (shown["status"], shown["version"]) == ("ready", 2 if good else 1)
        assert [each["version"] for each in await tenant.versions("web")] == ([1, 2] if good else [1])


async def test_versions_and_their_sources_are_bounded(autojump_clock: MockClock) -> None:
    names = [f"v{number}" for number in range(1, VERSIONS_MAX + 4)]
    runtime = PlannedRuntime({name: [Plan(stops_s=0)] for name in names})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for name in names:
            await tenant.deploy("web", source=name, replace=True)
        shown = await tenant.versions("web")
        assert [each["source"] for each in shown] == names[-VERSIONS_MAX:]
        assert [each["current"] for each in shown] == [False] * (VERSIONS_MAX - 1) + [True]
        assert len(kernel.system.core.loop.state.sources) == VERSIONS_MAX
        assert await kept(memory, *names) == set(names[-VERSIONS_MAX:])
        await tenant.kill("web")
        assert await kept(memory, *names) == set()


async def test_deleted_while_it_is_being_replaced_nothing_is_left(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"old": [Plan(dies_s=0.5)], "new": [Plan()]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="old", limits={"stop_timeout_s": 100})
        codes: list[str] = []
        async with trio.open_nursery() as nursery:

            async def replace() -> None:
                codes.append(await refused(tenant.deploy("web", source="new", replace=True)))

            nursery.start_soon(replace)
            await wait_all_tasks_blocked()
            assert await refused(tenant.deploy("web", source="new", replace=True, config={"n": 1})) == "service_exists"
            before = trio.current_time()
            await tenant.kill("web", force=True)
            assert trio.current_time() - before == pytest.approx(0.5), "force reaches the one that is being replaced"
        assert codes == ["service_deleted"]
        assert await tenant.services() == [] and await kept(memory, "old", "new") == set()
        assert all(running.ended.is_set() for running in runtime.alive)


async def test_an_ephemeral_replacement_that_came_to_nothing_takes_nothing_with_it(autojump_clock: MockClock) -> None:
    async def never(number: int) -> None:
        await trio.sleep_forever()

    old, slow = Actor(), SlowActor(never)
    memory = MemoryKernel({"old": old})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", old)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(tenant.deploy, "web", slow, ephemeral=True, replace=True))
            await recorded(kernel, "web", "service_started", count=2)
            nursery.cancel_scope.cancel()
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        shown = await (await kernel.tenant("acme")).status("web")
        assert (shown["status"], shown["version"], shown["spec"]["entry"]) == ("ready", 1, "callable:old")


async def test_another_ephemeral_callable_is_another_specification(autojump_clock: MockClock) -> None:
    one, two = Actor(), Actor()
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", one, ephemeral=True)
        await tenant.deploy("web", one, ephemeral=True)
        assert await refused(tenant.deploy("web", two, ephemeral=True)) == "service_exists"
        await tenant.deploy("web", two, ephemeral=True, replace=True)
        assert (one.alive, two.alive) == (0, 1)
        assert await refused(tenant.deploy("other", two)) == "invalid_field", "nobody would find it again"


async def test_deleting_what_is_held_is_finished_after_a_crash(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"it": [Plan(dies_s=0.25)]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", limits={"stop_timeout_s": 50})
        async with trio.open_nursery() as nursery:
            core = kernel.system.core
            await core.loop.submit(Submission(PauseSystem(), EMBEDDER))
            nursery.start_soon(tenant.kill, "web")
            await recorded(kernel, "web", "service_killed")
            nursery.cancel_scope.cancel()
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        assert await (await kernel.tenant("acme")).services() == []
    assert (await story(memory, "web"))[-2:] == ["killed", "stopped not_running"]
