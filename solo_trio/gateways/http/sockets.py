"""WebSockets. Owns: the handshake's answer, the watcher's frames, what a client may say (nothing), the close. Never: decides
who may watch what (that is the operation).

Plain ASGI on Hypercorn, not Quart: a thousand watchers. What is sent are finished frames (`websocket.send` with `frames`, which
`wire.py` takes), made once for all of them and many in one write.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final
from urllib.parse import parse_qsl

import trio
from attrs import evolve
from wsproto.frame_protocol import CloseReason

from solo_trio.errors import Rejected
from solo_trio.gateways.http.asgi import Receive, Scope, Send
from solo_trio.gateways.http.encoded import SOCKET_TAIL, Encodings, text_frame
from solo_trio.gateways.http.limits import StreamLimits
from solo_trio.gateways.http.requests import ONCE, bearer, certificate_of, check_once, peer_of, single
from solo_trio.gateways.http.streams import OpenStreams, Telling
from solo_trio.model.record import StoredEvent
from solo_trio.operations.caller import System
from solo_trio.operations.perform import OPERATIONS, Request, admit, attempt, perform
from solo_trio.operations.table import EventStream
from solo_trio.policy.bucket import Bucket

QUERY_FIELDS_MAX: Final = 32
SWITCHING_PROTOCOLS: Final = 101
_CODES: Final = {
    "shutdown": CloseReason.GOING_AWAY,
    "too_slow": CloseReason.TRY_AGAIN_LATER,
    "revoked": CloseReason.POLICY_VIOLATION,
}


class WatchFrames:
    """`{"event": {...}}`, `{"bookmark": id}`, `{"compacted": {...}}`, `{"end": {...}}`, each a text frame."""

    marks = True
    opening = b""

    def __init__(self, encodings: Encodings, bookmark_s: float) -> None:
        self._encodings = encodings
        self.quiet_s = bookmark_s

    def items(self, page: list[StoredEvent]) -> bytes:
        parts: list[bytes] = []
        for stored in page:
            shown = self._encodings.of(stored)
            parts += (shown.socket_head, shown.json, SOCKET_TAIL)
        return b"".join(parts)

    def quiet(self, cursor: int) -> bytes:
        return text_frame(b'{"bookmark":%d}' % cursor)

    def gap(self, oldest_id: int) -> bytes:
        return text_frame(b'{"compacted":{"oldest_id":%d}}' % oldest_id)

    def restored(self, event_id: int) -> bytes:
        return text_frame(b'{"restored":{"event_id":%d}}' % event_id)

    def end(self, reason: str, resume: int | None) -> bytes:
        more = b"" if resume is None else b',"resume":%d' % resume
        return text_frame(b'{"end":{"reason":"%s"%s}}' % (reason.encode(), more))


class Sockets:
    """Every WebSocket route of the table."""

    def __init__(self, system: System, streams: OpenStreams, encodings: Encodings) -> None:
        self._system = system
        self._streams = streams
        self._encodings = encodings
        self._routes = {each.path: each for each in OPERATIONS.values() if each.transport == "websocket"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `SoloError` for a refusal, before the upgrade: the server answers it as for any request."""
        operation = self._routes.get(scope["path"].rstrip("/"))
        if operation is None:
            raise Rejected("not_found", "no WebSocket is there; events are watched on /events/watch")
        with attempt(self._system, operation, {}, str(scope["state"]["request_id"]), peer_of(scope)) as followed:
            request = evolve(_request(scope), attempt=followed)
            admit(self._system, operation, request.token, followed, request.certificate)
            answer = await perform(self._system, operation, request)
            assert isinstance(answer, EventStream)
            authority = answer.authority
            self._streams.check(authority)
            followed.status = SWITCHING_PROTOCOLS
        self._streams.add(authority)
        try:
            await send({"type": "websocket.accept"})
            dialect = WatchFrames(self._encodings, self._streams.limits.bookmark_s)
            telling = Telling(answer.watch, dialect, self._streams, authority)
            await _Watcher(telling, self._streams.limits).run(receive, send)
        finally:
            self._streams.remove(authority)


class _Watcher:
    """One open socket: a task that tells, a task that hears."""

    def __init__(self, telling: Telling, limits: StreamLimits) -> None:
        self._telling = telling
        self._limits = limits
        self._close: tuple[int, str] | None = None
        """With what to close it; None once the client has left."""

    async def run(self, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, receive, nursery.cancel_scope)
            async with aclosing(self._telling.writes()) as writes:
                async for frames in writes:
                    await send({"type": "websocket.send", "frames": frames})
            self._close = _CODES[self._telling.reason], self._telling.reason
            nursery.cancel_scope.cancel()
        if self._close is not None:
            code, reason = self._close
            if not self._telling.reason:
                end = text_frame(b'{"end":{"reason":"%s"}}' % reason.encode())
                await send({"type": "websocket.send", "frames": end})
            await send({"type": "websocket.close", "code": int(code), "reason": reason})

    async def _hear(self, receive: Receive, everything: trio.CancelScope) -> None:
        """A watcher is never spoken to in silence: without this its leaving would not be seen, its flood not be stopped."""
        limits = self._limits
        bucket = Bucket(limits.heard_per_s, limits.heard_burst, limits.heard_burst, trio.current_time())
        while True:
            message = await receive()
            if message["type"] == "websocket.connect":
                continue
            if message["type"] == "websocket.disconnect":
                break
            if len(message.get("text") or message.get("bytes") or "") > limits.heard_bytes_max:
                self._close = CloseReason.MESSAGE_TOO_BIG, "too_large"
                break
            bucket, allowed = bucket.take(1.0, trio.current_time())
            if not allowed:
                self._close = CloseReason.POLICY_VIOLATION, "rate_limited"
                break
        everything.cancel()


def _request(scope: Scope) -> Request:
    """The handshake's parts, by the same rules as a request's."""
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    check_once(lambda name: headers.get(name.lower(), []))
    try:
        fields = parse_qsl(
            scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX
        )
    except ValueError:
        raise Rejected("invalid_field", f"give at most {QUERY_FIELDS_MAX} query parameters") from None
    first = {name.lower(): headers.get(name.lower(), [None])[0] for name in ONCE}
    return Request(
        token=bearer(first["authorization"]),
        tenant_id=first["x-tenant-id"],
        query=single(fields),
        request_id=str(scope["state"]["request_id"]),
        certificate=certificate_of(scope),
    )
