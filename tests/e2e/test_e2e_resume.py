"""A client of the event stream that reconnects with its last id sees every event once, across restarts of the kernel."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
import trio
from e2e_served import CALC, PATIENCE_S, Served, served

pytestmark = [
    pytest.mark.slow,
    # a stream left early: httpx nests generators of its own and closes only the outermost
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]


async def _read_stream(server: Served, seen: list[int], until: int) -> None:
    """Follow the stream from the last id seen until event `until`, or until the connection breaks."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen[-1] if seen else 0)}
    try:
        async with server.client.stream("GET", "/events", headers=headers) as response:
            assert response.status_code == 200
            async with aclosing(response.aiter_lines()) as lines:
                async for line in lines:
                    if line.startswith("id: "):
                        seen.append(int(line[4:]))
                        if seen[-1] >= until:
                            return
    except httpx.TransportError:
        pass


async def test_a_stream_resumed_across_kills_sees_each_event_once(tmp_path: Path) -> None:
    seen: list[int] = []
    for round_ in range(4):
        async with served(tmp_path) as server:
            client = await server.make_tenant("a") if round_ == 0 else server.tenant("a")
            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_read_stream, server, seen, 10**9)
                    for number in range(6):
                        service_id = f"s{round_}-{number}"
                        body = {"service_id": service_id, "code": CALC.format(which=service_id)}
                        answer = await client.post("/services", json=body)
                        assert answer.status_code == 201, answer.text
                        if number % 2:
                            assert (await client.delete(f"/services/{service_id}")).status_code == 200
                    server.kill()
    async with served(tmp_path) as server:
        events = await server.events()
        with trio.fail_after(PATIENCE_S):
            await _read_stream(server, seen, events[-1]["id"])
    assert seen == [event["id"] for event in events]
    assert seen == list(range(1, len(seen) + 1))
