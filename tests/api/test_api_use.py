"""Limits on use, over real sockets: who is refused, what a refusal says, that nobody else notices."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from api_rig import CALC, Api, Client, refused, running
from attrs import evolve

from solo_trio.errors import Faulted
from solo_trio.operations import admission
from solo_trio.operations.settings import Settings

SLOW = """
import os, trio
from solo_trio import service

@service.export
async def wait(seconds):
    await trio.sleep(seconds)
    return seconds

@service.export
def die():
    os._exit(3)
"""
UNLIMITED = evolve(Settings(), requests_per_second=0.0)


def refusal(response: httpx.Response, code: str) -> int:
    """Its Retry-After, which says the same as the body."""
    document = refused(response, code)
    retry_after_s = int(response.headers["retry-after"])
    assert retry_after_s >= 1 and document["retry_after_s"] == retry_after_s
    return retry_after_s


async def statuses(client: Client, count: int, method: str = "GET", path: str = "/services") -> Counter[int]:
    """Of so many requests, all at once."""
    found: Counter[int] = Counter()

    async def one() -> None:
        response = await client.request(method, path)
        found[response.status_code] += 1
        if response.status_code == 429:
            refusal(response, "rate_limited")
        elif response.status_code == 503:
            refusal(response, "overloaded")
        else:
            assert "retry-after" not in response.headers

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return found


async def until_in_flight(api: Api, count: int) -> None:
    while api.system.admission.load.total < count:  # noqa: ASYNC110 - the count is no event
        await trio.sleep(0.01)


async def test_a_rate_of_a_tenant(api: Api) -> None:
    one = await api.tenant("one", limits={"requests_per_second": 0.001, "burst": 4})
    other = await api.tenant("other")
    assert refusal(await one.get("/services"), "rate_limited") > 900, "empty after the start"
    limits = {"requests_per_second": 1_000, "burst": 4}
    assert (await api.admin.ok("PATCH", "/tenants/one", {"limits": limits}))["limits"] == limits
    await one.get("/services")
    await trio.sleep(0.01)
    assert (await statuses(one, 1))[200] == 1
    await api.admin.ok("PATCH", "/tenants/one", {"limits": {"requests_per_second": 0.001}})
    found = await statuses(one, 30)
    assert found[200] <= 4 and found[429] == 30 - found[200]
    for path in ("/events", "/logs", "/services/none", "/nothing"):
        response = await one.get(path)
        assert response.status_code == (404 if path == "/nothing" else 429)
    assert (await one.try_deploy("calc", CALC)).status_code == 429
    assert (await one.request("GET", "/events/watch")).status_code == 429
    assert await statuses(other, 30) == {200: 30}
    assert await statuses(evolve(api.admin, tenant_id="one"), 20, path="/tenants") == {200: 20}
    as_one = await api.client(api.admin.token, None, **{"X-Tenant-ID": "one"})
    assert await statuses(as_one, 20) == {200: 20}, "the operator's requests are not the tenant's"
    assert (await one.get("/health")).status_code == 200 and (await one.get("/openapi.json")).status_code == 200
    shown = (await api.admin.ok("GET", "/system"))["use"]
    assert shown["refused"]["rate_limited"] >= 30


@pytest.mark.parametrize(
    "limits",
    [
        {"requests_per_second": 0},
        {"requests_per_second": -1},
        {"requests_per_second": 1e9},
        {"requests_per_second": "5"},
        {"burst": 0},
        {"burst": 0.5},
        {"in_flight": 0},
        {"in_flight": True},
        {"in_flight": 10**9},
    ],
)
async def test_limits_that_are_none(api: Api, limits: dict[str, Any]) -> None:
    refused(await api.admin.post("/tenants", {"tenant_id": "one", "limits": limits}), "invalid_field")
    await api.tenant("two")
    response = await api.admin.request("PATCH", "/tenants/two", json={"limits": limits})
    refused(response, "invalid_field")


async def test_a_capability_of_its_own_rate(api: Api, tenant: Client) -> None:
    granted = await tenant.ok(
        "POST",
        "/capabilities",
        {"resource": "service:*", "permissions": ["read"], "rate_limit": {"requests_per_second": 0.5, "burst": 3}},
    )
    narrow = await api.client(granted["token"])
    narrower = [
        await api.client(
            (
                await tenant.ok(
                    "POST",
                    "/capabilities/attenuate",
                    {"token": granted["token"], "rate_limit": {"requests_per_second": 0.5, "burst": 2}},
                )
            )["token"]
        )
        for _ in range(2)
    ]
    with trio.fail_after(30):
        while (await narrow.get("/services")).status_code == 429:  # noqa: ASYNC110 - the bucket fills with time
            await trio.sleep(0.2)
    found = Counter[int]()
    for client in (*narrower, narrow):
        found += await statuses(client, 10)
    assert found[200] <= 4 and found[429] >= 26, "all that descends from it has its rate together"
    assert await statuses(tenant, 20) == {200: 20}


async def test_a_hundred_slow_calls_of_one_tenant_hold_up_no_other(tmp_path: Path) -> None:
    async with running(tmp_path / "data", UNLIMITED) as api:
        one, other = await api.tenant("one"), await api.tenant("other")
        await one.deploy("slow", SLOW, limits={"calls_in_flight": 200})
        await other.deploy("calc")
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one.try_call, "slow", "wait", 600)
            await until_in_flight(api, 100)
            with trio.fail_after(30):  # of the ten minutes that the calls take
                again = await api.client(one.token)  # of the other, every connection waits
                assert (await statuses(again, 20)) == {503: 20}
                for number in range(10):
                    assert await other.call("calc", "add", number, 1) == number + 1
                assert await statuses(other, 50) == {200: 50}
                told = await api.admin.wait_event("load_shed")
            assert (told["tenant_id"], told["payload"]["phase"], told["payload"]["reason"]) == (
                "one",
                "began",
                "tenant",
            )
            [seen] = await one_events(one, api)
            assert seen["id"] == told["id"] and await other.events(type="load_shed") == []
            nursery.cancel_scope.cancel()
        with trio.fail_after(30):
            while api.system.admission.load.total:  # noqa: ASYNC110 - the count is no event
                await trio.sleep(0.01)
            assert await one.call("slow", "wait", 0) == 0
            ended = await api.admin.wait_event("load_shed", after=told["id"])
        assert ended["payload"]["phase"] == "ended" and ended["payload"]["refused"] >= 20


async def one_events(one: Client, api: Api) -> list[dict[str, Any]]:
    """What the tenant itself can read of it, by a system credential: it has no place itself."""
    as_one = await api.client(api.admin.token, None, **{"X-Tenant-ID": str(one.tenant_id)})
    return await as_one.events(type="load_shed")


async def test_streams_take_no_place(tmp_path: Path) -> None:
    settings = evolve(UNLIMITED, max_in_flight_per_tenant=2)
    async with running(tmp_path / "data", settings) as api:
        one = await api.tenant("one")
        async with one.stream(), one.stream(), one.stream(), one.stream(path="/logs"):
            assert api.system.admission.load.total == 0
            assert await statuses(one, 1) == {200: 1}


async def test_circuits(tmp_path: Path) -> None:
    async with running(tmp_path / "data", UNLIMITED) as api:
        one = await api.tenant("one")
        await one.deploy("slow", SLOW, restart_limits={"max_restarts": 100, "max_seconds": 60})
        await one.deploy("calc")
        seen = 0
        while (response := await one.try_call("slow", "die")).status_code != 503:
            refused(response, "call_interrupted")
            seen += 1
        assert seen == 5
        assert 1 <= refusal(response, "circuit_open") <= 30
        assert (await one.ok("GET", "/services/slow"))["circuit"] == "open"
        assert (await one.ok("GET", "/services/calc"))["circuit"] == "closed"
        assert await one.call("calc", "add", 1, 2) == 3
        opened = await one.wait_event("circuit_opened", "slow")
        assert opened["payload"]["failures"] == 5 and opened["payload"]["reason"] == "call_interrupted"
        assert (await api.admin.ok("GET", "/system"))["use"]["circuits"]["open"] == 1
        await one.ok("POST", "/services/slow/restart")
        assert (await one.ok("GET", "/services/slow"))["circuit"] == "closed"
        assert await one.call("slow", "wait", 0) == 0


async def test_wrong_tokens_are_told_to_wait_and_right_ones_are_not(
    api: Api, tenant: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FAILURES_PER_S", 0.001)
    wrong = await api.client("x" * 40)
    nobody = await api.client(None)
    assert (await wrong.get("/services")).status_code == 401
    with contextlib.suppress(Faulted):
        while True:  # what a thousand more of them come to, at once
            api.system.admission.guessed("127.0.0.1")
    assert refusal(await wrong.get("/services"), "rate_limited") > 900
    assert (await wrong.get("/health")).status_code == 200
    assert (await tenant.get("/services")).status_code == 200
    assert (await nobody.get("/services")).status_code == 401, "to bring no credential is no guess"
