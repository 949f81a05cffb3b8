"""Capabilities over HTTP: their whole life, what each token may do, and tokens that are no good."""

from __future__ import annotations

import base64
import secrets
import time
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from api_rig import BOUND_S, Api, Client, problem, refused, running
from attrs import define
from test_api_isolation import BODIES, path_of
from test_api_watch import Watcher, watch

from solo_trio.bootstrap import running as running_kernel
from solo_trio.client import attenuate
from solo_trio.model.instant import read_rfc3339
from solo_trio.model.rights import PERMISSIONS, PLAIN, SCOPED
from solo_trio.operations.perform import OPERATIONS
from solo_trio.operations.table import Operation
from solo_trio.vault.macaroon import Macaroon, deserialize, mint
from solo_trio.vault.tokens import narrow_token

QUIET: Final = "x = 1"


@define
class SteppedClock:
    """`ports.Clock`: the machine's, set forward or back by the test."""

    ahead_s: float = 0.0

    def wall_us(self) -> int:
        return time.time_ns() // 1_000 + round(self.ahead_s * 1_000_000)

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteppedClock:
    """Of the kernels that are started from now on."""
    found = SteppedClock()
    monkeypatch.setattr(running_kernel, "SystemClock", lambda: found)
    return found


async def grant(client: Client, resource: str, *permissions: str, **more: Any) -> dict[str, Any]:
    body = {"resource": resource, "permissions": list(permissions), **more}
    found: dict[str, Any] = await client.ok("POST", "/capabilities", body)
    return found


async def granted(api: Api, client: Client, resource: str, *permissions: str, **more: Any) -> Client:
    """A client with a token that `client` grants."""
    return with_token(api, (await grant(client, resource, *permissions, **more))["token"])


def with_token(api: Api, token: str) -> Client:
    return Client(api.admin.http, token)


async def listed(client: Client) -> set[str]:
    found: set[str] = set()
    cursor: dict[str, str] = {}
    while True:
        page = await client.ok("GET", "/capabilities", params={"limit": 2, **cursor})
        ids = [each["id"] for each in page["capabilities"]]
        assert ids == sorted(ids) and not found & set(ids)
        found |= set(ids)
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


async def verdict(client: Client, token: str, resource: str, permission: str) -> str:
    body = {"token": token, "resource": resource, "permission": permission}
    answer = await client.ok("POST", "/capabilities/verify", body)
    assert answer["allowed"] == (answer["reason"] == "allowed")
    return str(answer["reason"])


# -- a life


async def test_a_whole_life(api: Api, tenant: Client) -> None:
    await tenant.deploy("calc")
    made = await grant(tenant, "service:calc", "call", "read", ttl_s=3600, metadata={"for": "the test"})
    assert made.keys() == {
        *("id", "token", "tenant_id", "resource", "permissions", "parent", "through", "granted_at", "expires_at"),
        *("rate_limits", "metadata"),
    }
    assert read_rfc3339(made["expires_at"]) - read_rfc3339(made["granted_at"]) == 3_600_000_000
    shown = await tenant.ok("GET", f"/capabilities/{made['id']}")
    assert shown == {name: value for name, value in made.items() if name != "token"}
    assert made["id"] in await listed(tenant)
    holder = with_token(api, made["token"])
    assert await holder.call("calc", "add", 2, 3) == 5
    assert (await holder.ok("GET", "/services/calc"))["status"] == "ready"
    refused(await holder.delete("/services/calc"), "permission_denied")
    refused(await holder.get("/events"), "permission_denied")
    refused(await holder.get("/capabilities"), "permission_denied")
    assert await verdict(tenant, made["token"], "service:calc", "call") == "allowed"
    assert await verdict(tenant, made["token"], "service:calc", "kill") == "permission_denied"
    assert await verdict(holder, made["token"], "service:tick", "call") == "permission_denied"

    online = await holder.ok("POST", "/capabilities/attenuate", {"token": made["token"], "permissions": ["read"]})
    offline = attenuate(made["token"], permissions=["call"], ttl_s=60)
    reader, user = with_token(api, online["token"]), with_token(api, offline)
    assert (await reader.ok("GET", "/services/calc"))["status"] == "ready"
    refused(await reader.try_call("calc", "add", 1, 1), "permission_denied")
    assert await user.call("calc", "add", 1, 1) == 2
    refused(await user.get("/services/calc"), "permission_denied")

    assert await holder.ok("POST", "/capabilities/revoke", {"token": offline}) is not None
    refused(await user.try_call("calc", "add", 1, 1), "unauthenticated")
    assert await verdict(tenant, offline, "service:calc", "call") == "invalid"
    assert await holder.call("calc", "add", 1, 1) == 2 and (await reader.get("/services/calc")).is_success
    assert await tenant.ok("DELETE", f"/capabilities/{made['id']}") == {"id": made["id"], "revoked": 1}
    for client in (holder, reader, user):
        refused(await client.get("/services/calc"), "unauthenticated")
    refused(await tenant.get(f"/capabilities/{made['id']}"), "capability_not_found")
    refused(await tenant.delete(f"/capabilities/{made['id']}"), "capability_not_found")
    told = [each for each in await tenant.events() if each["type"] in ("capability_granted", "capability_revoked")]
    assert [(each["type"], each["subject"]) for each in told[1:]] == [
        ("capability_granted", made["id"]),
        ("capability_revoked", made["id"]),
        ("capability_revoked", made["id"]),
    ]
    assert [each["payload"]["attenuation_id"] is None for each in told[2:]] == [False, True]


async def test_revoking_takes_what_descends_and_siblings_live(api: Api, tenant: Client) -> None:
    parent = await granted(api, tenant, "tenant", "grant", "read")
    other = await granted(api, tenant, "tenant", "grant", "read")
    child = await granted(api, parent, "tenant", "grant", "read")
    grandchild = await grant(child, "events", "read")
    [parent_id] = [each for each in await listed(parent) if each not in await listed(child)]
    assert grandchild["id"] in await listed(parent) and grandchild["id"] not in await listed(other)
    refused(await other.delete(f"/capabilities/{grandchild['id']}"), "capability_not_found")
    assert (await tenant.ok("DELETE", f"/capabilities/{parent_id}"))["revoked"] == 3
    for token in (parent.token, child.token, grandchild["token"]):
        refused(await with_token(api, token or "").get("/events"), "unauthenticated")
    assert (await other.get("/events")).is_success


async def test_nobody_grants_more_than_he_has(api: Api, tenant: Client) -> None:
    lender = await granted(api, tenant, "tenant", "grant", "call", ttl_s=100)
    lent = with_token(api, attenuate(tenant.token or "", permissions=["grant", "call"], ttl_s=100))
    before = await api.last_event_id()
    for client in (lender, lent):
        for resource, permission, more in (
            ("tenant", "read", {}),
            ("service:calc", "*", {}),
            ("service:calc", "deploy", {}),
            ("system", "call", {}),
            ("tenant", "call", {"ttl_s": 200}),
        ):
            body = {"resource": resource, "permissions": [permission], **more}
            refused(await client.post("/capabilities", body), "permission_denied")
    assert await api.last_event_id() == before
    for client in (lender, lent):
        made = await grant(client, "service:calc", "call")
        assert made["expires_at"] is not None, "it lives no longer than its grantor"
        narrow = with_token(api, made["token"])
        refused(
            await narrow.post("/capabilities", {"resource": "service:calc", "permissions": ["call"]}),
            "permission_denied",
        )


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"resource": "service:calc"},
        {"permissions": ["call"]},
        {"resource": "service:calc", "permissions": []},
        {"resource": "service:calc", "permissions": ["fly"]},
        {"resource": "service:calc", "permissions": "call"},
        {"resource": "everything", "permissions": ["*"]},
        {"resource": "service:../x", "permissions": ["call"]},
        {"resource": "tenant", "permissions": ["read"], "ttl_s": 0},
        {"resource": "tenant", "permissions": ["read"], "ttl_s": -1},
        {"resource": "tenant", "permissions": ["read"], "ttl_s": 1e300},
        {"resource": "tenant", "permissions": ["read"], "ttl_s": "1"},
        {"resource": "tenant", "permissions": ["read"], "rate_limit": {}},
        {"resource": "tenant", "permissions": ["read"], "rate_limit": {"requests_per_second": 0}},
        {"resource": "tenant", "permissions": ["read"], "rate_limit": {"requests_per_second": 1, "burst": 0}},
        {"resource": "tenant", "permissions": ["read"], "metadata": {"x": "y" * 5_000}},
        {"resource": "tenant", "permissions": ["read"], "metadata": []},
        {"resource": "tenant", "permissions": ["read"], "more": 1},
    ],
)
async def test_what_is_no_grant(api: Api, tenant: Client, body: dict[str, Any]) -> None:
    before = await api.last_event_id()
    response = await tenant.post("/capabilities", body)
    assert response.status_code in (400, 422), response.text
    assert await api.last_event_id() == before


# -- asked again, restarted


async def test_the_same_key_gives_the_same_token_also_after_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    body = {"resource": "events", "permissions": ["read"]}
    key = {"Idempotency-Key": "grant-1"}
    async with running(data) as api:
        tenant = await api.tenant("t1")
        first = await tenant.ok("POST", "/capabilities", body, headers=key)
        assert await tenant.ok("POST", "/capabilities", body, headers=key) == first
        assert len(await listed(tenant)) == 2
        lender = await granted(api, tenant, "tenant", "grant", "read")
        document = refused(await lender.post("/capabilities", body, headers=key), "idempotency_conflict")
        assert first["token"] not in document["detail"]
        gone = await grant(tenant, "events", "read")
        await tenant.ok("DELETE", f"/capabilities/{gone['id']}")
        lent = attenuate(tenant.token or "", permissions=["read"])
        kept = attenuate(tenant.token or "", permissions=["read"])
        await tenant.ok("POST", "/capabilities/revoke", {"token": lent})
        token = tenant.token
    async with running(data) as api:
        tenant = await api.client(token, "t1")
        assert await tenant.ok("POST", "/capabilities", body, headers=key) == first
        assert (await with_token(api, first["token"]).get("/events")).is_success
        assert (await with_token(api, kept).get("/events")).is_success
        for dead in (gone["token"], lent):
            refused(await with_token(api, dead).get("/events"), "unauthenticated")
        await tenant.ok("DELETE", f"/capabilities/{first['id']}")
        refused(await tenant.post("/capabilities", body, headers=key), "capability_not_found")


async def test_expiry(tmp_path: Path, clock: SteppedClock) -> None:
    """At once, whatever the clock does afterwards: an hour back, across a restart."""
    data = tmp_path / "data"
    async with running(data) as api:
        tenant = await api.tenant("t1")
        brief = await granted(api, tenant, "events", "read", ttl_s=200)
        lent = with_token(api, attenuate(tenant.token or "", permissions=["read"], ttl_s=200))
        narrowed = await api.admin.ok(
            "POST",
            "/capabilities/attenuate",
            {"token": tenant.token, "ttl_s": 200},
            headers={"X-Tenant-ID": "t1"},
        )
        clients = (brief, lent, with_token(api, narrowed["token"]))
        for client in clients:
            assert (await client.get("/events")).is_success
        clock.ahead_s += 201
        for client in clients:
            refused(await client.get("/events"), "unauthenticated")
        clock.ahead_s -= 3_600
        for client in clients:
            refused(await client.get("/events"), "unauthenticated")
            assert await verdict(tenant, client.token or "", "events", "read") == "invalid"
        await tenant.deploy("later", QUIET)
        assert (await tenant.get("/events")).is_success
    clock.ahead_s -= 3_600
    async with running(data) as api:
        for client in clients:
            refused(await with_token(api, client.token or "").get("/events"), "unauthenticated")
        assert (await (await api.client(tenant.token)).get("/events")).is_success


async def test_a_leap_of_the_clock_expires_nothing_until_it_is_accepted(tmp_path: Path, clock: SteppedClock) -> None:
    async with running(tmp_path / "data") as api:
        tenant = await api.tenant("t1")
        brief = await granted(api, tenant, "events", "read", ttl_s=3_600)
        clock.ahead_s += 86_400
        assert (await brief.get("/events")).is_success
        shown = await api.admin.ok("GET", "/system")
        assert 86_000 < shown["clock_ahead_s"] <= 86_400
        refused(await tenant.post("/system/accept-clock"), "permission_denied")
        async with brief.stream() as frames:
            accepted = await api.admin.ok("POST", "/system/accept-clock")
            assert 86_000 < accepted["accepted_s"] <= 86_400
            [frame] = [frame async for frame in frames]
            assert (frame.event, frame.json) == ("end", {"reason": "revoked"})
        refused(await brief.get("/events"), "unauthenticated")
        assert (await api.admin.ok("GET", "/system"))["clock_ahead_s"] == 0
        assert (await api.admin.ok("POST", "/system/accept-clock"))["accepted_s"] == 0
        jumps = [each["payload"] for each in await api.admin.events() if each["type"] == "clock_jump"]
        assert [each["accepted"] for each in jumps if each["accepted"]] == [True]


# -- tenants and the system


async def test_of_another_tenant(api: Api, tenant: Client) -> None:
    theirs = await api.tenant("t2")
    made = await grant(theirs, "tenant", "*", metadata={"for": "canary"})
    lent = attenuate(theirs.token or "", permissions=["read"])
    before = await api.last_event_id()
    missing = refused(await tenant.get(f"/capabilities/{'0' * 32}"), "capability_not_found")
    for method in ("GET", "DELETE"):
        found = refused(await tenant.request(method, f"/capabilities/{made['id']}"), "capability_not_found")
        assert found["detail"] == missing["detail"]
    assert made["id"] not in await listed(tenant)
    for token in (made["token"], lent, theirs.token or ""):
        assert await verdict(tenant, token, "events", "read") == "invalid"
        for name, more in (("revoke", {}), ("attenuate", {"permissions": ["read"]})):
            refused(await tenant.post(f"/capabilities/{name}", {"token": token, **more}), "token_invalid")
        holder = with_token(api, token)
        assert (await holder.ok("GET", "/events"))["events"][0]["tenant_id"] == "t2"
        refused(await holder.get("/events", headers={"X-Tenant-ID": "t1"}), "tenant_mismatch")
        refused(await holder.get("/system"), "permission_denied")
    assert await api.last_event_id() == before


async def test_writing_another_tenants_attenuation_into_a_token_revokes_nothing_of_it(api: Api, tenant: Client) -> None:
    theirs = await api.tenant("t2")
    lent = attenuate(theirs.token or "", permissions=["read"])
    words = [each.decode() for each in deserialize(lent).caveats]
    forged = narrow_token(tenant.token or "", words).reveal_text()
    await tenant.ok("POST", "/capabilities/revoke", {"token": forged})
    refused(await with_token(api, forged).get("/events"), "unauthenticated")
    assert (await with_token(api, lent).get("/events")).is_success


async def test_the_holder_of_a_child_cannot_end_its_parent(api: Api, tenant: Client) -> None:
    parent = attenuate(tenant.token or "", permissions=["read", "grant"])
    child = attenuate(parent, resource="events")
    own_id = deserialize(parent).caveats[0].decode()
    forged = narrow_token(child, [own_id]).reveal_text()
    await tenant.ok("POST", "/capabilities/revoke", {"token": forged})
    assert (await with_token(api, child).get("/events")).is_success
    await tenant.ok("POST", "/capabilities/revoke", {"token": child})
    holder = with_token(api, parent)
    assert (await holder.get("/events")).is_success
    made = await grant(tenant, "tenant", "*")
    by_hand = with_token(api, narrow_token(made["token"], ["permissions = grant"]).reveal_text())
    refused(await by_hand.delete(f"/capabilities/{made['id']}"), "capability_not_found")
    await tenant.ok("POST", "/capabilities/revoke", {"token": by_hand.token})
    refused(await by_hand.get("/capabilities"), "unauthenticated")
    assert (await with_token(api, made["token"]).get("/events")).is_success


async def test_the_tenants_own_is_not_revoked(api: Api, tenant: Client) -> None:
    refused(await tenant.post("/capabilities/revoke", {"token": tenant.token}), "permission_denied")
    [own] = await listed(tenant)
    refused(await tenant.delete(f"/capabilities/{own}"), "permission_denied")
    refused(await api.admin.post("/capabilities/revoke", {"token": api.admin.token}), "permission_denied")


async def test_the_system_grants_for_a_tenant_and_of_itself(api: Api, tenant: Client) -> None:
    as_t1 = await api.client(api.admin.token, None, **{"X-Tenant-ID": "t1"})
    made = await grant(as_t1, "events", "read")
    assert made["tenant_id"] == "t1"
    holder = with_token(api, made["token"])
    assert {each["tenant_id"] for each in (await holder.ok("GET", "/events"))["events"]} == {"t1"}
    assert made["id"] in await listed(tenant)
    refused(await api.admin.post("/capabilities", {"resource": "events", "permissions": ["read"]}), "tenant_required")
    operator = with_token(api, (await grant(api.admin, "system", "read"))["token"])
    assert (await operator.get("/tenants")).is_success and (await operator.get("/system")).is_success
    refused(await operator.post("/tenants", {"tenant_id": "new"}), "permission_denied")
    refused(await operator.post("/system/pause"), "permission_denied")
    assert (await operator.get("/events", headers={"X-Tenant-ID": "t1"})).is_success
    refused(await operator.delete("/services/x", headers={"X-Tenant-ID": "t1"}), "permission_denied")
    await tenant.ok("DELETE", f"/capabilities/{made['id']}")
    refused(await holder.get("/events"), "unauthenticated")


# -- what each token may do


def needed(operation: Operation) -> tuple[str, str] | None:
    """(resource, permission) for a request that `path_of` and `BODIES` make; None: any valid token will do."""
    if operation.right == "holder":
        return None
    if operation.right is None:
        return "system" if operation.scope == "system" else "tenant", "read" if operation.method == "GET" else "write"
    resource, permission = operation.right
    service_id = BODIES["deploy"]["service_id"] if operation.name == "deploy" else "mine"
    return resource.format(service_id=service_id, name="mine") + (":mine" if resource in SCOPED else ""), permission


def others(resource: str, permission: str) -> list[tuple[str, tuple[str, ...]]]:
    """Rights that are as large as can be, without the one."""
    kind, colon, _ = resource.partition(":")
    found: list[tuple[str, tuple[str, ...]]] = [
        (f"{each}:*" if each in SCOPED else each, ("*",)) for each in (*SCOPED, *PLAIN) if each != kind
    ]
    if colon:
        found.append((f"{kind}:other", ("*",)))
    rest = tuple(sorted((SCOPED.get(kind) or PLAIN.get(kind) or PERMISSIONS) - {permission}))
    if rest:
        found.append((f"{kind}:*" if colon else kind, rest))
    return found


class Tokens:
    """Of one tenant and the system, granted or narrowed to a right, made once each."""

    def __init__(self, api: Api, tenant: Client) -> None:
        self._api = api
        self._tenant = tenant
        self._made: dict[tuple[Any, ...], Client] = {}

    async def granted(self, resource: str, permissions: tuple[str, ...]) -> Client:
        key = ("granted", resource, permissions)
        if key not in self._made:
            by = self._api.admin if resource == "system" else self._tenant
            self._made[key] = await granted(self._api, by, resource, *permissions)
        return self._made[key]

    async def narrowed(self, resource: str, permissions: tuple[str, ...]) -> Client:
        key = ("narrowed", resource, permissions)
        if key not in self._made:
            by = self._api.admin if resource == "system" else self._tenant
            within = {} if resource == "system" else {"resource": resource}
            self._made[key] = with_token(self._api, attenuate(by.token or "", permissions=list(permissions), **within))
        return self._made[key]


GUARDED = [each for each in OPERATIONS.values() if each.scope != "open"]


async def test_every_operation_demands_its_right(api: Api, tenant: Client) -> None:
    """Made from the table: without the right, whatever else a token has, every operation is refused, and nothing happened."""
    tokens = Tokens(api, tenant)
    for operation in GUARDED:
        if (right := needed(operation)) is not None:
            for resource, permissions in others(*right):
                await tokens.granted(resource, permissions)
    before, tried = await api.last_event_id(), 0
    for operation in GUARDED:
        if (right := needed(operation)) is None:
            continue
        wrong = others(*right)
        if right[0] == "system":
            wrong = [each for each in wrong if each[0] == "system"]
        for resource, permissions in wrong:
            if operation.right in (("service", "read"), ("secret", "read")) and resource.endswith(":other"):
                continue  # a list: it shows what the token may see, and that is nothing
            for client in (await tokens.granted(resource, permissions), await tokens.narrowed(resource, permissions)):
                headers = {"Accept": "text/event-stream"} if operation.stream else {}
                more = {} if operation.name not in BODIES else {"json": BODIES[operation.name]}
                path = path_of(operation, "mine", name="mine", tenant_id="t1")
                response = await client.request(operation.method, path, headers=headers, **more)
                document = problem(response)
                assert document["code"] == "permission_denied", (operation.name, resource, permissions, document)
                tried += 1
    assert await api.last_event_id() == before
    assert tried > 4 * len(GUARDED)


LAST = ("remove_tenant", "pause_system", "delete_service")


async def test_the_right_alone_is_enough(api: Api, tenant: Client) -> None:
    """Also made from the table: nothing else is asked for behind an operation's back."""
    tokens = Tokens(api, tenant)
    bodies = BODIES | {"create_capability": {"resource": "capability", "permissions": ["grant"]}}
    for operation in sorted(GUARDED, key=lambda each: each.name in LAST):
        right = needed(operation) or ("events", "read")
        if operation.name == "rotate_token":
            continue  # `test_only_a_whole_token_is_rotated`
        if operation.name == "remove_tenant":
            break
        for client in (await tokens.granted(right[0], (right[1],)), await tokens.narrowed(right[0], (right[1],))):
            path = path_of(operation, "mine", name="mine", tenant_id="t1")
            more = {} if operation.name not in bodies else {"json": bodies[operation.name]}
            if operation.stream and operation.transport == "http":
                async with client.stream(path=path):
                    continue
            response = await client.request(operation.method, path, **more)
            code = "ok" if response.status_code < 400 else problem(response)["code"]
            assert code not in ("permission_denied", "unauthenticated"), (operation.name, right, code)
    async with watch(api, await tokens.granted("events", ("read",))):
        pass


async def test_lists_show_what_the_token_may_see(api: Api, tenant: Client) -> None:
    for service_id in ("one", "two", "three"):
        await tenant.deploy(service_id, QUIET)
        await tenant.ok("PUT", f"/secrets/{service_id}", {"value": "v"})
    for holder in (
        await granted(api, tenant, "service:two", "read"),
        with_token(api, attenuate(tenant.token or "", service="two")),
        with_token(api, attenuate(tenant.token or "", resource="service:two", permissions=["read"])),
    ):
        found = await holder.ok("GET", "/services")
        assert [each["service_id"] for each in found["services"]] == ["two"]
        refused(await holder.get("/services/one"), "permission_denied")
        refused(await holder.get("/services/never-was"), "permission_denied")
    nothing = with_token(api, attenuate(attenuate(tenant.token or "", service="one"), service="two"))
    assert (await nothing.ok("GET", "/services"))["services"] == []
    holder = await granted(api, tenant, "secret:two", "read")
    assert [each["name"] for each in (await holder.ok("GET", "/secrets"))["secrets"]] == ["two"]


# -- rotation


@pytest.mark.parametrize("keep", [False, True])
async def test_a_tenants_token_is_rotated(tmp_path: Path, keep: bool) -> None:
    data = tmp_path / "data"
    async with running(data) as api:
        tenant, other = await api.tenant("t1"), await api.tenant("t2")
        child = await granted(api, tenant, "events", "read")
        lent = with_token(api, attenuate(tenant.token or "", permissions=["read"]))
        answer = await tenant.ok("POST", "/tokens/rotate", {"keep_granted": keep})
        assert answer["tenant_id"] == "t1" and answer["token"] != tenant.token
        for dead in (tenant, lent):
            refused(await dead.get("/events"), "unauthenticated")
        new = with_token(api, answer["token"])
        assert (await new.get("/events")).is_success and (await other.get("/events")).is_success
        assert (await child.get("/events")).is_success == keep
        by_system = await api.admin.ok("POST", "/tokens/rotate", headers={"X-Tenant-ID": "t1"})
        refused(await new.get("/events"), "unauthenticated")
    async with running(data) as api:
        assert (await with_token(api, by_system["token"]).get("/events")).is_success
        for dead in (tenant, lent, new, child):
            refused(await with_token(api, dead.token or "").get("/events"), "unauthenticated")


async def test_the_systems_token_is_rotated(tmp_path: Path) -> None:
    data = tmp_path / "data"
    file = data / "admin.token"
    async with running(data) as api:
        tenant = await api.tenant("t1")
        old = file.read_text().strip()
        answer = await api.admin.ok("POST", "/tokens/rotate")
        assert answer["tenant_id"] is None and file.read_text().strip() == answer["token"] != old
        assert file.stat().st_mode & 0o777 == 0o600
        refused(await api.admin.get("/tenants"), "unauthenticated")
        assert (await with_token(api, answer["token"]).get("/tenants")).is_success
        assert (await tenant.get("/events")).is_success, "tenants have tokens of their own"
    async with running(data) as api:
        assert file.read_text().strip() == answer["token"]
        assert (await api.admin.get("/tenants")).is_success
        refused(await with_token(api, old).get("/tenants"), "unauthenticated")


async def test_only_a_whole_token_is_rotated(api: Api, tenant: Client) -> None:
    """Else what was lent for an hour were good for ever."""
    before = await api.last_event_id()
    for client in (
        await granted(api, tenant, "tenant", "*"),
        await granted(api, tenant, "tenant", "*", ttl_s=60),
        await granted(api, tenant, "events", "read"),
        with_token(api, attenuate(tenant.token or "", permissions=["*"])),
        with_token(api, attenuate(tenant.token or "", ttl_s=60)),
        with_token(api, (await grant(api.admin, "system", "*"))["token"]),
        with_token(api, attenuate(api.admin.token or "", ttl_s=60)),
    ):
        refused(await client.post("/tokens/rotate"), "permission_denied")
        before = max(before, await api.last_event_id())
    types = [each["type"] for each in await api.admin.events()]
    assert "token_rotated" not in types


# -- tokens that are no good


def text_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def bad_tokens(api: Api, tenant: Client) -> dict[str, str]:
    good = tenant.token or ""
    whole = deserialize(good)
    narrow = deserialize(attenuate(good, permissions=["read"], service="calc"))
    gone = await grant(tenant, "tenant", "*")
    await tenant.ok("DELETE", f"/capabilities/{gone['id']}")
    lent = attenuate(good, permissions=["*"])
    await tenant.ok("POST", "/capabilities/revoke", {"token": lent})
    other = await grant(tenant, "events", "read")

    def forged(caveats: tuple[bytes, ...], signature: bytes = narrow.signature) -> str:
        return Macaroon(narrow.location, narrow.identifier, caveats, signature).serialize()

    def narrowed(*words: str) -> str:
        return narrow_token(good, words).reveal_text()

    return {
        "empty": "x",
        "truncated": good[:-1],
        "half": good[: len(good) // 2],
        "extended": good + "AAAA",
        "padded": good + "=",
        "other case": good.swapcase(),
        "reordered": forged(narrow.caveats[::-1]),
        "a caveat less": forged(narrow.caveats[:-1]),
        "no caveats": forged(()),
        "a caveat twice": forged((*narrow.caveats, narrow.caveats[0])),
        "the parent's signature": forged(narrow.caveats, whole.signature),
        "no signature": forged((), bytes(32)),
        "signed with another key": mint(whole.location, whole.identifier, secrets.token_bytes(32)).serialize(),
        "another's identifier": Macaroon(
            whole.location, deserialize(other["token"]).identifier, (), whole.signature
        ).serialize(),
        "of another place": Macaroon(b"elsewhere", whole.identifier, (), whole.signature).serialize(),
        "foreign": mint(b"http://example.org/", b"keyid", b"this is the key").serialize(),
        "an unknown key": mint(
            b"solo", b'{"v":1,"k":"%s","c":"%s"}' % (b"0" * 32, b"0" * 32), secrets.token_bytes(32)
        ).serialize(),
        "a condition that is not ours": narrowed("user = alice"),
        "a condition of a later version": narrowed("permissions = call,teleport"),
        "expired": narrowed("time < 2020-01-01T00:00:00Z"),
        "revoked": gone["token"],
        "revoked attenuation": lent,
        "child of a revoked one": attenuate(lent, ttl_s=60),
        "not macaroon": text_of(secrets.token_bytes(100)),
        "version 1": text_of(b"0024location http://example.org/\n"),
        "words": "a token",
        "path": "../../admin.token",
        "long": "A" * 7_000,
    }


async def test_bad_tokens_are_refused_alike(api: Api, tenant: Client) -> None:
    """One and the same text, whatever is wrong: nothing tells a guesser that he is closer."""
    bad = await bad_tokens(api, tenant)
    before = await api.last_event_id()
    details, texts = set(), set()
    for name, token in bad.items():
        response = await with_token(api, token).get("/events")
        document = refused(response, "unauthenticated")
        details.add(document["detail"])
        assert response.headers["www-authenticate"] == "Bearer", name
        assert await verdict(tenant, token, "events", "read") == "invalid", name
        for path, more in (("revoke", {}), ("attenuate", {"permissions": ["read"]})):
            document = refused(await tenant.post(f"/capabilities/{path}", {"token": token, **more}), "token_invalid")
            texts.add(document["detail"])
            assert token not in document["detail"] or len(token) < 10
    assert len(details) == 1 and len(texts) == 1
    assert await api.last_event_id() == before
    assert (await tenant.get("/events")).is_success, "the good one still is"


@pytest.mark.parametrize("token", ["", "\0", "\u00fc", "\U0001f36a", "\r\nX: y", "A" * 300_000, "{}", "null"])
async def test_what_is_no_text_of_a_token(api: Api, tenant: Client, token: str) -> None:
    assert await verdict(tenant, token, "events", "read") == "invalid"
    refused(await tenant.post("/capabilities/revoke", {"token": token}), "token_invalid")


@pytest.mark.parametrize("token", [None, 1, [], {}, True])
async def test_what_is_no_text(api: Api, tenant: Client, token: Any) -> None:
    for path, more in (("revoke", {}), ("verify", {"resource": "events", "permission": "read"})):
        response = await tenant.post(f"/capabilities/{path}", {"token": token, **more})
        assert problem(response)["code"] in ("invalid_field", "missing_field"), response.text


async def test_what_cannot_be_verified_or_narrowed(api: Api, tenant: Client) -> None:
    for more in (
        {},
        {"permissions": []},
        {"permissions": ["fly"]},
        {"resource": "all"},
        {"service": "*"},
        {"ttl_s": 0},
    ):
        response = await tenant.post("/capabilities/attenuate", {"token": tenant.token, **more})
        assert problem(response)["code"] in ("invalid_field", "invalid_id"), (more, response.text)
    token = tenant.token or ""
    with trio.fail_after(BOUND_S):
        while True:
            response = await tenant.post("/capabilities/attenuate", {"token": token, "service": "calc"})
            if response.status_code != 200:
                break
            token = response.json()["token"]
    assert problem(response)["code"] == "invalid_field"
    assert (await with_token(api, token).get("/services")).is_success, "the longest there can be still works"


async def test_a_token_is_nowhere(tmp_path: Path) -> None:
    """Neither it nor its signature: not in the log, the audit, the database, what is answered later."""
    data = tmp_path / "data"
    async with running(data) as api:
        tenant = await api.tenant("t1")
        made = await grant(tenant, "tenant", "*", metadata={"n": 1})
        lent = attenuate(made["token"], permissions=["read"])
        holder = with_token(api, lent)
        await holder.get("/events")
        await verdict(tenant, lent, "events", "read")
        key = {"Idempotency-Key": "k1"}
        await tenant.ok("POST", "/capabilities/revoke", {"token": lent}, headers=key)
        await tenant.post("/capabilities/revoke", {"token": lent[:-2]})
        refused(await holder.get("/events"), "unauthenticated")
        told = repr(
            [await api.admin.events(), await tenant.ok("GET", "/capabilities"), await api.admin.ok("GET", "/system")]
        )
        told += (await api.admin.get("/audit", params={"limit": 100})).text
    needles = [token.encode() for token in (tenant.token or "", made["token"], lent)]
    needles += [deserialize(needle.decode()).signature for needle in needles]
    needles += [signature.hex().encode() for signature in needles[3:]]
    files = [path for path in data.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for needle in needles:
        assert needle not in told.encode()
        for path in files:
            assert needle not in path.read_bytes(), path


# -- what is open


async def ends(frames: Any) -> None:
    """It is said why, and then it is over."""
    with trio.fail_after(BOUND_S):
        last = [frame async for frame in frames][-1]
    assert (last.event, last.json) == ("end", {"reason": "revoked"})


async def closes(watcher: Watcher) -> None:
    with trio.fail_after(BOUND_S):
        while "end" not in (found := await watcher.any()):
            pass
    assert found == {"end": {"reason": "revoked"}}
    assert await watcher.closed() == (1008, "revoked")


@pytest.mark.parametrize("how", ["revoked", "ancestor", "attenuation", "expires", "narrowed to expire", "rotated"])
async def test_open_streams_end(api: Api, tenant: Client, how: str) -> None:
    """Real sockets: events and logs as SSE, events as a WebSocket."""
    parent = await grant(tenant, "tenant", "read", "grant")
    lender = with_token(api, parent["token"])
    brief = {"ttl_s": 3.0} if how == "expires" else {}
    made = await grant(lender, "tenant", "read", **brief)
    token = made["token"]
    if how == "attenuation":
        token = attenuate(token, permissions=["read"])
    if how == "narrowed to expire":
        token = attenuate(token, ttl_s=3.0)
    holder = with_token(api, token)
    async with (
        holder.stream() as events,
        holder.stream(path="/logs") as logs,
        watch(api, holder) as watcher,
        tenant.stream(type="tenant_updated") as unharmed,
    ):
        match how:
            case "revoked":
                await tenant.ok("DELETE", f"/capabilities/{made['id']}")
            case "ancestor":
                await tenant.ok("DELETE", f"/capabilities/{parent['id']}")
            case "attenuation":
                await tenant.ok("POST", "/capabilities/revoke", {"token": token})
            case "rotated":
                await api.admin.ok("POST", "/tokens/rotate", headers={"X-Tenant-ID": "t1"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends, events)
            nursery.start_soon(ends, logs)
            nursery.start_soon(closes, watcher)
            if how == "rotated":
                nursery.start_soon(ends, unharmed)
        if how != "rotated":
            await api.admin.ok("PATCH", "/tenants/t1", {"limits": {"max_services": 7}})
            [frame] = await unharmed.take(1)
            assert frame.event == "tenant_updated", "others go on"
    refused(await holder.get("/events"), "unauthenticated")


async def test_a_stream_of_the_systems_ends_with_its_token(api: Api) -> None:
    operator = await granted(api, api.admin, "system", "read")
    async with operator.stream() as events, api.admin.stream() as own:
        await api.admin.ok("POST", "/tokens/rotate")
        await ends(events)
        await ends(own)
