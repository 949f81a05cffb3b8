"""Tokens of a real server are found nowhere but where they are handed out: in no file, answer, or list of processes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from e2e_served import Served, served

from solo_trio.vault.macaroon import SIGNATURE_BYTES
from solo_trio.vault.tokens import narrow_token

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]

ECHO = """
from solo_trio import service

@service.export
def echo(text):
    print("said " + text[:4])
    return len(text)
"""
TAIL_CHARACTERS = 24
"""Of a token: a part of its signature, which nothing else has."""
SEARCH = """
import json, pathlib, sys
needles = [bytes.fromhex(each) for each in json.load(sys.stdin)]
hits = []
for path in pathlib.Path(sys.argv[1]).rglob("*"):
    if path.is_file() and path.name != "admin.token":
        content = path.read_bytes()
        hits += [str(path) for each in needles if each in content]
print(json.dumps(hits))
"""


def needles(token: str) -> list[bytes]:
    """The end of the token as text, and its signature as bytes and hex: whoever has that has the token."""
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    signature = raw[-SIGNATURE_BYTES:]
    return [token[-TAIL_CHARACTERS:].encode(), signature, signature.hex().encode(), base64.b64encode(signature)]


def found_in(directory: Path, tokens: list[str]) -> list[str]:
    """In which files; read by another process, for this one must not open a database that it has open."""
    wanted = [each.hex() for token in tokens for each in needles(token)]
    run = subprocess.run(
        [sys.executable, "-c", SEARCH, str(directory)],
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: list[str] = json.loads(run.stdout)
    return found


async def use_everywhere(server: Served, seen: list[bytes]) -> list[str]:
    """Tokens of all kinds used in all ways, right and wrong; `seen`: what was answered, but for where one is handed out."""
    created = await server.client.post("/tenants", json={"tenant_id": "a"}, headers={"Idempotency-Key": "a"})
    tenant = created.json()["token"]
    tokens = [server.token, tenant]

    async def ask(token: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            return await client.request(
                method, path, json=body, headers={"Authorization": f"Bearer {token}", **headers}
            )

    async def tell(token: str, method: str, path: str, body: Any = None, **headers: str) -> None:
        answer = await ask(token, method, path, body, **headers)
        seen.append(answer.content + repr(answer.headers.raw).encode())

    await tell(tenant, "POST", "/services", {"service_id": "echo", "code": ECHO})
    grant = {"resource": "service:echo", "permissions": ["call", "read"], "metadata": {"for": "x"}}
    granted = (await ask(tenant, "POST", "/capabilities", grant, **{"Idempotency-Key": "g"})).json()["token"]
    online = (await ask(tenant, "POST", "/capabilities/attenuate", {"token": granted, "ttl_s": 60})).json()["token"]
    offline = narrow_token(granted, ["permissions = read"]).reveal_text()
    tokens += [granted, online, offline]
    for token in tokens:
        await tell(token, "POST", "/services/echo/call/echo", {"args": ["hello"]}, **{"X-Tenant-ID": "a"})
        await tell(token, "GET", "/services/echo")
        await tell(token, "GET", f"/services?status={token[:40]}")
        await tell(token, "POST", "/tenants", {"tenant_id": "b", "limits": {"max": 1}})
        await tell(token + "A", "GET", "/services")
        await tell(token[:-1], "GET", "/events")
        check = {"token": token, "resource": "service:echo", "permission": "call"}
        await tell(tenant, "POST", "/capabilities/verify", check)
        await tell(tenant, "POST", "/capabilities/verify", {**check, "permission": 1})
        await tell(tenant, "POST", "/capabilities/attenuate", {"token": token, "ttl_s": -1})
        await tell(token, "GET", "/capabilities")
    await tell(tenant, "POST", "/capabilities/revoke", {"token": online}, **{"Idempotency-Key": "r"})
    await tell(online, "GET", "/services/echo")
    rotated = (await ask(server.token, "POST", "/tokens/rotate", {}, **{"X-Tenant-ID": "a"})).json()["token"]
    tokens.append(rotated)
    for path in ("/system", "/audit?limit=1000", "/events?limit=1000", "/health", "/openapi.json"):
        await tell(server.token, "GET", path)
    await tell(rotated, "GET", "/logs?tail=1000")
    return tokens


async def test_a_canary_token_is_found_nowhere(tmp_path: Path) -> None:
    data = tmp_path / "data"
    seen: list[bytes] = []
    async with served(data) as server:
        tokens = await use_everywhere(server, seen)
        everywhere = b"".join(
            [await trio.Path(f"/proc/{server.process.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        )
        while_it_runs = found_in(data, tokens)
        server.kill()
    assert len(set(tokens)) == 6
    for each in (needle for token in tokens for needle in needles(token)):
        assert each not in everywhere
        assert not [answer for answer in seen if each in answer]
    assert while_it_runs == [] and found_in(data, tokens) == []
    (data / "planted").write_text(tokens[2])
    assert found_in(data, tokens) == [str(data / "planted")], "the search finds what is there"
