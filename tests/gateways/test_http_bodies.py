"""Whose bodies have room: nobody keeps others from sending theirs, least of all who has no credential."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from wire_client import HOST, PATIENCE_S, Peer, PlainApp, Response, Running, running

from solo_trio.gateways.http.body import SYSTEM, UNKNOWN, Sender
from solo_trio.gateways.http.limits import ServerLimits

LIMITS = ServerLimits(
    body_bytes_max=10_000,
    bodies_bytes_max=40_000,
    tenants_bodies_bytes_max=25_000,
    tenant_bodies_bytes_max=15_000,
    unknown_body_bytes_max=1_000,
    unknown_bodies_bytes_max=2_500,
)
BODY = b"x" * 9_000


class Door:
    """A classifier by a header, which counts."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, scope: Any) -> Sender:
        self.asked += 1
        name = dict(scope["headers"]).get(b"authorization", b"").decode()
        return {"": UNKNOWN, "system": SYSTEM}.get(name, Sender("tenant", name))


@asynccontextmanager
async def serving(limits: ServerLimits = LIMITS) -> AsyncIterator[tuple[Running, PlainApp, Door]]:
    app, door = PlainApp(), Door()
    async with running(app, limits, sender_of=door) as server:
        yield server, app, door


def post(who: str, body: bytes, path: str = "echo", declared: int | None = None) -> bytes:
    length = len(body) if declared is None else declared
    sender = f"Authorization: {who}\r\n".encode() if who else b""
    return b"POST /%s HTTP/1.1\r\n" % path.encode() + HOST + sender + b"Content-Length: %d\r\n\r\n" % length + body


async def first(*peers: Peer) -> tuple[Peer, Response]:
    """Who is answered first, and what."""
    answers: list[tuple[Peer, Response]] = []
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:

            async def listen(peer: Peer) -> None:
                answers.append((peer, await peer.response()))
                nursery.cancel_scope.cancel()

            for peer in peers:
                nursery.start_soon(listen, peer)
    return answers[0]


async def echoed(server: Running, who: str) -> None:
    async with server.connect() as peer:
        for _ in range(3):  # what is given back is there again
            await peer.send(post(who, BODY))
            assert (await peer.response()).body == BODY


async def test_a_tenant_has_its_share() -> None:
    async with serving() as (server, _, _), server.connect() as one, server.connect() as two:
        for peer in (one, two):
            await peer.send(post("a", BODY[1:], declared=len(BODY)))
        stopped, answer = await first(one, two)
        assert answer.problem()["code"] == "overloaded"
        await echoed(server, "b")
        await echoed(server, "system")
        rest = two if stopped is one else one
        await rest.send(b"x")
        assert (await rest.response()).body == BODY
        await echoed(server, "a")


async def test_tenants_leave_the_system_its_share() -> None:
    async with serving() as (server, _, _), AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(server.connect()) for _ in range(3)]
        for number, peer in enumerate(peers):
            await peer.send(post(f"t{number}", BODY[1:], declared=len(BODY)))
        assert (await first(*peers))[1].problem()["code"] == "overloaded"
        await echoed(server, "system")


async def test_all_of_it_is_a_bound_for_the_system_too() -> None:
    async with serving() as (server, _, _), AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(server.connect()) for _ in range(5)]
        for peer in peers:
            await peer.send(post("system", BODY[1:], declared=len(BODY)))
        assert (await first(*peers))[1].problem()["code"] == "overloaded"


async def test_a_short_body_of_somebody_unknown_is_read() -> None:
    async with serving() as (server, _, _), server.connect() as peer:
        for _ in range(10):
            await peer.send(post("", BODY[:1_000]))
            assert (await peer.response()).body == BODY[:1_000]


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 1001\r\n\r\nxxx", b"Transfer-Encoding: chunked\r\n\r\n3\r\nxxx\r\n"],
    ids=["long", "chunked"],
)
async def test_others_of_somebody_unknown_are_not_waited_for(framing: bytes) -> None:
    """The application answers from the head, and what would follow is not taken for a request."""
    async with serving() as (server, app, _), server.connect() as peer:
        await peer.send(b"POST / HTTP/1.1\r\n" + HOST + framing)
        answer = await peer.response()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await peer.rest() == b""
        assert app.executed == ["/"]


async def test_who_is_unknown_cannot_fill_anything() -> None:
    async with serving() as (server, _, door), AsyncExitStack() as stack:
        for number in range(2):
            peer = await stack.enter_async_context(server.connect())
            await peer.send(post("", b"x" * 999, declared=1_000))
            await server.wait_until(lambda asked=number + 1: door.asked == asked)  # type: ignore[misc]
        for _ in range(16):
            peer = await stack.enter_async_context(server.connect())
            await peer.send(post("", BODY[1:], "", declared=len(BODY)))
            assert (await peer.response()).status == 200
        async with server.connect() as third:
            await third.send(post("", b"x" * 999, "", declared=1_000))
            answer = await third.response()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        await echoed(server, "a")
        await echoed(server, "system")


async def test_an_application_that_waits_for_what_is_dropped_is_ended() -> None:
    limits = ServerLimits(unknown_body_bytes_max=10, body_s=0.3, linger_s=0.3)
    async with serving(limits) as (server, app, _), server.connect() as peer:
        await peer.send(post("", BODY))
        assert await peer.rest() == b""
        assert server.incidents.count["body_slow"] == 1
        assert app.executed == ["/echo"]


async def test_who_sends_no_body_is_not_asked_who_he_is() -> None:
    async with serving() as (server, _, door):
        assert (await server.get()).status == 200
        assert door.asked == 0
