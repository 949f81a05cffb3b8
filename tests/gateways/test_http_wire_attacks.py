"""Bytes that kill, confuse or starve a server. Each is followed by a normal request that must be answered."""

from __future__ import annotations

import functools
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import h11
import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from trio.testing import wait_all_tasks_blocked
from wire_client import APPS, HOST, PATIENCE_S, SHORT, Peer, PlainApp, Response, Running, quart_app, running

from solo_trio.gateways.http.limits import ServerLimits

TIMES = 100
UPGRADE = (
    HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
CHUNKED = HOST + b"Transfer-Encoding: chunked\r\n\r\n"
LONG_EXTENSION = b"5;" + b"x" * 70_000 + b"\r\nhello\r\n0\r\n\r\n"

EARLY_BYTE = b"GET /ws HTTP/1.1\r\n" + UPGRADE + b"\r\nx"
CHUNK_EXTENSION = b"POST / HTTP/1.1\r\n" + CHUNKED + LONG_EXTENSION
ATTACKS = [pytest.param(EARLY_BYTE, id="early-byte"), pytest.param(CHUNK_EXTENSION, id="chunk-extension")]


@pytest.mark.parametrize("make_app", APPS)
@pytest.mark.parametrize("attack", ATTACKS)
async def test_survives(make_app: Callable[[], Any], attack: bytes) -> None:
    async with running(make_app()) as server:
        for _ in range(TIMES):
            answer = await server.say(attack)
            assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 "))
            assert (await server.get()).status == 200
        assert (await server.get()).status == 200
        if attack is EARLY_BYTE:  # here Hypercorn raises each time, and would raise out of the server
            assert server.incidents.count["connection_contained"] >= TIMES


@pytest.mark.parametrize("make_app", APPS)
async def test_survives_many_at_once(make_app: Callable[[], Any]) -> None:
    async with running(make_app()) as server, server.connect() as bystander, trio.open_nursery() as nursery:
        for attack in [EARLY_BYTE, CHUNK_EXTENSION] * 20:
            nursery.start_soon(server.say, attack)
        for _ in range(20):
            assert (await bystander.get()).status == 200


@pytest.mark.parametrize("attack", ATTACKS)
async def test_stock_hypercorn_does_not_survive(attack: bytes) -> None:
    """Without this the tests above prove nothing. When it fails, Hypercorn was repaired: look whether we still need all."""
    config = Config()
    config.errorlog = None
    stock = functools.partial(TCPServer, ASGIWrapper(quart_app()), config, WorkerContext(None), {})
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, stock, listeners)
            for _ in range(30 * TIMES):
                stream = await trio.open_tcp_stream(*address)
                async with stream:
                    await Peer(stream).send(attack)
                    with trio.move_on_after(0.05):  # it also leaks: often there is no end to wait for
                        await Peer(stream).rest()
            nursery.cancel_scope.cancel()
    assert caught.value.subgroup((h11.LocalProtocolError, trio.BusyResourceError))


@pytest.mark.parametrize(
    "attack",
    [
        b"\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS on the plain port
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
        b"GET http://localhost/smuggled HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET ?x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"a: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 4_000 + b"\r\n",
        b"GET /" + b"x" * 200_000,
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 2\r\n\r\nab",
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.0\r\n" + CHUNKED + b"0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + CHUNKED + b"zz\r\n",
        b"POST /echo HTTP/1.1\r\n" + CHUNKED + b"-5\r\nhello",
        b"POST /echo HTTP/1.1\r\n" + CHUNKED + b"fffffffffffffffffffffffff\r\n",
        b"POST /echo HTTP/1.1\r\n" + CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + CHUNKED + b"0\r\n" + b"a: b\r\n" * 20_000,
        b"GET /ws HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 3\r\n\r\nabc",
        b"GET /ws HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n" + HOST + b"\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    ],
)
async def test_refused_with_a_problem_and_closed(attack: bytes) -> None:
    app = PlainApp()
    async with running(app) as server:
        answer = await server.say(attack)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 "))
        assert answer.count(b"x-request-id: ") == 1
        assert (await server.get()).status == 200
    assert app.executed == ["/"]
    assert server.incidents.count.total() == 0


SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize(
    "attack",
    [
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: +0\r\n\r\n",
        b"GET / HTTP/1.1\n" + HOST + b"\r\n",  # bare line feeds
        b"GET / HTTP/1.1\r\nHost: localhost\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"a: b\n\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"a: b\rc: d\r\n\r\n",  # bare carriage return
        b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n c\r\n\r\n",  # folded
        b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\r\n\tchunked\r\n\r\n",
        b"GET / HTTP/1.1\r\n " + HOST + b"\r\n",
        b"POST /echo HTTP/1.1\r\n" + CHUNKED + b"0\n\n",
        b"POST /echo HTTP/1.1\r\n" + CHUNKED + b"1\r\naXX0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
async def test_a_smuggled_request_is_never_executed(attack: bytes, bytewise: bool) -> None:
    app = PlainApp()
    async with running(app) as server:
        async with server.connect() as peer:
            for at in range(len(attack)) if bytewise else []:
                await peer.send(attack[at : at + 1])
            await peer.send((b"" if bytewise else attack) + SMUGGLED)
            answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 4")
        assert answer.count(b"x-request-id: ") == 1
        assert (await server.get()).status == 200
    assert "/smuggled" not in app.executed


async def test_h2c_upgrade_is_ignored() -> None:
    async with running(PlainApp()) as server, server.connect() as peer:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
        assert (await peer.get(extra=upgrade)).status == 200
        assert (await peer.get()).status == 200  # still HTTP/1.1


async def test_head_that_never_ends_is_cut() -> None:
    async with running(PlainApp(), SHORT) as server, server.connect() as dribbler, trio.open_nursery() as nursery:

        async def dribble() -> None:
            await dribbler.send(b"GET / HTTP/1.1\r\na: ")
            while True:
                await dribbler.send(b"x")
                await server.get()  # so that the server has read it

        nursery.start_soon(dribble)
        assert (await server.get()).status == 200
        assert await dribbler.rest() == b""
        nursery.cancel_scope.cancel()
    assert server.incidents.count["connection_slow_head"] == 1


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"])
async def test_connection_that_asks_nothing_is_closed(first: bytes) -> None:
    async with running(PlainApp(), SHORT) as server, server.connect() as idler:
        if first:
            await idler.send(first)
            await idler.response()
        assert await idler.rest() == b""
        assert (await server.get()).status == 200


@pytest.mark.parametrize("make_app", APPS)
@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n\r\nhell", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhell"])
async def test_body_that_never_ends_is_cut(make_app: Callable[[], Any], framing: bytes) -> None:
    app = make_app()
    async with running(app, SHORT) as server, server.connect() as slow:
        await slow.send(b"POST /echo HTTP/1.1\r\n" + HOST + framing)
        assert (await server.get()).status == 200
        assert await slow.rest() == b""
        assert server.incidents.count["body_slow"] == 1
    assert "/echo" not in getattr(app, "executed", ())


async def test_connections_above_the_cap_are_closed_at_once() -> None:
    app = PlainApp()
    async with running(app, ServerLimits(connections_max=3)) as server:
        async with server.connect() as one, server.connect() as two, server.connect() as three:
            for peer in (one, two, three):
                await peer.send(b"GET /wait HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
            await server.wait_until(lambda: app.executed == ["/wait"] * 3)
            for _ in range(50):
                assert await server.say(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") == b""
            assert server.incidents.count["connection_refused"] == 50
            app.gate.set()
            for peer in (one, two, three):
                assert (await peer.response()).body == b"waited"
                await peer.rest()
        assert server.incidents.count["connection_displaced"] == 0
        with trio.fail_after(PATIENCE_S):
            while not await server.say(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n"):  # room again, once they are reaped
                pass


async def test_connections_that_ask_nothing_make_room() -> None:
    """The oldest first, whether it has asked before, begun a head, or said nothing; never one that is being answered."""
    app = PlainApp()
    async with running(app, ServerLimits(connections_max=4)) as server, AsyncExitStack() as stack:
        busy, silent, begun, kept = [await stack.enter_async_context(server.connect()) for _ in range(4)]
        await busy.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
        await begun.send(b"GET / HTTP/1.1\r\na: ")
        assert (await kept.get()).status == 200
        await server.wait_until(lambda: "/wait" in app.executed)
        for number, displaced in enumerate((silent, begun, kept), 1):
            newcomer = await stack.enter_async_context(server.connect())
            await newcomer.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
            await server.wait_until(lambda: app.executed.count("/wait") == number + 1)  # noqa: B023
            assert await displaced.rest() == b""
            assert server.incidents.count["connection_displaced"] == number
        assert await server.say(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") == b""
        assert server.incidents.count["connection_refused"] == 1
        app.gate.set()
        assert (await busy.response()).body == b"waited"
        assert server.incidents.count["connection_displaced"] == 3


async def test_a_crowd_that_says_nothing_locks_nobody_out() -> None:
    async with running(PlainApp(), ServerLimits(connections_max=8)) as server, AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(server.connect())
        for _ in range(20):
            assert (await server.get()).status == 200
        assert server.incidents.count["connection_refused"] == 0


@pytest.fixture
def few_files() -> Iterator[Callable[[], None]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # open ones stay; none can be added

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_accepts_again_after_running_out_of_files(few_files: Callable[[], None]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(PlainApp(), ServerLimits(accept_retry_s=0.01)) as server:
        with trio.socket.socket() as socket, trio.fail_after(PATIENCE_S):
            few_files()
            try:
                await socket.connect(server.address)
                await server.wait_until(lambda: server.incidents.count["accept_failed"] >= 2)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            peer = Peer(trio.SocketStream(socket))
            assert (await peer.get()).status == 200


async def test_client_that_does_not_read_is_cut() -> None:
    app = PlainApp()
    async with running(app, SHORT) as server, server.connect() as deaf:
        await deaf.send(b"GET /flood HTTP/1.1\r\n" + HOST + b"\r\n")
        await server.wait_until(lambda: server.incidents.count["write_cut"] == 1)
        await server.wait_until(lambda: app.cancelled == ["/flood"])
        assert (await server.get()).status == 200


async def test_client_that_leaves_ends_its_request() -> None:
    app = PlainApp()
    async with running(app, SHORT) as server:
        async with server.connect() as leaver:
            await leaver.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
            await server.wait_until(lambda: app.executed == ["/wait"])
        await server.wait_until(lambda: app.cancelled == ["/wait"])
        assert (await server.get()).status == 200
    assert server.incidents.count.total() == 0


@pytest.mark.parametrize("extra", [b"", b"Connection: close\r\n"])
async def test_unread_body_leaks_no_connection(extra: bytes) -> None:
    """The refusal is sent while far more of the body waits than any queue takes."""
    limits = ServerLimits(connections_max=1, body_bytes_max=10, linger_bytes=100_000_000)
    async with running(PlainApp(), limits) as server:
        for _ in range(5):
            async with server.connect() as peer, trio.open_nursery() as nursery:
                head = b"POST /echo HTTP/1.1\r\n" + HOST + extra + b"Transfer-Encoding: chunked\r\n\r\n"
                nursery.start_soon(
                    peer.send, head + b"1000\r\n" + bytes(4096) + b"\r\n" + b"800000\r\n" + bytes(8 << 20)
                )
                assert (await peer.response()).problem()["code"] == "too_large"
                assert await peer.rest() == b""
            assert not peer.was_reset  # all of it was taken: a reset can cost the answer on its way
            with trio.fail_after(PATIENCE_S):
                while not await server.say(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n"):
                    pass
        assert server.incidents.count["body_too_large"] == 5
        assert server.incidents.count["finish_cut"] == 0


# WebSocket


@asynccontextmanager
async def upgraded(server: Running, path: bytes = b"/ws", extra: bytes = b"") -> AsyncIterator[tuple[Peer, Response]]:
    async with server.connect() as peer:
        await peer.send(b"GET " + path + b" HTTP/1.1\r\n" + UPGRADE + extra + b"\r\n")
        yield peer, await peer.response()


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """From a client: masked, with zeros."""
    short = len(payload) < 126
    length = bytes([0x80 | (len(payload) if short else 126)]) + (b"" if short else len(payload).to_bytes(2, "big"))
    return bytes([opcode | (0x80 if final else 0)]) + length + bytes(4) + payload


@pytest.mark.parametrize("make_app", APPS)
async def test_websocket_works_without_compression(make_app: Callable[[], Any]) -> None:
    async with running(make_app()) as server:
        offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\nX-Request-ID: mine\r\n"
        async with upgraded(server, extra=offer) as (peer, answer):
            assert answer.status == 101
            assert "sec-websocket-extensions" not in answer.headers
            assert answer.headers["x-request-id"] == "mine"
            for text in (b"one", b"two"):
                await peer.send(frame(1, text))
                assert await peer.take(5) == b"\x81\x03" + text
            await peer.send(frame(9, b"ping"))
            assert await peer.take(6) == b"\x8a\x04ping"
            await peer.send(frame(8, b"\x03\xe8"))
            assert (await peer.rest())[:4] == b"\x88\x02\x03\xe8"
    assert server.incidents.count.total() == 0


async def test_websocket_of_another_origin_is_refused() -> None:
    app = PlainApp()
    async with running(app) as server:
        async with upgraded(server, extra=b"Origin: http://evil.example\r\n") as (peer, answer):
            assert answer.problem()["code"] == "host_not_allowed"
            assert await peer.rest() == b""
        async with upgraded(server, extra=b"Origin: http://localhost:3000\r\n") as (_, answer):
            assert answer.status == 101
    assert app.executed == ["/ws"]


async def test_websocket_application_that_raises_closes_with_a_code() -> None:
    async with running(PlainApp()) as server:
        async with upgraded(server) as (peer, _):
            await peer.send(frame(1, b"boom"))
            assert await peer.rest() == b"\x88\x0c" + (1011).to_bytes(2, "big") + b"kernel_bug"
        assert server.incidents.count["request_failed"] == 1


async def test_message_without_end_is_closed_not_gathered() -> None:
    app = PlainApp()
    async with running(app, SHORT) as server:
        async with upgraded(server) as (peer, _), trio.open_nursery() as nursery:

            async def pour() -> None:
                await peer.send(frame(1, b"x" * 500, final=False))
                for _ in range(100):
                    await peer.send(frame(0, b"x" * 500, final=False))

            nursery.start_soon(pour)
            answer = await peer.rest()
        assert answer[0] == 0x88  # close
        assert int.from_bytes(answer[2:4], "big") == 1009
        assert (await server.get()).status == 200


@pytest.mark.parametrize(
    "wrong", [b"\xff" * 20, frame(3, b"a"), frame(1, b"\xff"), frame(0, b"a"), frame(9, b"x" * 126), b"\x81\x01a"]
)
async def test_wrong_frames_end_their_connection_only(wrong: bytes) -> None:
    async with running(PlainApp()) as server:
        async with upgraded(server) as (peer, _):
            await peer.send(wrong)
            await peer.rest()  # Hypercorn says nothing, which RFC 6455 7.1.7 allows
        assert (await server.get()).status == 200


EMPTY = [
    pytest.param(frame(10, b""), id="pongs"),
    pytest.param(frame(9, b""), id="pings"),
    pytest.param(frame(0, b"", final=False), id="continuations"),
    pytest.param(frame(1, b""), id="messages"),
]


@pytest.mark.parametrize("empty", EMPTY)
async def test_a_flood_of_empty_frames_is_closed_and_others_are_served_meanwhile(empty: bytes) -> None:
    """Also of those that no application sees."""
    limits = ServerLimits(frames_per_s=0.001)
    async with running(PlainApp(), limits) as server, upgraded(server) as (peer, _), trio.open_nursery() as nursery:
        begin = b"" if empty[0] else frame(1, b"", final=False)
        nursery.start_soon(peer.send, begin + empty * 20_000)  # less than what is read and dropped after a close
        while await peer._more():
            assert (await server.get()).status == 200
        answer = await peer.rest()
        assert answer.endswith(b"\x88\x0e" + (1008).to_bytes(2, "big") + b"rate_limited") and not peer.was_reset
        assert len(answer) <= 16 + 2 * limits.frames_burst, "nothing was answered after that"
        assert server.incidents.count.total() == 0


async def test_a_flood_without_end_is_cut() -> None:
    async with running(PlainApp()) as server, upgraded(server) as (peer, _), trio.open_nursery() as nursery:
        nursery.start_soon(peer.rest)
        with trio.fail_after(PATIENCE_S):
            while not peer.was_reset:
                await peer.send(frame(10, b"") * 10_000)
        assert (await server.get()).status == 200


async def test_what_one_read_holds_is_looked_at_in_slices() -> None:
    limits = ServerLimits(frames_per_s=1e9, frames_burst=1e9)
    async with running(PlainApp(), limits) as server, upgraded(server) as (peer, _):
        turns: list[int] = []

        class Turns(trio.abc.Instrument):
            def before_io_wait(self, timeout: float) -> None:
                turns.append(1)

        instrument = Turns()
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(instrument)
        await peer.send(frame(10, b"") * 8_000 + frame(9, b"done"))
        assert await peer.take(6) == b"\x8a\x04done"
        trio.lowlevel.remove_instrument(instrument)
    assert len(turns) > 48_000 / 512


async def test_websocket_that_is_not_read_holds_its_client_back() -> None:
    """Bounded: the application's queue, then the socket's buffers, then the client waits."""
    app = PlainApp()
    async with running(app) as server, upgraded(server, b"/ws-deaf") as (peer, _):
        message = frame(1, b"x" * 60_000, final=True)
        sent = 0
        async with trio.open_nursery() as nursery:

            async def pour() -> None:
                nonlocal sent
                while sent < 2_000:
                    await peer.stream.send_all(message)
                    sent += 1

            nursery.start_soon(pour)
            with trio.fail_after(PATIENCE_S):
                await wait_all_tasks_blocked(0.05)
            assert sent < 2_000
            nursery.cancel_scope.cancel()
        app.gate.set()  # it leaves with all that unread
        await peer.rest()
        assert (await server.get()).status == 200


async def test_attacks_leave_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    async with running(quart_app()) as server:
        for attack in (EARLY_BYTE, CHUNK_EXTENSION, b"GET /boom HTTP/1.1\r\n" + HOST + b"\r\n", b"\0"):
            await server.say(attack)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
