"""The limits of a tenant: a ceiling for each of its services, at creation and later, for what runs and what comes."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_rig import Plan, PlannedRuntime, history, opened
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio.embedding import Kernel
from solo_trio.errors import Rejected
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.limits import Limits
from solo_trio.model.tenant import TenantLimits
from solo_trio.operations import tenants
from solo_trio.operations.caller import Caller
from solo_trio.operations.settings import Settings
from solo_trio.testing import MemoryKernel


def with_runtime(kernel: Kernel) -> PlannedRuntime:
    runtime = PlannedRuntime({"good": [Plan()]})
    kernel.system.core.runtimes = {**kernel.system.core.runtimes, "process": runtime}
    return runtime


async def change(kernel: Kernel, tenant_id: str, max_services: int | None = None, **limits: Any) -> dict[str, Any]:
    given = tenants.UpdateTenantInput(
        tenant_id=tenant_id, limits=TenantLimits(max_services), service_limits=Limits(**limits)
    )
    return (await tenants.update_tenant(Caller(kernel.system, EMBEDDER), given)).body


async def in_force(kernel: Kernel, tenant_id: str, service_id: str) -> dict[str, Any]:
    status = await (await kernel.tenant(tenant_id)).status(service_id)
    limits = status["limits"]
    assert isinstance(limits, dict)
    return limits


async def test_the_lowest_of_deployment_tenant_and_configuration_counts(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(settings=Settings(boot_loop_starts=0, limits=Limits(fds=100, threads=10)))
    async with opened(memory) as kernel:
        with_runtime(kernel)
        await tenants.create(
            Caller(kernel.system, EMBEDDER), "acme", TenantLimits(), Limits(memory_mb=64, fds=200, threads=5), get=False
        )
        tenant, other = await kernel.tenant("acme"), await kernel.tenant("other")
        await tenant.deploy("modest", source="good", limits={"memory_mb": 32, "fds": 50})
        await tenant.deploy("greedy", source="good", limits={"memory_mb": 4_096, "fds": 4_096, "threads": 4_096})
        await other.deploy("free", source="good", limits={"memory_mb": 4_096})
        modest, greedy = await in_force(kernel, "acme", "modest"), await in_force(kernel, "acme", "greedy")
        assert (modest["memory_mb"], modest["fds"], modest["threads"]) == (32, 50, 5)
        assert (greedy["memory_mb"], greedy["fds"], greedy["threads"]) == (64, 100, 5)
        assert (await in_force(kernel, "other", "free"))["memory_mb"] == 4_096
    async with opened(memory) as kernel:
        with_runtime(kernel)
        assert (await in_force(kernel, "acme", "greedy"))["memory_mb"] == 64, "found again by recovery"


async def test_a_change_counts_at_once_for_what_runs_and_for_no_other_tenant(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        runtime = with_runtime(kernel)
        for tenant_id in ("acme", "other"):
            await (await kernel.tenant(tenant_id)).deploy("web", source="good", limits={"memory_mb": 256})
        answer = await change(kernel, "acme", memory_mb=128, fds=64)
        assert answer["service_limits"] == {"memory_mb": 128, "fds": 64}
        await wait_all_tasks_blocked()
        assert [running.adjusted for running in runtime.alive] == [[{"memory_mb": 128, "fds": 64}], []]
        await change(kernel, "acme", memory_mb=1_048_576)
        await wait_all_tasks_blocked()
        assert runtime.alive[0].adjusted[1:] == [{"memory_mb": 256}], "the highest is no ceiling"


async def test_how_many_services_can_be_changed(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        with_runtime(kernel)
        tenant = await kernel.tenant("acme")
        await change(kernel, "acme", 1)
        await tenant.deploy("one", source="good")
        with pytest.raises(Rejected, match="quota_exceeded"):
            await tenant.deploy("two", source="good")
        await change(kernel, "acme", 2)
        await tenant.deploy("two", source="good")
        before = len(await history(memory))
        assert (await change(kernel, "acme", 2))["limits"] == {"max_services": 2}
        assert len(await history(memory)) == before, "nothing changed, nothing written"


@pytest.mark.parametrize("limits", [{"memory_mb": 1}, {"fds": 10**9}, {"cpu_percent": float("nan")}])
async def test_what_is_out_of_range_is_refused(autojump_clock: MockClock, limits: dict[str, Any]) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        await kernel.tenant("acme")
        before = len(await history(memory))
        with pytest.raises(Rejected, match="invalid_field"):
            await change(kernel, "acme", **limits)
        with pytest.raises(Rejected, match="invalid_field"):
            await change(kernel, "acme", -1)
        with pytest.raises(Rejected, match="tenant_not_found"):
            await change(kernel, "nobody", 1)
        assert len(await history(memory)) == before
