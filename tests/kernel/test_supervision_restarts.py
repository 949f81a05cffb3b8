"""The supervision table, rows 1 to 9, 16, 18: crashes, windows, backoff, giving up."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from kernel_rig import (
    DEPLOYED,
    Actor,
    FixedEntropy,
    JumpingClock,
    Plan,
    PlannedRuntime,
    SlowActor,
    crash_after,
    crash_at,
    crashing,
    history,
    opened,
    recorded,
    story,
)
from trio.testing import MockClock

from solo_trio import service
from solo_trio.errors import Rejected
from solo_trio.policy.backoff import FIRST_DELAY_S, longest_delay
from solo_trio.ports import Ending
from solo_trio.telemetry.sources import SystemClock
from solo_trio.testing import MemoryKernel

LONG_S = 10_000.0


@pytest.mark.parametrize("restarts", [0, 1, 3, 7])
async def test_row_01_crashes_1_to_n_restart_and_crash_n_plus_1_gives_up(
    autojump_clock: MockClock, restarts: int
) -> None:
    actor = Actor(crash_after(0.01))
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=restarts, max_seconds=60)
        await trio.sleep(LONG_S)
        status = await tenant.status("web")
        assert (status["status"], status["restarts"], status["generation"]) == ("given_up", restarts, restarts + 1)
    assert len(actor.began) == restarts + 1
    assert await story(memory, "web") == [
        *DEPLOYED,
        *["crashed", "started restart", "ready"] * restarts,
        "crashed",
        "given_up",
    ]
    *earlier, last = [record.event for record in await history(memory, "web", "service_crashed")]
    assert all(each.restart and each.counted for each in earlier)  # type: ignore[union-attr]
    assert not last.restart and last.counted  # type: ignore[union-attr]


@pytest.mark.parametrize("wall", ["steady", "jumping"])
@pytest.mark.parametrize(("early_s", "given_up"), [(0.001, True), (-0.001, False)])
async def test_row_02_a_crash_counts_for_exactly_the_window(
    autojump_clock: MockClock, early_s: float, given_up: bool, wall: str
) -> None:
    actor = Actor(crash_at(5.0, 15.0 - early_s))
    jumping = JumpingClock(lambda reading: 1_700_000_000_000_000 + (-1) ** reading * reading * 86_400_000_000)
    memory = MemoryKernel({"it": actor}, clock=SystemClock() if wall == "steady" else jumping)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=1, max_seconds=10)
        await trio.sleep(LONG_S)
        assert (await tenant.status("web"))["status"] == ("given_up" if given_up else "ready")
    first, second = [record.stored.kernel_time for record in await history(memory, "web", "service_crashed")]
    assert second - first == pytest.approx(10 - early_s, abs=1e-6)
    assert len(actor.began) == (2 if given_up else 3)


async def test_row_04_manual_restarts_never_count(autojump_clock: MockClock) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=0)
        for _ in range(20):
            assert (await tenant.restart("web"))["status"] == "ready"
        status = await tenant.status("web")
        assert (status["status"], status["restarts"], status["generation"]) == ("ready", 0, 21)
        assert trio.current_time() == 0.0  # nor do they wait
    assert len(actor.began) == 21 and actor.alive_max == 1 and actor.alive == 0
    assert await history(memory, "web", "service_crashed", "service_given_up") == []


async def test_row_04_manual_stop_and_start_never_counts(autojump_clock: MockClock) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for _ in range(20):
            await tenant.deploy("web", actor, max_restarts=0)
            assert (await tenant.kill("web"))["reason"] == "stopped"
        assert trio.current_time() == 0.0
    assert len(actor.began) == 20 and actor.alive_max == 1
    assert await story(memory, "web") == [*DEPLOYED, "killed", "stopped stopped"] * 20


async def test_row_05_giving_up_is_durable_with_its_reasons_and_a_restart_by_hand_re_arms_it(
    autojump_clock: MockClock,
) -> None:
    actor = Actor(crash_after(0.01))
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=2, max_seconds=60)
        for rounds in (1, 2):
            await recorded(kernel, "web", "service_given_up", count=rounds)
            assert len(actor.began) == 3 * rounds  # the whole window again
            [*_, record] = await history(memory, "web", "service_given_up")
            given_up: Any = record.event
            assert (given_up.crashes, given_up.max_restarts, given_up.max_seconds) == (3, 2, 60.0)
            assert given_up.reason == f"ValueError: crash {3 * rounds}"
            crash = (await tenant.status("web"))["last_crash"]
            assert "raise ValueError" in crash["traceback"] and crash["reason"] == given_up.reason
            if rounds == 1:
                assert (await tenant.restart("web"))["status"] == "ready"
    before = trio.current_time()
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        await trio.sleep(LONG_S)
        assert (await (await kernel.tenant("acme")).status("web"))["status"] == "given_up"
    assert len(actor.began) == 6 and trio.current_time() > before


@pytest.mark.parametrize("how", ["raises", "never ready"])
async def test_row_06_a_restart_whose_start_fails_consumes_intensity_and_retries(
    autojump_clock: MockClock, how: str
) -> None:
    async def start(number: int) -> None:
        if number > 1 and how == "raises":
            raise OSError("cannot start")
        if number > 1:
            await trio.sleep_forever()

    actor = SlowActor(start, crash_after(1))
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=4, max_seconds=600)
        given_up = await recorded(kernel, "web", "service_given_up")
        assert given_up.kernel_time < 60
        await trio.sleep(LONG_S)
        assert (await tenant.status("web"))["restarts"] == 4
    assert len(actor.began) == 5  # the first start and 4 restarts
    assert await story(memory, "web") == [*DEPLOYED, *["crashed", "started restart"] * 4, "crashed", "given_up"]


@pytest.mark.parametrize("how", ["raises", "never ready", "does not load", "returns"])
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_row_07_a_failing_first_start_refuses_the_deploy_and_keeps_nothing(
    autojump_clock: MockClock, how: str, restart: Any
) -> None:
    async def start(number: int) -> None:
        if how == "raises":
            raise OSError("cannot start")
        if how == "never ready":
            await trio.sleep_forever()

    class Returns(Actor):
        async def __call__(self, ctx: service.Context, task_status: Any) -> None:  # type: ignore[override]
            self.began.append(trio.current_time())

    actor: Actor = Returns() if how == "returns" else SlowActor(start)
    target: object = "import:os" if how == "does not load" else actor
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("web", target, restart=restart)
        assert caught.value.code == "service_start_failed" and caught.value.status == 422
        assert caught.value.extra["reason"]
        if how == "raises":
            assert "OSError: cannot start" in caught.value.extra["traceback"]
        assert trio.current_time() == pytest.approx(5.0 if how == "never ready" else 0.0)
        await trio.sleep(LONG_S)
        assert await tenant.services() == []
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        assert await (await kernel.tenant("acme")).services() == []
    assert len(actor.began) == (0 if how == "does not load" else 1) and actor.alive == 0
    assert await story(memory, "web") == ["deployment_started", "started deploy", "deployment_failed"]


async def test_row_08_stop_during_the_retry_loop_succeeds_at_once(autojump_clock: MockClock) -> None:
    actor = Actor(crash_after(0))
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=1_000, max_seconds=86_400)  # delays of about 20 to 40 s
        await trio.sleep(1_000)
        assert (await tenant.status("web"))["status"] == "restarting" and actor.alive == 0
        starts, before = len(actor.began), trio.current_time()
        assert await tenant.kill("web") == {"service_id": "web", "status": "stopped", "reason": "not_running"}
        assert trio.current_time() == before
        await trio.sleep(LONG_S)
        assert len(actor.began) == starts
        assert await tenant.services() == []


async def test_row_08_kernel_shutdown_during_the_retry_loop_does_not_hang(autojump_clock: MockClock) -> None:
    actor = Actor(crash_after(0))
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=1_000, max_seconds=86_400)
        await trio.sleep(1_000)
        starts, before = len(actor.began), trio.current_time()
    assert trio.current_time() == before
    assert len(actor.began) == starts
    [complete] = await history(memory, None, "system_shutdown_complete")
    assert complete.event.killed == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("ending", ["returns", "raises"])
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_row_09_restart_type_by_ending(autojump_clock: MockClock, restart: Any, ending: str) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        if number > 1:
            await trio.sleep_forever()
        await trio.sleep(1)
        if ending == "raises":
            raise ValueError("crash")

    again = restart == "permanent" or (restart == "transient" and ending == "raises")
    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, restart=restart)
        await trio.sleep(LONG_S)
        assert (await tenant.status("web"))["status"] == ("ready" if again else "stopped")
        if again:
            expected = ["crashed", "started restart", "ready"]
        else:
            expected = ["stopped completed"] if ending == "returns" else ["crashed"]
        assert await story(memory, "web") == [*DEPLOYED, *expected]
        assert len(actor.began) == 1 + again
        await tenant.kill("web")  # what ended by itself can be deleted like anything else
        assert await tenant.services() == []


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_row_09_a_main_that_ends_at_once_was_ready_on_entry(
    autojump_clock: MockClock, restart: Any, ending: str
) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        if ending == "raises":
            raise ValueError("crash")

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        assert (await tenant.deploy("web", actor, restart=restart, max_restarts=1))["status"] == "ready"
        await trio.sleep(LONG_S)
        again = restart == "permanent" or (restart == "transient" and ending == "raises")
        assert (await tenant.status("web"))["status"] == ("given_up" if again else "stopped")
    assert len(actor.began) == 1 + again
    assert (await story(memory, "web"))[:4] == DEPLOYED


@pytest.mark.parametrize("chance", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize(
    ("restarts", "seconds"), [(0, 0.5), (1, 0.05), (5, 60.0), (20, 10.0), (100, 3_600.0), (30, 86_400.0), (200, 1.0)]
)
async def test_row_16_backoff_is_bounded_and_a_crash_loop_always_trips(
    autojump_clock: MockClock, restarts: int, seconds: float, chance: float
) -> None:
    actor = Actor(crash_after(0))
    memory = MemoryKernel({"it": actor}, entropy=FixedEntropy(chance))
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=restarts, max_seconds=seconds)
        given_up = await recorded(kernel, "web", "service_given_up")
    assert len(actor.began) == restarts + 1
    cap = min(30.0, seconds / (2 * (restarts + 1)))
    assert longest_delay(restarts, seconds) == cap
    delays = [later - earlier for earlier, later in zip(actor.ended, actor.began[1:], strict=False)]
    for number, delay in enumerate(delays):
        whole = min(FIRST_DELAY_S * 2**number, cap)
        assert delay == pytest.approx(whole * (0.5 + chance / 2), abs=1e-6)
    assert given_up.kernel_time - actor.began[0] <= seconds / 2


async def test_row_16_backoff_begins_anew_after_a_stable_uptime(autojump_clock: MockClock) -> None:
    lives = [0.0] * 4 + [9.9, 10.0, 0.0]

    async def behave(number: int, ctx: service.Context) -> None:
        if number > len(lives):
            await trio.sleep_forever()
        await trio.sleep(lives[number - 1])
        raise ValueError("crash")

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor}, entropy=FixedEntropy(0.0))
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=5, max_seconds=10)
        await trio.sleep(LONG_S)
        assert (await tenant.status("web"))["status"] == "ready"
    cap = 10 / 12
    delays = [later - earlier for earlier, later in zip(actor.ended, actor.began[1:], strict=False)]
    # the fifth life was a tenth of a second too short, the sixth was stable
    wholes = [0.1, 0.2, 0.4, 0.8, cap, 0.1, 0.2]
    assert delays == pytest.approx([whole / 2 for whole in wholes], abs=1e-6)


async def test_row_16_other_changes_do_not_begin_the_backoff_anew(autojump_clock: MockClock) -> None:
    actor = Actor(crash_after(0))
    memory = MemoryKernel({"it": actor}, entropy=FixedEntropy(0.0))
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=30, max_seconds=86_400)
        supervisor = kernel.system.core.tenants["acme"].supervisors["web"]
        while len(actor.began) < 10:
            await trio.sleep(0.01)
            supervisor.notify()  # a change that says nothing new
    delays = [later - earlier for earlier, later in zip(actor.ended, actor.began[1:], strict=False)]
    assert delays == pytest.approx([min(30.0, 0.1 * 2**number) / 2 for number in range(9)], abs=1e-6)


@pytest.mark.parametrize("after_crash", [1, 2, 3])
async def test_row_18_a_kernel_restart_during_backoff_rebuilds_the_window(
    autojump_clock: MockClock, after_crash: int
) -> None:
    actor = Actor(crash_after(1))
    memory = MemoryKernel({"it": actor}, entropy=FixedEntropy(0.5))
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=3, max_seconds=60)
        await recorded(kernel, "web", "service_crashed", count=after_crash)
        status = await tenant.status("web")
        assert (status["status"], status["restarts"]) == ("restarting", after_crash - 1)
    await trio.sleep(LONG_S)  # downtime counts zero
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        status = await tenant.status("web")
        assert status["status"] == "ready" and status["restarts"] == after_crash - 1
        await recorded(kernel, "web", "service_given_up")
    assert len(actor.began) == 4  # the start by recovery stands in for the restart that was waiting
    [given_up] = await history(memory, "web", "service_given_up")
    assert given_up.event.crashes == 4  # type: ignore[union-attr]
    crashes = [record.stored.kernel_time for record in await history(memory, "web", "service_crashed")]
    assert len(crashes) == 4 and crashes[-1] - crashes[0] < 60


async def test_row_18_replay_never_counts_and_the_remaining_backoff_is_not_resumed(autojump_clock: MockClock) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        if number == 6:
            raise ValueError("crash")
        await trio.sleep_forever()

    actor = Actor(behave)
    memory = MemoryKernel({"it": actor})
    for number in range(1, 6):
        async with crashing(memory) as kernel:
            tenant = await kernel.tenant("acme")
            await tenant.deploy("web", actor, max_restarts=1, max_seconds=86_400)
            await kernel.wait_recovered()
            status = await tenant.status("web")
            assert (status["restarts"], status["generation"], status["status"]) == (0, number, "ready")
    async with crashing(memory) as kernel:
        await recorded(kernel, "web", "service_crashed")
        before = trio.current_time()
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        assert (await (await kernel.tenant("acme")).status("web"))["status"] == "ready"
        assert trio.current_time() == before
    assert len(actor.began) == 7
    assert await history(memory, "web", "service_given_up") == []


async def test_row_18_given_up_stays_given_up_over_kernel_restarts(autojump_clock: MockClock) -> None:
    actor = Actor(crash_after(0))
    memory = MemoryKernel({"it": actor})
    async with crashing(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", actor, max_restarts=0)
        await recorded(kernel, "web", "service_given_up")
    for _ in range(3):
        async with crashing(memory) as kernel:
            await kernel.wait_recovered()
            await trio.sleep(LONG_S)
            assert (await (await kernel.tenant("acme")).status("web"))["status"] == "given_up"
            assert kernel.system.core.report is not None and kernel.system.core.report.wanted == 0
    assert len(actor.began) == 1


async def test_a_lost_sandbox_counts_in_no_window_but_waits(autojump_clock: MockClock) -> None:
    lost = Plan(ends_s=1, ending=Ending("lost", "the zygote died"))
    runtime = PlannedRuntime({"it": [lost] * 9 + [Plan(stops_s=0)]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="it", max_restarts=0)
        await trio.sleep(LONG_S)
        status = await tenant.status("web")
        assert (status["status"], status["generation"]) == ("ready", 10)
    crashes: list[Any] = [record.event for record in await history(memory, "web", "service_crashed")]
    assert len(crashes) == 9 and not any(each.counted for each in crashes) and all(each.restart for each in crashes)
    started = [record.stored.kernel_time for record in await history(memory, "web", "service_started")]
    assert started == sorted(set(started))


async def test_a_runtime_that_cannot_start_fails_a_first_start_after_three_attempts(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"never": [Plan(fault=True)], "third": [Plan(fault=True)] * 2 + [Plan(stops_s=0)]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("web", source="never")
        assert caught.value.code == "service_start_failed"
        assert (await tenant.deploy("api", source="third"))["status"] == "ready"
        assert [each["service_id"] for each in await tenant.services()] == ["api"]
    assert runtime.starts == {"web": 3, "api": 3}
