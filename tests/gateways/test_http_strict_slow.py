"""Clients that take their time with every byte: cut off within the limits, and nobody else waits for them."""

from __future__ import annotations

import pytest
import trio
from attrs import evolve
from wire_client import HOST, SHORT, PlainApp, Running, running

CROWD = 24
HEAD = b"GET / HTTP/1.1\r\n" + HOST + b"a: " + b"x" * 1_000
BODY = b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 5000\r\n\r\n" + b"x" * 1_000
CHUNKS = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 300
CHUNK_LINE = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"a" * 1_000
TRAILERS = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\na: " + b"x" * 1_000


async def dribble(server: Running, data: bytes, ended: list[bytes]) -> None:
    """Each byte by itself, more slowly than the limit allows for all of them; `ended`: what came back at the end."""
    async with server.connect() as peer, trio.open_nursery() as nursery:

        async def send() -> None:
            for at in range(len(data)):
                await peer.send(data[at : at + 1])
                await trio.sleep(0.01)

        nursery.start_soon(send)
        ended.append(await peer.rest())
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "data", [HEAD, BODY, CHUNKS, CHUNK_LINE, TRAILERS], ids=["head", "body", "chunks", "line", "trailers"]
)
async def test_a_crowd_that_dribbles_is_cut_and_others_are_served_meanwhile(data: bytes) -> None:
    app = PlainApp()
    ended: list[bytes] = []
    async with running(app, evolve(SHORT, connections_max=2 * CROWD)) as server, trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(dribble, server, data, ended)
        served = 0
        while len(ended) < CROWD:
            assert (await server.get()).status == 200
            served += 1
        nursery.cancel_scope.cancel()
    assert ended == [b""] * CROWD, "what does not come in time is worth no answer"
    assert set(app.executed) == {"/"} and served > 3
    # On a busy machine the first byte of one may come too late, which is silence and no slow head.
    cut = server.incidents.count["connection_slow_head"] + server.incidents.count["body_slow"]
    assert CROWD / 2 < cut <= CROWD and server.incidents.count["connection_refused"] == 0


async def test_a_crowd_above_the_cap_makes_room_for_who_asks() -> None:
    """More dribblers than connections: the oldest that waits for its request to be whole makes room."""
    app = PlainApp()
    async with (
        running(app, evolve(SHORT, connections_max=4, head_s=30, idle_s=30)) as server,
        trio.open_nursery() as nursery,
    ):
        for _ in range(CROWD):
            nursery.start_soon(dribble, server, HEAD, [])
        for _ in range(10):
            assert (await server.get()).status == 200
        assert server.incidents.count["connection_displaced"] >= CROWD - 4
        nursery.cancel_scope.cancel()
