"""Everything that is wrong, on every route, made of the operations table: each answer is a problem that the operation is
documented to give, tells nothing it should not, and leaves nothing in the log."""

# ruff: noqa: E501 - tables of attacks

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import pytest
from api_rig import Api, Client, Wire, check_answer, problem
from api_samples import path_of, required_bodies
from jsonschema import Draft202012Validator, validators

from solo_trio.model.ids import SECRET_NAME_PATTERN
from solo_trio.operations.openapi import codes_of
from solo_trio.operations.perform import OPERATIONS
from solo_trio.operations.schemas import body_schema, parameters
from solo_trio.operations.table import Operation

OVER_HTTP = [each for each in OPERATIONS.values() if each.transport == "http"]
GUARDED = [each for each in OVER_HTTP if each.scope != "open"]
REQUIRED = required_bodies()
ROUTING = {"not_found", "method_not_allowed"}
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
"""What the kernel notes when it likes."""
TELLTALES = (b"Traceback", b'File \\"', b"solo_trio/", b".py", b"/tmp/", b"sqlite", b"Exception")
BODY_BYTES_MAX = 4 * 1024 * 1024

# -- what may stand in a field

NOT_JSON_VALUES = {
    "nan": "NaN",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "infinite by its exponent": "1e999",
    "more than 64 bits": "9223372036854775808",
    "thousands of digits": "9" * 5_000,
    "lone high surrogate": '"\\ud800"',
    "lone low surrogate": '"a\\udfffb"',
    "surrogates the wrong way round": '"\\udc00\\ud800"',
    "a control character": '"a\x01b"',
    "a line feed": '"a\nb"',
    "a tab": '"a\tb"',
    "deep": "[" * 70 + "]" * 70,
    "very deep": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "single quotes": "'a'",
    "a number with a sign": "+1",
    "hexadecimal": "0x10",
    "leading zero": "010",
    "no digits after the point": "1.",
    "capital true": "True",
    "undefined": "undefined",
    "a comment": "1 /* */",
    "nothing": "",
    "an unclosed string": '"a',
    "a twice named object": '{"a": 1, "a": 2}',
    "a bad escape": '"\\x41"',
    "a cut escape": '"\\u12"',
}
FEW = 3
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 1.5, -0.5, 2**31, 2**62, 2**63 - 1, -(2**63), 1e300, -1e300, 5e-324,
    "", " ", "\t", "5", "true", "null", "NaN", "[]", "Ready", "PERMANENT", "permanent ", "процесс", "process\0",
    "calc\0", "\0", "a\x01", "a\x1b[31m", "a\r\nX-Evil: 1", "a" * 64, "a" * 300, "A", "Calc", "-a", "_a", "a.b", "a b", "a/b",
    "..", "../../etc/passwd", "..\\x", "/etc/passwd", "%2e%2e", "file:///x", "c\u0430lc", "\uff43alc", "cal\u0441", "a\u0301",
    "\u0661", "\u0967", "\u2460", "a\u202eb", "\u200b", "\ufeff", "🜁", "a' or '1'='1", "a;b", "${x}", "{{x}}", "<b>",
    [], [[]], [None], [1], ["a", "a"], ["A"], [{}], ["a"] * 40, {}, {"": 1}, {"a": 1}, {"$ref": "#"}, {"__proto__": 1},
]  # fmt: skip


def with_text(body: dict[str, Any], where: tuple[str, ...], text: str) -> bytes:
    """The body as JSON, with `text` as it is for the value at `where`."""
    made = json.loads(json.dumps(body))
    inner = made
    for name in where[:-1]:
        inner = inner.setdefault(name, {})
    inner[where[-1]] = "@@here@@"
    return json.dumps(made).replace('"@@here@@"', text).encode("utf-8")


def fields_of(schema: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every field with its schema, nested ones too."""
    for name, inner in schema["properties"].items():
        yield (*prefix, name), inner
        if "properties" in inner:
            yield from fields_of(inner, (*prefix, name))


# -- sending and judging


class Judge:
    """Sends, and holds the answer to what is true of all refusals."""

    def __init__(self, api: Api, tenant: Client, secrets: list[str]) -> None:
        self.api = api
        self.tenant = tenant
        self._secrets = [each.encode() for each in secrets]
        self.count = 0

    def client(self, operation: Operation) -> Client:
        return self.api.admin if operation.scope == "system" else self.tenant

    async def refused(
        self,
        operation: Operation,
        *codes: str,
        content: bytes | None = None,
        path: str | None = None,
        query: str = "",
        headers: list[tuple[str, bytes]] | None = None,
        token: str | None = "own",
        why: object = "",
    ) -> dict[str, Any]:
        """The problem that came, which must be one of `codes`."""
        client = self.client(operation)
        sent: list[tuple[str, bytes]] = list(headers or ())
        if token is not None:
            sent.append(("Authorization", f"Bearer {client.token if token == 'own' else token}".encode()))
        if operation.stream:
            sent.append(("Accept", b"text/event-stream"))
        if content is None and operation.name in REQUIRED:
            content = json.dumps(REQUIRED[operation.name]).encode()
        target = (path_of(operation) if path is None else path) + (f"?{query}" if query else "")
        case = (operation.name, why, target[:200], codes)
        response = await client.http.request(operation.method, target, content=content, headers=sent, timeout=60)
        assert 400 <= response.status_code < 500, (case, response.status_code, response.text[:500])
        document = problem(check_answer(response))
        assert document["code"] in codes, (case, document)
        assert document["code"] in codes_of(operation) | ROUTING, (case, document, "is documented for the operation")
        assert len(response.content) < 2_000, (case, "says little")
        for telltale in TELLTALES:
            assert telltale not in response.content, (case, response.text)
        everything = response.content + repr(response.headers.raw).encode()
        assert not any(secret in everything for secret in self._secrets), case
        self.count += 1
        return document


@pytest.fixture
async def judge(api: Api) -> AsyncIterator[Judge]:
    tenant = await api.tenant("t1")
    other = await api.tenant("t2")
    await tenant.deploy("calc")
    await other.deploy("theirs", "x = 'a canary of another tenant'")
    assert api.admin.token and tenant.token and other.token
    found = Judge(api, tenant, [api.admin.token, tenant.token, other.token, "a canary of another tenant"])
    before = await api.last_event_id()
    yield found
    events = await api.admin.events(since_id=before)
    assert [each for each in events if each["type"] not in BY_ITSELF] == [], "a refusal leaves nothing in the log"
    assert (await api.admin.get("/health")).json()["status"] == "ok"
    assert await tenant.call("calc", "add", 1, 2) == 3
    assert found.count


@asynccontextmanager
async def wire(api: Api) -> AsyncIterator[Wire]:
    async with Wire.to(api.admin.http.base_url) as made:
        yield made


# -- bodies


async def test_every_field_with_what_is_no_json(judge: Judge) -> None:
    for operation in OVER_HTTP:
        schema = body_schema(operation) or {"properties": {"surprise": {}}}
        values = list(NOT_JSON_VALUES.items())
        for number, (where, _) in enumerate(fields_of(schema)):
            first = number * FEW  # all of them in the first field, and over the others; a parser knows no fields
            for why, text in values if number == 0 else (values * 2)[first % len(values) :][:FEW]:
                content = with_text(REQUIRED.get(operation.name, {}), where, text)
                await judge.refused(operation, "invalid_json", content=content, why=(where, why))


async def test_every_field_with_what_its_schema_refuses(judge: Judge) -> None:
    kinds = set()
    for operation in OVER_HTTP:
        schema = body_schema(operation)
        if schema is None:
            continue
        tried = 0
        for number, (where, inner) in enumerate(fields_of(schema)):
            accepts = Strict(inner).is_valid
            kind = re.sub(
                r'"(min|max|exclusive)[a-zA-Z]+": [0-9.]+|"(description|default)": "?[^",}]*', "", json.dumps(inner)
            )
            values = VALUES[number % 8 :: 8] if kind in kinds else VALUES  # the like of it had all of them
            kinds.add(kind)
            for value in values:
                if accepts(value):
                    continue
                tried += 1
                content = with_text(REQUIRED[operation.name], where, json.dumps(value))
                codes = ("invalid_field", "unknown_field", "invalid_id")
                document = await judge.refused(operation, *codes, content=content, why=(where, value))
                assert document["detail"].isprintable(), "nothing of it reaches a terminal as it came"
        assert tried


CHECKER = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
Strict = validators.extend(Draft202012Validator, type_checker=CHECKER)


async def test_every_field_missing_twice_misspelt_and_too_much(judge: Judge) -> None:
    for operation in OVER_HTTP:
        schema = body_schema(operation)
        least = REQUIRED.get(operation.name, {})
        for where, _ in fields_of(schema) if schema else ():
            name = where[-1]
            for other in {name.upper(), name.capitalize(), f" {name}", f"{name}\0", name.replace("a", "\u0430")} - {
                name
            }:
                content = with_text(least, (*where[:-1], other), "1")
                await judge.refused(operation, "unknown_field", "invalid_field", content=content, why=other)
            if len(where) == 1:
                pairs = f'"{name}": 1, "{name}": 1'
                await judge.refused(operation, "invalid_json", content=b"{%s}" % pairs.encode(), why=name)
        for name in schema.get("required", ()) if schema else ():
            content = json.dumps({each: value for each, value in least.items() if each != name}).encode()
            document = await judge.refused(operation, "invalid_field", content=content, why=name)
            assert name in document["detail"] and "missing" in document["detail"]
        content = json.dumps({**least, "surprise": 1}).encode()
        await judge.refused(operation, "unknown_field", content=content)


async def test_every_route_with_a_body_that_is_none(judge: Judge) -> None:
    bodies = {
        "cut": b'{"a": 1',
        "cut in a string": b'{"a": "b',
        "cut in a character": '{"a": "é'.encode()[:-1],
        "not utf-8": b'{"a": "\xff"}',
        "overlong": b'{"a": "\xc0\xaf"}',
        "a surrogate in utf-8": b'{"a": "\xed\xa0\x80"}',
        "utf-16": '{"a": 1}'.encode("utf-16"),
        "utf-32": '{"a": 1}'.encode("utf-32-le"),
        "byte order mark": b"\xef\xbb\xbf{}",
        "compressed": gzip.compress(b"{}"),
        "nul": b"\0",
        "nul after it": b"{}\0",
        "two": b"{}{}",
        "blank": b" \t\r\n",
        "a form": b"a=1&b=2",
        "xml": b"<a/>",
        "deep": b"[" * 100_000,
        "deep objects": b'{"a":' * 100_000,
    }
    for operation in OVER_HTTP:
        for why, content in bodies.items():
            await judge.refused(operation, "invalid_json", content=content, why=why)
            if why in ("utf-16", "compressed"):
                kind = [("Content-Type", b"application/json; charset=utf-16"), ("Content-Encoding", b"gzip")]
                await judge.refused(operation, "invalid_json", content=content, headers=kind, why=why)
        for content in (b"[]", b'"text"', b"1", b"true", b"1.5", b"[{}]"):
            await judge.refused(operation, "invalid_field", content=content, why=content)


async def test_every_route_with_a_body_over_the_limit(judge: Judge) -> None:
    for operation in OVER_HTTP:
        for head in ({"Content-Length": b"%d" % (BODY_BYTES_MAX + 1)}, {"Content-Length": b"9" * 18}):
            async with wire(judge.api) as made:
                token = f"Bearer {judge.client(operation).token}".encode()
                sent = {"Authorization": token, **head}
                answer = await made.get(path_of(operation), sent, method=operation.method, body=False)
                assert answer.status_code == 413, operation.name
                assert json.loads(await made.rest())["code"] == "too_large"
        judge.count += 1


# -- paths and queries


HOSTILE_PARTS = [
    "..", "%2e%2e", "%2E%2E%2F", "..%2f..%2fetc%2fpasswd", "%2Fetc%2Fpasswd", "a%2Fb", "a%5Cb", "%00", "calc%00", "calc%0A", "calc%0d%0a",
    "%ff", "%C0%AE", "%ED%A0%80", "calc%20", "%20calc", "calc;x=1", "calc,calc", "%252e%252e", "CALC", "Calc", "%63%61%6c%63%2e", "c%D0%B0lc",
    "%D9%A1", "%EF%BC%91", "a" * 64, "a" * 4_000, "-a", "_a", "~", "*", "calc.json", "calc:1", "calc@1", "'", "%22", "%3Cscript%3E", "%7B%7D", "%", "%4", "%zz",
]  # fmt: skip


async def test_every_part_of_every_path(judge: Judge) -> None:
    for operation in OVER_HTTP:
        for one in parameters(operation):
            if one.place != "path":
                continue
            for part in HOSTILE_PARTS:
                codes = ["invalid_id", "not_found", "function_not_found"]
                if one.name == "function" and part in ("CALC", "Calc", "_a", "a" * 64):
                    codes = ["function_not_found"]
                elif one.name == "name" and re.fullmatch(SECRET_NAME_PATTERN, unquote(part).removesuffix("/")):
                    codes = ["secret_not_found", "not_found"]  # a secret may be called that
                if (body_schema(operation) or {}).get("required"):  # nothing is sent, and that is said first
                    codes.append("invalid_field")
                async with wire(judge.api) as made:
                    target = path_of(operation, **{one.name: part})
                    sent = {"Authorization": f"Bearer {judge.client(operation).token}".encode()}
                    answer = await made.get(target, sent, method=operation.method)
                    document = json.loads(await made.rest())
                    assert answer.status_code in (400, 404) and document["code"] in codes, (target, document)
                    assert not any(each in json.dumps(document).encode() for each in TELLTALES[2:6]), document
            judge.count += 1


async def test_every_query(judge: Judge) -> None:
    for operation in OVER_HTTP:
        known = [one for one in parameters(operation) if one.place == "query"]
        for query in (
            "token=x",
            "access_token=x",
            "Authorization=Bearer+x",
            "tenant_id=t2",
            "x",
            "=",
            "%00=1",
            "a[]=1",
            "surprise=" + "x" * 8_000,
        ):
            if query.partition("=")[0] in {one.name for one in known}:
                continue
            await judge.refused(operation, "unknown_field", query=query, why="unknown")
        await judge.refused(operation, "too_large", query="x=" + "y" * 20_000, why="very long")
        for one in known:
            name = one.name
            for query in (f"{name}=1&{name}=1", f"{name}=1&{name}=2", f"{name}=&{name}="):
                await judge.refused(operation, "invalid_field", query=query, why="twice")
            for query in (f"{name.upper()}=1", f"{name}%00=1", f"%20{name}=1", f"{name}[]=1", f"{name}[$gt]=1"):
                await judge.refused(operation, "unknown_field", query=query, why="misspelt")
            for value in (
                "%00",
                "%ff",
                "%ED%A0%80",
                "%0d%0aX-Evil:1",
                "../..",
                "%D9%A1",
                "1_0",
                "A" * 70,
                "%3Cb%3E",
                "1;2",
                "NaN",
                "1e9",
            ):
                if one.schema["type"] != "string" or not Strict(one.schema).is_valid(value) or name == "type":
                    await judge.refused(operation, "invalid_field", "invalid_id", query=f"{name}={value}", why=value)


# -- headers


async def test_every_route_without_a_right_token(judge: Judge) -> None:
    mine = judge.tenant.token or ""
    wrong = [
        b"", b"Bearer", b"Bearer x", b"Basic dDE6eA==", b"Token " + mine.encode(), mine.encode(), b"Bearer\t" + mine.encode(),
        b"Bearer " + mine[:-1].encode(), b"Bearer " + mine.encode() + b"A", b"Bearer " + mine.upper().encode(), b"Bearer " + mine[::-1].encode(),
        b"Bearer " + b"A" * 5_000, b"Bearer " + mine.encode() + b", Bearer x", b"Bearer \xff\xfe", b"Bearer " + mine.encode() * 2, b"Bearer null",
        b"Bearer " + mine.encode().replace(b"A", b"B"), b"Digest username=x", b"Bearer Bearer " + mine.encode(),
    ]  # fmt: skip
    for operation in GUARDED:
        await judge.refused(operation, "unauthenticated", token=None)
        for value in wrong:
            if value == b"Bearer " + mine.encode():
                continue
            await judge.refused(operation, "unauthenticated", token=None, headers=[("Authorization", value)], why=value)
        await judge.refused(operation, "unauthenticated", token=None, query=f"token={mine}", why="in the URL")
        await judge.refused(operation, "unauthenticated", token=None, headers=[("Cookie", b"token=" + mine.encode())])
        await judge.refused(
            operation, "unauthenticated", token=None, headers=[("X-Forwarded-Authorization", b"Bearer x")]
        )
        # and nothing of a body is looked at before that
        await judge.refused(operation, "unauthenticated", token=None, content=b"\xff")


async def test_every_route_with_a_header_given_twice(judge: Judge) -> None:
    for operation in OVER_HTTP:
        for name in ("Authorization", "X-Tenant-ID", "Idempotency-Key", "If-Match", "Last-Event-ID"):
            twice = [(name, b"Bearer x"), (name, b"Bearer x")]
            await judge.refused(operation, "invalid_header", headers=twice, token=None, why=name)


async def test_every_route_for_another_tenant(judge: Judge) -> None:
    for operation in GUARDED:
        for named in (b"t2", b"nobody", b"T1", b"../t1", b"", b"t1,t2", b"\xc3\xa1", b"a" * 64):
            code = ("permission_denied",) if operation.scope == "system" else ("tenant_mismatch", "invalid_id")
            if operation.scope == "system":
                token = judge.tenant.token
            elif named.strip() == b"t1":
                continue
            else:
                token = "own"
            await judge.refused(operation, *code, headers=[("X-Tenant-ID", named)], token=token, why=named)
        if operation.scope == "tenant":
            admin = judge.api.admin.token
            await judge.refused(operation, "tenant_required", token=admin)
            await judge.refused(operation, "tenant_not_found", headers=[("X-Tenant-ID", b"nobody")], token=admin)
            body = json.dumps({**REQUIRED.get(operation.name, {}), "tenant_id": "t2"}).encode()
            await judge.refused(operation, "tenant_mismatch", content=body, why="in the body")


async def test_every_thing_of_another_tenant_is_not_there(judge: Judge) -> None:
    for operation in GUARDED:
        names = {one.name for one in parameters(operation) if one.place == "path"}
        if "service_id" in names:
            await judge.refused(operation, "service_not_found", path=path_of(operation, service_id="theirs"))


async def test_every_route_with_malformed_preconditions_and_keys(judge: Judge) -> None:
    for operation in GUARDED:
        for value in (
            b"",
            b"x",
            b'"x"',
            b"-1",
            b'"5',
            b"W/5",
            b'"1", "2"',
            b"1.0",
            b"\xff",
            b"1" * 19,
            b"1 2",
            b'w/"1"',
            b"**",
        ):
            await judge.refused(operation, "invalid_header", headers=[("If-Match", value)], why=value)
        if operation.mutates:
            for value in (b"", b"x" * 256, b"a\tb", b"\xff", b"\xc3\xa9"):
                await judge.refused(operation, "invalid_header", headers=[("Idempotency-Key", value)], why=value)
        if operation.stream:
            for value in (b"", b"x", b"-1", b"1.0", b"\xff", b"9" * 30):
                await judge.refused(operation, "invalid_field", headers=[("Last-Event-ID", value)], why=value)


async def test_every_route_from_another_origin(judge: Judge) -> None:
    for operation in OVER_HTTP:
        for name, value in (("Origin", b"http://evil.example"), ("Origin", b"null"), ("Host", b"evil.example")):
            await judge.refused(operation, "host_not_allowed", headers=[(name, value)], why=(name, value))
