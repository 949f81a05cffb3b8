"""Every operation succeeding, and the exact shape of its answer."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from api_rig import CALC, DIGEST, RFC3339, STUBBORN, Api, Client, alive, is_event, running

SERVICE = {
    "tenant_id",
    "service_id",
    "status",
    "version",
    "digest",
    "restarts",
    "revision",
    "ready_since",
    "isolation",
    "environment",
}
STATUS = SERVICE | {
    "spec",
    "generation",
    "held",
    "circuit",
    "waiting_for",
    "uptime_s",
    "usage",
    "limits",
    "events",
    "last_crash",
}
LOG_ENTRY = {"id", "at", "level", "service_id", "generation", "stream", "message", "fields"}
COUNTS = {"total", "wanted", "running", "starting", "restarting", "paused", "stopping", "stopped", "given_up"}


def is_service(service: dict[str, Any], *, digest: str) -> bool:
    assert service["digest"] == digest and DIGEST.fullmatch(digest)
    assert service["version"] == 1 and type(service["version"]) is int
    assert type(service["restarts"]) is int and type(service["revision"]) is int
    assert service["isolation"] == "process"
    assert service["ready_since"] is None or RFC3339.fullmatch(service["ready_since"])
    return True


async def test_deploy(tenant: Client) -> None:
    response = await tenant.try_deploy("calc", CALC)
    assert response.status_code == 201
    revision = response.json().pop("revision")
    assert response.json() == {
        "tenant_id": "t1",
        "service_id": "calc",
        "version": 1,
        "digest": hashlib.sha256(CALC.encode()).hexdigest(),
        "status": "ready",
        "revision": revision,
        "findings": [],
    }
    assert type(revision) is int
    assert response.headers["etag"] == f'"{revision}"'
    types = [event["type"] for event in await tenant.events(service_id="calc")]
    assert types == ["service_deployment_started", "service_started", "service_ready", "service_deployed"]


async def test_deploy_without_waiting(tenant: Client) -> None:
    response = await tenant.try_deploy("calc", CALC, query="?wait=false")
    assert response.status_code == 202
    answer = response.json()
    assert answer["status"] == "starting" and answer["version"] == 1
    assert response.headers["etag"] == f'"{answer["revision"]}"'
    deployed = await tenant.wait_event("service_deployed", "calc")
    assert deployed["payload"]["deployment"] == answer["revision"]
    assert (await tenant.ok("GET", "/services/calc"))["revision"] == answer["revision"]


async def test_digest_is_of_the_utf8_source(tenant: Client) -> None:
    source = "# ünïcode 🜁\r\nx = '\u2028'\n"
    deployed = await tenant.deploy("calc", source)
    assert deployed["digest"] == hashlib.sha256(source.encode()).hexdigest()


async def test_every_field_of_a_deployment(tenant: Client) -> None:
    asked: dict[str, Any] = {
        "format": "python_source",
        "restart": "transient",
        "restart_limits": {"max_restarts": 3, "max_seconds": 12.5},
        "limits": {
            "memory_mb": 256,
            "cpu_percent": 50,
            "cpu_seconds": 1000,
            "threads": 32,
            "fds": 128,
            "disk_mb": 1,
            "log_bytes_per_s": 4096,
            "calls_in_flight": 3,
            "start_timeout_s": 30,
            "stop_timeout_s": 0.5,
        },
        "config": {"greeting": "héllo", "deep": [{"a": [1, 2.5, None, True]}]},
        "isolation": "process",
        "tenant_id": "t1",
    }
    source = """
    import trio
    async def main(ctx):
        ctx.log.info("config", **ctx.config)
        await trio.sleep_forever()
    """
    await tenant.deploy("calc", source, **asked)
    status = await tenant.ok("GET", "/services/calc")
    for name in ("format", "restart", "restart_limits", "config", "isolation", "limits"):
        assert status["spec"][name] == asked[name], name
    assert status["limits"] == asked["limits"]
    [entry] = [each for each in await tenant.wait_log("config") if each["message"] == "config"]
    assert entry["fields"] == asked["config"]


async def test_list_and_status(tenant: Client) -> None:
    assert await tenant.ok("GET", "/services") == {"services": [], "revision": 4, "next": None}
    digest = (await tenant.deploy("b"))["digest"]
    await tenant.deploy("a")
    listed = await tenant.ok("GET", "/services")
    assert listed.keys() == {"services", "revision", "next"}
    assert [each["service_id"] for each in listed["services"]] == ["a", "b"]
    for each in listed["services"]:
        assert each.keys() == SERVICE
        assert is_service(each, digest=digest)
        assert each["status"] == "ready" and RFC3339.fullmatch(each["ready_since"])
    assert await tenant.ok("GET", "/services?status=ready") == listed
    assert (await tenant.ok("GET", "/services?status=given_up"))["services"] == []

    response = await tenant.get("/services/b")
    status = response.json()
    assert status.keys() == STATUS
    assert is_service(status, digest=digest)
    assert response.headers["etag"] == f'"{status["revision"]}"'
    assert status["uptime_s"] >= 0 and status["last_crash"] is None
    assert status["usage"]["rss_bytes"] > 1_000_000 and status["usage"]["cpu_s"] >= 0
    assert all(is_event(event) for event in status["events"])
    assert [event["id"] for event in status["events"]] == sorted(event["id"] for event in status["events"])


async def test_lists_are_paged(tenant: Client) -> None:
    ids = ["a", "a-b", "a_b", "ab", "b"]
    for each in ids:
        await tenant.deploy(each, "x = 1")
    found: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = await tenant.ok("GET", "/services", params=query)
        assert len(page["services"]) <= 2
        found += [each["service_id"] for each in page["services"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert found == sorted(ids)


async def test_status_shows_the_last_ten_events_and_the_last_crash(tenant: Client) -> None:
    await tenant.deploy(
        "frail",
        """
        from solo_trio import service
        @service.export
        def explode():
            raise SystemExit("out of luck")
        """,
        restart_limits={"max_restarts": 100, "max_seconds": 1},
    )
    for crash in range(1, 4):
        after = max(event["id"] for event in await tenant.events())
        assert (await tenant.try_call("frail", "explode")).status_code == 502
        await tenant.wait_event("service_ready", "frail", after=after)
        assert (await tenant.ok("GET", "/services/frail"))["restarts"] == crash
    status = await tenant.ok("GET", "/services/frail")
    everything = await tenant.events(service_id="frail")
    assert len(everything) > 10
    assert status["events"] == everything[-10:]
    assert status["generation"] == 4
    assert status["last_crash"].keys() == {"at", "reason", "traceback"}
    assert "out of luck" in status["last_crash"]["reason"] and "explode" in status["last_crash"]["traceback"]


async def test_call(tenant: Client) -> None:
    await tenant.deploy("calc")
    response = await tenant.try_call("calc", "add", 2, b=3)
    assert response.json() == {"result": 5}
    assert (await tenant.post("/services/calc/call/pid")).status_code == 200, "a body is not needed"


async def test_restart(tenant: Client) -> None:
    digest = (await tenant.deploy("calc"))["digest"]
    before = await tenant.call("calc", "pid")
    response = await tenant.post("/services/calc/restart")
    assert response.status_code == 200
    revision = response.json()["revision"]
    assert response.json() == {
        "tenant_id": "t1",
        "service_id": "calc",
        "version": 1,
        "digest": digest,
        "status": "ready",
        "revision": revision,
    }
    assert response.headers["etag"] == f'"{revision}"'
    shown = await tenant.ok("GET", "/services/calc")
    assert (shown["revision"], shown["restarts"]) == (revision, 0)
    assert await tenant.call("calc", "pid") != before
    assert not alive(before)


async def test_delete_and_deploy_again(tenant: Client) -> None:
    first = await tenant.deploy("calc")
    pid = await tenant.call("calc", "pid")
    answer = await tenant.ok("DELETE", "/services/calc")
    assert answer == {"service_id": "calc", "status": "stopped", "reason": "stopped"}
    assert not alive(pid)
    assert (await tenant.get("/services/calc")).status_code == 404
    second = await tenant.deploy("calc")
    assert second["version"] == 1 and second["digest"] == first["digest"]
    assert second["revision"] > first["revision"]


async def test_stubborn_service_is_killed_after_its_grace(tenant: Client) -> None:
    await tenant.deploy("mule", STUBBORN)
    pid = await tenant.call("mule", "pid")
    answer = await tenant.ok("DELETE", "/services/mule?grace_ms=50")
    assert answer["reason"] == "killed" and not alive(pid)


async def test_tenants(api: Api) -> None:
    answer = (await api.admin.ok("GET", "/tenants")) | {"seen": True}
    assert answer == {"tenants": [], "next": None, "seen": True}
    response = await api.admin.post(
        "/tenants", {"tenant_id": "t1", "limits": {"max_services": 1, "max_memory_mb": 256}}
    )
    assert response.status_code == 201
    assert response.json().keys() == {"tenant_id", "token"}
    client = await api.client(response.json()["token"])
    await client.deploy("calc")
    refused = await client.try_deploy("calc2", CALC)
    assert refused.status_code == 429 and refused.json()["code"] == "quota_exceeded"
    await api.tenant("t0")

    listed = await api.admin.ok("GET", "/tenants")
    assert [each["tenant_id"] for each in listed["tenants"]] == ["t0", "t1"]
    for each in listed["tenants"]:
        assert each.keys() == {"tenant_id", "status", "created_at", "limits", "service_limits", "hardening", "services"}
        assert RFC3339.fullmatch(each["created_at"])
    assert (await api.admin.ok("GET", "/tenants?limit=1"))["next"] == "t0"
    assert [e["tenant_id"] for e in (await api.admin.ok("GET", "/tenants?cursor=t0"))["tenants"]] == ["t1"]

    shown = await api.admin.ok("GET", "/tenants/t1")
    assert shown.keys() == {
        "tenant_id",
        "status",
        "created_at",
        "limits",
        "service_limits",
        "hardening",
        "services",
        "counts",
    }
    assert shown["limits"] == {"max_services": 1, "max_memory_mb": 256} and shown["services"] == 1
    assert shown["counts"] == dict.fromkeys(COUNTS, 0) | {"total": 1, "wanted": 1, "running": 1}
    again = await api.admin.post("/tenants", {"tenant_id": "t1"})
    assert again.status_code == 409 and again.json()["code"] == "tenant_exists"
    assert (await api.admin.get("/tenants/t2")).json()["code"] == "tenant_not_found"


async def test_system_credential_acts_for_the_tenant_it_names(api: Api, tenant: Client) -> None:
    by_header = await api.client(api.admin.token, None, **{"X-Tenant-ID": "t1"})
    assert (await by_header.deploy("one"))["tenant_id"] == "t1"
    assert (await api.admin.deploy("two", tenant_id="t1"))["tenant_id"] == "t1"
    assert [each["service_id"] for each in (await tenant.ok("GET", "/services"))["services"]] == ["one", "two"]
    called = await api.admin.post("/services/one/call/add", {"args": [1, 2], "tenant_id": "t1"})
    assert called.json() == {"result": 3}, "a body may name the tenant, whatever the operation"
    assert (await api.admin.post("/services/one/restart", {"tenant_id": "t1"})).status_code == 200
    assert (await api.admin.request("DELETE", "/services/one", json={"tenant_id": "t1"})).status_code == 200


async def test_logs(tenant: Client) -> None:
    await tenant.deploy("calc", "print('hello')")
    entries = await tenant.wait_log("hello")
    page = await tenant.ok("GET", "/logs")
    assert page == {"logs": entries, "next": None, "dropped_lines": 0}
    [entry] = entries
    assert entry.keys() == LOG_ENTRY
    assert RFC3339.fullmatch(entry["at"]) and type(entry["id"]) is int
    assert {name: entry[name] for name in LOG_ENTRY - {"id", "at"}} == {
        "level": "info",
        "service_id": "calc",
        "generation": 1,
        "stream": "stdout",
        "message": "hello",
        "fields": {},
    }


async def test_events(api: Api, tenant: Client) -> None:
    await tenant.deploy("calc")
    page = await tenant.ok("GET", "/events")
    assert page.keys() == {"events", "next"} and page["next"] is None
    assert all(is_event(event) and event["tenant_id"] == "t1" for event in page["events"])
    everything = await api.admin.ok("GET", "/events")
    assert [event["id"] for event in everything["events"]] == list(range(1, len(everything["events"]) + 1))
    assert everything["events"][0]["type"] == "system_started" and everything["events"][0]["tenant_id"] is None


async def test_correlation_id_is_the_request_id(tenant: Client) -> None:
    response = await tenant.try_deploy("calc", CALC, headers={"X-Request-ID": "my-request.1"})
    assert response.headers["x-request-id"] == "my-request.1"
    [started] = [event for event in await tenant.events() if event["type"] == "service_deployment_started"]
    assert started["correlation_id"] == "my-request.1"
    strange = await tenant.get("/services", headers={"X-Request-ID": "not an id"})
    assert strange.headers["x-request-id"] != "not an id"


async def test_health_needs_no_credential(api: Api) -> None:
    anybody = await api.client(None)
    assert await anybody.ok("GET", "/health") == {
        "status": "ok",
        "components": {"journal": "ok", "kernel": "ok", "pressure": "ok", "audit": "ok", "sandbox": "unknown"},
    }
    assert await anybody.ok("GET", "/health/ready") == {"status": "ready"}
    assert (await api.client("garbage")).token and (await (await api.client("garbage")).get("/health")).is_success


async def test_system(api: Api, tenant: Client) -> None:
    await tenant.deploy("calc")
    shown = await api.admin.ok("GET", "/system")
    assert shown.keys() == {
        "version",
        "python",
        "pid",
        "started_at",
        "starts",
        "last_event_id",
        "kernel_time_s",
        "tenants",
        "services",
        "queued",
        "pressure",
        "sandbox",
        "clock_ahead_s",
        "audit",
        "backup",
        "log",
        "archive",
        "use",
        "recovery",
        "verification",
        "paused",
        "paused_because",
        "held",
    }
    assert shown["pid"] == os.getpid() and shown["starts"] == 1 and shown["tenants"] == 1
    assert RFC3339.fullmatch(shown["started_at"])
    assert shown["services"] == dict.fromkeys(COUNTS, 0) | {"total": 1, "wanted": 1, "running": 1}
    assert shown["recovery"]["complete"] is True
    assert shown["last_event_id"] <= (await api.admin.events())[-1]["id"]


async def test_everything_is_there_after_a_restart_of_the_kernel(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        tenant = await api.tenant("t1")
        deployed = await tenant.deploy("calc", limits={"memory_mb": 300}, config={"a": 1})
        before = await tenant.ok("GET", "/services/calc")
        token = tenant.token
    async with running(tmp_path) as api:
        tenant = await api.client(token, "t1")
        await tenant.wait_event("service_recovered", "calc")
        after = await tenant.ok("GET", "/services/calc")
        for name in SERVICE - {"ready_since"} | {"spec"}:
            assert after[name] == before[name], name
        assert after["generation"] == before["generation"] + 1
        assert after["revision"] == deployed["revision"]
        assert await tenant.call("calc", "add", 1, 1) == 2
        assert (await api.admin.ok("GET", "/system"))["recovery"]["ready"] == 1
