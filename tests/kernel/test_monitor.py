"""Who uses more than it may: told once per crossing, killed where the limit says so; the reason is where it is looked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kernel_rig
import pytest
import trio
from attrs import evolve
from kernel_rig import DEPLOYED, EXIT_1, Plan, PlannedRunning, PlannedRuntime, history, opened, recorded, story
from trio.testing import MockClock

from solo_trio.embedding import Kernel
from solo_trio.errors import Rejected
from solo_trio.kernel import monitor as monitor_module
from solo_trio.model.ending import Breach
from solo_trio.model.resources import ResourceViolation
from solo_trio.policy.pressure import TOLD_PER_MINUTE_MAX
from solo_trio.policy.violations import MEBIBYTE
from solo_trio.ports import Ending
from solo_trio.testing import MemoryKernel

Uses = Callable[[float], Mapping[str, float]]


def memory(*mebibytes: float) -> Uses:
    """So much in each second; the last for ever."""

    def uses(seconds: float) -> Mapping[str, float]:
        return {"memory_bytes": mebibytes[min(int(seconds), len(mebibytes) - 1)] * MEBIBYTE, "cpu_s": 0.0}

    return uses


def with_plans(kernel: Kernel, **plans: list[Plan]) -> PlannedRuntime:
    runtime = PlannedRuntime(plans)
    kernel.system.core.runtimes = {**kernel.system.core.runtimes, "process": runtime}
    return runtime


async def violations(kernel: MemoryKernel) -> list[tuple[str, float, float, str]]:
    found = []
    for record in await history(kernel, None, "resource_violation"):
        event = record.event
        assert isinstance(event, ResourceViolation)
        found.append((event.resource, event.value, event.limit, event.action))
    return found


async def test_what_stays_below_is_not_told(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, calm=[Plan(uses=lambda _: {"memory_bytes": 50 * MEBIBYTE, "fds": 70, "threads": 7})])
        await (await running.tenant("acme")).deploy("web", source="calm", limits={"memory_mb": 64, "fds": 100})
        await trio.sleep(100)
    assert await violations(kernel) == []


async def test_a_soft_crossing_is_told_once_until_it_is_well_below_again(autojump_clock: MockClock) -> None:
    swing = memory(10, 10, 81, 79, 82, 78, 81, 10, 10, 85)
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, swing=[Plan(uses=swing)])
        await (await running.tenant("acme")).deploy("web", source="swing", limits={"memory_mb": 100})
        await trio.sleep(60)
        assert (await (await running.tenant("acme")).status("web"))["status"] == "ready"
    assert await violations(kernel) == [("memory_mb", 81, 100, "warn"), ("memory_mb", 85, 100, "warn")]


async def test_memory_above_the_limit_is_a_crash_that_says_so(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        runtime = with_plans(running, bomb=[Plan(uses=memory(10, 10, 10, 300)), Plan(uses=memory(10))])
        tenant = await running.tenant("acme")
        await tenant.deploy("web", source="bomb", limits={"memory_mb": 256})
        await recorded(running, "web", "service_ready", count=2)
        status = await tenant.status("web")
        assert status["last_crash"]["reason"] == "killed for its use of memory_mb: 300 of 256"
        [line] = await tenant.logs("web")
        assert (line["level"], line["generation"], line["message"]) == ("error", 1, status["last_crash"]["reason"])
        assert line["fields"] == {"resource": "memory_mb", "value": 300, "limit": 256}
        assert runtime.starts == {"web": 2}
    assert await violations(kernel) == [("memory_mb", 300, 256, "kill")]
    assert await story(kernel, "web") == [*DEPLOYED, "resource_violation", "crashed", "started restart", "ready"]
    [violation, crash] = await history(kernel, "web", "resource_violation", "service_crashed")
    assert violation.stored.at_us == crash.stored.at_us, "one transaction: never one without the other"


async def test_a_service_that_is_always_too_large_is_given_up(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, bomb=[Plan(uses=memory(300))])
        await (await running.tenant("acme")).deploy("web", source="bomb", limits={"memory_mb": 256}, max_restarts=2)
        await recorded(running, "web", "service_given_up")
        await trio.sleep(100)
    assert [action for *_, action in await violations(kernel)] == ["kill"] * 3


async def test_a_bomb_before_it_is_ready_fails_the_deployment_for_that_reason(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, bomb=[Plan(ready_s=30, uses=memory(10, 300))])
        tenant = await running.tenant("acme")
        with pytest.raises(Rejected, match="killed for its use of memory_mb: 300 of 256"):
            await tenant.deploy("web", source="bomb", limits={"memory_mb": 256, "start_timeout_s": 60})
    assert (await story(kernel, "web"))[-2:] == ["resource_violation", "deployment_failed"]


async def test_processor_time_that_is_used_up_ends_it(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, spin=[Plan(uses=lambda seconds: {"cpu_s": seconds}), Plan()])
        tenant = await running.tenant("acme")
        await tenant.deploy("web", source="spin", limits={"cpu_seconds": 20})
        await recorded(running, "web", "service_crashed")
        assert "cpu_seconds" in (await tenant.status("web"))["last_crash"]["reason"]
    told = await violations(kernel)
    assert [(resource, action) for resource, _, _, action in told] == [("cpu_seconds", "warn"), ("cpu_seconds", "kill")]
    assert told[0][1] == pytest.approx(16, abs=1.01) and told[1][1] == pytest.approx(20, abs=1.01)


async def test_the_signal_that_ends_it_before_a_sample_does_is_explained_alike(autojump_clock: MockClock) -> None:
    spent = Ending("crashed", "ended by SIGXCPU", signal="SIGXCPU")
    out_of_memory = Ending("crashed", "the out-of-memory killer", breach=Breach("memory_mb"))
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(
            running, it=[Plan(ends_s=5, ending=spent), Plan(ends_s=5, ending=out_of_memory), Plan(ends_s=5), Plan()]
        )
        tenant = await running.tenant("acme")
        await tenant.deploy("web", source="it", limits={"cpu_seconds": 3, "memory_mb": 64})
        await recorded(running, "web", "service_ready", count=4)
    assert await violations(kernel) == [("cpu_seconds", 3, 3, "kill"), ("memory_mb", 64, 64, "kill")]
    reasons = [getattr(record.event, "reason", "") for record in await history(kernel, "web", "service_crashed")]
    assert "cpu_seconds: 3 of 3" in reasons[0] and "memory_mb: 64 of 64" in reasons[1]
    assert reasons[2] == EXIT_1.reason, "what has nothing to do with a limit is left alone"


@pytest.mark.parametrize("throttles", [True, False])
async def test_a_share_of_the_processor_is_throttled_where_that_can_be_done(
    autojump_clock: MockClock, throttles: bool
) -> None:
    def uses(seconds: float) -> Mapping[str, float]:
        held = {"throttled_s": seconds / 2} if throttles else {}
        return {"cpu_s": seconds * (0.49 if throttles else 0.6), **held}

    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, spin=[Plan(uses=uses)])
        tenant = await running.tenant("acme")
        await tenant.deploy("web", source="spin", limits={"cpu_percent": 50})
        await trio.sleep(60)
        status = await tenant.status("web")
        assert status["status"] == "ready"
        assert status["usage"]["cpu_percent"] == pytest.approx(49 if throttles else 60)
    [(resource, value, limit, action)] = await violations(kernel)
    assert (resource, limit, action) == ("cpu_percent", 50, "throttle" if throttles else "warn")
    assert value == pytest.approx(49 if throttles else 60)


async def test_a_busy_start_is_no_violation(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, spin=[Plan(uses=lambda seconds: {"cpu_s": min(seconds, 3)})])
        await (await running.tenant("acme")).deploy("web", source="spin", limits={"cpu_percent": 50})
        await trio.sleep(60)
    assert await violations(kernel) == []


async def test_what_crosses_again_and_again_is_told_a_few_times_a_minute(autojump_clock: MockClock) -> None:
    def uses(seconds: float) -> Mapping[str, float]:
        return {"fds": 90 if int(seconds) % 2 else 1, "threads": 90 if int(seconds) % 3 else 1}

    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, swing=[Plan(uses=uses)])
        await (await running.tenant("acme")).deploy("web", source="swing", limits={"fds": 100, "threads": 100})
        await trio.sleep(600)
    assert len(await violations(kernel)) <= TOLD_PER_MINUTE_MAX * 11
    assert len(await violations(kernel)) >= TOLD_PER_MINUTE_MAX * 10


async def test_a_service_that_is_being_stopped_is_left_to_that(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, slow=[Plan(stops_s=20, uses=lambda seconds: {"memory_bytes": 1e12 if seconds > 5 else 0})])
        tenant = await running.tenant("acme")
        await tenant.deploy("web", source="slow")
        await trio.sleep(4)
        await tenant.kill("web", grace_ms=30_000)
    assert (await story(kernel, "web"))[-2:] == ["killed", "stopped stopped"]


async def test_a_limit_that_is_lowered_counts_for_the_next_sample(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, large=[Plan(uses=memory(200)), Plan()])
        tenant = await running.tenant("acme")
        await tenant.deploy("web", source="large", limits={"memory_mb": 512})
        await trio.sleep(10)
        await tenant.update("web", limits={"memory_mb": 128})
        await recorded(running, "web", "service_crashed")
    assert await violations(kernel) == [("memory_mb", 200, 128, "kill")]


async def test_what_the_runtime_cannot_lower_is_watched_all_the_same(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fixed(PlannedRunning):
        def adjust(self, limits: Mapping[str, float]) -> frozenset[str]:
            return frozenset()

    monkeypatch.setattr(kernel_rig, "PlannedRunning", Fixed)
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, large=[Plan(uses=memory(200)), Plan()])
        tenant = await running.tenant("acme")
        await tenant.deploy("web", source="large", limits={"memory_mb": 512, "fds": 100})
        answer = await tenant.update("web", limits={"memory_mb": 256, "fds": 50})
        assert answer["applies_at_next_start"] == ["fds"]
        assert (await tenant.update("web", limits={"memory_mb": 400}))["applies_at_next_start"] == []
        assert (await tenant.update("web", limits={"memory_mb": 600}))["applies_at_next_start"] == ["memory_mb"]
        await tenant.update("web", limits={"memory_mb": 128})
        await recorded(running, "web", "service_crashed")
    assert await violations(kernel) == [("memory_mb", 200, 128, "kill")]


async def test_it_sleeps_where_there_is_nothing_to_measure_and_wakes_for_a_start(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, unknown=[Plan()], bomb=[Plan(uses=memory(10, 300))])
        tenant, monitor = await running.tenant("acme"), running.system.core.monitor
        await tenant.deploy("web", source="unknown")
        await trio.sleep(100)
        rounds = monitor.rounds
        await trio.sleep(10_000)
        assert monitor.rounds == rounds
        await tenant.deploy("bomb", source="bomb", limits={"memory_mb": 256})
        await recorded(running, "bomb", "service_crashed")


async def test_many_services_are_sampled_with_turns_for_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    sampled = 0

    def uses(seconds: float) -> Mapping[str, float]:
        nonlocal sampled
        sampled += 1
        return {"memory_bytes": 0.0, "cpu_s": 0.0}

    monkeypatch.setattr(monitor_module, "SHARE_MAX", 1.0)
    kernel = MemoryKernel()
    settings = evolve(kernel.settings, max_per_tenant=300)
    async with opened(evolve(kernel, settings=settings)) as running:
        with_plans(running, calm=[Plan(uses=uses)])
        tenant = await running.tenant("acme")
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(deploy, tenant, f"s{number}")
        await trio.sleep(5)

        with trio.move_on_after(5):
            while True:
                sampled = 0
                autojump_clock.jump(0.05)
                await trio.lowlevel.checkpoint()
                turns.append(sampled)
    assert 0 < max(turns) <= 2 * monitor_module.SLICE_SERVICES  # others have had theirs between two


async def deploy(tenant: Any, service_id: str) -> None:
    await tenant.deploy(service_id, source="calm")
