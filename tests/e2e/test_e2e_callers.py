"""Whose call it is, across `kill -9` and against a service that makes numbers up: a real server, real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from e2e_served import Served, served

pytestmark = [
    pytest.mark.slow,
    # the kernel is killed in the middle of requests: httpx leaves the generators of their bodies to the collector
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]
VAULT = """
from solo_trio import service

seen = []

@service.export
async def open():
    who = service.caller()
    seen.append([who.kind, who.capability_id, list(who.services)])
    return "gold"

@service.export
async def visitors():
    return seen
"""
FORGER = """
import itertools, json, os
import trio
from solo_trio import service
from solo_trio.runtimes import wire

numbers = itertools.count(100_000)

async def main(context, task_status):
    global ctx
    ctx = context
    task_status.started()
    await trio.sleep_forever()

@service.export
async def honest():
    return await ctx.call("vault", "open")

@service.export
async def forge(first, last):
    "Frames that name other calls than the one that is being answered, written to the kernel's socket as they are."
    mine = service.caller().number
    for call in range(first, last):
        if call not in (0, mine):
            values = {"id": next(numbers), "call": call, "service_id": "vault", "function": "open", "args": [], "kwargs": {},
                      "timeout_s": 5}
            data = json.dumps(values).encode()
            os.write(3, wire.HEAD.pack(wire.TAGS[wire.Ask], len(data), 0) + data)
    return mine

@service.export
async def stay():
    ctx.log.info("staying")
    await trio.sleep_forever()
"""


async def call(server: Served, token: str, service_id: str, function: str, *args: Any) -> tuple[int, Any]:
    answer = await server.client.post(
        f"/services/{service_id}/call/{function}",
        json={"args": list(args)},
        headers={"Authorization": f"Bearer {token}"},
    )
    return answer.status_code, answer.json()


async def test_it_holds_in_real_processes_after_kill_9_and_against_a_forger(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        own = (await server.client.post("/tenants", json={"tenant_id": "a"})).json()["token"]
        of_own = {"Authorization": f"Bearer {own}"}
        for name, code in (("vault", VAULT), ("forger", FORGER)):
            answer = await server.client.post("/services", json={"service_id": name, "code": code}, headers=of_own)
            assert answer.status_code == 201, answer.text
        body = {"resource": "service:forger", "permissions": ["call"]}
        weak = (await server.client.post("/capabilities", json=body, headers=of_own)).json()["token"]
        await _check(server, own, weak)
        server.kill()
    async with served(tmp_path) as server:
        await _check(server, own, weak)


async def _check(server: Served, own: str, weak: str) -> None:
    status, problem = await call(server, weak, "forger", "honest")
    assert status == 502 and "permission_denied" in problem["detail"]
    assert await call(server, own, "forger", "honest") == (200, {"result": "gold"})
    status, mine = await call(server, weak, "forger", "forge", -5, 200)
    assert status == 200, mine
    assert (await call(server, weak, "forger", "honest"))[0] == 502, "after all that it made up: it still lives"
    status, seen = await call(server, own, "vault", "visitors")
    assert [each[0] for each in seen["result"]] == ["credential"] and seen["result"][0][2] == ["forger"]
