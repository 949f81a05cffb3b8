"""What must be refused, on every route: with a stable code, a sentence, nothing written, and the server still there."""

from __future__ import annotations

import json
import re
import types
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote

import attrs
import pytest
from api_rig import CALC, Api, Client, Wire, refused
from api_samples import path_of, required_bodies

from solo_trio.operations.perform import OPERATIONS
from solo_trio.operations.table import Operation

IDS = {
    "dots": "..",
    "traversal": "../../etc/passwd",
    "backslash": "..\\x",
    "absolute": "/x",
    "nul": "a\0b",
    "nul-only": "\0",
    "upper": "Calc",
    "leading-dash": "-a",
    "leading-underscore": "_a",
    "dot": "a.b",
    "space": "a b",
    "trailing-space": "a ",
    "newline": "a\n",
    "crlf": "a\r\nX-Evil: 1",
    "colon": "a:b",
    "accent": "á",
    "fullwidth": "ａ",
    "digit": "٣",
    "kelvin": "\u212a",
    "dotless": "ı",
    "combining": "a\u0301",
    "bidi": "a\u202eb",
    "emoji": "🜁",
    "percent": "%2e%2e",
    "sql": "a' or '1'='1",
    "long": "a" * 64,
    "very-long": "a" * 5_000,
}
GOOD_IDS = ["a", "0", "a" * 63, "a-", "a_", "0-_", "null", "services", "con"]
ROUTED = [each for each in OPERATIONS.values() if "{" in each.path]
WITH_QUERY = [each for each in OPERATIONS.values() if not each.stream]
TAKES_BODY = [
    each for each in OPERATIONS.values() if any(a.metadata["place"] == "body" for a in attrs.fields(each.input))
]
REQUIRED = required_bodies()
BY_ITSELF = {
    "system_settled",
    "checkpoint_written",
    "log_compacted",
    "clock_jump",
    "runtime_pressure_high",
    "resource_violation",
    "load_shed",
    "capability_denied",
    "access_alert",
}
NOT_JSON = {
    "empty-object-cut": b"{",
    "text": b"hello",
    "single-quotes": b"{'a': 1}",
    "trailing-comma": b'{"a": 1,}',
    "two-values": b"{} {}",
    "nan": b'{"config": {"a": NaN}}',
    "infinity": b'{"config": {"a": -Infinity}}',
    "too-big-a-float": b'{"config": {"a": 1e999}}',
    "too-big-an-int": b'{"config": {"a": 99999999999999999999}}',
    "duplicate": b'{"code": "1", "code": "2"}',
    "lone-surrogate": b'{"code": "\\ud800"}',
    "lone-surrogate-key": b'{"\\udfff": 1}',
    "not-utf8": b'{"code": "\xff"}',
    "encoded-surrogate": b'{"code": "\xed\xa0\x80"}',
    "overlong": b'{"code": "\xc0\xaf"}',
    "utf16": '{"code": "x"}'.encode("utf-16"),
    "byte-order-mark": b'\xef\xbb\xbf{"code": "x"}',
    "deep": b'{"config": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}",
    "deeper": b"[" * 100_000,
    "control-character": b'{"code": "a\nb"}',
    "blank": b"   ",
}


@asynccontextmanager
async def nothing_written(api: Api) -> AsyncIterator[None]:
    """Assert that the block left no trace in the log; what the kernel notes by itself may fall into it."""
    before = await api.last_event_id()
    yield
    events = await api.admin.events(since_id=before)
    assert [each for each in events if each["type"] not in BY_ITSELF] == []


@pytest.fixture
async def calc(tenant: Client) -> Client:
    await tenant.deploy("calc")
    return tenant


def client_of(operation: Operation, api: Api, tenant: Client) -> Client:
    return api.admin if operation.scope == "system" else tenant


def encoded(text: str) -> str:
    """As one segment of a path; dots too, which a client resolves by itself."""
    return quote(text, safe="").replace(".", "%2E")


async def test_bad_ids_in_a_path(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for operation in ROUTED:
            for bad in IDS.values():
                body = REQUIRED.get(operation.name)
                for name in ("service_id", "tenant_id"):
                    if "{" + name + "}" not in operation.path:
                        continue
                    path = path_of(operation, **{name: encoded(bad)})
                    response = await client_of(operation, api, calc).request(operation.method, path, json=body)
                    # A slash in an id is another route, and there is none.
                    code = response.json()["code"]
                    assert code == ("not_found" if "/" in bad else "invalid_id"), (path, response.text)


async def test_bad_ids_in_a_body_a_query_and_a_header(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for bad in (*IDS.values(), ""):
            refused(await calc.try_deploy(bad, CALC), "invalid_id")
            refused(await api.admin.post("/tenants", {"tenant_id": bad}), "invalid_id")
            refused(await api.admin.post("/services", {**REQUIRED["deploy"], "tenant_id": bad}), "invalid_id")
            refused(await calc.post("/services", {**REQUIRED["deploy"], "tenant_id": bad}), "invalid_id")
            for path in ("/events", "/logs"):
                refused(await calc.get(path, params={"service_id": bad}), "invalid_id")
            if bad.isprintable() and bad == bad.strip():
                refused(await calc.get("/services", headers={"X-Tenant-ID": bad}), "invalid_id")


async def test_bad_functions(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for bad in (*IDS.values(), "a-b", "1a", "a" * 129):
            if bad in ("Calc", "_a", "a" * 64):
                continue
            response = await calc.post(f"/services/calc/call/{encoded(bad)}", {})
            assert response.json()["code"] == ("not_found" if "/" in bad else "invalid_id"), (bad, response.text)
        for unknown in ("Calc", "_a", "a" * 128, "main", "__import__", "service", "os"):
            refused(await calc.try_call("calc", unknown), "function_not_found")


async def test_good_ids(tenant: Client) -> None:
    for good in GOOD_IDS:
        await tenant.deploy(good, "x = 1")
        assert (await tenant.ok("GET", f"/services/{good}"))["service_id"] == good
    assert [each["service_id"] for each in (await tenant.ok("GET", "/services"))["services"]] == sorted(GOOD_IDS)


async def test_bodies_that_are_not_json(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for operation in OPERATIONS.values():
            if operation.method == "GET":
                continue
            for name, body in NOT_JSON.items():
                response = await client_of(operation, api, calc).request(
                    operation.method, path_of(operation), content=body
                )
                document = refused(response, "invalid_json")
                assert document["status"] == 400, name
    assert await calc.call("calc", "add", 1, 2) == 3


async def test_bodies_that_are_not_objects(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for operation in OPERATIONS.values():
            if operation.stream:
                continue
            for body in ([], [{}], "text", 1, True, 1.5):
                response = await client_of(operation, api, calc).request(
                    operation.method, path_of(operation), content=json.dumps(body).encode()
                )
                refused(response, "invalid_field")


async def test_a_required_body_that_is_missing(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for content in (b"", b"{}", b"null"):
            for path, client in (("/services", calc), ("/tenants", api.admin)):
                document = refused(await client.request("POST", path, content=content), "invalid_field")
                assert "missing" in document["detail"]


async def test_unknown_fields(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for operation in OPERATIONS.values():
            if operation.stream:
                continue
            for name in ("surprise", "self", "__class__", "", "\u202e", "a" * 5_000, "<b>"):
                body = {**REQUIRED.get(operation.name, {}), name: 1}
                response = await client_of(operation, api, calc).request(
                    operation.method, path_of(operation), content=json.dumps(body).encode()
                )
                document = refused(response, "unknown_field")
                assert len(document["detail"]) < 500 and document["detail"].isascii()
        nested = {**REQUIRED["deploy"], "limits": {"memory": 1}}
        assert "limits" in refused(await calc.post("/services", nested), "unknown_field")["detail"]
        nested = {**REQUIRED["deploy"], "restart_limits": {"max": 1}}
        assert "restart_limits" in refused(await calc.post("/services", nested), "unknown_field")["detail"]
        refused(await api.admin.post("/tenants", {"tenant_id": "x", "limits": {"max": 1}}), "unknown_field")


async def test_queries(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for operation in WITH_QUERY:
            client, path = client_of(operation, api, calc), path_of(operation)
            body = REQUIRED.get(operation.name)
            known = {attribute.name for attribute in attrs.fields(operation.input)}
            for bad in ("surprise=1", "=1", "%00=1", "tenant_id=t1", "SINCE_ID=1", "surprise", f"{'a' * 500}=1"):
                if bad.partition("=")[0] in known:
                    continue
                document = refused(await client.request(operation.method, f"{path}?{bad}", json=body), "unknown_field")
                assert document["detail"].isascii() and len(document["detail"]) < 500
            hints = get_type_hints(operation.input)
            for attribute in attrs.fields(operation.input):
                if attribute.metadata["place"] != "query":
                    continue
                name = attribute.name
                repeated = await client.request(operation.method, f"{path}?{name}=1&{name}=1", json=body)
                assert "once" in refused(repeated, "invalid_field")["detail"]
                for bad in bad_texts(hints[name]):
                    response = await client.request(operation.method, path, params={name: bad}, json=body)
                    assert response.status_code == 400, (path, name, bad)
                    assert name in refused(response, "invalid_field")["detail"]


def bad_texts(kind: Any) -> list[str]:
    """Query texts that are not of the type."""
    kinds = set(get_args(kind) or (kind,))
    if bool in kinds:
        return ["", "yes", "True", "2", "null", "truе", "true "]
    if int in kinds:
        return [
            "",
            "-1",
            "1.0",
            "1e3",
            "0x1",
            "ten",
            "1_000",
            "٣",
            "null",
            "+1",
            " 1",
            "9" * 40,
            "-" * 20,
            "\0",
        ]
    if get_origin(kind) is Literal or any(get_origin(each) is Literal for each in kinds):
        return ["", "READY", "nothing", "ready,", "\0"]
    return []


ZERO_IS_TOO_LOW = {("list_services", "limit"), ("list_events", "limit"), ("list_logs", "limit"), ("list_logs", "tail")}


async def test_pages_have_bounds(api: Api, calc: Client) -> None:
    for operation in WITH_QUERY:
        for attribute in attrs.fields(operation.input):
            if attribute.name not in ("limit", "tail"):
                continue
            client, path = client_of(operation, api, calc), path_of(operation)
            for bad in (0, 1001, -1):
                refused(await client.get(path, params={attribute.name: bad}), "invalid_field")
            for good in (1, 1000):
                assert (await client.get(path, params={attribute.name: good})).status_code == 200
    refused(await calc.get("/services", params={"cursor": "Not An Id"}), "invalid_field")
    refused(await api.admin.get("/tenants", params={"cursor": ""}), "invalid_field")
    refused(await calc.get("/events", params={"type": "no_such_event"}), "invalid_field")
    refused(await calc.get("/events", params={"type": ""}), "invalid_field")
    refused(await calc.get("/events", params={"type": ",".join(["x_a"] * 33)}), "invalid_field")


# -- wrong types, made from the input classes


def wrong_values(kind: Any) -> list[Any]:
    """JSON values that are not of the type; near misses first."""
    every: list[Any] = [None, True, 1, 1.5, "5", "", [], {}, [1], {"a": 1}]
    kinds = set(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else {kind}

    def fits(value: Any) -> bool:
        for each in kinds:
            origin = get_origin(each) or each
            if each is Any:  # looked at by the operation: text, or something that says what it is
                if type(value) is str and value:
                    return True
            elif origin is Literal:
                if value in get_args(each) and type(value) is str:
                    return True
            elif attrs.has(origin):
                if value == {}:
                    return True
            elif origin is float:
                if type(value) in (int, float):
                    return True
            elif type(value) is origin or (value is None and origin is type(None)):
                return True
        return False

    return [value for value in every if not fits(value)]


def wrong_bodies(kind: type, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path of the field, wrong value) for every field of the body, nested ones too."""
    hints = get_type_hints(kind)
    for attribute in attrs.fields(kind):
        if not prefix and attribute.metadata["place"] != "body":
            continue
        hint = hints[attribute.name]
        where = (*prefix, attribute.name)
        for value in wrong_values(hint):
            yield where, value
        if attrs.has(hint):
            yield from wrong_bodies(hint, where)


def with_value(body: dict[str, Any], where: tuple[str, ...], value: Any) -> dict[str, Any]:
    *outer, last = where
    made = json.loads(json.dumps(body))
    inner = made
    for name in outer:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return made


async def test_wrong_types_for_every_field(api: Api, calc: Client) -> None:
    seen = set()
    async with nothing_written(api):
        for operation in TAKES_BODY:
            client = client_of(operation, api, calc)
            for where, value in wrong_bodies(operation.input):
                body = with_value(REQUIRED[operation.name], where, value)
                response = await client.request(operation.method, path_of(operation), json=body)
                document = response.json()
                assert not response.is_success, (operation.name, where, value, document)
                assert document["code"] in ("invalid_field", "invalid_id", "unknown_field"), (where, value, document)
                assert ".".join(where) in document["detail"] or document["code"] == "unknown_field", (where, document)
                seen.add((operation.name, *where))
    assert ("deploy", "limits", "memory_mb") in seen and ("create_tenant", "limits", "max_services") in seen


async def test_numbers_out_of_range(api: Api, calc: Client) -> None:
    fields = [("limits", each.name) for each in attrs.fields(get_type_hints(OPERATIONS["deploy"].input)["limits"])]
    fields += [("restart_limits", "max_restarts"), ("restart_limits", "max_seconds")]
    async with nothing_written(api):
        for where in fields:
            for bad in (-1, -0.5, 2**62, 1e300, -(2**63)):
                body = with_value(REQUIRED["deploy"], where, bad)
                document = refused(await calc.post("/services", body), "invalid_field")
                assert where[-1] in document["detail"]
        for bad in (-1, 2**62):
            body = {"tenant_id": "fresh", "limits": {"max_services": bad}}
            refused(await api.admin.post("/tenants", body), "invalid_field")
        refused(await calc.delete("/services/calc?grace_ms=600001"), "invalid_field")


async def test_code_that_is_no_code(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for code in ("", " ", "\n\t "):
            refused(await calc.try_deploy("fresh", code), "invalid_field")
        body = {**REQUIRED["deploy"], "isolation": "task"}
        refused(await calc.post("/services", body), "invalid_field")
        body = {**REQUIRED["deploy"], "format": "wasm"}
        refused(await calc.post("/services", body), "invalid_field")


async def test_sizes(api: Api, calc: Client) -> None:
    mebibyte = 1_048_576
    async with nothing_written(api):
        for source in ("#" * (mebibyte + 1), "#" + "é" * (mebibyte // 2)):
            refused(await calc.try_deploy("fresh", source), "too_large")
        refused(await calc.try_deploy("fresh", "x = 1", config={"a": "x" * 65_536}), "too_large")
        refused(await calc.try_call("calc", "add", "x" * mebibyte), "too_large")
        refused(await calc.try_call("calc", "add", a="x" * mebibyte), "too_large")
        async with Wire.to(calc.http.base_url) as wire:
            answer = await wire.get("/services", {"Content-Length": b"%d" % (5 * mebibyte)}, method="POST", body=False)
            assert answer.status_code == 413 and json.loads(await wire.rest())["code"] == "too_large"
    assert (await calc.deploy("whole", "#" * mebibyte))["status"] == "ready"
    await calc.deploy("config", "x = 1", config={"a": "x" * (65_536 - 8)})
    assert len(await calc.call("calc", "add", "x" * 500_000, "y" * 500_000)) == 1_000_000


async def test_headers(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for bad in ("", "x" * 256, "tab\there", "ünïcode"):
            response = await calc.try_deploy("fresh", CALC, headers={"Idempotency-Key": bad})
            refused(response, "invalid_header")
        for bad in ("", "x", '"x"', "-1", '"5', '5"', "W/5", "1, 2", '"1", "2"', "1.0", "９", "1" * 19):
            refused(await calc.delete("/services/calc", headers={"If-Match": bad}), "invalid_header")
    assert await calc.call("calc", "add", 1, 2) == 3


async def test_routes_and_methods(api: Api, calc: Client) -> None:
    async with nothing_written(api):
        for path in (
            "/",
            "/service",
            "//services",
            "/services//calc",
            "/services/calc/",
            "/services/calc/call",
            "/%00",
        ):
            response = await calc.get(path)
            if path == "/services/calc/":
                assert response.status_code == 200, "a trailing slash is forgiven"
            else:
                refused(response, "not_found")
        assert (await calc.get("/services/")).status_code == 200
        taken = [(each.method, re.sub(r"\{\w+\}", "[^/]+", each.path)) for each in OPERATIONS.values()]
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
            for operation in OPERATIONS.values():
                path = path_of(operation)  # a word may stand where another operation has an id
                here = any(each == method and re.fullmatch(pattern, path) for each, pattern in taken)
                if operation.transport == "websocket" or here:
                    continue
                response = await calc.request(method, path_of(operation))
                refused(response, "method_not_allowed")
                allowed = set(response.headers["allow"].replace(" ", "").split(","))
                assert operation.method in allowed and method not in allowed
        refused(await calc.delete("/services"), "method_not_allowed")


async def test_any_content_type_is_read_as_json(calc: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/xml"):
        response = await calc.request(
            "POST", "/services/calc/call/add", content=b'{"args": [1, 2]}', headers={"Content-Type": kind}
        )
        assert response.json() == {"result": 3}, kind
