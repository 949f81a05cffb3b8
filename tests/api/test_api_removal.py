"""DELETE /tenants/{id}: what it answers, what ends with the tenant, what of it is left, over the API with everything real."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import httpx
import trio
from api_rig import CALC, STUBBORN, Api, Client, Frames, refused, running, service_pids
from test_api_health import tmpfs

from solo_trio.operations.settings import Settings
from solo_trio.runtimes import procfs


async def remove(api: Api, tenant_id: str, **more: Any) -> httpx.Response:
    return await api.admin.delete(f"/tenants/{tenant_id}", **more)


def files_of(api: Api, incarnation: str) -> list[str]:
    return sorted(str(path.relative_to(api.data)) for path in api.data.rglob(f"*{incarnation}*"))


def incarnation_of(api: Api, tenant_id: str) -> str:
    return api.system.core.loop.state.tenants[tenant_id].incarnation


async def end_of(frames: Frames) -> Any:
    """What the last frame of a stream says; the server ends it."""
    last = None
    async for frame in frames:
        last = frame
    assert last is not None and last.event == "end"
    return last.json


async def test_everything_of_it_is_gone_and_nothing_of_another(api: Api) -> None:
    other = await api.tenant("other")
    await other.deploy("calc", CALC)
    theirs = service_pids()
    tenant = await api.tenant("t1")
    await tenant.deploy("calc", CALC + "print('hello')")
    await tenant.deploy("calm", CALC)
    await tenant.wait_log("hello")
    incarnation = incarnation_of(api, "t1")
    assert [path.split("/")[0] for path in files_of(api, incarnation)] == ["logs", "tenants"]
    below = set(procfs.descendants(os.getpid()))
    response = await remove(api, "t1")
    assert (response.status_code, response.json()) == (200, {"tenant_id": "t1", "status": "removed"})
    assert service_pids() == theirs and await other.call("calc", "add", 2, 3) == 5
    assert set(procfs.descendants(os.getpid())) < below
    assert files_of(api, incarnation) == []
    core = api.system.core
    assert incarnation not in {row.incarnation for row in await core.journal.keys()}
    assert not [each for each in core.loop.state.capabilities.values() if each.tenant_id == "t1"]
    refused(await tenant.get("/services"), "unauthenticated")
    refused(await remove(api, "t1"), "tenant_not_found")
    refused(await api.admin.get("/tenants/t1"), "tenant_not_found")
    refused(await api.admin.get("/services", headers={"X-Tenant-ID": "t1"}), "tenant_not_found")
    assert [each["tenant_id"] for each in (await api.admin.ok("GET", "/tenants"))["tenants"]] == ["other"]
    theirs_too = [event for event in await api.admin.events() if event["tenant_id"] == "t1"]
    types = [event["type"] for event in theirs_too]
    assert types[-5:-2] == ["tenant_removal_started", "service_stopped", "service_stopped"]
    assert types[-2:] == ["tenant_removed", "tenant_erased"]
    assert [event["payload"] is None for event in theirs_too] == [True] * (len(types) - 1) + [False]
    report = await api.admin.ok("POST", "/system/verify")
    assert report["status"] == "ok", report


async def test_a_new_one_of_the_id_has_nothing_of_the_old(api: Api) -> None:
    old = await api.tenant("t1")
    await old.deploy("calc", CALC + "print('of the old one')")
    await old.wait_log("of the old one")
    await remove(api, "t1")
    new = await api.tenant("t1")
    assert new.token != old.token
    refused(await old.get("/services"), "unauthenticated")
    assert (await new.ok("GET", "/services"))["services"] == []
    assert await new.logs() == []
    assert [event["type"] for event in await new.events()] == ["tenant_created", "capability_granted"]
    await new.deploy("calc", CALC)
    assert await new.call("calc", "add", 1, 1) == 2 and await new.logs() == []
    refused(await old.try_call("calc", "add", 1, 1), "unauthenticated")


async def test_while_it_goes_on(api: Api) -> None:
    tenant = await api.tenant("t1")
    await tenant.deploy("deaf", STUBBORN)
    answers: list[httpx.Response] = []

    async def ask(query: str) -> None:
        answers.append(await remove(api, f"t1{query}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "?grace_ms=600000")
        await api.admin.wait_event("tenant_removal_started")
        assert (await api.admin.ok("GET", "/tenants/t1"))["status"] == "removing"
        refused(await api.admin.post("/tenants", {"tenant_id": "t1"}), "tenant_exists")
        refused(await api.admin.get("/services", headers={"X-Tenant-ID": "t1"}), "tenant_not_found")
        refused(await api.admin.request("PATCH", "/tenants/t1", json={"hardening": "off"}), "tenant_not_found")
        refused(await tenant.get("/services"), "unauthenticated")
        nursery.start_soon(ask, "?grace_ms=600000")  # joins
        await api.admin.get("/health")
        assert answers == []
        nursery.start_soon(ask, "?grace_ms=0")
    assert [answer.json()["status"] for answer in answers] == ["removed"] * 3
    assert not service_pids()


async def test_the_same_request_again_has_the_same_answer_and_removes_no_later_one(api: Api) -> None:
    await api.tenant("t1")
    key = {"Idempotency-Key": "remove-1"}
    first = await remove(api, "t1", headers=key)
    await api.tenant("t1")
    again = await remove(api, "t1", headers=key)
    assert (first.status_code, first.json()) == (again.status_code, again.json()) == (200, first.json())
    assert (await api.admin.ok("GET", "/tenants/t1"))["status"] == "active"


async def test_keys_of_requests_are_of_one_incarnation(api: Api) -> None:
    key = {"Idempotency-Key": "same"}
    for _ in range(2):
        tenant = await api.tenant("t1")
        await tenant.deploy("calc", CALC, headers=key)
        assert await tenant.call("calc", "add", 1, 2) == 3
        await remove(api, "t1")


async def test_open_streams_of_it_end_whoever_opened_them(api: Api) -> None:
    tenant = await api.tenant("t1")
    await tenant.deploy("calc", CALC)
    for_it: dict[str, str] = {"X-Tenant-ID": "t1"}
    async with (
        tenant.stream(since_id=0) as own,
        tenant.stream(path="/logs") as own_logs,
        api.admin.stream(since_id=0, headers=for_it) as acting,
        api.admin.stream(path="/logs", headers=for_it) as acting_logs,
        api.admin.stream(since_id=0, type="service_ready", headers=for_it) as filtered,
        api.admin.stream(since_id=0) as everything,
    ):
        await remove(api, "t1")
        for frames in (own, own_logs, acting, acting_logs, filtered):
            assert (await end_of(frames))["reason"] == "revoked"
        await api.tenant("t2")
        async for frame in everything:
            if frame.json["type"] == "tenant_created" and frame.json["tenant_id"] == "t2":
                break


async def test_a_tenant_cannot_remove_itself_or_another(api: Api) -> None:
    tenant: Client = await api.tenant("t1")
    await api.tenant("t2")
    for other in ("t1", "t2", "nobody"):
        refused(await tenant.delete(f"/tenants/{other}"), "permission_denied")
    assert len((await api.admin.ok("GET", "/tenants"))["tenants"]) == 2


async def test_bad_input(api: Api) -> None:
    await api.tenant("t1")
    before = await api.last_event_id()
    for query in ("grace_ms=-1", "grace_ms=600001", "grace_ms=x", "grace_ms="):
        refused(await remove(api, f"t1?{query}"), "invalid_field")
    refused(await remove(api, "t1?force=true"), "unknown_field")
    refused(await remove(api, "T1"), "invalid_id")
    refused(await remove(api, "nobody"), "tenant_not_found")
    assert await api.last_event_id() == before


async def test_on_a_full_disk(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "24m") as disk:
        async with running(disk / "data", Settings(free_disk_mb=0)) as api:
            tenant = await api.tenant("t1")
            for name in ("one", "two", "three"):
                await tenant.deploy(name, CALC + "print('said')", headers={"Idempotency-Key": name})
            await tenant.wait_log("said")
            incarnation = incarnation_of(api, "t1")
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            refused(await tenant.try_deploy("more", "#" + "x" * 1_000_000), "storage_full")
            assert (await remove(api, "t1")).json() == {"tenant_id": "t1", "status": "removed"}
            assert not service_pids() and files_of(api, incarnation) == []
            ballast.unlink()
            again = await api.tenant("t1")
            await again.deploy("one", CALC)
