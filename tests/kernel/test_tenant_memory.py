"""`max_memory_mb`: what all services of a tenant may use together. Whoever uses most ends; nobody else does."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve
from kernel_rig import Plan, PlannedRuntime, history, opened, recorded
from trio.testing import MockClock

from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted, Rejected
from solo_trio.kernel.tenant_memory import TenantMemory, Use
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.limits import Limits
from solo_trio.model.resources import ResourceViolation
from solo_trio.model.tenant import TenantLimits
from solo_trio.operations import tenants
from solo_trio.operations.caller import Caller
from solo_trio.policy.violations import MEBIBYTE
from solo_trio.testing import MemoryKernel

BOUND_S = 120


def using(mebibytes: float) -> Plan:
    return Plan(uses=lambda _: {"memory_bytes": mebibytes * MEBIBYTE, "cpu_s": 0.0})


def with_plans(kernel: Kernel, **plans: list[Plan]) -> PlannedRuntime:
    runtime = PlannedRuntime(plans)
    kernel.system.core.runtimes = {**kernel.system.core.runtimes, "process": runtime}
    return runtime


async def limited(kernel: Kernel, max_memory_mb: float | None, tenant_id: str = "acme") -> None:
    limits = TenantLimits(max_memory_mb=max_memory_mb)
    await tenants.create(Caller(kernel.system, EMBEDDER), tenant_id, limits, get=False)


async def change(kernel: Kernel, max_memory_mb: float) -> dict[str, Any]:
    limits = TenantLimits(max_memory_mb=max_memory_mb)
    given = tenants.UpdateTenantInput(tenant_id="acme", limits=limits, service_limits=Limits())
    return (await tenants.update_tenant(Caller(kernel.system, EMBEDDER), given)).body


async def told(kernel: MemoryKernel) -> list[tuple[str | None, str, float, float, str]]:
    found = []
    for record in await history(kernel, None, "resource_violation"):
        event = record.event
        assert isinstance(event, ResourceViolation)
        found.append((record.stored.subject, event.resource, event.value, event.limit, event.action))
    return found


async def test_the_one_that_uses_most_ends_and_starts_again(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        runtime = with_plans(running, big=[using(70), using(10)], small=[using(40)], other=[using(300)])
        await limited(running, 100)
        tenant, other = await running.tenant("acme"), await running.tenant("other")
        await other.deploy("other", source="other")
        await tenant.deploy("small", source="small")
        await tenant.deploy("big", source="big")
        with trio.fail_after(BOUND_S):
            await recorded(running, "big", "service_ready", count=2)
        await trio.sleep(60)
        crash = (await tenant.status("big"))["last_crash"]
        assert (
            crash["reason"] == "killed, as it used most of what its tenant may use together (max_memory_mb): 110 of 100"
        )
        [line] = await tenant.logs("big")
        assert line["fields"] == {"resource": "max_memory_mb", "value": 110, "limit": 100}
        assert runtime.starts == {"small": 1, "big": 2, "other": 1}
    assert await told(kernel) == [("big", "max_memory_mb", 110, 100, "kill")]


async def test_the_next_one_ends_until_what_is_left_is_below(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        runtime = with_plans(
            running, a=[using(60), using(1)], b=[using(50), using(1)], c=[using(45)], d=[Plan(uses=lambda _: {})]
        )
        tenant = await running.tenant("acme")
        for name in "abcd":
            await tenant.deploy(name, source=name)
        await trio.sleep(10)
        assert runtime.starts == dict.fromkeys("abcd", 1)
        assert (await change(running, 90))["limits"] == {"max_memory_mb": 90}, "it counts for what runs"
        with trio.fail_after(BOUND_S):
            await recorded(running, "b", "service_ready", count=2)
        await trio.sleep(60)
        assert runtime.starts == {"a": 2, "b": 2, "c": 1, "d": 1}
    assert [(subject, action) for subject, *_, action in await told(kernel)] == [("a", "kill"), ("b", "kill")]


async def test_what_is_judged_is_exact(autojump_clock: MockClock) -> None:
    """A sample counts what a small service has read of files, which is nobody's memory."""
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        small = evolve(using(7), exactly={"memory_bytes": MEBIBYTE, "cpu_s": 0.0})
        runtime = with_plans(running, small=[small])
        await limited(running, 50)
        tenant = await running.tenant("acme")
        for number in range(10):
            await tenant.deploy(f"s{number}", source="small")
        await trio.sleep(60)
        assert set(runtime.starts.values()) == {1}
    assert await told(kernel) == []


async def test_a_patient_stop_buys_no_memory(autojump_clock: MockClock) -> None:
    """Whoever is being stopped counts; it has no grace any more when it is the one that uses most."""
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        late = Plan(uses=lambda seconds: {"memory_bytes": (10 if seconds < 30 else 59) * MEBIBYTE, "cpu_s": 0.0})
        runtime = with_plans(running, hog=[using(60)], late=[late])
        await limited(running, 100)
        tenant = await running.tenant("acme")
        await tenant.deploy("hog", source="hog", limits={"stop_timeout_s": 600})
        await tenant.deploy("late", source="late")
        began = trio.current_time()
        await tenant.pause("hog")
        assert trio.current_time() - began < 60
        await trio.sleep(60)
        assert runtime.starts == {"hog": 1, "late": 1} and (await tenant.status("late"))["status"] == "ready"
    assert await told(kernel) == []


async def test_what_was_sampled_of_an_earlier_generation_does_not_count(autojump_clock: MockClock) -> None:
    async with opened(MemoryKernel()) as running:
        runtime = with_plans(running, one=[using(90), using(1)], two=[using(30)])
        tenant = await running.tenant("acme")
        await tenant.deploy("one", source="one")
        await tenant.deploy("two", source="two")
        supervising = running.system.core.tenants["acme"]
        uses = []
        for name, supervisor in supervising.supervisors.items():
            assert supervisor.running is not None
            uses.append(Use(name, supervisor, supervisor.running, supervisor.generation, 60.0))
        await tenant.restart("one")
        assert await TenantMemory(lambda _: 100.0).compare([(supervising, uses)]) == []
        await trio.sleep(10)
        assert runtime.starts == {"one": 2, "two": 1}


async def test_near_the_limit_it_is_told_once(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, more=[using(60)], less=[using(25)])
        await limited(running, 100)
        tenant = await running.tenant("acme")
        await tenant.deploy("less", source="less")
        await tenant.deploy("more", source="more")
        await trio.sleep(100)
        explained = await tenant.explain("more")
        assert "its tenant's services used 85 of 100 max_memory_mb together" in str(explained)
    assert await told(kernel) == [("more", "max_memory_mb", 85, 100, "warn")]


async def test_it_is_a_ceiling_for_each(autojump_clock: MockClock) -> None:
    kernel = MemoryKernel()
    async with opened(kernel) as running:
        with_plans(running, one=[Plan()])
        await limited(running, 100)
        tenant = await running.tenant("acme")
        await tenant.deploy("one", source="one", limits={"memory_mb": 4_096})
        assert (await tenant.status("one"))["limits"]["memory_mb"] == 100
    async with opened(kernel) as running:
        with_plans(running, one=[Plan()])
        assert (await (await running.tenant("acme")).status("one"))["limits"]["memory_mb"] == 100, "found again"


@pytest.mark.parametrize("value", [0, 15.9, 2_000_000, float("nan")])
async def test_what_is_out_of_range_is_refused(autojump_clock: MockClock, value: float) -> None:
    async with opened(MemoryKernel()) as running:
        with pytest.raises(Rejected, match=r"limits\.max_memory_mb must be between 16 and 1048576"):
            await limited(running, value)


HOLDS = """
from solo_trio import service
held = []
@service.export
def hold(mebibytes):
    held.append(b"x" * (mebibytes << 20))
    return mebibytes
"""


async def test_real_processes(tmp_path: Path) -> None:
    async with Kernel.open(tmp_path) as kernel:
        with trio.fail_after(BOUND_S):
            await limited(kernel, 100)
            tenant = await kernel.tenant("acme")
            for name in ("one", "two", "three"):
                await tenant.deploy(name, source=HOLDS)
            assert await tenant.call("one", "hold", 25) == 25
            assert await tenant.call("two", "hold", 30) == 30
            with contextlib.suppress(Faulted):  # it may be killed before it has answered
                await tenant.call("three", "hold", 60)
            await recorded(kernel, "three", "service_crashed")
            assert "(max_memory_mb)" in (await tenant.status("three"))["last_crash"]["reason"]
            await recorded(kernel, "three", "service_ready", count=2)
            assert [(await tenant.status(name))["restarts"] for name in ("one", "two", "three")] == [0, 0, 1]
            assert await tenant.call("one", "hold", 1) == await tenant.call("two", "hold", 1) == 1


async def test_real_services_that_do_nothing_use_nothing(tmp_path: Path) -> None:
    """Each has read files, too; how much of that a sample counts is chance, and nobody's memory."""
    async with Kernel.open(tmp_path) as kernel:
        with trio.fail_after(BOUND_S):
            await limited(kernel, 16)
            tenant = await kernel.tenant("acme")
            for number in range(8):
                await tenant.deploy(
                    f"s{number}", source="import trio\nasync def main(ctx):\n    await trio.sleep_forever()\n"
                )
            monitor = kernel.system.core.monitor
            began = monitor.rounds
            while monitor.rounds < began + 3:  # noqa: ASYNC110 - bounded
                await trio.sleep(0.05)
            running = [each.running for each in kernel.system.core.tenants["acme"].supervisors.values()]
            exactly = [each.usage(exactly=True)["memory_bytes"] for each in running if each is not None]
            assert len(exactly) == 8 and sum(exactly) < 8 * MEBIBYTE
            assert [(await tenant.status(f"s{number}"))["restarts"] for number in range(8)] == [0] * 8
            assert "resource_violation" not in [each["type"] for each in await tenant.events()]
