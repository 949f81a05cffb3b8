"""HTTP/1.1 and WebSocket, strictly. Owns: what of h11 and Hypercorn is refused or bounded. Never: reads a socket.

HTTP/2 is off: Hypercorn's has no back-pressure (`h2c` upgrades are ignored, the prior-knowledge preface is refused).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

import h11
import trio
from h11._readers import ChunkedReader
from hypercorn.events import Closed
from hypercorn.protocol.events import Data, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WebsocketBuffer, WSStream
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.events import Event as FrameEvent
from wsproto.frame_protocol import CloseReason

from solo_trio.errors import Rejected
from solo_trio.gateways.http.chunks import LOOSE, StrictChunks
from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.gateways.http.problems import problem_response
from solo_trio.policy.bucket import Bucket

_HEAD_END: Final = b"\r\n\r\n"
_LENGTHS: Final = re.compile(rb"\ncontent-length:(?:[^\r]*,|.*\ncontent-length:)", re.IGNORECASE | re.DOTALL)
"""More than one length, even the same twice: another server may take the other, or none."""
_TOO_LARGE: Final = frozenset({413, 414, 431})
_CLOSED_AT_ONCE: Final = frozenset({CloseReason.MESSAGE_TOO_BIG, CloseReason.POLICY_VIOLATION})
SLICE_BYTES: Final = 512
"""What a client says on a WebSocket is looked at in pieces of this size, and others have their turn after each: a read
holds ten thousand empty frames."""


class StrictConnection(h11.Connection):
    """h11 without what it forgives in a head."""

    def __init__(self, head_bytes_max: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=head_bytes_max)
        self._head_bytes_max = head_bytes_max

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            head = self.trailing_data[0].partition(_HEAD_END)[0]
            if len(head) > self._head_bytes_max:
                raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)
            if LOOSE.search(head):
                raise h11.RemoteProtocolError("the head has loose line ends, folded headers or control characters")
            if _LENGTHS.search(head):
                raise h11.RemoteProtocolError("the head has more than one Content-Length")
        return super().next_event()

    def _get_io_object(self, role: Any, event: Any, io_dict: Any) -> Any:
        found = super()._get_io_object(role, event, io_dict)
        return StrictChunks(self._head_bytes_max) if isinstance(found, ChunkedReader) else found


class _BoundedBuffer(WebsocketBuffer):
    """Hypercorn's keeps growing after the limit: it writes first."""

    def extend(self, event: Message[Any]) -> None:
        if self.length + len(event.data) > self.max_length:
            raise FrameTooLargeError
        super().extend(event)


class StrictWebSocket(WSStream):
    """Without compression (a bomb), and closed, not only told, when a message is too big or frames are too many."""

    write_now: Callable[[bytes], int]
    """What the socket takes at once of a write; the rest must follow before anything else is written."""
    heard: Bucket
    """A token for each frame of the client. Those that carry nothing, and control frames, no application ever sees."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.buffer = _BoundedBuffer(self.config.websocket_max_message_size)

    async def handle(self, event: StreamEvent) -> None:
        if isinstance(event, Request):
            kept = [each for each in event.headers if each[0].lower() != b"sec-websocket-extensions"]
            event = replace(event, headers=kept)
        if isinstance(event, Data) and self.handshake.accepted:
            for start in range(0, len(event.data), SLICE_BYTES):
                if self.closed:
                    return
                await trio.lowlevel.checkpoint()
                await super().handle(replace(event, data=event.data[start : start + SLICE_BYTES]))
        else:
            await super().handle(event)

    async def _handle_events(self) -> None:
        """Hypercorn's, and each frame costs a token."""
        for event in self.connection.events():
            if self.closed:
                return
            if getattr(event, "frame_finished", True):
                self.heard, allowed = self.heard.take(1.0, trio.current_time())
                if not allowed:
                    await self._send_wsproto_event(CloseConnection(CloseReason.POLICY_VIOLATION, "rate_limited"))
                    return
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except FrameTooLargeError:
                    await self._send_wsproto_event(CloseConnection(CloseReason.MESSAGE_TOO_BIG))
                    return
                if event.message_finished:
                    assert self.app_put is not None
                    await self.app_put(self.buffer.to_message())
                    self.buffer.clear()
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                if self.connection.state is ConnectionState.REMOTE_CLOSING:
                    await self._send_wsproto_event(event.response())
                await self.send(StreamClosed(stream_id=self.stream_id))

    async def app_send(self, message: Any) -> None:
        """Also takes `frames`: finished ones, which nothing needs to look at again (`encoded.py`)."""
        if message is not None and "frames" in message:
            if self.state is ASGIWebsocketState.CONNECTED and not self.closed:
                frames = message["frames"]
                sent = self.write_now(frames)
                if sent < len(frames):
                    with trio.CancelScope(shield=True):  # bounded by the write; half a frame is worse than late
                        await self.send(Data(stream_id=self.stream_id, data=frames[sent:]))
            return
        await super().app_send(message)

    async def _send_wsproto_event(self, event: FrameEvent) -> None:
        await super()._send_wsproto_event(event)
        if isinstance(event, CloseConnection) and event.code in _CLOSED_AT_ONCE:
            await self.send(StreamClosed(stream_id=self.stream_id))


class StrictProtocol(H11Protocol):
    """Hypercorn's HTTP/1.1 with `StrictConnection`, the streams above, and answers that always carry X-Request-ID."""

    def __init__(
        self, *args: Any, limits: ServerLimits, new_request_id: Callable[[], str], write_now: Callable[[bytes], int]
    ) -> None:
        super().__init__(*args)
        self._limits = limits
        self._write_now = write_now
        self.connection = StrictConnection(limits.head_bytes_max)
        self._new_request_id = new_request_id

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn switches to HTTP/2 here; `_create_stream` refuses instead."""

    async def _create_stream(self, request: h11.Request) -> None:
        headers = list(request.headers)
        names = {name for name, _ in headers}
        upgrades = _tokens(headers, b"connection") >= {b"upgrade"} and request.method == b"GET"
        to_websocket = upgrades and _tokens(headers, b"upgrade") == {b"websocket"}
        framed = names & {b"content-length", b"transfer-encoding"}
        if (
            request.http_version not in (b"1.0", b"1.1")
            or not request.target.startswith(b"/")
            or b"#" in request.target
            or request.method != request.method.upper()  # methods are case-sensitive: `get` is not GET
            or len(framed) == 2
            or (framed and to_websocket)
            or (b"transfer-encoding" in names and request.http_version == b"1.0")
        ):
            await self._send_error_response(400)
            await self.send(Closed())
            return
        stream_class: type[HTTPStream | WSStream] = HTTPStream
        if to_websocket:
            stream_class = StrictWebSocket
            self.connection = H11WSConnection(cast(h11.Connection, self.connection))
        self.stream = stream_class(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        if isinstance(self.stream, StrictWebSocket):
            self.stream.write_now = self._write_now
            burst = self._limits.frames_burst
            self.stream.heard = Bucket(self._limits.frames_per_s, burst, burst, trio.current_time())
        self.keep_alive_requests += 1
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=request.target,
                state=self.connection_state,
            )
        )

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and all(name != b"x-request-id" for name, _ in event.headers):
            event = replace(event, headers=[*event.headers, self._request_id_header()])
        await super().stream_send(event)
        if isinstance(event, EndBody) and isinstance(self.stream, WSStream):
            # An answer other than 101. Hypercorn would leave the connection open, deaf and without a timeout.
            await self.send(Closed())

    async def _send_error_response(self, status_code: int) -> None:
        request_id = self._request_id_header()
        if status_code in _TOO_LARGE:
            error = Rejected("too_large", "send fewer or shorter headers")
        else:
            error = Rejected("invalid_header", "send well-formed HTTP/1.1 with a path that starts with /")
        status, headers, body = problem_response(error, request_id[1].decode())
        headers += [request_id, (b"connection", b"close"), *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    def _request_id_header(self) -> tuple[bytes, bytes]:
        return b"x-request-id", self._new_request_id().encode("ascii")


def _tokens(headers: list[tuple[bytes, bytes]], name: bytes) -> set[bytes]:
    return {token.strip().lower() for each, value in headers if each == name for token in value.split(b",") if token}
