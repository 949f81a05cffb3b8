"""Secrets over HTTP: set, list, reveal, shred; who gets what; a service's own; nothing shows that should not."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from typing import Any

import pytest
import trio
from api_rig import BOUND_S, RFC3339, Api, Client, refused

from solo_trio.client import AsyncSoloClient

CANARY = "canary-9f1c-must-not-be-seen"
KEY = "0f" * 32
HOLDER = """
import sys
from solo_trio import service

CTX = None

@service.export
async def has(name):
    value = await CTX.secret(name)
    return [type(value).__name__, len(value)]

@service.export
async def says(name):
    value = await CTX.secret(name)
    CTX.log.warning("logged %s" % value, field=value, deep={"list": ["x" + value]})
    print("printed", value, flush=True)
    for part in ("in parts " + value[:7], value[7:] + "\\n"):
        sys.stdout.write(part)
        sys.stdout.flush()
    print(value, file=sys.stderr, flush=True)
    print("said", flush=True)

@service.export
async def raises(name):
    raise ValueError("with " + await CTX.secret(name))

@service.export
async def twice(name):
    import trio
    found = []
    async def one():
        found.append(await CTX.secret(name))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        nursery.start_soon(one)
    return found[0] == found[1]

@service.export
def crash():
    global CRASH
    CRASH = True

CRASH = False

async def main(ctx):
    global CTX
    CTX = ctx
    import trio
    while not CRASH:
        await trio.sleep(0.01)
    raise RuntimeError("crashed with " + await ctx.secret("api"))
"""


async def put(client: Client, name: str, value: Any, *, status: int | None = None, **more: Any) -> Any:
    headers = more.pop("headers", None)
    response = await client.request("PUT", f"/secrets/{name}", json={"value": value, **more}, headers=headers)
    assert response.is_success, response.text
    assert status in (None, response.status_code)
    return response.json()


async def reveal(client: Client, name: str, **body: Any) -> Any:
    return (await client.ok("POST", f"/secrets/{name}/reveal", body))["value"]


async def of_secrets(client: Client) -> list[tuple[str, dict[str, Any]]]:
    return [(each["type"], each["payload"]) for each in await client.events() if each["type"].startswith("secret_")]


async def test_a_secret_from_its_first_version_to_its_end(tenant: Client) -> None:
    assert await put(tenant, "api", "one", status=201) == {"name": "api", "version": 1}
    assert await put(tenant, "api", "two", status=200) == {"name": "api", "version": 2}
    assert await reveal(tenant, "api") == "two"
    assert await reveal(tenant, "api", version=1) == "one"
    listed = await tenant.ok("GET", "/secrets")
    assert [each["name"] for each in listed["secrets"]] == ["api"] and listed["next"] is None
    shown = await tenant.ok("GET", "/secrets/api")
    assert [each["version"] for each in shown["versions"]] == [1, 2]
    assert RFC3339.fullmatch(shown["at"])
    for response in (listed, shown):
        assert "one" not in json.dumps(response) and "two" not in json.dumps(response)
    assert (await tenant.ok("DELETE", "/secrets/api"))["name"] == "api"
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/reveal")):
        refused(await tenant.request(method, f"/secrets/api{path}"), "secret_not_found")
    assert await put(tenant, "api", "three", status=201) == {"name": "api", "version": 1}


async def test_bytes_are_bytes(tenant: Client) -> None:
    value = {"base64": base64.b64encode(bytes(range(256))).decode()}
    await put(tenant, "b", value)
    assert await reveal(tenant, "b") == value


async def test_only_so_many_versions_are_kept(tenant: Client) -> None:
    for number in range(1, 13):
        await put(tenant, "api", f"value {number}")
    versions = [each["version"] for each in (await tenant.ok("GET", "/secrets/api"))["versions"]]
    assert versions == list(range(3, 13))
    refused(await tenant.post("/secrets/api/reveal", {"version": 2}), "secret_not_found")
    assert await reveal(tenant, "api", version=3) == "value 3"


async def test_that_it_is_revealed_is_recorded_before(tenant: Client) -> None:
    await put(tenant, "api", CANARY)
    assert await reveal(tenant, "api") == CANARY
    found = await of_secrets(tenant)
    assert [type_ for type_, _ in found] == ["secret_stored", "secret_accessed"]
    by = found[1][1]["by"]
    assert by.startswith("capability:") and found[1][1] == {"name": "api", "version": 1, "by": by, "generation": None}


async def test_under_a_key_of_the_agent(tenant: Client) -> None:
    await put(tenant, "mine", "hush", key=KEY)
    assert await reveal(tenant, "mine", key=KEY) == "hush"
    assert (await tenant.ok("GET", "/secrets/mine"))["sealed_by"] == "agent"
    details = {
        refused(await tenant.post("/secrets/mine/reveal", body), "secret_access_denied")["detail"]
        for body in ({}, {"key": "0e" * 32}, {"key": "a passphrase"})
    }
    await put(tenant, "plain", "hush")
    details.add(refused(await tenant.post("/secrets/plain/reveal", {"key": KEY}), "secret_access_denied")["detail"])
    assert len(details) == 1, "the same whichever part is wrong"
    await tenant.wait_event("secret_access_denied")
    denials = [payload for type_, payload in await of_secrets(tenant) if type_ == "secret_access_denied"]
    assert {each["name"] for each in denials} <= {"mine", "plain"}
    assert await reveal(tenant, "mine", key=KEY) == "hush"


async def test_refusals_are_counted_and_told_once(tenant: Client) -> None:
    await put(tenant, "mine", "hush", key=KEY)
    for _ in range(20):
        refused(await tenant.post("/secrets/mine/reveal", {}), "secret_access_denied")
    await tenant.wait_event("secret_access_denied")
    with trio.fail_after(30):
        while True:
            counts = [payload["count"] for type_, payload in await of_secrets(tenant) if type_.endswith("denied")]
            if sum(counts) == 20:
                break
            await trio.sleep(0.05)
    assert len(counts) < 10


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/secrets/a%20b", {"value": "x"}, "invalid_id"),
        ("/secrets/" + "a" * 129, {"value": "x"}, "invalid_id"),
        ("/secrets/%C3%BC", {"value": "x"}, "invalid_id"),
        ("/secrets/a", {}, "invalid_field"),
        ("/secrets/a", {"value": ""}, "invalid_field"),
        ("/secrets/a", {"value": None}, "invalid_field"),
        ("/secrets/a", {"value": 7}, "invalid_field"),
        ("/secrets/a", {"value": ["x"]}, "invalid_field"),
        ("/secrets/a", {"value": {"base64": "###"}}, "invalid_field"),
        ("/secrets/a", {"value": {"base64": ""}}, "invalid_field"),
        ("/secrets/a", {"value": {"base64": "eA==", "x": 1}}, "invalid_field"),
        ("/secrets/a", {"value": "x", "key": ""}, "invalid_field"),
        ("/secrets/a", {"value": "x", "key": 7}, "invalid_field"),
        ("/secrets/a", {"value": "x", "key": "k" * 1_025}, "invalid_field"),
        ("/secrets/a", {"value": "x", "keys": "k"}, "unknown_field"),
        ("/secrets/a", {"value": "x" * 65_537}, "too_large"),
    ],
)
async def test_what_is_not_right_is_refused(tenant: Client, path: str, body: Any, code: str) -> None:
    refused(await tenant.request("PUT", path, json=body), code)
    assert (await tenant.ok("GET", "/secrets"))["secrets"] == []


@pytest.mark.parametrize("name", ["A", "a.b-c_D", ".", "..", "a" * 128])
async def test_every_name_of_the_contract_works(tenant: Client, name: str) -> None:
    path = name if name.strip(".") else name.replace(".", "%2E")
    await put(tenant, path, "hush")
    assert await reveal(tenant, path) == "hush"
    assert [each["name"] for each in (await tenant.ok("GET", "/secrets"))["secrets"]] == [name]


@pytest.mark.parametrize("name", [".", ".."])
async def test_names_that_paths_leave_out_work_with_curl_and_the_sdk(api: Api, tenant: Client, name: str) -> None:
    """Real clients, which normalise paths each in its own way."""
    with trio.fail_after(BOUND_S):
        async with AsyncSoloClient(api.url, tenant.token) as solo:
            await solo.set_secret(name, "hush")
            assert await solo.reveal_secret(name) == "hush"
    if shutil.which("curl") is None:
        pytest.skip("missing: curl")
    path = name.replace(".", "%2E")
    command = ["curl", "-s", "-H", f"Authorization: Bearer {tenant.token}", f"{api.url}/secrets/{path}"]
    with trio.fail_after(BOUND_S):
        said = await trio.run_process(command, capture_stdout=True)
    assert json.loads(said.stdout)["name"] == name
    with trio.fail_after(BOUND_S):
        said = await trio.run_process([*command, "-X", "DELETE"], capture_stdout=True)
    assert (await tenant.ok("GET", "/secrets"))["secrets"] == []


async def test_no_refusal_repeats_a_value_or_a_key(tenant: Client) -> None:
    for body in (
        {"value": {CANARY: 1}},
        {"value": [CANARY]},
        {"value": {"base64": CANARY}},
        {"value": CANARY * 4_000},
        {"value": "x", "key": CANARY * 100},
        {"value": CANARY, "version": 1},
    ):
        response = await tenant.request("PUT", "/secrets/a", json=body)
        assert response.status_code in (400, 413)
        assert CANARY not in response.text
    response = await tenant.post("/secrets/a/reveal", {"key": CANARY})
    assert CANARY not in refused(response, "secret_not_found")["detail"]


async def test_pages(tenant: Client) -> None:
    for number in range(5):
        await put(tenant, f"s{number}", "hush")
    first = await tenant.ok("GET", "/secrets?limit=2")
    rest = await tenant.ok("GET", f"/secrets?cursor={first['next']}")
    assert [each["name"] for each in first["secrets"] + rest["secrets"]] == [f"s{number}" for number in range(5)]


async def test_the_same_request_again(api: Api, tenant: Client) -> None:
    again = {"Idempotency-Key": "k1"}
    for _ in range(3):
        assert await put(tenant, "api", CANARY, headers=again, status=201) == {"name": "api", "version": 1}
    response = await tenant.request("PUT", "/secrets/api", json={"value": CANARY + "x"}, headers=again)
    refused(response, "idempotency_conflict")
    [row] = await api.system.core.journal.idempotency(0)
    guesses = [f'["set_secret",[{{"name":"api"}},{{"value":"{CANARY}"}}]]', CANARY, json.dumps({"value": CANARY})]
    assert row.fingerprint not in {hashlib.sha256(guess.encode()).hexdigest() for guess in guesses}
    other = await api.tenant("t2")
    await put(other, "api", CANARY, headers=again, status=201)


async def test_revisions(tenant: Client) -> None:
    response = await tenant.request("PUT", "/secrets/api", json={"value": "one"}, headers={"If-Match": "0"})
    revision = response.headers["etag"].strip('"')
    await put(tenant, "api", "two", headers={"If-Match": revision})
    for method, body in (("PUT", {"value": "three"}), ("DELETE", None)):
        more = {} if body is None else {"json": body}
        response = await tenant.request(method, "/secrets/api", headers={"If-Match": revision}, **more)
        refused(response, "revision_mismatch")
    assert await reveal(tenant, "api") == "two"


async def test_many_at_once_get_versions_of_their_own(tenant: Client) -> None:
    answers: list[int] = []

    async def one(number: int) -> None:
        answers.append((await put(tenant, "api", f"value {number}"))["version"])

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(one, number)
    assert sorted(answers) == list(range(1, 9))
    found = {await reveal(tenant, "api", version=number) for number in range(1, 9)}
    assert found == {f"value {number}" for number in range(8)}


async def test_another_tenants_secrets_do_not_exist(api: Api, tenant: Client) -> None:
    await put(tenant, "api", CANARY)
    other = await api.tenant("t2")
    assert (await other.ok("GET", "/secrets"))["secrets"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/reveal")):
        response = await other.request(method, f"/secrets/api{path}")
        refused(response, "secret_not_found")
        assert CANARY not in response.text
    await put(other, "api", "theirs", status=201)
    assert await reveal(tenant, "api") == CANARY


async def test_a_service_gets_what_its_deployment_lists(tenant: Client) -> None:
    await put(tenant, "api", CANARY)
    await put(tenant, "bin", {"base64": "AAECAwQFBgc="})
    await put(tenant, "mine", "hush", key=KEY)
    await put(tenant, "other", "hush")
    await tenant.deploy("holder", HOLDER, secrets=["api", "bin", "mine", "none"])
    assert await tenant.call("holder", "has", "api") == ["str", len(CANARY)]
    assert await tenant.call("holder", "has", "bin") == ["bytes", 8]
    for name, code in (
        ("mine", "secret_access_denied"),
        ("other", "secret_access_denied"),
        ("none", "secret_not_found"),
    ):
        response = await tenant.try_call("holder", "has", name)
        assert f"CallError: {code}: " in refused(response, "call_failed")["detail"]
    response = await tenant.try_call("holder", "has", "a b")
    assert "CallError: invalid_id: " in refused(response, "call_failed")["detail"]
    assert await tenant.call("holder", "twice", "api")
    accessed = [payload for type_, payload in await of_secrets(tenant) if type_ == "secret_accessed"]
    assert accessed == [
        {"name": name, "version": 1, "by": "service:holder", "generation": 1} for name in ("api", "bin")
    ], "once for each generation and version"
    assert (await tenant.ok("GET", "/services/holder"))["spec"]["secrets"] == ["api", "bin", "mine", "none"]


async def test_what_a_service_may_have_counts_at_once(tenant: Client) -> None:
    await put(tenant, "api", "the first value")
    await put(tenant, "two", "hush hush")
    await tenant.deploy("holder", HOLDER, secrets=["api", "two"])
    assert await tenant.call("holder", "has", "api") == ["str", 15]
    await put(tenant, "api", "second")
    assert await tenant.call("holder", "has", "api") == ["str", 6]
    await tenant.ok("PATCH", "/services/holder", {"secrets": ["two"]})
    response = await tenant.try_call("holder", "has", "api")
    assert "secret_access_denied" in refused(response, "call_failed")["detail"]
    await tenant.ok("DELETE", "/secrets/two")
    response = await tenant.try_call("holder", "has", "two")
    assert "secret_not_found" in refused(response, "call_failed")["detail"]
    await put(tenant, "two", "again set")
    assert await tenant.call("holder", "has", "two") == ["str", 9]


async def test_what_a_service_says_is_shown_without_its_secrets(api: Api, tenant: Client) -> None:
    await put(tenant, "api", CANARY)
    await tenant.deploy("holder", HOLDER, secrets=["api"], restart="temporary")
    await tenant.call("holder", "says", "api")
    entries = await tenant.wait_log("said", service_id="holder")
    with trio.fail_after(30):
        while not any(entry["stream"] == "stderr" for entry in entries):
            entries = await tenant.logs(service_id="holder")
    messages = {(entry["stream"], entry["message"]) for entry in entries}
    mark = "[secret api]"
    assert {("log", f"logged {mark}"), ("stdout", f"printed {mark}"), ("stdout", f"in parts {mark}")} <= messages
    assert ("stderr", mark) in messages
    [logged] = [entry for entry in entries if entry["stream"] == "log"]
    assert logged["fields"] == {"field": mark, "deep": {"list": [f"x{mark}"]}}
    detail = refused(await tenant.try_call("holder", "raises", "api"), "call_failed")["detail"]
    assert detail.endswith(f"with {mark}")
    await tenant.call("holder", "crash")
    crashed = await tenant.wait_event("service_crashed", "holder")
    assert crashed["payload"]["reason"] == f"RuntimeError: crashed with {mark}"
    status = await tenant.ok("GET", "/services/holder")
    assert mark in status["last_crash"]["traceback"]
    for shown in (entries, await tenant.events(), status, await api.admin.events()):
        assert CANARY not in json.dumps(shown)


async def test_secrets_of_a_deployment_that_cannot_be(tenant: Client) -> None:
    for secrets, code in (
        (["a", "a"], "invalid_field"),
        (["a b"], "invalid_id"),
        ([f"s{number}" for number in range(33)], "invalid_field"),
        ("a", "invalid_field"),
        ([1], "invalid_field"),
    ):
        refused(await tenant.try_deploy("holder", HOLDER, secrets=secrets), code)
    assert (await tenant.ok("GET", "/services"))["services"] == []


async def test_who_deploys_must_be_allowed_to_read_what_the_service_gets(api: Api, tenant: Client) -> None:
    await put(tenant, "api", CANARY)
    grant = {"resource": "service:*", "permissions": ["deploy", "read", "call"]}
    token = (await tenant.ok("POST", "/capabilities", grant))["token"]
    deployer = await api.client(token, "t1")
    refused(await deployer.try_deploy("holder", HOLDER, secrets=["api"]), "permission_denied")
    refused(await deployer.get("/secrets/api"), "permission_denied")
    refused(await deployer.post("/secrets/api/reveal", {}), "permission_denied")
    await tenant.deploy("holder", HOLDER)
    response = await deployer.request("PATCH", "/services/holder", json={"secrets": ["api"]})
    refused(response, "permission_denied")


async def test_a_token_for_one_secret(api: Api, tenant: Client) -> None:
    await put(tenant, "api", "hush")
    await put(tenant, "other", "hush")
    grant = {"resource": "secret:api", "permissions": ["read"]}
    token = (await tenant.ok("POST", "/capabilities", grant))["token"]
    reader = await api.client(token, "t1")
    assert await reveal(reader, "api") == "hush"
    assert [each["name"] for each in (await reader.ok("GET", "/secrets"))["secrets"]] == ["api"]
    refused(await reader.post("/secrets/other/reveal", {}), "permission_denied")
    refused(await reader.request("PUT", "/secrets/api", json={"value": "x"}), "permission_denied")
    refused(await reader.delete("/secrets/api"), "permission_denied")


async def test_a_quota(api: Api, tenant: Client) -> None:
    most = api.system.settings.max_secrets_per_tenant
    async with trio.open_nursery() as nursery:
        for number in range(most):
            nursery.start_soon(put, tenant, f"s{number}", "hush")
    refused(await tenant.request("PUT", "/secrets/more", json={"value": "x"}), "quota_exceeded")
    await put(tenant, "s0", "a new version of what is there")
    await tenant.ok("DELETE", "/secrets/s0")
    await put(tenant, "more", "x")
