"""A WebSocket client that comes back with its last id sees every event exactly once, across ten kernels killed under load."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from e2e_served import CALC, PATIENCE_S, Served, check_gapless, served
from trio_websocket import ConnectionClosed, HandshakeError, wrap_client_stream

pytestmark = [
    pytest.mark.slow,
    # requests that a killed server never answers: httpx nests generators of its own and closes only the outermost
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]
KILLS = 10
WRITERS = 3
DEPLOYED_BEFORE_A_KILL = 5


class Watcher:
    """What one client saw in all its connections; a connection may break anywhere."""

    def __init__(self, **query: Any) -> None:
        self.query = query
        self.seen: list[dict[str, Any]] = []
        self.resume = 0
        self.connections = 0
        self.moved = trio.Event()

    async def follow(self, server: Served) -> None:
        """Until the connection breaks."""
        target = f"/events/watch?{httpx.QueryParams({'since_id': self.resume, **self.query})}"
        headers = [(b"Authorization", f"Bearer {server.token}".encode())]
        with contextlib.suppress(OSError, trio.BrokenResourceError, ConnectionClosed, HandshakeError):
            async with trio.open_nursery() as nursery:
                url = httpx.URL(server.url)
                async with await trio.open_tcp_stream(url.host, url.port or 80) as stream:
                    connection = await wrap_client_stream(nursery, stream, "localhost", target, extra_headers=headers)
                    self.connections += 1
                    with contextlib.suppress(ConnectionClosed):
                        while True:
                            self._take(json.loads(await connection.get_message()))
                    nursery.cancel_scope.cancel()

    def _take(self, frame: dict[str, Any]) -> None:
        assert "end" not in frame and "compacted" not in frame, frame
        if "event" in frame:
            self.seen.append(frame["event"])
            self.resume = frame["event"]["id"]
        else:
            assert frame["bookmark"] >= self.resume, "a bookmark never goes back"
            self.resume = frame["bookmark"]
        self.moved.set()
        self.moved = trio.Event()

    async def reach(self, id_: int) -> None:
        while self.resume < id_:
            await self.moved.wait()


async def _write(server: Served, name: str, done: trio.MemorySendChannel[None]) -> None:
    """Deploy and delete until the server is gone."""
    client, number = server.tenant("a"), 0
    with contextlib.suppress(httpx.TransportError, trio.BrokenResourceError):
        while True:
            service_id = f"{name}-{number}"
            answer = await client.post("/services", json={"service_id": service_id, "code": CALC.format(which=1)})
            assert answer.status_code == 201, answer.text
            await done.send(None)
            assert (await client.delete(f"/services/{service_id}")).status_code == 200
            number += 1


async def test_each_event_exactly_once_across_ten_kills_under_load(tmp_path: Path) -> None:
    everything, some = Watcher(), Watcher(type="service_deployed,service_killed")
    for round_ in range(KILLS):
        async with served(tmp_path) as server:
            if round_ == 0:
                await server.make_tenant("a")
            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    send, receive = trio.open_memory_channel[None](0)
                    for watcher in (everything, some):
                        nursery.start_soon(watcher.follow, server)
                    for writer in range(WRITERS):
                        nursery.start_soon(_write, server, f"w{writer}-r{round_}", send)
                    for _ in range(DEPLOYED_BEFORE_A_KILL):
                        await receive.receive()
                    server.kill()  # in the middle of what the writers do
                    nursery.start_soon(_drain, receive)
                    await server.process.wait()
                    receive.close()
    async with served(tmp_path) as server:
        events = await server.events()
        check_gapless(events)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for watcher in (everything, some):
                    nursery.start_soon(watcher.follow, server)
                    await watcher.reach(events[-1]["id"])
                nursery.cancel_scope.cancel()
    assert everything.connections == some.connections == KILLS + 1
    assert everything.seen[: len(events)] == events
    wanted = [event for event in events if event["type"] in some.query["type"].split(",")]
    assert some.seen == wanted and len(wanted) >= KILLS * DEPLOYED_BEFORE_A_KILL


async def _drain(receive: trio.MemoryReceiveChannel[None]) -> None:
    with contextlib.suppress(trio.ClosedResourceError):
        async for _ in receive:
            pass
