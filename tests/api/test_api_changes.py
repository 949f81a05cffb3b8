"""Replacing, pausing, changing services, with real processes; who may, only if it is still as it was, once per key."""

from __future__ import annotations

from typing import Any

import trio
from api_rig import RFC3339, Api, Client, inside_pid, refused, running, service_pids

VERSION = """
import os
from solo_trio import service

@service.export
def which():
    return [{which!r}, os.getpid()]
"""
BAD = "raise RuntimeError('over here')"


async def replace(tenant: Client, which: Any, **more: Any) -> Any:
    return await tenant.try_deploy("calc", VERSION.format(which=which), query="?replace=true", **more)


async def test_replaced_the_new_version_answers_and_the_old_process_is_gone(tenant: Client) -> None:
    await tenant.deploy("calc", VERSION.format(which=1))
    [_, old] = await tenant.call("calc", "which")
    answer = await replace(tenant, 2)
    assert answer.status_code == 201 and answer.json()["version"] == 2
    assert answer.headers["etag"] == f'"{answer.json()["revision"]}"'
    [which, new] = await tenant.call("calc", "which")
    assert which == 2 and new != old and {inside_pid(pid) for pid in service_pids()} == {new}
    versions = (await tenant.ok("GET", "/services/calc/versions"))["versions"]
    assert [(each["version"], each["current"]) for each in versions] == [(1, False), (2, True)]
    assert versions[0]["source"] == VERSION.format(which=1).strip("\n") or "which" in versions[0]["source"]
    assert all(
        RFC3339.fullmatch(each["at"])
        and each.keys() == {"version", "digest", "at", "current", "format", "source", "files"}
        for each in versions
    )
    assert (await tenant.ok("DELETE", "/services/calc"))["status"] == "stopped"
    assert (await tenant.deploy("calc", VERSION.format(which=3)))["version"] == 1, "after a deletion from 1 again"


async def test_a_bad_replacement_is_refused_and_the_old_version_runs(tenant: Client) -> None:
    await tenant.deploy("calc", VERSION.format(which=1))
    answer = await tenant.try_deploy("calc", BAD, query="?replace=true", headers={"Idempotency-Key": "k"})
    document = refused(answer, "service_start_failed")
    assert "over here" in document["traceback"] and document["restored"] == {"version": 1}
    status = await tenant.ok("GET", "/services/calc")
    assert (status["status"], status["version"]) == ("ready", 1)
    assert (await tenant.call("calc", "which"))[0] == 1
    again = await tenant.try_deploy("calc", BAD, query="?replace=true", headers={"Idempotency-Key": "k"})
    assert {**refused(again, "service_start_failed"), "request_id": ""} == {**document, "request_id": ""}
    other = await tenant.try_deploy("calc", BAD, headers={"Idempotency-Key": "k"})
    refused(other, "idempotency_conflict")  # without replace it is another request


async def test_replacing_what_is_not_there_deploys_it(tenant: Client) -> None:
    answer = await replace(tenant, 1)
    assert (answer.status_code, answer.json()["version"]) == (201, 1)


async def test_replacing_without_waiting(tenant: Client) -> None:
    await tenant.deploy("calc", VERSION.format(which=1))
    answer = await tenant.try_deploy("calc", VERSION.format(which=2), query="?replace=true&wait=false")
    assert answer.status_code == 202
    assert (answer.json()["version"], answer.json()["status"]) == (2, "starting")
    assert (await tenant.call("calc", "which"))[0] == 2, "a call waits for the new one"


async def test_paused_and_resumed(tenant: Client) -> None:
    first = await tenant.deploy("calc", VERSION.format(which=1))
    answer = await tenant.post("/services/calc/pause")
    paused = answer.json()
    assert paused["status"] == "paused" and paused["revision"] > first["revision"]
    assert service_pids() == set(), "answered when its process is gone"
    assert (await tenant.ok("GET", "/services?status=paused"))["services"][0]["service_id"] == "calc"
    results: list[Any] = []
    async with trio.open_nursery() as nursery:

        async def call() -> None:
            results.append(await tenant.call("calc", "which"))

        nursery.start_soon(call)
        resumed = await tenant.ok("POST", "/services/calc/resume")
    assert resumed["status"] == "ready" and results[0][0] == 1
    refused(await tenant.post("/services/nobody/pause"), "service_not_found")
    refused(await tenant.post("/services/calc/pause", {"grace": 1}), "unknown_field")


async def test_limits_are_changed_on_the_running_process(tenant: Client) -> None:
    source = """
    import resource
    from solo_trio import service

    @service.export
    def limits():
        return [resource.getrlimit(which)[0] for which in (resource.RLIMIT_DATA, resource.RLIMIT_NOFILE)]
    """
    await tenant.deploy("calc", source)
    body = {"limits": {"memory_mb": 256, "fds": 77, "threads": 9}, "restart": "transient"}
    changed = await tenant.ok("PATCH", "/services/calc", body)
    later = set(changed["applies_at_next_start"])
    assert later <= {"fds", "threads"}, "what needs CAP_SYS_RESOURCE, or control groups"
    assert changed["spec"]["limits"] == body["limits"] and changed["spec"]["restart"] == "transient"
    if "fds" not in later:
        assert (await tenant.call("calc", "limits"))[1] == 77
    await tenant.ok("POST", "/services/calc/restart")
    assert await tenant.call("calc", "limits") == [256 * 2**20, 77]
    status = await tenant.ok("GET", "/services/calc")
    assert status["spec"] == changed["spec"] and status["revision"] > changed["revision"]
    assert status["limits"]["memory_mb"] == 256
    refused(await tenant.request("PATCH", "/services/calc", json={"limits": {"fds": 1}}), "invalid_field")
    refused(await tenant.request("PATCH", "/services/calc", json={"code": "x = 1"}), "unknown_field")
    assert (await tenant.ok("GET", "/services/calc"))["revision"] == status["revision"]


async def test_only_if_it_is_still_as_it_was(tenant: Client) -> None:
    deployed = await tenant.try_deploy("calc", VERSION.format(which=1))
    tag = deployed.headers["etag"]
    changed = await tenant.request("PATCH", "/services/calc", json={"restart": "transient"}, headers={"If-Match": tag})
    assert changed.status_code == 200 and changed.headers["etag"] != tag
    stale = {"If-Match": tag}
    for method, path, body in (
        ("PATCH", "/services/calc", {"restart": "permanent"}),
        ("POST", "/services/calc/pause", None),
        ("POST", "/services/calc/resume", None),
        ("POST", "/services/calc/restart", None),
        ("DELETE", "/services/calc", None),
        ("POST", "/services?replace=true", {"service_id": "calc", "code": "x = 1"}),
        ("POST", "/services", {"service_id": "new", "code": "x = 1"}),
    ):
        refused(await tenant.request(method, path, json=body, headers=stale), "revision_mismatch")
    shown = await tenant.ok("GET", "/services/calc")
    assert (shown["status"], shown["spec"]["restart"]) == ("ready", "transient")
    for path in ("pause", "resume", "restart"):
        headers = {"If-Match": (await tenant.get("/services/calc")).headers["etag"]}
        assert (await tenant.post(f"/services/calc/{path}", headers=headers)).status_code == 200
    headers = {"If-Match": (await tenant.get("/services/calc")).headers["etag"]}
    assert (await replace(tenant, 2, headers=headers)).status_code == 201


async def test_each_verb_once_per_key(tenant: Client) -> None:
    await tenant.deploy("calc", VERSION.format(which=1))
    for number, (method, path, body) in enumerate(
        (
            ("PATCH", "/services/calc", {"restart": "transient"}),
            ("POST", "/services/calc/pause", None),
            ("POST", "/services/calc/resume", None),
            ("POST", "/services/calc/restart", None),
        )
    ):
        headers = {"Idempotency-Key": f"key-{number}"}
        first = await tenant.request(method, path, json=body, headers=headers)
        assert first.status_code == 200
        last = len(await tenant.events())
        again = await tenant.request(method, path, json=body, headers=headers)
        assert (again.status_code, again.content, again.headers["etag"]) == (200, first.content, first.headers["etag"])
        assert len(await tenant.events()) == last
    await tenant.ok("DELETE", "/services/calc")
    again = await tenant.request(
        "PATCH", "/services/calc", json={"restart": "transient"}, headers={"Idempotency-Key": "key-0"}
    )
    assert again.status_code == 200 and again.json()["spec"]["restart"] == "transient"


async def test_services_that_depend_on_each_other(tenant: Client) -> None:
    await tenant.deploy("a", VERSION.format(which="a"))
    await tenant.deploy("b", VERSION.format(which="b"), depends_on=["a"])
    answer = await tenant.try_deploy("a", VERSION.format(which="a"), query="?replace=true", depends_on=["b"])
    assert "a -> b -> a" in refused(answer, "dependency_cycle")["detail"]
    refused(await tenant.try_deploy("c", "x = 1", depends_on=["nobody"]), "dependency_not_found")
    for bad in ("a", [1], ["A"], ["a", "a"], [None], {"a": 1}):
        document = (await tenant.try_deploy("c", "x = 1", depends_on=bad)).json()
        assert document["status"] == 400, document
    assert "b" in refused(await tenant.delete("/services/a"), "service_required")["detail"]
    assert (await tenant.ok("GET", "/services/b"))["spec"]["depends_on"] == ["a"]
    await tenant.ok("DELETE", "/services/a?force=true")
    await tenant.ok("DELETE", "/services/b")


async def test_the_whole_kernel_is_paused_and_resumed(api: Api, tenant: Client) -> None:
    await tenant.deploy("calc", VERSION.format(which=1))
    assert await api.admin.ok("POST", "/system/pause") == {"paused": True, "held": 1}
    shown = await api.admin.ok("GET", "/system")
    assert (shown["paused"], shown["paused_because"], shown["held"]) == (True, "asked", 1)
    assert (await tenant.ok("GET", "/services/calc"))["held"] is True
    assert (await api.admin.ok("POST", "/system/resume"))["paused"] is False
    assert (await tenant.call("calc", "which"))[0] == 1
    refused(await tenant.post("/system/pause"), "permission_denied")


async def test_everything_is_found_again_after_a_restart(tmp_path: Any) -> None:
    async with running(tmp_path / "data") as api:
        tenant = await api.tenant("t1")
        token = tenant.token
        await tenant.deploy("calc", VERSION.format(which=1))
        await replace(tenant, 2)
        await tenant.deploy("still", VERSION.format(which=1), depends_on=["calc"])
        await tenant.ok("POST", "/services/still/pause")
        await tenant.ok("PATCH", "/services/calc", {"restart_limits": {"max_restarts": 2}})
    async with running(tmp_path / "data") as api:
        tenant = await api.client(token)
        assert (await tenant.call("calc", "which"))[0] == 2
        calc, still = await tenant.ok("GET", "/services/calc"), await tenant.ok("GET", "/services/still")
        assert calc["spec"]["restart_limits"] == {"max_restarts": 2, "max_seconds": 60.0}
        assert (still["status"], still["spec"]["depends_on"]) == ("paused", ["calc"])
        assert len((await tenant.ok("GET", "/services/calc/versions"))["versions"]) == 2
        assert (await tenant.ok("POST", "/services/still/resume"))["status"] == "ready"
