"""Tenants do not see each other. The matrix is made from the operations table: a new operation is in it by itself."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
import trio
from api_rig import CALC, STUBBORN, Api, Client, inside_pid, refused, service_pids

from solo_trio.operations.perform import OPERATIONS
from solo_trio.operations.table import Operation

CANARY = "canary7f3a"
"""In everything of tenant B: its service's id, source, config, log and events."""
B_SERVICE = f"svc-{CANARY}"
B_SECRET = f"secret-{CANARY}"
B_SOURCE = f"""
from solo_trio import service
print("{CANARY} from print")

@service.export
def run():
    raise ValueError("{CANARY} from a call")

async def main(ctx):
    import trio
    ctx.log.warning("{CANARY} from the log", secret="{CANARY}")
    await trio.sleep_forever()
"""
BODIES: dict[str, Any] = {
    "deploy": {"service_id": "mine", "code": "x = 1"},
    "call": {"args": []},
    "create_tenant": {"tenant_id": "fresh"},
    "create_capability": {"resource": "service:mine", "permissions": ["call"]},
    "revoke_token": {"token": "garbage"},
    "verify_capability": {"token": "garbage", "resource": "service:mine", "permission": "call"},
    "attenuate_capability": {"token": "garbage"},
    "set_secret": {"value": "mine"},
}
"""A correct body for each operation that requires one; `test_every_operation_is_covered` says which are missing."""
BODILESS = {
    "restart_service",
    "pause_service",
    "resume_service",
    "pause_system",
    "resume_system",
    "backup",
    "checkpoint",
    "compact",
    "verify",
    "accept_clock",
    "rotate_token",
    "reveal_secret",
}
THINGS = {
    "{service_id}": "service_not_found",
    "{name}": "secret_not_found",
    "{capability_id}": "capability_not_found",
}
"""What an operation may be about that is a tenant's, and what is said where there is none."""
SCOPED = [each for each in OPERATIONS.values() if each.scope in ("tenant", "either")]
SYSTEM = [each for each in OPERATIONS.values() if each.scope == "system"]
OPEN = {"health", "health_ready", "openapi"}
"""What anybody may do: a new one must be put here on purpose."""


def path_of(operation: Operation, service_id: str, **more: str) -> str:
    known = {"service_id": service_id, "function": "run", "tenant_id": "b", "name": B_SECRET, "capability_id": "0" * 32}
    known |= more
    return re.sub(r"\{(\w+)\}", lambda match: known[match[1]], operation.path)


async def ask(client: Client, operation: Operation, *, service_id: str = B_SERVICE, **more: Any) -> httpx.Response:
    """The operation as this client; a stream is asked for as a page, unless it is refused before that matters."""
    headers = more.pop("headers", {})
    if operation.stream:
        headers |= {"Accept": "text/event-stream"}
    body = more.pop("body", BODIES.get(operation.name))
    if body is not None:
        more["json"] = body
    names = {name: more.pop(name) for name in ("name", "capability_id") if name in more}
    return await client.request(operation.method, path_of(operation, service_id, **names), headers=headers, **more)


def leaks(response: httpx.Response) -> bool:
    """Whether anything of B is in the answer; the id that A itself sent may come back."""
    text = response.content + repr(response.headers.raw).encode()
    return CANARY.encode() in text.replace(B_SERVICE.encode(), b"").replace(B_SECRET.encode(), b"")


@pytest.fixture
async def b(api: Api) -> Client:
    """Tenant B, full of canaries."""
    client = await api.tenant("b")
    await client.deploy(B_SERVICE, B_SOURCE, config={"key": CANARY})
    await client.ok("PUT", f"/secrets/{B_SECRET}", {"value": f"value-{CANARY}"})
    await client.ok("POST", "/capabilities", {"resource": "logs", "permissions": ["read"], "metadata": {"for": CANARY}})
    await client.wait_log("from the log")
    await client.wait_log("from print")
    return client


def test_every_operation_is_covered() -> None:
    assert {each.name for each in OPERATIONS.values() if each.scope == "open"} == OPEN
    for each in OPERATIONS.values():
        path_of(each, "s")  # a KeyError: say above what the new part of a path is
        assert each.method != "POST" or each.name in BODIES or each.name in BODILESS, (
            f"say in BODIES what {each.name} takes"
        )


async def test_without_a_valid_token(api: Api, b: Client) -> None:
    before = await api.last_event_id()
    assert b.token is not None
    flipped = b.token[:-1] + ("A" if b.token[-1] != "A" else "B")
    for token in (None, "garbage", "", "Bearer", flipped, b.token[:-4], b.token + "A", "ü"):
        client = await api.client(token)
        for operation in (*SCOPED, *SYSTEM):
            response = await ask(client, operation, headers={"X-Tenant-ID": "b"})
            refused(response, "unauthenticated")
            assert response.headers["www-authenticate"] == "Bearer"
            assert not leaks(response)
    basic = await api.client(None, Authorization=f"Basic {b.token}")
    refused(await basic.get("/services"), "unauthenticated")
    assert await api.last_event_id() == before


async def test_a_refusal_comes_before_the_body_is_read(api: Api) -> None:
    anybody = await api.client(None)
    for operation in (*SCOPED, *SYSTEM):
        if operation.method != "GET":
            refused(
                await anybody.request(operation.method, path_of(operation, "s"), content=b"[" * 1000), "unauthenticated"
            )


async def test_token_in_a_url_is_refused(api: Api, b: Client) -> None:
    anybody = await api.client(None)
    for name in ("token", "access_token", "authorization"):
        refused(await anybody.get(f"/services?{name}={b.token}"), "unauthenticated")
        refused(await b.get(f"/services?{name}={b.token}"), "unknown_field")


async def test_naming_another_tenant(api: Api, b: Client) -> None:
    a = await api.tenant("a")
    before = await api.last_event_id()
    for operation in SCOPED:
        for other in ("b", "nobody"):  # the same, whether there is such a tenant or not
            response = await ask(a, operation, headers={"X-Tenant-ID": other})
            refused(response, "tenant_mismatch")
            assert not leaks(response)
            if operation.method != "GET":
                body = {**(BODIES.get(operation.name) or {}), "tenant_id": other}
                response = await ask(a, operation, body=body)
                refused(response, "tenant_mismatch")
                assert not leaks(response)
    assert await api.last_event_id() == before


async def test_naming_the_own_tenant_is_fine(api: Api, b: Client) -> None:
    assert (await b.get("/services", headers={"X-Tenant-ID": "b"})).status_code == 200
    refused(await b.get("/services", headers={"X-Tenant-ID": "../b"}), "invalid_id")


async def test_system_credential_without_a_tenant(api: Api, b: Client) -> None:
    before = await api.last_event_id()
    for operation in SCOPED:
        if operation.scope == "tenant":
            refused(await ask(api.admin, operation), "tenant_required")
            refused(await ask(api.admin, operation, headers={"X-Tenant-ID": "nobody"}), "tenant_not_found")
            refused(await ask(api.admin, operation, headers={"X-Tenant-ID": ""}), "invalid_id")
    body = {**BODIES["deploy"], "tenant_id": "b"}
    refused(
        await api.admin.request("POST", "/services", json=body, headers={"X-Tenant-ID": "nobody"}), "tenant_mismatch"
    )
    assert await api.last_event_id() == before


async def test_asking_for_what_is_another_tenants(api: Api, b: Client) -> None:
    a = await api.tenant("a")
    before = await api.last_event_id()
    [capability] = [
        each["id"] for each in (await b.ok("GET", "/capabilities"))["capabilities"] if each["resource"] == "logs"
    ]
    theirs = {"service_id": B_SERVICE, "name": B_SECRET, "capability_id": capability}
    never = {"service_id": "never-was", "name": "never-was", "capability_id": "f" * 32}
    about = [(each, code) for each in SCOPED for part, code in THINGS.items() if part in each.path]
    assert len(about) >= 10
    for operation, code in about:
        if operation.name == "set_secret":  # makes one of its own
            continue
        answers = [await ask(a, operation, **names) for names in (theirs, never)]
        of_b, of_nobody = (refused(each, code) for each in answers)
        for name, known in theirs.items():
            of_b["detail"] = of_b["detail"].replace(known, never[name])
        assert of_b["detail"] == of_nobody["detail"], "no difference to tell them apart"
        assert not leaks(answers[0])
    assert await api.last_event_id() == before
    assert (await b.ok("GET", f"/services/{B_SERVICE}"))["status"] == "ready"
    assert (await b.ok("POST", f"/secrets/{B_SECRET}/reveal", {}))["value"] == f"value-{CANARY}"
    assert (await b.ok("GET", f"/capabilities/{capability}"))["id"] == capability


async def test_nothing_of_another_tenant_in_any_answer(api: Api, b: Client) -> None:
    await b.try_call(B_SERVICE, "run")
    a = await api.tenant("a")
    await a.deploy("mine", "print('of a')")
    await a.wait_log("of a")
    for operation in OPERATIONS.values():
        if operation.stream:
            continue
        for query in ("", f"?service_id={B_SERVICE}") if operation.name in ("list_events", "list_logs") else ("",):
            path = path_of(operation, B_SERVICE) + query
            response = await a.request(operation.method, path, json=BODIES.get(operation.name))
            assert not leaks(response), (path, response.text)
            if operation.name == "rotate_token":
                a.token = response.json()["token"]
    for name in ("events", "logs"):
        found = await a.ok("GET", f"/{name}", params={"service_id": B_SERVICE})
        assert (found.pop("dropped_lines", 0), found) == (0, {name: [], "next": None})
    assert {event["tenant_id"] for event in await a.events()} == {"a"}
    async with a.stream(since_id=0) as frames:
        await b.deploy("another", f"# {CANARY}")
        await a.deploy("last", "x = 1")
        async for frame in frames:
            assert frame.json["tenant_id"] == "a" and CANARY not in frame.data.replace(B_SECRET, "")
            if frame.event == "service_deployed" and frame.json["subject"] == "last":
                break


async def test_system_operations_with_a_tenants_token(api: Api, b: Client) -> None:
    assert len(SYSTEM) >= 4
    before = await api.last_event_id()
    for operation in SYSTEM:
        for headers in ({}, {"X-Tenant-ID": "b"}):
            response = await ask(b, operation, headers=headers)
            refused(response, "permission_denied")
            assert not leaks(response)
    there, not_there = await b.get("/tenants/b"), await b.get("/tenants/nobody")
    assert there.json()["detail"] == not_there.json()["detail"]
    assert await api.last_event_id() == before


async def test_a_tenants_token_is_for_its_tenant_after_any_number_of_others(api: Api) -> None:
    clients = [await api.tenant(f"t{number}") for number in range(5)]
    assert len({client.token for client in clients}) == 5
    for client in clients:
        assert {event["tenant_id"] for event in await client.events()} == {client.tenant_id}


@pytest.mark.parametrize("when", ["removed", "removed and made again", "being removed"])
async def test_a_token_of_a_tenant_that_is_gone(api: Api, b: Client, when: str) -> None:
    """Whatever is asked with it, of whatever tenant: it is no token, and the tenant that has the id now has nothing to fear."""
    granted = (await b.ok("POST", "/capabilities", {"resource": "tenant", "permissions": ["*"]}))["token"]
    tokens = {"own": b.token, "granted": granted}
    async with trio.open_nursery() as nursery:
        if when == "being removed":
            await b.deploy("deaf", STUBBORN)
            nursery.start_soon(api.admin.delete, "/tenants/b?grace_ms=600000")
            await api.admin.wait_event("tenant_removal_started")
            await api.admin.wait_event("service_stopped", B_SERVICE)  # the last that happens until that is over
        else:
            await api.admin.ok("DELETE", "/tenants/b")
        again = await api.tenant("b") if when == "removed and made again" else None
        if again is not None:
            await again.deploy(B_SERVICE, CALC)
            await again.ok("PUT", f"/secrets/{B_SECRET}", {"value": f"value-{CANARY}"})
        before = await api.last_event_id()
        for token in tokens.values():
            client = await api.client(token)
            for operation in (*SCOPED, *SYSTEM):
                for headers in ({}, {"X-Tenant-ID": "b"}):
                    response = await ask(client, operation, headers=headers)
                    refused(response, "unauthenticated")
                    assert not leaks(response)
        for operation in SCOPED:  # nor does a system token reach what is gone
            if operation.scope == "tenant" and again is None:
                refused(await ask(api.admin, operation, headers={"X-Tenant-ID": "b"}), "tenant_not_found")
        assert await api.last_event_id() == before
        if again is not None:
            assert await again.call(B_SERVICE, "add", 2, 3) == 5
            for name in tokens:
                told = await again.ok(
                    "POST", "/capabilities/verify", {"token": tokens[name], "resource": "logs", "permission": "read"}
                )
                assert told["allowed"] is False
        if when == "being removed":
            await api.admin.ok("DELETE", "/tenants/b?grace_ms=0")


WHO = """
import os
from solo_trio import service
WHO = "{who}"
print("hello from", WHO)

@service.export
def who():
    return [WHO, os.getpid()]
"""


async def test_ids_that_join_to_the_same_text_do_not_collide(api: Api) -> None:
    one, two = await api.tenant("a"), await api.tenant("a_b")
    first = await one.deploy("b_c", WHO.format(who="one"))
    second = await two.deploy("c", WHO.format(who="two"))
    assert first["digest"] != second["digest"]
    (name1, pid1), (name2, pid2) = await one.call("b_c", "who"), await two.call("c", "who")
    assert (name1, name2) == ("one", "two")
    assert len(service_pids()) == 2 and {inside_pid(pid) for pid in service_pids()} == {pid1, pid2}
    for client, mine, theirs, who in ((one, "b_c", "c", "one"), (two, "c", "b_c", "two")):
        assert [entry["message"] for entry in await client.wait_log("hello")] == [f"hello from {who}"]
        assert await client.logs(service_id=theirs) == []
        assert {event["subject"] for event in await client.events()} == {None, mine}
        assert [each["service_id"] for each in (await client.ok("GET", "/services"))["services"]] == [mine]
        refused(await client.try_call(theirs, "who"), "service_not_found")
    await one.ok("DELETE", "/services/b_c")
    assert (await two.call("c", "who"))[0] == "two"
    assert await one.logs(service_id="c") == [] and len(await one.logs(service_id="b_c")) == 1


async def test_the_same_ids_and_source_in_two_tenants_are_two_services(api: Api) -> None:
    one, two = await api.tenant("a"), await api.tenant("b")
    for client in (one, two):
        await client.deploy("same", WHO.format(who="same"))
    pid2 = (await two.call("same", "who"))[1]
    both = service_pids()
    assert len(both) == 2
    await one.ok("DELETE", "/services/same")
    assert len(service_pids()) == 1 and service_pids() < both
    assert (await two.call("same", "who"))[1] == pid2
    refused(await one.try_call("same", "who"), "service_not_found")


async def test_a_service_calls_only_within_its_tenant(api: Api, b: Client) -> None:
    a = await api.tenant("a")
    source = f"""
    from solo_trio import service
    seen = []

    @service.export
    def look():
        return seen

    async def main(ctx, task_status):
        try:
            await ctx.call("{B_SERVICE}", "run")
        except service.CallError as error:
            seen.append(error.code)
        task_status.started()
        import trio
        await trio.sleep_forever()
    """
    await a.deploy("curious", source)
    assert await a.call("curious", "look") == ["service_not_found"]
