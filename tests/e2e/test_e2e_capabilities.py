"""Capabilities across `kill -9`: what was revoked stays revoked, what was granted is there, ten thousand of them too."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from e2e_served import PATIENCE_S, Served, served

from solo_trio.client import attenuate

pytestmark = [
    pytest.mark.slow,
    # the kernel is killed in the middle of requests: httpx leaves the generators of their bodies to the collector
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]
CHILD = Path(__file__).with_name("capabilities_child.py")
MANY = 10_000
GRANTING_S = 400.0
"""On a machine that does much else; a quiet one takes a tenth."""
SAMPLE = 100


async def status(server: Served, token: str, path: str = "/services") -> int:
    return (await server.client.get(path, headers={"Authorization": f"Bearer {token}"})).status_code


async def granted(server: Served, token: str, **more: Any) -> dict[str, Any]:
    body = {"resource": "tenant", "permissions": ["read", "grant"], **more}
    answer = await server.client.post("/capabilities", json=body, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_revoked_is_revoked_after_kill_9(tmp_path: Path) -> None:
    """Killed the moment the answer is there, each time by another kind of revocation."""
    async with served(tmp_path) as server:
        own = (await server.client.post("/tenants", json={"tenant_id": "a"})).json()["token"]
        parent = await granted(server, own)
        child = await granted(server, parent["token"])
        sibling = await granted(server, own)
        lent = attenuate(sibling["token"], permissions=["read"])
        further = attenuate(lent, service="calc")
        of_own = {"Authorization": f"Bearer {own}"}
        assert (await server.client.delete(f"/capabilities/{parent['id']}", headers=of_own)).json()["revoked"] == 2
        server.kill()
    dead, alive = [parent["token"], child["token"]], [own, sibling["token"], lent, further]
    async with served(tmp_path) as server:
        assert [await status(server, token) for token in dead] == [401] * 2
        assert [await status(server, token) for token in alive] == [200] * 4
        answer = await server.client.post("/capabilities/revoke", json={"token": lent}, headers=of_own)
        assert answer.status_code == 200, answer.text
        server.kill()
    dead, alive = [*dead, lent, further], [own, sibling["token"]]
    async with served(tmp_path) as server:
        assert [await status(server, token) for token in dead] == [401] * 4
        assert [await status(server, token) for token in alive] == [200] * 2
        answer = await server.client.post("/tokens/rotate", headers=of_own)
        new = answer.json()["token"]
        server.kill()
    dead, alive = [*dead, own, sibling["token"]], [new]
    async with served(tmp_path) as server:
        assert [await status(server, token) for token in dead] == [401] * 6
        assert [await status(server, token) for token in alive] == [200]
        old, system = server.token, await server.client.post("/tokens/rotate")
        server.kill()
    assert (tmp_path / "admin.token").read_text().strip() == system.json()["token"]
    async with served(tmp_path) as server:
        assert await status(server, old, "/tenants") == 401
        assert await status(server, server.token, "/tenants") == 200
        assert await status(server, new) == 200


async def test_killed_between_the_log_and_the_file_the_admin_token_is_mended(tmp_path: Path) -> None:
    """What the file lacks is written at the next start."""
    async with served(tmp_path) as server:
        rotated = (await server.client.post("/tokens/rotate")).json()["token"]
        server.kill()
    (tmp_path / "admin.token").write_text(server.token + "\n")  # as it was before the rename
    async with served(tmp_path) as server:
        assert server.token == rotated
        assert await status(server, rotated, "/tenants") == 200


def _grant_many(data: Path) -> dict[str, Any]:
    paths = os.pathsep.join(path for path in sys.path if path)
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(data), str(MANY)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert child.stdout is not None
    try:
        said: dict[str, Any] = json.loads(child.stdout.readline())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    return said


async def test_ten_thousand_are_restored_after_kill_9(tmp_path: Path) -> None:
    with trio.fail_after(GRANTING_S):
        said = await trio.to_thread.run_sync(_grant_many, tmp_path)
    tokens = said["tokens"]
    assert len(set(tokens)) == MANY
    with trio.fail_after(PATIENCE_S * 2):
        async with served(tmp_path) as server:
            own = {"Authorization": f"Bearer {said['own']}"}
            for number in random.Random(7).sample(range(MANY), SAMPLE):
                asked = {"token": tokens[number], "resource": f"service:s{number}", "permission": "read"}
                answer = await server.client.post("/capabilities/verify", json=asked, headers=own)
                assert answer.json() == {"allowed": True, "reason": "allowed"}
                asked["resource"] = f"service:s{number + 1}"
                answer = await server.client.post("/capabilities/verify", json=asked, headers=own)
                assert answer.json() == {"allowed": False, "reason": "permission_denied"}
            assert await status(server, tokens[0], "/services/s0") == 404
            assert await _count(server, own) == MANY + 1


async def _count(server: Served, headers: dict[str, str]) -> int:
    count, cursor = 0, None
    while True:
        params = {"limit": "1000"} | ({} if cursor is None else {"cursor": cursor})
        answer: httpx.Response = await server.client.get("/capabilities", params=params, headers=headers)
        page = answer.json()
        count, cursor = count + len(page["capabilities"]), page["next"]
        if cursor is None:
            return count
