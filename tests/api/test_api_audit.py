"""The audit over HTTP: each call and each refusal is one entry, nothing of what was sent is in it, tenants see their own."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_rig import Api, Client, refused, running
from api_samples import path_of, required_bodies
from attrs import evolve

from solo_trio.errors import CODES
from solo_trio.operations.perform import OPERATIONS, Request, perform
from solo_trio.operations.settings import Settings

NAMES = ["id", "at", "tenant_id", "credential", "operation", "subject", "outcome", "duration_ms", "request_id", "peer"]
CANARY = "canary9c41"


async def entries(client: Client, **query: Any) -> list[dict[str, Any]]:
    """All that match, over all pages; not those of asking for them."""
    found: list[dict[str, Any]] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = await client.ok("GET", "/audit", params={"limit": 1000, "cursor": cursor, **query})
        found += page["entries"]
        cursor = page["next"]
    return [each for each in found if each["operation"] != "list_audit"]


async def entry_of(api: Api, response: httpx.Response) -> dict[str, Any]:
    """The one entry of a request."""
    mine = [each for each in await entries(api.admin) if each["request_id"] == response.headers["x-request-id"]]
    assert len(mine) == 1, mine
    return mine[0]


async def test_a_call_and_its_entry(api: Api, tenant: Client) -> None:
    response = await tenant.try_deploy("calc", "x = 1")
    entry = await entry_of(api, response)
    assert list(entry) == NAMES
    [capability] = [
        each.capability_id for each in api.system.core.loop.state.capabilities.values() if each.tenant_id == "t1"
    ]
    expected = {
        "tenant_id": "t1",
        "credential": capability,
        "operation": "deploy",
        "subject": "calc",
        "outcome": "201",
        "request_id": response.headers["x-request-id"],
        "peer": "127.0.0.1",
    }
    assert {name: entry[name] for name in expected} == expected
    [started] = [each for each in await tenant.events() if each["type"] == "service_deployment_started"]
    assert entry["at"] > started["at"] and entry["duration_ms"] > 0
    assert started["correlation_id"] == entry["request_id"]


@pytest.mark.parametrize("name", sorted(each.name for each in OPERATIONS.values() if each.scope != "open"))
async def test_every_operation_leaves_one_entry(api: Api, tenant: Client, name: str) -> None:
    """Whatever comes of it; a new operation is asked here by being in the table."""
    operation = OPERATIONS[name]
    nobody = await api.client("no-such-token")
    for client in (tenant, nobody):
        if operation.transport == "websocket":
            response = await client.get(operation.path)
        elif operation.stream and client is tenant:
            async with client.stream(path=operation.path) as frames:
                response = httpx.Response(200, headers={"x-request-id": await _request_id(api, name)})
                del frames
        else:
            headers = {"Accept": "text/event-stream"} if operation.stream else None
            body = required_bodies().get(name)
            response = await client.request(
                operation.method, path_of(operation, service_id="never-was"), json=body, headers=headers
            )
        if name == "list_audit":
            continue
        entry = await entry_of(api, response)
        code = response.json()["code"] if response.status_code >= 400 else str(response.status_code)
        assert (entry["operation"], entry["outcome"]) == (name, code)
        assert entry["tenant_id"] == (None if client is nobody else "t1")
        assert (entry["credential"] is None) == (client is nobody)
        if "{service_id}" in operation.path:
            assert entry["subject"] == "never-was"


async def _request_id(api: Api, name: str) -> str:
    [found] = [each["request_id"] for each in await entries(api.admin, operation=name)]
    return str(found)


async def test_refusals(api: Api, tenant: Client) -> None:
    """Of every kind: before and after who it is is known, of the body, of the operation; each with its code."""
    nobody = await api.client(None)
    asked = {
        "unauthenticated": await nobody.get("/services"),
        "permission_denied": await tenant.get("/tenants"),
        "tenant_mismatch": await tenant.get("/services", headers={"X-Tenant-ID": "other"}),
        "tenant_required": await api.admin.get("/services"),
        "invalid_json": await tenant.request("POST", "/services", content=b"{"),
        "unknown_field": await tenant.get("/services?color=red"),
        "invalid_field": await tenant.get("/services?limit=0"),
        "invalid_id": await tenant.get("/services/No"),
        "invalid_header": await tenant.request("DELETE", "/services/x", headers={"If-Match": "new"}),
        "service_not_found": await tenant.get("/services/nothing"),
        "upgrade_required": await tenant.get("/events/watch"),
    }
    for code, response in asked.items():
        refused(response, code)
        assert (await entry_of(api, response))["outcome"] == code
    assert {each["outcome"] for each in await entries(tenant)} == asked.keys() - {"unauthenticated", "tenant_required"}


async def test_what_is_open_to_anybody_is_not_in_it(api: Api) -> None:
    nobody = await api.client(None)
    for path in ("/health", "/health/ready", "/openapi.json"):
        assert (await nobody.get(path)).is_success
    assert [each["operation"] for each in await entries(api.admin)] == ["audit_begun"]


async def test_asking_for_entries(api: Api, tenant: Client) -> None:
    for _ in range(5):
        await tenant.get("/services")
    refused(await tenant.get("/services/nothing"), "service_not_found")
    everything = await entries(api.admin)
    assert [each["id"] for each in everything] == sorted(each["id"] for each in everything)
    assert [each["at"] for each in everything] == sorted(each["at"] for each in everything)
    assert len(await entries(api.admin, operation="list_services", outcome="200")) == 5
    assert len(await entries(api.admin, limit=2, operation="list_services")) == 5
    assert [each["subject"] for each in await entries(api.admin, outcome="service_not_found")] == ["nothing"]
    assert {each["operation"] for each in await entries(api.admin, credential="system")} == {"create_tenant"}
    third = everything[3]["at"]
    assert (await entries(api.admin, until=third))[-1]["id"] < everything[3]["id"]
    assert (await entries(api.admin, since=third))[0]["id"] == everything[3]["id"]
    assert (await entries(await api.client(api.admin.token, **{"X-Tenant-ID": "t1"}))) == [
        each for each in everything if each["tenant_id"] == "t1"
    ]
    for query in (
        "since=yesterday",
        "since=2026-02-30T00:00:00Z",
        "until=5",
        "cursor=a",
        "cursor=-1",
        "limit=0",
        "limit=1001",
        "operation=A-b",
        "outcome=%27",
        "credential=a.b",
        "format=xml",
    ):
        refused(await api.admin.get(f"/audit?{query}"), "invalid_field")
    refused(await api.admin.get("/audit?service_id=calc"), "unknown_field")


async def test_tenants_see_their_own(api: Api, tenant: Client) -> None:
    other = await api.tenant("t2")
    await other.try_deploy(f"svc-{CANARY}", "x = 1")
    acting = await api.client(api.admin.token, **{"X-Tenant-ID": "t1"})
    await acting.get("/services")
    await tenant.get("/services")
    mine = await entries(tenant)
    assert {each["tenant_id"] for each in mine} == {"t1"} and CANARY not in str(mine)
    by_operator, by_itself = mine
    assert (by_operator["credential"], by_operator["peer"]) == ("system", None), (
        "from where the operator came is not told"
    )
    assert by_itself["peer"] == "127.0.0.1"
    refused(await tenant.get("/audit", headers={"X-Tenant-ID": "t2"}), "tenant_mismatch")
    assert await entries(tenant, credential="system") == [by_operator]
    # a namesake that comes later has another past
    await api.admin.ok("DELETE", "/tenants/t1")
    later = await api.tenant("t1")
    assert await entries(later) == []
    assert len([each for each in await entries(api.admin) if each["tenant_id"] == "t1"]) == len(mine)


async def test_a_narrow_capability_may_not(api: Api, tenant: Client) -> None:
    """Only who may read everything of the tenant may read who did what."""
    for resource, permissions in (("service:*", ["read", "call"]), ("events", ["read"]), ("logs", ["read"])):
        granted = await tenant.ok("POST", "/capabilities", {"resource": resource, "permissions": permissions})
        refused(await (await api.client(granted["token"])).get("/audit"), "permission_denied")


async def test_csv(api: Api, tenant: Client) -> None:
    await tenant.get("/services")
    await tenant.get("/services")

    async def table(path: str, **headers: str) -> tuple[httpx.Response, list[list[str]]]:
        response = await api.admin.http.get(path, headers={"Authorization": f"Bearer {api.admin.token}", **headers})
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/csv; charset=utf-8")
        assert response.headers["x-content-type-options"] == "nosniff" and response.headers["x-request-id"]
        return response, list(csv.reader(io.StringIO(response.text, newline=""), strict=True))

    _, whole = await table("/audit?format=csv")
    assert whole[0] == NAMES and [row[4] for row in whole[1:]] == [
        "audit_begun",
        "create_tenant",
        "list_services",
        "list_services",
    ]
    response, first = await table("/audit?limit=3", Accept="text/csv")
    cursor = response.headers["x-next-cursor"]
    response, rest = await table(f"/audit?limit=3&cursor={cursor}&until={whole[-1][1]}&format=csv")
    assert "x-next-cursor" not in response.headers
    assert first + rest == whole[: len(first) + len(rest)]
    asked = await api.admin.get("/audit?format=json", headers={"Accept": "text/csv"})
    assert asked.headers["content-type"] == "application/json", "the query says it best"


async def test_nothing_of_what_was_sent_is_in_it(tmp_path: Path) -> None:
    """A canary in every place that a request has, also where it does not belong; tokens; then every byte of the directory."""
    data = tmp_path / "data"
    async with running(data) as api:
        tenant = await api.tenant("t1")
        assert tenant.token is not None and api.admin.token is not None
        for client in (tenant, await api.client(f"{CANARY}.token"), await api.client(None)):
            for operation in OPERATIONS.values():
                if operation.transport == "websocket" or operation.name == "shutdown_system":
                    continue
                route = path_of(operation, service_id="calc")
                for path in (f"{route}?q={CANARY}", f"{route}?cursor={CANARY}", re.sub("calc", tenant.token, route)):
                    for body in ({"args": [CANARY], "value": CANARY, "token": tenant.token}, {CANARY: CANARY}):
                        await client.request(
                            operation.method,
                            path,
                            json=body,
                            headers={"Idempotency-Key": CANARY, "User-Agent": CANARY, "X-Forwarded-For": CANARY},
                        )
        await tenant.deploy(
            "calc", f"from solo_trio import service\n@service.export\ndef add(a):\n    raise ValueError('{CANARY}')"
        )
        await tenant.try_call("calc", "add", CANARY)
        await tenant.request("PUT", "/secrets/mine", json={"value": CANARY})
        found = await entries(api.admin)
        assert len(found) > 3 * len(OPERATIONS)
        tokens = [tenant.token, api.admin.token]
        assert "mine" in {each["subject"] for each in found}
    for path in data.glob("audit*"):
        content = path.read_bytes()
        for secret in (CANARY, *tokens):
            assert secret.encode() not in content, path.name
        for token in tokens:
            assert token[-43:].encode() not in content and token[:60].encode() not in content


async def test_denials_become_events(api: Api, tenant: Client) -> None:
    """Not one by one: those of a tenant with one code within a second are one event, written after the answers."""
    before = await api.last_event_id()
    nobody = await api.client("no-such-token")
    for _ in range(7):
        refused(await tenant.get("/tenants"), "permission_denied")
    for _ in range(3):
        refused(await nobody.get("/services"), "unauthenticated")
    counted: dict[tuple[str | None, str], int] = {}
    async with api.admin.stream(since_id=before, type="capability_denied") as frames:
        while sum(counted.values()) < 10:
            [frame] = await frames.take(1)
            event = frame.json
            assert event["payload"].keys() == {"code", "count", "operation"}
            key = event["tenant_id"], event["payload"]["code"]
            counted[key] = counted.get(key, 0) + event["payload"]["count"]
    assert counted == {("t1", "permission_denied"): 7, (None, "unauthenticated"): 3}
    own = [each for each in await tenant.events() if each["type"] == "capability_denied"]
    assert {each["payload"]["operation"] for each in own} == {"list_tenants"} and len(own) < 7


async def test_an_alert(tmp_path: Path) -> None:
    """When one credential, or nobody's, is refused so often within the window: one alert each, and not one more."""
    async with running(tmp_path / "data", evolve(Settings(), alert_denials=5, alert_window_s=3_600.0)) as api:
        tenant, quiet = await api.tenant("t1"), await api.tenant("t2")
        nobody = await api.client("no-such-token")
        for _ in range(12):
            refused(await tenant.get("/tenants"), "permission_denied")
            refused(await nobody.get("/services"), "unauthenticated")
        for _ in range(4):
            refused(await quiet.get("/tenants"), "permission_denied")
        async with api.admin.stream(since_id=0, type="access_alert") as frames:
            found = [frame.json for frame in await frames.take(2)]
        credential = (await entries(tenant))[-1]["credential"]
        assert {each["tenant_id"]: each["payload"] for each in found} == {
            "t1": {"credential": credential, "denials": 5, "window_s": 3600.0},
            None: {"credential": None, "denials": 5, "window_s": 3600.0},
        }
        for _ in range(5):
            await tenant.get("/tenants")
        await api.admin.wait_event("capability_denied", after=max(each["id"] for each in found))
        assert len([each for each in await api.admin.events() if each["type"] == "access_alert"]) == 2


async def test_a_flood_of_nobodys_refusals_is_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What costs its sender nothing cannot push everything else out: above the bound it is counted."""
    flood = api.system.audit
    flood._flood = evolve(flood._flood, rate=0.0, tokens=3.0, burst=3.0)
    nobody = await api.client("no-such-token")
    for _ in range(10):
        refused(await nobody.get("/services"), "unauthenticated")
    found = await entries(api.admin)
    assert len([each for each in found if each["outcome"] == "unauthenticated"]) == 3
    assert sum(int(each["outcome"]) for each in found if each["operation"] == "audit_gap") == 7


async def test_verification_and_health_tell_of_it(api: Api) -> None:
    [check] = [each for each in (await api.admin.ok("POST", "/system/verify"))["checks"] if each["name"] == "audit"]
    assert check["status"] == "ok" and "follow from each other" in check["detail"]
    assert (await api.admin.ok("GET", "/health"))["components"]["audit"] == "ok"
    kept = (await api.admin.ok("GET", "/system"))["audit"]
    assert kept["status"] == "ok" and kept["newest_id"] >= 1 and kept["dropped"] == 0


def test_every_denial_status_has_codes() -> None:
    assert {CODES[name].status for name in ("unauthenticated", "permission_denied", "rate_limited")} == {401, 403, 429}


async def test_a_flood_of_one_tenant_costs_others_nothing(tmp_path: Path) -> None:
    """Of a small file. Its own reads are left out, and counted; what it changes, and what others do, is there."""
    settings = Settings(audit_mb=1, requests_per_second=0)
    async with running(tmp_path / "data", settings) as api:
        quiet, loud = await api.tenant("quiet"), await api.tenant("loud")
        await quiet.ok("PUT", "/secrets/mine", {"value": "x"})
        mine = await entries(quiet)
        for _ in range(8_000):
            await perform(api.system, OPERATIONS["list_services"], Request(token=loud.token))
        await loud.ok("PUT", "/secrets/theirs", {"value": "x"})
        assert await entries(quiet) == mine
        found = await entries(loud)
        assert 500 < sum(each["operation"] == "list_services" for each in found) < 6_000
        assert [each["subject"] for each in found if each["operation"] == "set_secret"] == ["theirs"]
        told = [each for each in found if each["operation"] == "audit_gap"]
        assert told and {each["tenant_id"] for each in told} == {"loud"}
        audit = (await api.admin.ok("GET", "/system"))["audit"]
        assert audit["skipped"] >= sum(int(each["outcome"]) for each in told) > 1_000 and audit["dropped"] == 0
