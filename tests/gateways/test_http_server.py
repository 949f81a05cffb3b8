"""What a well-behaved client sees, on both Quart versions and on plain ASGI, and how the server starts and ends."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypercorn.utils import LifespanFailureError
from trio.testing import wait_all_tasks_blocked
from wire_client import APPS, HOST, PATIENCE_S, SHORT, PlainApp, quart_app, running

from solo_trio.errors import Faulted, Rejected
from solo_trio.gateways.http.incidents import Incidents
from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.gateways.http.server import serve

each_app = pytest.mark.parametrize("make_app", APPS)
MakeApp = Callable[[], Any]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


# Connections


@each_app
async def test_keep_alive(make_app: MakeApp) -> None:
    async with running(make_app()) as server, server.connect() as peer:
        for _ in range(20):
            assert (await peer.get()).status == 200
        await peer.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello")
        assert (await peer.response()).body == b"hello"
        assert (await peer.get()).status == 200


@each_app
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.0\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST + b"\r\n",
        b"POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n" + HOST + b"\r\nhi",
    ],
)
async def test_closes_when_asked_to(make_app: MakeApp, request_bytes: bytes) -> None:
    async with running(make_app()) as server, server.connect() as peer:
        await peer.send(request_bytes)
        answer = await peer.response()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert await peer.rest() == b""


@each_app
async def test_pipelined_requests_are_answered_in_order(make_app: MakeApp) -> None:
    async with running(make_app()) as server, server.connect() as peer:
        await peer.send(
            b"".join(b"GET / HTTP/1.1\r\nX-Request-ID: %d\r\n" % number + HOST + b"\r\n" for number in range(20))
        )
        for number in range(20):
            assert (await peer.response()).body == b"%d" % number


async def test_says_when_a_connection_has_had_enough() -> None:
    async with running(PlainApp(), ServerLimits(connection_requests_max=3)) as server, server.connect() as peer:
        answers = [await peer.get() for _ in range(3)]
        assert [answer.headers.get("connection") for answer in answers] == [None, None, "close"]
        assert await peer.rest() == b""


@each_app
async def test_head_and_continue(make_app: MakeApp) -> None:
    async with running(make_app()) as server, server.connect() as peer:
        await peer.send(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
        await peer.send(b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" + HOST + b"\r\n")
        answer = b""
        with trio.fail_after(PATIENCE_S):
            while b"HTTP/1.1 100 " not in answer:
                answer += await peer.stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 200 ")
        await peer.send(b"hi")
        with trio.fail_after(PATIENCE_S):
            while not answer.endswith(b"hi"):
                answer += await peer.stream.receive_some()


# Request ids


@each_app
async def test_request_id_is_in_every_answer_and_in_the_scope(make_app: MakeApp) -> None:
    numbers = iter(range(1000))
    async with running(make_app(), new_request_id=lambda: f"r-{next(numbers)}") as server, server.connect() as peer:
        for number in range(3):
            answer = await peer.get()
            assert answer.headers["x-request-id"] == f"r-{number}"
            assert answer.body == f"r-{number}".encode()


@pytest.mark.parametrize("mine", ["a", "A" * 64, "Az09_.-"])
async def test_client_may_choose_it(mine: str) -> None:
    async with running(quart_app()) as server:
        answer = await server.get(extra=b"X-Request-ID: %s\r\n" % mine.encode())
        assert (answer.headers["x-request-id"], answer.body) == (mine, mine.encode())


@pytest.mark.parametrize("mine", [b"", b"A" * 65, b"a b", b"a/b", b"a;b", b"\xe9", b"<script>"])
async def test_but_not_anything(mine: bytes) -> None:
    async with running(quart_app(), new_request_id=lambda: "ours") as server:
        answer = await server.get(extra=b"X-Request-ID: " + mine + b"\r\n")
        assert answer.headers["x-request-id"] == "ours"


async def test_application_cannot_forge_it() -> None:
    async with running(PlainApp(), new_request_id=lambda: "ours") as server:
        assert (await server.get("/own-id")).headers["x-request-id"] == "ours"


async def test_default_ids_do_not_repeat() -> None:
    async with running(PlainApp()) as server, server.connect() as peer:
        assert len({(await peer.get()).headers["x-request-id"] for _ in range(50)}) == 50


# Host and Origin


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ("Host: localhost", True),
        ("Host: LOCALHOST:1", True),
        ("Host: localhost.", True),
        ("Host: 127.0.0.1:80", True),
        ("Host: 127.8.8.8", True),
        ("Host: [::1]:80", True),
        ("Host: solo.example:443", True),
        ("Host: Solo.Example", True),
        ("Host: localhost\r\nOrigin: http://localhost:3000", True),
        ("Host: localhost\r\nOrigin: https://solo.example", True),
        ("Host: localhost\r\nOrigin: http://[::1]:80", True),
        ("Host: evil.example", False),
        ("Host: solo.example.evil.example", False),
        ("Host: localhost.evil.example", False),
        ("Host: localhost@evil.example", False),
        ("Host: localhost:80:80", False),
        ("Host: localhost:x", False),
        ("Host: 127.0.0.1.evil.example", False),
        ("Host: 127.1", False),
        ("Host: 2130706433", False),
        ("Host: 0.0.0.0", False),
        ("Host: 10.0.0.1", False),
        ("Host: ", False),
        ("Host: localhost/", False),
        ("Host: localhost, evil.example", False),
        ("Host: localhost\r\nOrigin: http://evil.example", False),
        ("Host: localhost\r\nOrigin: null", False),
        ("Host: localhost\r\nOrigin: ", False),
        ("Host: localhost\r\nOrigin: http://localhost.evil.example", False),
        ("Host: localhost\r\nOrigin: http://localhost@evil.example", False),
        ("Host: localhost\r\nOrigin: http://evil.example/localhost", False),
        ("Host: localhost\r\nOrigin: file://localhost", False),
        ("Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example", False),
    ],
)
async def test_hosts(headers: str, allowed: bool) -> None:
    app = PlainApp()
    async with running(app, allowed_hosts=["solo.example"]) as server, server.connect() as peer:
        await peer.send(b"GET / HTTP/1.1\r\n" + headers.encode() + b"\r\n\r\n")
        answer = await peer.response()
        if allowed:
            assert answer.status == 200
        else:
            assert answer.status == 403
            assert answer.problem()["code"] == "host_not_allowed"
            assert await peer.rest() == b""
    assert app.executed == (["/"] if allowed else [])
    assert server.incidents.count["host_refused"] == (not allowed)


async def test_http_1_0_without_host_is_refused() -> None:
    app = PlainApp()
    async with running(app) as server:
        assert (await server.say(b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
    assert app.executed == []


# Bodies


def fixed(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes) -> bytes:
    chunks = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    framed = b"".join(b"%x\r\n" % len(chunk) + chunk + b"\r\n" for chunk in chunks)
    return b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


@each_app
@pytest.mark.parametrize("framing", [fixed, chunked])
async def test_body_up_to_the_limit(make_app: MakeApp, framing: Callable[[bytes], bytes]) -> None:
    app = make_app()
    limit = 10_000
    async with running(app, ServerLimits(body_bytes_max=limit)) as server:
        async with server.connect() as peer:
            await peer.send(b"POST /echo HTTP/1.1\r\n" + HOST + framing(b"x" * limit))
            assert (await peer.response()).body == b"x" * limit
        for size in (limit + 1, 50 * limit):
            async with server.connect() as peer:
                await peer.send(b"POST /echo HTTP/1.1\r\n" + HOST + framing(b"x" * size))
                answer = await peer.response()
                assert answer.status == 413
                assert answer.problem()["code"] == "too_large"
                assert answer.problem()["limit_bytes"] == limit
                assert await peer.rest() == b""
            assert (await server.get()).status == 200
        assert server.incidents.count["body_too_large"] == 2
    assert getattr(app, "executed", ["/echo", "/", "/"]) == ["/echo", "/", "/"]


@each_app
async def test_body_of_many_pieces(make_app: MakeApp) -> None:
    async with running(make_app(), ServerLimits(body_parts_max=100)) as server, server.connect() as peer:
        await peer.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 500)
        assert (await peer.response()).problem()["code"] == "too_large"
        assert (await server.get()).status == 200


async def test_sum_of_all_bodies_is_bounded() -> None:
    limits = ServerLimits(body_bytes_max=10_000, bodies_bytes_max=15_000)
    half = b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 9000\r\n\r\n" + b"x" * 8_999
    async with running(PlainApp(), limits) as server:
        async with server.connect() as one, server.connect() as two:
            await one.send(half)
            await two.send(half)
            with trio.fail_after(PATIENCE_S):
                answers = []
                async with trio.open_nursery() as nursery:

                    async def listen(peer: Any) -> None:
                        answers.append(await peer.response())
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(listen, one)
                    nursery.start_soon(listen, two)
            assert answers[0].problem()["code"] == "overloaded"
            assert answers[0].headers["retry-after"] == "1"
        async with server.connect() as three:  # all of it was given back
            for _ in range(3):
                await three.send(half + b"x")
                assert (await three.response()).status == 200


# Failures of the application


@each_app
async def test_exception_becomes_a_problem_without_its_text(make_app: MakeApp) -> None:
    async with running(make_app()) as server, server.connect() as peer:
        answer = await peer.get("/boom")
        assert answer.status == 500
        assert answer.problem()["code"] == "kernel_bug"
        assert b"canary" not in answer.body
        assert b"Traceback" not in answer.body
        assert (await server.get()).status == 200
    assert server.incidents.count["request_failed"] == 1


@pytest.mark.parametrize("path", ["/silent", "/bad-header", "/no-such-method"])
async def test_other_defects(path: str) -> None:
    async with running(PlainApp()) as server:
        answer = await server.get(path)
        assert answer.problem()["code"] == "kernel_bug"
        assert "c" not in answer.headers
    assert server.incidents.count["request_failed"] == 1


async def test_response_that_breaks_off_does_not_look_complete() -> None:
    async with running(PlainApp()) as server:
        answer = await server.say(b"GET /boom-late HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"half" in answer
        assert not answer.endswith(b"0\r\n\r\n")
        assert b"kernel_bug" not in answer


@pytest.mark.parametrize("wrapped", [False, True])
async def test_solo_errors_keep_their_code(wrapped: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        error = Rejected("unauthenticated", "send a token")
        raise ExceptionGroup("", [error]) if wrapped else error

    async with running(app) as server:
        answer = await server.get()
        assert answer.problem()["code"] == "unauthenticated"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert server.incidents.count.total() == 0


async def test_telemetry_is_told_and_cannot_hurt() -> None:
    told: list[tuple[str, BaseException | None]] = []

    def tell(kind: str, cause: BaseException | None) -> None:
        told.append((kind, cause))
        raise RuntimeError("telemetry is broken")

    incidents = Incidents(tell)  # type: ignore[arg-type]
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        url = await nursery.start(
            functools.partial(serve, PlainApp(), host="127.0.0.1", port=0, stopping=stopping, incidents=incidents)
        )
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rsplit(":")[-1]))
        async with stream:
            await stream.send_all(b"GET /boom HTTP/1.1\r\n" + HOST + b"\r\n")
            with trio.fail_after(PATIENCE_S):
                assert b" 500 " in await stream.receive_some()
        stopping.set()
    assert [kind for kind, _ in told] == ["request_failed"]
    assert isinstance(told[0][1], ExceptionGroup)
    assert incidents.count["tell_failed"] == 1


# Starting and ending


@pytest.mark.parametrize(("host", "prefix"), [("127.0.0.1", "http://127.0.0.1:"), ("localhost", "http://localhost:")])
async def test_port_0_names_the_real_port(host: str, prefix: str) -> None:
    async with running(PlainApp(), host=host) as server:
        assert server.url.startswith(prefix)
        assert server.address[1] > 0
        assert (await server.get()).status == 200


@pytest.mark.skipif(not has_ipv6(), reason="missing: IPv6 loopback")
async def test_ipv6() -> None:
    async with running(PlainApp(), host="::1") as server:
        assert server.url == f"http://[::1]:{server.address[1]}"
        assert (await server.get()).status == 200


async def test_wildcard_answers_to_the_address_that_was_reached() -> None:
    async with running(PlainApp(), host="0.0.0.0") as server:
        assert (await server.get()).status == 200
        assert (await server.say(b"GET / HTTP/1.1\r\nHost: 10.1.2.3\r\n\r\n")).startswith(b"HTTP/1.1 403 ")


async def test_port_in_use_is_an_error() -> None:
    async with running(PlainApp()) as server:
        with pytest.raises(OSError, match="in use"):
            await serve(PlainApp(), host="127.0.0.1", port=server.address[1], stopping=trio.Event())


async def test_idle_connections_end_at_once_and_new_ones_are_refused() -> None:
    async with running(PlainApp(), ServerLimits(grace_s=1000)) as server:
        async with server.connect() as used, server.connect() as fresh, server.connect() as halfway:
            await used.get()
            await halfway.send(b"GET / HT")
            await used.get()  # the others were accepted before this was answered
            server.stopping.set()
            for peer in (used, fresh, halfway):
                assert await peer.rest() == b""
        with pytest.raises(OSError, match="failed"):
            await server.get()


async def test_requests_that_run_are_finished() -> None:
    app = PlainApp()
    async with running(app, ServerLimits(grace_s=1000)) as server, server.connect() as peer, server.connect() as idle:
        await peer.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
        await server.wait_until(lambda: app.executed == ["/wait"])
        server.stopping.set()
        assert await idle.rest() == b""  # the server is stopping
        app.gate.set()
        assert (await peer.response()).body == b"waited"
        assert await peer.rest() == b""
    assert server.incidents.count.total() == 0


@pytest.mark.parametrize("path", ["/wait", "/flood"])
async def test_the_end_is_bounded(path: str) -> None:
    """By a request that never ends, and by a client that never reads (its write is shielded)."""
    app = PlainApp()
    limits = ServerLimits(grace_s=0.2, disconnect_s=0.1, write_s=1000, finish_s=1000, linger_s=1000)
    async with running(app, limits) as server, server.connect() as peer:
        await peer.send(b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        await server.wait_until(lambda: app.executed == [path])
        with trio.fail_after(PATIENCE_S):
            await wait_all_tasks_blocked(0.05)  # the socket's buffers are full
        await server.stop()
        assert app.cancelled == [path]
        assert server.incidents.count == {"grace_cut": 1}


async def test_cancelling_ends_it_too() -> None:
    """Also a write that is shielded, to a client that is still there."""
    app = PlainApp()
    start = functools.partial(
        serve, app, host="127.0.0.1", port=0, stopping=trio.Event(), limits=ServerLimits(write_s=1000)
    )
    with trio.socket.socket() as client, trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(start)
            await client.connect(("127.0.0.1", int(url.rsplit(":")[-1])))
            await client.send(b"GET /flood HTTP/1.1\r\n" + HOST + b"\r\n")
            await client.recv(1)
            await wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
    assert app.cancelled == ["/flood"]


async def test_lifespan_surrounds_all_requests() -> None:
    app = quart_app()
    seen: list[str] = []
    app.before_serving(lambda: seen.append("started"))
    app.after_serving(lambda: seen.append("ended"))
    async with running(app) as server:
        assert seen == ["started"]
        await server.get()
    assert seen == ["started", "ended"]


async def test_application_that_does_not_start() -> None:
    app = quart_app()

    @app.before_serving
    async def fail() -> None:
        raise ValueError("canary")

    with pytest.raises(ExceptionGroup) as caught:
        await serve(app, host="127.0.0.1", port=0, stopping=trio.Event())
    assert caught.group_contains(LifespanFailureError)


async def test_lifespan_that_does_not_end_is_left() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep_forever()

    async with running(app, SHORT) as server:
        pass
    assert server.incidents.count["lifespan_slow"] == 1


async def test_faulted_says_when_to_try_again() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise Faulted("storage_full", "free some space", retry_after_s=5)

    async with running(app) as server:
        answer = await server.get()
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize("value", [0, -1])
def test_limits_are_positive(value: int) -> None:
    with pytest.raises(ValueError, match="head_s"):
        ServerLimits(head_s=value)
