"""Two hundred watchers that do not read leave the server's memory flat, on SSE and on WebSocket."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import httpx
import pytest
import trio
from e2e_served import PATIENCE_S, Served, served

pytestmark = pytest.mark.slow
STALLED = 200
CONFIG_BYTES = 60_000
EVENTS = 160
"""Of `CONFIG_BYTES` each: a copy of what a watcher was not sent, per watcher, would be 200 times 9 MB."""
GROWTH_BYTES_MAX = 80 * 1_048_576
"""For all of them. One write each of one such event is 12 MB; connections, the ring and the garbage of 160 refused
deployments take the rest."""


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def _stall(server: Served, kind: str, stack: contextlib.AsyncExitStack) -> None:
    """A watcher that reads the head of the answer and nothing more."""
    url = httpx.URL(server.url)
    sock = trio.socket.socket()
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4_096)
    await sock.connect((url.host, url.port or 80))
    stream = await stack.enter_async_context(trio.SocketStream(sock))
    path, more = "/events", "Accept: text/event-stream\r\n"
    if kind == "socket":
        path = "/events/watch"
        more = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
    head = f"GET {path}?since_id=0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n{more}\r\n"
    await stream.send_all(head.encode())
    answer = bytes(await stream.receive_some(64))
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 101 ")), answer


@pytest.mark.parametrize("kind", ["sse", "socket"])
async def test_stalled_watchers_leave_memory_flat(tmp_path: Path, kind: str) -> None:
    async with served(tmp_path) as server, contextlib.AsyncExitStack() as stack:
        client = await server.make_tenant("a")

        async def fill(count: int) -> None:
            """Big events that leave nothing running."""
            body = {"service_id": "bad", "code": "x = (", "config": {"a": "#" * CONFIG_BYTES}}
            for _ in range(count):
                assert (await client.post("/services", json=body)).status_code == 422

        with trio.fail_after(2 * PATIENCE_S):
            await fill(20)
            before = rss_bytes(server.process.pid)
            for _ in range(STALLED):
                await _stall(server, kind, stack)
            await fill(EVENTS)
            grown = rss_bytes(server.process.pid) - before
            assert grown < GROWTH_BYTES_MAX, f"{grown / 1e6:.0f} MB"
            async with client.stream("GET", "/events", headers={"Accept": "text/event-stream"}) as response:
                assert response.status_code == 200, "others are served"
