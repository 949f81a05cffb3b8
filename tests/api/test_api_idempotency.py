"""`Idempotency-Key`: the first answer again, whatever happened in between; never a second effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import trio
from api_rig import CALC, Api, Client, refused, running

SLOW = """
import trio
async def main(ctx, task_status):
    await trio.sleep(0.3)
    task_status.started()
    await trio.sleep_forever()
"""
KEY = {"Idempotency-Key": "key-1"}


async def together(*requests: Any) -> list[httpx.Response]:
    answers: list[httpx.Response] = []
    async with trio.open_nursery() as nursery:

        async def one(request: Any) -> None:
            answers.append(await request())

        for request in requests:
            nursery.start_soon(one, request)
    return answers


async def count(client: Client, type_: str) -> int:
    return len(await client.events(type=type_))


async def test_the_same_request_at_the_same_time_joins(tenant: Client) -> None:
    answers = await together(*[lambda: tenant.try_deploy("slow", SLOW, headers=KEY)] * 8)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["etag"] for answer in answers}) == 1
    assert len({answer.headers["x-request-id"] for answer in answers}) == 8
    assert await count(tenant, "service_deployment_started") == 1


async def test_without_a_key_only_one_wins(tenant: Client) -> None:
    answers = await together(*[lambda: tenant.try_deploy("slow", SLOW)] * 4)
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"service_exists"}


async def test_after_success_even_once_it_is_gone(tenant: Client) -> None:
    first = await tenant.try_deploy("calc", CALC, headers=KEY)
    again = await tenant.try_deploy("calc", CALC, headers=KEY)
    assert (again.status_code, again.content) == (201, first.content)
    await tenant.ok("DELETE", "/services/calc")
    late = await tenant.try_deploy("calc", CALC, headers=KEY)
    assert (late.status_code, late.content) == (201, first.content)
    refused(await tenant.get("/services/calc"), "service_not_found")
    await tenant.deploy("calc", "x = 'another one'")
    other = await tenant.try_deploy("calc", CALC, headers=KEY)
    assert other.content == first.content


async def test_after_failure(tenant: Client) -> None:
    broken = "def go():\n    raise ValueError('no luck')\ngo()\n"
    first = refused(await tenant.try_deploy("calc", broken, headers=KEY), "service_start_failed")
    again = refused(await tenant.try_deploy("calc", broken, headers=KEY), "service_start_failed")
    for document in (first, again):
        document.pop("request_id")
    assert first == again
    assert await count(tenant, "service_deployment_started") == 1
    await tenant.deploy("calc", CALC, headers={"Idempotency-Key": "key-2"})
    refused(await tenant.try_deploy("calc", broken, headers=KEY), "service_start_failed")


async def test_a_different_request_with_the_same_key(tenant: Client) -> None:
    await tenant.try_deploy("calc", CALC, headers=KEY)
    before = await tenant.events()
    for more in ({"service_id": "other"}, {"code": "x = 2"}, {"restart": "temporary"}, {"config": {"a": 1}}):
        body = {"service_id": "calc", "code": CALC} | more
        refused(await tenant.post("/services", body, headers=KEY), "idempotency_conflict")
    refused(await tenant.delete("/services/calc", headers=KEY), "idempotency_conflict")
    refused(await tenant.post("/services/calc/restart", headers=KEY), "idempotency_conflict")
    assert await tenant.events() == before


async def test_the_same_body_written_differently_is_the_same(tenant: Client) -> None:
    first = await tenant.request("POST", "/services", content=b'{"service_id": "c", "code": "x = 1"}', headers=KEY)
    again = await tenant.request(
        "POST", "/services", content=b'{ "code":"x = \\u0031",\n"service_id":"c"}', headers=KEY
    )
    assert first.status_code == 201 and again.content == first.content


async def test_a_refusal_uses_no_key_up(tenant: Client) -> None:
    refused(await tenant.try_deploy("calc", CALC, limits={"memory_mb": 1}, headers=KEY), "invalid_field")
    refused(await tenant.delete("/services/calc", headers=KEY), "service_not_found")
    assert (await tenant.try_deploy("calc", CALC, headers=KEY)).status_code == 201


async def test_another_tenants_key_is_another_key(api: Api, tenant: Client) -> None:
    other = await api.tenant("t2")
    first = await tenant.try_deploy("calc", CALC, headers=KEY)
    theirs = await other.try_deploy("calc", CALC, headers=KEY)
    assert (first.json()["tenant_id"], theirs.json()["tenant_id"]) == ("t1", "t2")
    assert (await other.try_deploy("other", "x = 1", headers={"Idempotency-Key": "k"})).status_code == 201
    assert (await tenant.try_deploy("calc2", "x = 2", headers={"Idempotency-Key": "k"})).status_code == 201


async def test_the_system_acting_for_a_tenant_shares_its_keys(api: Api, tenant: Client) -> None:
    first = await tenant.try_deploy("calc", CALC, headers=KEY)
    same = await api.admin.try_deploy("calc", CALC, headers=KEY | {"X-Tenant-ID": "t1"})
    assert same.content == first.content


async def test_without_waiting(tenant: Client) -> None:
    first = await tenant.try_deploy("slow", SLOW, query="?wait=false", headers=KEY)
    again = await tenant.try_deploy("slow", SLOW, query="?wait=false", headers=KEY)
    assert (first.status_code, again.status_code) == (202, 202) and first.content == again.content
    joined = await tenant.try_deploy("slow", SLOW, headers=KEY)
    assert joined.status_code == 201, "the one who asks again may wait where the first did not"
    late = await tenant.try_deploy("slow", SLOW, query="?wait=false", headers=KEY)
    assert (late.status_code, late.content) == (202, first.content)


async def test_delete(tenant: Client) -> None:
    await tenant.deploy("calc")
    first = await tenant.delete("/services/calc", headers=KEY)
    again = await tenant.delete("/services/calc", headers=KEY)
    assert (first.status_code, again.status_code) == (200, 200) and first.content == again.content
    await tenant.deploy("calc")
    late = await tenant.delete("/services/calc", headers=KEY)
    assert late.content == first.content
    assert await tenant.call("calc", "add", 1, 2) == 3, "the new one is not what that request was about"
    assert (await tenant.delete("/services/calc?force=true", headers=KEY)).content == first.content


async def test_delete_at_the_same_time_joins(tenant: Client) -> None:
    await tenant.deploy("calc")
    answers = await together(*[lambda: tenant.delete("/services/calc", headers=KEY)] * 5)
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert await count(tenant, "service_killed") == 1


async def test_restart(tenant: Client) -> None:
    await tenant.deploy("calc")
    first = await tenant.post("/services/calc/restart", headers=KEY)
    again = await tenant.post("/services/calc/restart", headers=KEY)
    assert (first.status_code, again.status_code) == (200, 200) and again.content == first.content
    assert await count(tenant, "service_restart_requested") == 1
    await tenant.post("/services/calc/restart")
    late = await tenant.post("/services/calc/restart", headers=KEY)
    assert late.status_code == 200 and late.json()["revision"] == first.json()["revision"]
    await tenant.ok("DELETE", "/services/calc")
    await tenant.deploy("calc", "x = 1")
    after = await tenant.post("/services/calc/restart", headers=KEY)
    assert after.status_code == 200 and after.json()["digest"] == first.json()["digest"]
    assert await count(tenant, "service_restart_requested") == 2


async def test_tenants(api: Api) -> None:
    first = await api.admin.post("/tenants", {"tenant_id": "t1"}, headers=KEY)
    again = await api.admin.post("/tenants", {"tenant_id": "t1"}, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["tenant_id"] == "t1"
    for answer in (first, again):
        client = await api.client(answer.json()["token"])
        assert (await client.ok("GET", "/services"))["services"] == []
    refused(await api.admin.post("/tenants", {"tenant_id": "t2"}, headers=KEY), "idempotency_conflict")
    refused(await api.admin.post("/tenants", {"tenant_id": "t1"}), "tenant_exists")
    assert len((await api.admin.ok("GET", "/tenants"))["tenants"]) == 1


async def test_keys_are_durable(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        tenant = await api.tenant("t1")
        deployed = await tenant.try_deploy("calc", CALC, headers=KEY)
        failed = refused(
            await tenant.try_deploy("bad", "raise OSError", headers={"Idempotency-Key": "bad"}), "service_start_failed"
        )
        await tenant.deploy("gone")
        deleted = await tenant.delete("/services/gone", headers={"Idempotency-Key": "del"})
        created = await api.admin.post("/tenants", {"tenant_id": "t9"}, headers={"Idempotency-Key": "t"})
    async with running(tmp_path) as api:
        tenant = await api.client(tenant.token, "t1")
        assert (await tenant.try_deploy("calc", CALC, headers=KEY)).content == deployed.content
        again = refused(
            await tenant.try_deploy("bad", "raise OSError", headers={"Idempotency-Key": "bad"}), "service_start_failed"
        )
        assert again | {"request_id": ""} == failed | {"request_id": ""}
        assert (await tenant.delete("/services/gone", headers={"Idempotency-Key": "del"})).content == deleted.content
        recreated = await api.admin.post("/tenants", {"tenant_id": "t9"}, headers={"Idempotency-Key": "t"})
        assert recreated.status_code == 201
        for token in (created.json()["token"], recreated.json()["token"]):
            assert (await (await api.client(token)).get("/services")).status_code == 200
        refused(await tenant.try_deploy("calc", "x = 2", headers=KEY), "idempotency_conflict")


async def test_a_deploy_whose_client_left_goes_on_and_is_joined(tenant: Client) -> None:
    with trio.move_on_after(30) as scope:
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                await tenant.wait_event("service_started", "slow")
                scope.cancel()

            nursery.start_soon(leave)
            await tenant.try_deploy("slow", SLOW, headers=KEY)
    assert scope.cancelled_caught
    joined = await tenant.try_deploy("slow", SLOW, headers=KEY)
    assert joined.status_code == 201
    assert await count(tenant, "service_deployment_started") == 1
