"""A wall clock that jumps, under a real server and between its lives: nothing goes back, nothing expires that should not."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import httpx
import pytest
import trio
from e2e_served import PATIENCE_S, Served, check_gapless, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]
HOUR_S = 3_600
YEAR_S = 365 * 86_400
CRASHING = """
import os
from solo_trio import service

@service.export
async def crash():
    os._exit(1)
"""


SERVER = (
    sys.executable,
    "-c",
    "import os, time; from pathlib import Path\n"
    "real, offset = time.time_ns, Path(os.environ['TESTS_CLOCK_OFFSET'])\n"
    "time.time_ns = lambda: real() + int(offset.read_text()) * 10**9\n"
    "from solo_trio.cli import main; main()",
)
"""A `solo` whose wall clock is wrong by what a file says. (Under libfaketime 0.9.10 a Python that sleeps fails: it is given
EINVAL where the monotonic clock is left alone, and that one is not to jump.)"""


class WallClock:
    """Of the servers that are started while this is there."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        self.set(0)
        monkeypatch.setenv("TESTS_CLOCK_OFFSET", str(path))
        monkeypatch.setattr("e2e_served.COMMAND", SERVER)

    def set(self, offset_s: int) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(str(offset_s))
        new.replace(self._path)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(tmp_path / "offset", monkeypatch)


async def grant(client: httpx.AsyncClient, ttl_s: int) -> str:
    body = {"resource": "events", "permissions": ["read"], "ttl_s": ttl_s}
    answer = await client.post("/capabilities", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


async def works(server: Served, token: str) -> bool:
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as client:
        answer = await client.get("/events", timeout=PATIENCE_S)
    assert answer.status_code in (200, 401), answer.text
    return answer.status_code == 200


def kernel_times(data: Path) -> list[float]:
    """Of a directory that no kernel uses."""
    connection = sqlite3.connect(f"file:{data / 'kernel.db'}?mode=ro", uri=True)
    try:
        return [row[0] for row in connection.execute("SELECT kernel_time FROM events ORDER BY id")]
    finally:
        connection.close()


async def test_while_the_kernel_runs(tmp_path: Path, clock: WallClock) -> None:
    data = tmp_path / "data"
    began = trio.current_time()
    async with served(data) as server:
        client = await server.make_tenant("a")
        short, long = await grant(client, 600), await grant(client, 3 * YEAR_S)
        for offset in (HOUR_S, YEAR_S):
            clock.set(offset)
            assert await works(server, short), "a clock that leapt is not believed"
            assert await works(server, await grant(client, 600))
        clock.set(-HOUR_S)
        assert await works(server, short)
        await client.put("/secrets/s", json={"value": "x"})
        clock.set(HOUR_S)
        assert (await server.client.post("/system/accept-clock", json={})).is_success
        assert not await works(server, short) and await works(server, long)
        clock.set(-HOUR_S)
        assert not await works(server, short), "what expired once stays so"
        await client.put("/secrets/s", json={"value": "y"})
        check_gapless(await server.events())  # and in the order of their times
    times = kernel_times(data)
    assert times == sorted(times) and times[-1] <= trio.current_time() - began, "no leap is in it"


@pytest.mark.parametrize("offset", [HOUR_S, -HOUR_S, YEAR_S])
async def test_between_two_lives(tmp_path: Path, clock: WallClock, offset: int) -> None:
    data = tmp_path / "data"
    began = trio.current_time()
    async with served(data) as server:
        client = await server.make_tenant("a")
        short, long = await grant(client, 600), await grant(client, 3 * YEAR_S)
        body = {"service_id": "bad", "code": CRASHING, "restart_limits": {"max_restarts": 1, "max_seconds": 600}}
        assert (await client.post("/services", json=body)).status_code == 201
        await client.post("/services/bad/call/crash", json={})
        await until_status(client, "bad", restarts=1)
        server.kill()
    clock.set(offset)
    async with served(data) as server:
        client = server.tenant("a")
        assert await works(server, short) == (offset < 0) and await works(server, long)
        await until_status(client, "bad", status="ready")
        await client.post("/services/bad/call/crash", json={})
        await until_status(client, "bad", status="given_up")  # its window goes by no wall clock
        server.kill()
    clock.set(0)
    async with served(data) as server:
        assert await works(server, short) == (offset < 0), "what expired once stays so"
        assert await works(server, long)
        check_gapless(await server.events())
    times = kernel_times(data)
    assert times == sorted(times) and times[-1] <= trio.current_time() - began


async def until_status(client: httpx.AsyncClient, service_id: str, **expected: object) -> None:
    with trio.fail_after(PATIENCE_S):
        while True:
            found = (await client.get(f"/services/{service_id}")).json()
            if all(found[name] == value for name, value in expected.items()):
                return
