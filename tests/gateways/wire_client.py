"""A running server and a client that says exactly the bytes it is told. Every wait is bounded."""

from __future__ import annotations

import functools
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import trio
from attrs import frozen

from solo_trio.gateways.http.incidents import Incidents
from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.gateways.http.server import serve
from solo_trio.gateways.http.tls import Tls
from solo_trio.gateways.http.tls_stream import HandshakeFailed, TlsStream

PATIENCE_S = 20.0
"""Longer than any wait that succeeds, even on a busy machine: reaching it is a failure."""
HOST = b"Host: localhost\r\n"
SHORT = ServerLimits(
    head_s=0.3,
    idle_s=0.5,
    body_s=0.3,
    write_s=0.3,
    write_bytes=16 * 1024,
    finish_s=1.0,
    disconnect_s=0.3,
    linger_s=0.3,
    grace_s=0.3,
    shutdown_s=0.3,
    body_bytes_max=10_000,
    body_parts_max=100,
    bodies_bytes_max=15_000,
    message_bytes_max=1_000,
    accept_retry_s=0.01,
)
"""For tests that wait for a limit to act; the others use the defaults, so that none acts by accident."""


@frozen
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        assert document["request_id"] == self.headers["x-request-id"]
        return document


class SecuredStream(TlsStream):
    """The client's end: what was sent to it can be read whatever became of its own sending, as on a plain socket."""

    def __init__(self, transport: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.transport, self.socket = transport, transport.socket
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._sending, self._closing = trio.Lock(), False
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def receive_some(self, bytes_max: int = 65_536) -> bytes:
        return await super().receive_some(bytes_max)

    async def send_eof(self) -> None:
        await super().send_eof()
        self._closing = False


class Peer:
    def __init__(self, stream: trio.SocketStream | SecuredStream) -> None:
        self.stream = stream
        self._buffer = b""
        self.was_reset = False

    async def send(self, data: bytes) -> None:
        """A server that closed already is fine: what matters is what comes back."""
        try:
            with trio.fail_after(PATIENCE_S):
                await self.stream.send_all(data)
        except trio.BrokenResourceError:
            self.was_reset = True

    async def _more(self) -> bool:
        with trio.fail_after(PATIENCE_S):
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:  # a reset is an end too
                self.was_reset = True
                data = b""
        self._buffer += data
        return bool(data)

    async def take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            assert await self._more(), f"closed in the middle of a response: {self._buffer!r}"
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            assert await self._more(), f"closed in the middle of a response: {self._buffer!r}"
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    async def response(self) -> Response:
        status = int((await self._line()).split()[1])
        headers = {}
        while line := await self._line():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = b""
        if "content-length" in headers:
            body = await self.take(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(await self._line(), 16):
                body += await self.take(size)
                await self._line()
            await self._line()
        return Response(status, headers, body)

    async def rest(self) -> bytes:
        """Everything up to the server's end of the connection."""
        while await self._more():
            pass
        taken, self._buffer = self._buffer, b""
        return taken

    async def get(self, path: str = "/", extra: bytes = b"") -> Response:
        await self.send(b"GET %s HTTP/1.1\r\n" % path.encode() + HOST + extra + b"\r\n")
        return await self.response()


class Running:
    def __init__(
        self, url: str, incidents: Incidents, stopping: trio.Event, client: ssl.SSLContext | None = None
    ) -> None:
        self.url = url
        self.client = client
        self.incidents = incidents
        self.stopping = stopping
        self.ended = trio.Event()
        host, _, port = url.partition("//")[2].rpartition(":")
        self.address = (host.strip("[]"), int(port))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Peer]:
        plain = await trio.open_tcp_stream(*self.address)
        stream: trio.SocketStream | SecuredStream = plain
        try:
            if self.client is not None:
                stream = SecuredStream(plain, self.client)
                with trio.fail_after(PATIENCE_S):
                    await stream.do_handshake()
            yield Peer(stream)
        finally:
            await trio.aclose_forcefully(plain)

    async def get(self, path: str = "/", extra: bytes = b"") -> Response:
        async with self.connect() as peer:
            return await peer.get(path, extra)

    async def say(self, data: bytes) -> bytes:
        try:
            async with self.connect() as peer:
                await peer.send(data)
                return await peer.rest()
        except (HandshakeFailed, trio.BrokenResourceError):  # it was not even let in
            return b""

    async def stop(self) -> None:
        """And wait for the end, bounded, while the clients are still there."""
        self.stopping.set()
        with trio.fail_after(PATIENCE_S):
            await self.ended.wait()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """For what the server's own tasks do without telling a client."""
        with trio.fail_after(PATIENCE_S):
            while not condition():
                await trio.lowlevel.checkpoint()


over_tls: ContextVar[tuple[Tls, ssl.SSLContext] | None] = ContextVar("over_tls", default=None)
"""With what servers and clients speak TLS; None: they do not."""


@asynccontextmanager
async def running(
    app: Any, limits: ServerLimits | None = None, host: str = "127.0.0.1", **options: Any
) -> AsyncIterator[Running]:
    """Serves while the block runs, then stops; the stop is bounded."""
    tls = over_tls.get()
    client = None if tls is None else tls[1]
    options.setdefault("tls", None if tls is None else tls[0])
    incidents = Incidents()
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        start = functools.partial(
            serve, app, host=host, port=0, stopping=stopping, limits=limits, incidents=incidents, **options
        )

        async def run(task_status: trio.TaskStatus[str]) -> None:
            await start(task_status=task_status)
            server.ended.set()

        url = await nursery.start(run)
        server = Running(url, incidents, stopping, client)
        try:
            yield server
        finally:
            stopping.set()
            nursery.cancel_scope.deadline = trio.current_time() + PATIENCE_S
    assert not nursery.cancel_scope.cancelled_caught, "the server did not stop"


class PlainApp:
    """ASGI by hand. `executed` is what really ran; `gate` holds `/wait` back."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.cancelled: list[str] = []
        self.gate = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        self.executed.append(scope["path"])
        try:
            await getattr(self, scope["path"].strip("/").replace("-", "_") or "root")(scope, receive, send)
        except trio.Cancelled:
            self.cancelled.append(scope["path"])
            raise

    async def _answer(self, send: Any, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length, *headers]})
        await send({"type": "http.response.body", "body": body})

    async def root(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(send, scope["state"]["request_id"].encode())

    async def own_id(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(send, b"", (b"X-Request-ID", b"forged"))

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        await self._answer(send, body)

    async def wait(self, scope: Any, receive: Any, send: Any) -> None:
        await self.gate.wait()
        await self._answer(send, b"waited")

    async def boom(self, scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("canary")

    async def boom_late(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("canary")

    async def silent(self, scope: Any, receive: Any, send: Any) -> None:
        pass

    async def bad_header(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(send, b"", (b"a", b"b\r\nc: d"))

    async def flood(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})

    async def ws(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            if message["text"] == "boom":
                raise ValueError("canary")
            await send({"type": "websocket.send", "text": message["text"]})

    async def ws_deaf(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await self.gate.wait()

    async def ws_late(self, scope: Any, receive: Any, send: Any) -> None:
        await self.gate.wait()
        await send({"type": "websocket.accept"})


def quart_app() -> Any:
    """The same `/`, `/echo`, `/boom` and `/ws` on Quart-Trio."""
    from quart import request, websocket
    from quart_trio import QuartTrio

    app = QuartTrio(__name__)
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.get("/")
    async def root() -> str:
        request_id: str = request.scope["state"]["request_id"]
        return request_id

    @app.post("/echo")
    async def echo() -> Any:
        return await request.get_data()

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("canary")

    @app.websocket("/ws")
    async def ws() -> None:
        while True:
            await websocket.send(await websocket.receive())

    return app


APPS = [PlainApp, quart_app]
