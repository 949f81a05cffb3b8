"""A start of the kernel on its log, as `lifecycle.md` has it, with services that are tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from attrs import evolve
from kernel_rig import (
    DEPLOYED,
    Actor,
    GatedJournal,
    JumpingClock,
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
from solo_trio.embedding import Tenant
from solo_trio.errors import Faulted, JournalFailed, KernelBug, Rejected, SoloError, StorageFull
from solo_trio.kernel.staging import Idempotency
from solo_trio.model import codec
from solo_trio.model.record import StoredEvent
from solo_trio.model.service import Status
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.state import fold
from solo_trio.operations import deploying
from solo_trio.operations.settings import Settings
from solo_trio.operations.table import Answer
from solo_trio.ports import Ending
from solo_trio.testing import MemoryKernel

RECOVERED = ["started recovery", "ready", "recovered"]


async def cut(memory: MemoryKernel, type_: str, count: int = 1) -> None:
    """Take away everything after event number `count` of this type: the kernel died right after it."""
    events = memory.journal._events
    found = [event.id for event in events if event.type == type_]
    del events[found[count - 1] :]
    last = events[-1].id
    memory.journal._idempotency = {
        name: row for name, row in memory.journal._idempotency.items() if row.event_id <= last
    }
    await trio.lowlevel.checkpoint()


async def test_system_started_resets_what_was_observed_of_the_wanted_only(autojump_clock: MockClock) -> None:
    actors = {name: Actor() for name in ("ready", "starting")}
    actors |= {name: Actor(crash_after(0)) for name in ("restarting", "given-up", "stopped")}
    memory = MemoryKernel(actors)
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        restarts = {"given-up": 0, "restarting": 1_000}
        for name, actor in actors.items():
            restart: Any = "temporary" if name == "stopped" else "permanent"
            await tenant.deploy(name, actor, restart=restart, max_restarts=restarts.get(name, 5), max_seconds=86_400)
        await trio.sleep(2_000)
        assert {each["status"] for each in await tenant.services()} == {"ready", "restarting", "given_up", "stopped"}
        last = kernel.system.core.loop.state.last_id
    async with crashing(memory) as kernel:
        await kernel.wait_recovered()
    records = await history(memory)
    before, after = fold(records[:last]), fold(records[: last + 1])
    assert records[last].stored.type == "system_started"
    assert (before.system.starts, after.system.starts) == (1, 2)
    for name in actors:
        old, new = before.service("acme", name), after.service("acme", name)
        assert old is not None and new is not None
        if old.wants_to_run:
            assert (new.status, new.begun, new.next_cause, new.attempt) == (Status.STARTING, False, "recovery", 0)
            assert (new.window, new.restarts, new.generation) == (old.window, old.restarts, old.generation)
            assert (new.ready_at_us, new.ready_kernel_time) == (None, None)
        else:
            assert new == old


@pytest.mark.parametrize("how", ["shutdown", "crash"])
async def test_each_wanted_service_is_recovered_once_and_not_deployed_again(
    autojump_clock: MockClock, how: str
) -> None:
    actors = {f"s{number}": Actor() for number in range(5)}
    memory = MemoryKernel(actors)
    leave = opened if how == "shutdown" else crashing
    async with leave(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for name, actor in actors.items():
            await tenant.deploy(name, actor)
    assert not any(actor.alive for actor in actors.values())
    for starts in (2, 3, 4):
        async with leave(memory) as kernel:
            await kernel.wait_recovered()
            tenant = await kernel.tenant("acme")
            assert [each["status"] for each in await tenant.services()] == ["ready"] * 5
            assert [actor.alive for actor in actors.values()] == [1] * 5
            report = kernel.system.core.report
            assert report is not None and report.complete
            assert (report.wanted, report.ready, report.failed, report.pending) == (5, 5, 0, 0)
        for name in actors:
            assert await story(memory, name) == [*DEPLOYED, *RECOVERED * (starts - 1)]
    started = [record.event for record in await history(memory, None, "system_started")]
    assert [each.clean for each in started] == [True] + [how == "shutdown"] * 3  # type: ignore[union-attr]


@pytest.mark.parametrize("seconds", [0.0, 12.5, 86_400.0])
async def test_downtime_counts_zero_in_kernel_time(autojump_clock: MockClock, seconds: float) -> None:
    memory = MemoryKernel(clock=JumpingClock(lambda reading: 1_700_000_000_000_000 - reading))
    async with crashing(memory) as kernel:
        await trio.sleep(10)
        await kernel.tenant("acme")
    await trio.sleep(seconds)
    async with crashing(memory) as kernel:
        await trio.sleep(5)
        await kernel.tenant("blau")
    times = {record.stored.tenant_id: record.stored.kernel_time for record in await history(memory)}
    assert times["acme"] == pytest.approx(10) and times["blau"] == pytest.approx(15)
    [first, second] = await history(memory, None, "system_started")
    assert second.stored.kernel_time == pytest.approx(10) and second.stored.at_us >= first.stored.at_us


async def test_a_deleted_service_is_gone(autojump_clock: MockClock) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        await tenant.kill("web")
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        assert await (await kernel.tenant("acme")).services() == []
        await (await kernel.tenant("acme")).deploy("web", actor)
    assert len(actor.began) == 2


async def test_a_half_done_stop_is_finished_without_starting(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        await stubborn(50)

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        assert (await tenant.kill("web"))["unresponsive"]
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        assert await tenant.services() == []
        report = kernel.system.core.report
        assert report is not None and (report.wanted, report.complete) == (0, True)
        await tenant.deploy("web", actor)
    assert (await story(memory, "web"))[:6] == [*DEPLOYED, "killed", "stopped kernel_restarted"]
    assert len(actor.began) == 2


@pytest.mark.parametrize("died_after", ["deployment_started", "started", "ready"])
async def test_an_intent_is_retried_as_a_first_start(autojump_clock: MockClock, died_after: str) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", actor)
    await cut(memory, f"service_{died_after}")
    before = await story(memory, "web")
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        [status] = await (await kernel.tenant("acme")).services()
        assert status["status"] == "ready"
    # an append is one transaction, so a log that ends between ready and deployed can only be made by hand
    told = ["started recovery", "ready", "deployed", "recovered"]
    assert await story(memory, "web") == [*before, *told]


@pytest.mark.parametrize("how", ["raises", "never ready", "gone"])
async def test_an_intent_whose_first_start_fails_is_forgotten(autojump_clock: MockClock, how: str) -> None:
    async def start(number: int) -> None:
        if number > 1 and how == "raises":
            raise OSError("cannot start")
        if number > 1:
            await trio.sleep_forever()

    actor = SlowActor(start)
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", actor)
    await cut(memory, "service_started")
    if how == "gone":
        memory.callables = {}
    for _ in range(2):
        async with opened(memory) as kernel:
            await kernel.wait_recovered()
            assert await (await kernel.tenant("acme")).services() == []
    assert await story(memory, "web") == [
        "deployment_started",
        "started deploy",
        "started recovery",
        "deployment_failed",
    ]


async def test_a_callable_that_is_gone_is_given_up_until_it_is_back_and_restarted(autojump_clock: MockClock) -> None:
    actor, other = Actor(), Actor()
    memory = MemoryKernel({"it": actor, "other": other})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        await tenant.deploy("api", other)
    memory.callables = {"other": other}
    for _ in range(2):
        async with opened(memory) as kernel:
            await kernel.wait_recovered()
            tenant = await kernel.tenant("acme")
            assert {each["service_id"]: each["status"] for each in await tenant.services()} == {
                "api": "ready",
                "web": "given_up",
            }
            assert "it" in (await tenant.status("web"))["last_crash"]["reason"]
            with pytest.raises(Faulted) as caught:
                await tenant.call("web", "f")
            assert caught.value.code == "service_not_running"
    memory.callables = {"it": actor, "other": other}
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        assert (await tenant.restart("web"))["status"] == "ready"
    failed = ["started recovery", "recovery_failed"]
    assert await story(memory, "web") == [*DEPLOYED, *failed, "restart_requested", "started manual", "ready"]


async def test_a_start_timeout_in_recovery_counts_in_no_window(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        if 1 < number < 5:
            await trio.sleep_forever()

    actor = SlowActor(start)
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", actor, max_restarts=2, max_seconds=86_400)
    for _ in range(3):
        async with crashing(memory) as kernel:
            await recorded(kernel, "web", "service_crashed", after=kernel.system.core.loop.state.last_id)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        [status] = await (await kernel.tenant("acme")).services()
        assert status["status"] == "ready"
    crashes: list[Any] = [record.event for record in await history(memory, "web", "service_crashed")]
    assert [(each.counted, each.restart) for each in crashes] == [(False, True)] * 3


async def test_any_other_failure_in_recovery_counts_as_a_crash(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        if number > 1:
            raise OSError("cannot start")

    actor = SlowActor(start)
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", actor, max_restarts=1)
    async with opened(memory) as kernel:
        await recorded(kernel, "web", "service_given_up")
    assert (await story(memory, "web"))[4:] == [
        "started recovery",
        "crashed",
        "started restart",
        "crashed",
        "given_up",
    ]


async def test_deploys_are_accepted_and_calls_wait_while_recovery_goes_on(autojump_clock: MockClock) -> None:
    async def main(ctx: service.Context, task_status: Any) -> None:
        if ctx.generation > 1:
            await trio.sleep(3)
        task_status.started()
        await trio.sleep_forever()

    @service.export
    async def double(x: int) -> int:
        return 2 * x

    slow, actor = SimpleNamespace(main=main, double=double), Actor()
    memory = MemoryKernel({"slow": slow, "it": actor})
    async with crashing(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", slow)
    before = trio.current_time()
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("new", actor)
        assert trio.current_time() == before and kernel.system.core.report is None
        assert await tenant.call("web", "double", 4) == 8
        assert trio.current_time() - before == pytest.approx(3)
        await kernel.wait_recovered()
        report = kernel.system.core.report
        assert report is not None and (report.wanted, report.ready) == (1, 1)  # what came later is not recovered
    assert await story(memory, "new") == DEPLOYED


async def test_the_report_counts_ready_failed_and_pending(autojump_clock: MockClock) -> None:
    def start_of(name: str) -> Any:
        async def start(number: int) -> None:
            if number > 1 and name.startswith("pending"):
                await trio.sleep(60)
            if number > 1 and name.startswith("failing"):
                raise OSError("cannot start")

        return start

    names = ["ready-1", "ready-2", "ready-3", "failing-1", "failing-2", "pending-1", "gone-1", "deleted-1"]
    actors = {name: SlowActor(start_of(name)) for name in names}
    memory = MemoryKernel(actors, settings=Settings(recovery_timeout_ms=8_000))
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for name, actor in actors.items():
            await tenant.deploy(name, actor, limits={"start_timeout_s": 100})
        events = await tenant.events(limit=1_000)
    memory.callables = {name: actor for name, actor in actors.items() if name != "gone-1"}
    before = trio.current_time()
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.kill("deleted-1")
        await kernel.wait_recovered()
        assert trio.current_time() - before == pytest.approx(8)
        report = kernel.system.core.report
        assert report is not None and not report.complete
        assert (report.wanted, report.ready, report.pending) == (8, 3, 1)
        assert report.failed == 4  # two that crash, one without its callable, one that was deleted meanwhile
        assert report.events == events[-1]["id"] and report.duration_s == pytest.approx(8)


async def test_ephemeral_services_are_not_recovered(autojump_clock: MockClock) -> None:
    actor, kept = Actor(), Actor()
    memory = MemoryKernel({"kept": kept})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, ephemeral=True)
        await tenant.deploy("api", kept)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        assert [each["service_id"] for each in await tenant.services()] == ["api"]
        report = kernel.system.core.report
        assert report is not None and (report.wanted, report.ready, report.failed) == (1, 1, 0)
        await tenant.deploy("web", actor, ephemeral=True)  # the id is free
    assert len(actor.began) == 2 and len(kept.began) == 2


@pytest.mark.parametrize("restart", ["temporary", "transient"])
async def test_what_ended_by_itself_stays_stopped_and_what_ran_runs_again(
    autojump_clock: MockClock, restart: Any
) -> None:
    async def return_soon(number: int, ctx: service.Context) -> None:
        await trio.sleep(1)

    ended, running = Actor(return_soon), Actor()
    memory = MemoryKernel({"ended": ended, "running": running})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("ended", ended, restart=restart)
        await tenant.deploy("running", running, restart=restart)
        await trio.sleep(2)
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await trio.sleep(100)
        tenant = await kernel.tenant("acme")
        assert [each["status"] for each in await tenant.services()] == ["stopped", "ready"]
        assert (await tenant.kill("ended"))["reason"] == "not_running"
    assert (len(ended.began), len(running.began)) == (1, 2)
    assert await story(memory, "ended") == [*DEPLOYED, "stopped completed", "killed", "stopped not_running"]


async def test_a_restart_by_hand_under_way_is_recovered_as_wanted(autojump_clock: MockClock) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        await tenant.restart("web")
    await cut(memory, "service_restart_requested")
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        [status] = await (await kernel.tenant("acme")).services()
        assert status["status"] == "ready"
    assert await story(memory, "web") == [*DEPLOYED, "restart_requested", *RECOVERED]


async def test_at_every_event_the_kernel_may_die_and_the_next_one_finds_the_same_wanted(
    autojump_clock: MockClock,
) -> None:
    """The log of a whole story, cut after each of its events: recovery always ends, and only what is wanted runs."""

    async def behave(number: int, ctx: service.Context) -> None:
        if ctx.service_id == "crashes":
            await trio.sleep(1)
            raise ValueError("crash")
        if ctx.service_id == "ends":
            return
        await trio.sleep_forever()

    actor = Actor(behave)
    whole = MemoryKernel({"it": actor})
    async with opened(whole) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("ends", actor, restart="temporary")
        await tenant.deploy("crashes", actor, max_restarts=1)
        await tenant.deploy("web", actor)
        await tenant.restart("web")
        await recorded(kernel, "crashes", "service_given_up")
        await tenant.kill("web")
        await tenant.deploy("web", actor)
        await tenant.kill("crashes")
    events: Sequence[StoredEvent] = list(whole.journal._events)
    for length in range(len(events) + 1):
        memory = MemoryKernel({"it": Actor()})
        memory.journal._events.extend(events[:length])
        memory.journal._keys.update(whole.journal._keys)
        wanted = fold(codec.to_record(event) for event in events[:length])
        async with opened(memory) as kernel:
            await kernel.wait_recovered()
            state = kernel.system.core.loop.state
            for _, each in wanted.services():
                now = state.service("acme", each.service_id)
                if each.wants_to_run:
                    assert now is not None and now.status is Status.READY
                elif each.stop is not None:
                    assert now is None
                else:
                    assert now == each
            assert memory.callables["it"].alive == sum(each.wants_to_run for _, each in wanted.services())  # type: ignore[attr-defined]


# -- idempotency


def keyed(tenant: Tenant, key: str, fingerprint: str = "one") -> Any:
    caller = tenant._caller
    assert caller.incarnation is not None
    return evolve(caller, idempotency=Idempotency(caller.incarnation, key, fingerprint))


async def deploy_keyed(tenant: Tenant, key: str, fingerprint: str = "one", service_id: str = "web") -> Answer:
    spec = ServiceSpec(entry="callable:it", isolation="task")
    return await deploying.deploy_spec(keyed(tenant, key, fingerprint), service_id, spec, b"")


async def test_the_same_key_joins_a_running_deploy(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        await trio.sleep(2)

    actor, answers = SlowActor(start), list[Answer]()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")

        async def ask() -> None:
            answers.append(await deploy_keyed(tenant, "k"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)  # at once
            await trio.sleep(1)
            nursery.start_soon(ask)  # while it starts
        await ask()  # when it runs
        assert trio.current_time() == pytest.approx(2)
        assert answers == [answers[0]] * 4 and answers[0].status == 201
        with pytest.raises(Rejected) as caught:
            await deploy_keyed(tenant, "k", "two")
        assert (caught.value.code, caught.value.status) == ("idempotency_conflict", 409)
        with pytest.raises(Rejected) as caught:
            await deploy_keyed(tenant, "another key")
        assert caught.value.code == "service_exists"
    assert len(actor.began) == 1 and await story(memory, "web") == DEPLOYED


@pytest.mark.parametrize("died_after", ["deployment_started", "started", "deployed"])
async def test_a_repeat_after_a_crash_gets_the_same_answer(autojump_clock: MockClock, died_after: str) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        first = await deploy_keyed(await kernel.tenant("acme"), "k")
    await cut(memory, f"service_{died_after}")
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        assert await deploy_keyed(tenant, "k") == first  # it may have to wait for the recovery
        with pytest.raises(Rejected) as caught:
            await deploy_keyed(tenant, "k", "two")
        assert caught.value.code == "idempotency_conflict"
        await tenant.kill("web")
        assert await deploy_keyed(tenant, "k") == first  # what was answered then, not what would be true now
        assert await tenant.services() == []
    assert len(await history(memory, "web", "service_deployment_started")) == 1


async def test_a_repeat_of_a_deploy_that_failed_fails_alike_after_a_crash(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        raise OSError("cannot start")

    memory = MemoryKernel({"it": SlowActor(start)})
    details = []
    for _ in range(2):
        async with crashing(memory) as kernel:
            tenant = await kernel.tenant("acme")
            for _ in range(2):
                with pytest.raises(Rejected) as caught:
                    await deploy_keyed(tenant, "k")
                details.append((caught.value.code, caught.value.detail, caught.value.extra))
    assert details == [details[0]] * 4 and details[0][0] == "service_start_failed"
    assert len(await history(memory, "web", "service_started")) == 1


async def test_a_key_is_of_one_incarnation_and_a_refused_request_leaves_none(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"it": Actor()})
    async with opened(memory) as kernel:
        acme, blau = await kernel.tenant("acme"), await kernel.tenant("blau")
        assert (await deploy_keyed(acme, "k")).status == (await deploy_keyed(blau, "k", "two")).status == 201
        with pytest.raises(Rejected) as caught:
            await deploy_keyed(acme, "k2")
        assert caught.value.code == "service_exists"
        await acme.kill("web")
        assert (await deploy_keyed(acme, "k2")).status == 201  # decided anew: nothing had been written for it


# -- the journal fails, or the disk is full, under a whole kernel


async def test_a_failed_journal_stops_the_kernel_and_everybody_is_told(autojump_clock: MockClock) -> None:
    async def start(number: int) -> None:
        await trio.sleep_forever()

    journal, slow, actor, codes = GatedJournal(), SlowActor(start), Actor(), list[str]()
    memory = MemoryKernel({"slow": slow, "it": actor}, journal=journal)

    async def ask(tenant: Tenant, name: str, target: Actor) -> None:
        try:
            await tenant.deploy(name, target, limits={"start_timeout_s": 100})
        except SoloError as error:
            codes.append(error.code)

    async with trio.open_nursery() as nursery:
        with pytest.raises(JournalFailed) as caught:
            async with memory.open() as kernel:
                tenant = await kernel.tenant("acme")
                await tenant.deploy("web", actor)
                nursery.start_soon(ask, tenant, "slow", slow)  # its intent is durable, its outcome is waited for
                await trio.sleep(1)
                journal.failures.append(lambda events, reserved: JournalFailed("fsync failed"))
                journal.hold()
                for name in ("a", "b", "c"):
                    nursery.start_soon(ask, tenant, name, actor)
                await wait_all_tasks_blocked()
                journal.gate.set()
                await trio.sleep_forever()
        assert caught.value.code == "journal_failed"
        nursery.start_soon(ask, tenant, "later", actor)
    assert Counter(codes) == {"journal_failed": 3, "shutting_down": 1, "kernel_stopped": 1}
    assert trio.current_time() == pytest.approx(1) and actor.alive == slow.alive == 0
    assert memory.telemetry.bug_count == 0
    journal.failures.clear()
    async with opened(memory) as kernel:  # starting is recovering
        assert {each["service_id"] for each in await (await kernel.tenant("acme")).services()} == {"web", "slow"}


async def test_on_a_full_disk_services_are_stopped_and_crashes_are_kept_until_there_is_space(
    autojump_clock: MockClock,
) -> None:
    journal, full = GatedJournal(), [False]
    journal.failures.append(lambda events, reserved: StorageFull() if full[0] and not reserved else None)

    async def behave(number: int, ctx: service.Context) -> None:
        if number == 1:
            await trio.sleep(10)
            raise ValueError("crash")
        await trio.sleep_forever()

    crasher, actor = Actor(behave), Actor()
    memory = MemoryKernel({"crasher": crasher, "it": actor}, journal=journal)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        await tenant.deploy("api", crasher)
        full[0] = True
        for refused in (partial(tenant.deploy, "new", actor), partial(tenant.restart, "web")):
            with pytest.raises(StorageFull):
                await refused()
        assert (await tenant.kill("web"))["reason"] == "stopped"
        await trio.sleep(100)
        assert "crashed" not in await story(memory, "api")  # the space held back is for stops alone
        assert len(crasher.began) == 1
        full[0] = False
        await recorded(kernel, "api", "service_ready", count=2)
        await tenant.deploy("new", actor)
        assert trio.current_time() < 115
    assert await story(memory, "web") == [*DEPLOYED, "killed", "stopped stopped"]
    assert await story(memory, "api") == [*DEPLOYED, "crashed", "started restart", "ready"]


async def test_a_log_that_cannot_be_folded_stops_the_start(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        await kernel.tenant("acme")
    events = memory.journal._events
    events.append(evolve(events[2], id=len(events) + 1))  # the same tenant is created twice
    with pytest.raises(KernelBug):
        async with memory.open():
            raise AssertionError("it started")
    events[-1] = evolve(events[-1], type="not_known_here")
    with pytest.raises(Faulted) as caught:
        async with memory.open():
            raise AssertionError("it started")
    assert caught.value.code == "data_newer"


async def test_a_lost_sandbox_in_recovery_is_tried_again(autojump_clock: MockClock) -> None:
    lost = Plan(ready_s=100, ends_s=1, ending=Ending("lost", "the zygote died"))
    runtime = PlannedRuntime({"it": [Plan(stops_s=0), lost, lost, Plan(stops_s=0)]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with crashing(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", source="it", max_restarts=0)
    async with opened(memory) as kernel:
        await recorded(kernel, "web", "service_ready", count=2)
    assert await history(memory, "web", "service_given_up", "service_recovery_failed") == []
    assert runtime.starts == {"web": 4}
