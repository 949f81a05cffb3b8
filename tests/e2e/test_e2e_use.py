"""Limits on use across kills of a real server: a restart grants no burst, what was told stays told, others notice nothing."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from e2e_served import PATIENCE_S, Served, check_gapless, served

# httpx leaves its generators to the collector when a connection breaks in the middle
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning")

RATE, BURST, KILLS = 1.0, 40, 2
SLOW = """
import os, trio
from solo_trio import service

@service.export
async def wait(seconds):
    await trio.sleep(seconds)

@service.export
def die():
    os._exit(3)
"""


async def granted(server: Served, token: str, times: int) -> int:
    """How many of so many requests are answered; the others are told when to come back."""
    count = 0
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=PATIENCE_S) as client:
        for _ in range(times):
            answer = await client.get("/services")
            if answer.status_code == 200:
                count += 1
            else:
                assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
    return count


async def make(server: Served, tenant_id: str, **limits: Any) -> str:
    answer = await server.client.post("/tenants", json={"tenant_id": tenant_id, "limits": limits})
    return str(answer.raise_for_status().json()["token"])


async def test_kill_9_grants_no_burst(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with trio.fail_after(4 * PATIENCE_S):
        async with served(data) as server:
            token = await make(server, "one", requests_per_second=RATE, burst=BURST)
            capability = await server.tenant("one").post(
                "/capabilities",
                json={
                    "resource": "service:*",
                    "permissions": ["read"],
                    "rate_limit": {"requests_per_second": RATE, "burst": BURST},
                },
            )
            narrow = str(capability.raise_for_status().json()["token"])
            server.kill()
        for each in (token, narrow):
            for _ in range(KILLS):
                began = time.monotonic()  # before the process is there: its buckets cannot have begun earlier
                async with served(data, "--start-paused") as server:
                    count = await granted(server, each, BURST)
                    assert count <= RATE * (time.monotonic() - began), "only the rate since the start"
                    view = (await server.client.get("/system")).raise_for_status().json()["use"]
                    assert view["refused"]["rate_limited"] == BURST - count
                    server.kill()
        async with served(data) as server:
            assert (await server.client.get("/tenants/one")).json()["limits"] == {
                "requests_per_second": RATE,
                "burst": BURST,
            }


async def test_kill_9_while_refusing(tmp_path: Path) -> None:
    """Places are free again, circuits are half open, what was recorded is whole."""
    data = tmp_path / "data"
    with trio.fail_after(4 * PATIENCE_S):
        async with served(data) as server:
            await make(server, "one", in_flight=5)
            token = await make(server, "two", in_flight=5)
            one = server.tenant("one")
            for service_id in ("slow", "dies"):
                body = {
                    "service_id": service_id,
                    "code": SLOW,
                    "restart_limits": {"max_restarts": 100, "max_seconds": 60},
                }
                (await one.post("/services", json=body)).raise_for_status()
            codes = [(await one.post("/services/dies/call/die", json={})).status_code for _ in range(6)]
            assert codes == [502] * 5 + [503]
            two = httpx.AsyncClient(
                base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S
            )
            body = {"service_id": "slow", "code": SLOW}
            (await two.post("/services", json=body)).raise_for_status()
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with contextlib.suppress(httpx.HTTPError):
                        await two.post("/services/slow/call/wait", json={"args": [600]})

                for _ in range(5):
                    nursery.start_soon(call)
                while (await two.get("/services")).status_code != 503:  # noqa: ASYNC110 - until all five are under way
                    await trio.sleep(0.05)
                while not [each for each in await server.events() if each["type"] == "load_shed"]:  # noqa: ASYNC110
                    await trio.sleep(0.05)
                server.kill()
            await two.aclose()
        async with served(data) as server:
            status = (await server.tenant("one").get("/services/dies")).json()
            assert status["circuit"] == "half_open"
            answers = [
                await server.tenant("one").post("/services/dies/call/wait", json={"args": [0]}) for _ in range(2)
            ]
            assert [each.status_code for each in answers] == [200, 200]
            assert (await server.tenant("one").get("/services/dies")).json()["circuit"] == "closed"
            assert await granted(server, token, 20) == 20
            with trio.fail_after(PATIENCE_S):
                while True:
                    events = await server.events()
                    told = [(each["type"], each["tenant_id"], each["subject"]) for each in events]
                    if ("circuit_closed", "one", "dies") in told:
                        break
                    await trio.sleep(0.05)
            check_gapless(events)
            assert told.count(("circuit_opened", "one", "dies")) == 1
            shed = [each["payload"]["phase"] for each in events if each["type"] == "load_shed"]
            assert shed == ["began", "ended"], "the start after the kernel that began to refuse says that it is over"
