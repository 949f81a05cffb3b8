"""What is watched of real processes: too much memory or processor time ends them, with the reason wherever it is looked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from e2e_served import PATIENCE_S, Served, served

# httpx leaves its generators to the collector when a connection breaks in the middle
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning")

GREEDY = """
import mmap, os
from solo_trio import service

kept = []

@service.export
def take(mebibytes):
    '''Shared memory, which no limit of the process itself bounds.'''
    block = mmap.mmap(-1, mebibytes << 20)
    for page in range(0, mebibytes << 20, 4096):
        block[page] = 1
    kept.append(block)

@service.export
def open_files(count):
    kept.extend(os.dup(0) for _ in range(count))

@service.export
def spin():
    while True:
        pass
"""


@contextlib.asynccontextmanager
async def greedy(data: Path, **limits: float) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    with trio.fail_after(PATIENCE_S):
        async with served(data) as server:
            (await server.client.post("/tenants", json={"tenant_id": "t"})).raise_for_status()
            tenant = server.tenant("t")
            body = {"service_id": "greedy", "code": GREEDY, "limits": limits}
            (await tenant.post("/services", json=body)).raise_for_status()
            yield server, tenant


async def ask(tenant: httpx.AsyncClient, function: str, *args: Any) -> None:
    """The answer is nothing: it may die of it."""
    await tenant.post(f"/services/greedy/call/{function}", json={"args": args}, timeout=PATIENCE_S)


async def seen(tenant: httpx.AsyncClient, type_: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait for so many events of that type."""
    while True:
        events = (await tenant.get("/events", params={"type": type_})).json()["events"]
        if len(events) >= count:
            return list(events)
        await trio.sleep(0.1)


async def check_reason(tenant: httpx.AsyncClient, resource: str) -> None:
    """In the event, the crash, the status and the log."""
    kills: list[dict[str, Any]] = []
    while not kills:  # it is warned before it is killed, and perhaps that is all that there is yet
        kills = [each for each in await seen(tenant, "resource_violation") if each["payload"]["action"] == "kill"]
    [violation] = kills
    assert violation["payload"]["resource"] == resource
    assert violation["payload"]["value"] >= violation["payload"]["limit"]
    [crash, *_] = await seen(tenant, "service_crashed")
    assert resource in crash["payload"]["reason"]
    assert violation["id"] < crash["id"]
    status = (await tenant.get("/services/greedy")).json()
    assert resource in status["last_crash"]["reason"]
    logs = (await tenant.get("/logs", params={"service_id": "greedy", "level": "error"})).json()["logs"]
    assert [resource in line["message"] for line in logs] == [True]


async def test_a_service_shows_what_it_uses(tmp_path: Path) -> None:
    async with greedy(tmp_path) as (_, tenant):
        usage = (await tenant.get("/services/greedy")).json()["usage"]
        assert {"rss_bytes", "memory_bytes", "cpu_s", "cpu_percent", "threads", "fds"} <= usage.keys()
        assert usage["fds"] < 40 and usage["memory_bytes"] < 32 << 20 < 512 << 20
        await ask(tenant, "take", 100)
        after = (await tenant.get("/services/greedy")).json()["usage"]
        assert after["memory_bytes"] - usage["memory_bytes"] > 90 << 20
        assert (await seen(tenant, "resource_violation", 0)) == []


async def test_memory_that_no_limit_of_the_process_bounds(tmp_path: Path) -> None:
    async with greedy(tmp_path, memory_mb=128) as (_, tenant):
        await ask(tenant, "take", 200)
        await check_reason(tenant, "memory_mb")
        await seen(tenant, "service_ready", 2)


async def test_a_ceiling_of_the_tenant_that_is_lowered_ends_what_is_above_it(tmp_path: Path) -> None:
    async with greedy(tmp_path, memory_mb=512) as (server, tenant):
        await ask(tenant, "take", 200)
        answer = await server.client.patch("/tenants/t", json={"service_limits": {"memory_mb": 96}})
        assert answer.json()["service_limits"] == {"memory_mb": 96}
        await check_reason(tenant, "memory_mb")
        assert (await tenant.get("/services/greedy")).json()["limits"]["memory_mb"] == 96


async def test_processor_time(tmp_path: Path) -> None:
    async with greedy(tmp_path, cpu_seconds=2) as (_, tenant):
        await ask(tenant, "spin")
        await check_reason(tenant, "cpu_seconds")


async def test_descriptors_are_warned_of(tmp_path: Path) -> None:
    async with greedy(tmp_path, fds=100) as (_, tenant):
        await ask(tenant, "open_files", 80)
        [warning] = await seen(tenant, "resource_violation")
        assert warning["payload"]["resource"] == "fds" and warning["payload"]["action"] == "warn"
        assert (await tenant.get("/services/greedy")).json()["status"] == "ready"


async def test_a_share_of_the_processor(tmp_path: Path) -> None:
    async with greedy(tmp_path, cpu_percent=20) as (_, tenant), trio.open_nursery() as nursery:
        nursery.start_soon(ask, tenant, "spin")
        [violation, *_] = await seen(tenant, "resource_violation")
        assert violation["payload"]["resource"] == "cpu_percent"
        assert violation["payload"]["action"] in ("warn", "throttle")
        assert (await tenant.get("/services/greedy")).json()["status"] == "ready"
        nursery.cancel_scope.cancel()


async def test_a_disk_that_is_nearly_full_takes_no_new_deployments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with greedy(tmp_path):
        pass
    monkeypatch.setenv("SOLO_FREE_DISK_MB", str(1 << 30))  # more than there is
    with trio.fail_after(PATIENCE_S):
        async with served(tmp_path) as server:
            tenant = server.tenant("t")
            refused = await tenant.post("/services", json={"service_id": "more", "code": "x = 1"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert refused.json()["code"] == "overloaded" and refused.json()["resource"] == "disk"
            [told] = (await server.client.get("/events", params={"type": "runtime_pressure_high"})).json()["events"]
            assert told["payload"]["resource"] == "disk" and told["payload"]["level"] == "critical"
            pressure = (await server.client.get("/system")).json()["pressure"]
            assert pressure["disk"]["level"] == "critical" and pressure["memory"]["level"] == "ok"
            health = await server.client.get("/health")
            assert health.status_code == 200 and health.json()["components"]["pressure"] == "critical"
            assert (await tenant.get("/services/greedy")).json()["status"] == "ready", "what was there still is"
            assert (await tenant.delete("/services/greedy")).status_code == 200
