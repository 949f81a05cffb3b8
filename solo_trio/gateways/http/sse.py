"""Server-sent events. Owns: their frames, the response that goes on. Never: how many there are, when one ends."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson
from quart import Response

from solo_trio.gateways.http.encoded import SSE_TAIL, Encodings
from solo_trio.gateways.http.streams import Dialect, OpenStreams, Telling
from solo_trio.model.capability import Authority
from solo_trio.model.record import StoredEvent
from solo_trio.operations.table import Follow


class EventFrames:
    """`id:` to resume from, `event:` its type, `data:` the bare event in one line."""

    marks = False
    opening = b": solo\n\n"

    def __init__(self, encodings: Encodings, keep_alive_s: float) -> None:
        self._encodings = encodings
        self.quiet_s = keep_alive_s

    def items(self, page: list[StoredEvent]) -> bytes:
        parts: list[bytes] = []
        for stored in page:
            shown = self._encodings.of(stored)
            parts += (shown.sse_head, shown.json, SSE_TAIL)
        return b"".join(parts)

    def quiet(self, cursor: int) -> bytes:
        return b": keep-alive\n\n"

    def gap(self, oldest_id: int) -> bytes:
        return b'event: compacted\ndata: {"oldest_id": %d}\n\n' % oldest_id

    def restored(self, event_id: int) -> bytes:
        return b'event: restored\ndata: {"event_id": %d}\n\n' % event_id

    def end(self, reason: str, resume: int | None) -> bytes:
        more = b"" if resume is None else b', "resume": %d' % resume
        return b'event: end\ndata: {"reason": "%s"%s}\n\n' % (reason.encode(), more)


class LogFrames(EventFrames):
    """The same for log entries: `event: log`, `data:` the bare entry."""

    def items(self, page: list[dict[str, Any]]) -> bytes:  # type: ignore[override]
        return b"".join(b"id: %d\nevent: log\ndata: %s\n\n" % (entry["id"], orjson.dumps(entry)) for entry in page)


def stream_response(source: Follow, dialect: Dialect, streams: OpenStreams, authority: Authority) -> Response:
    """A response that goes on until the client leaves or the kernel closes; it counts from now on.

    Raises `Faulted("overloaded")`.
    """
    streams.check(authority)

    async def counted() -> AsyncIterator[bytes]:
        try:
            async with aclosing(Telling(source, dialect, streams, authority).writes()) as writes:
                async for data in writes:
                    yield data
        finally:
            ended()

    response = Response(counted(), 200, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None
    streams.add(authority)
    ended = weakref.finalize(response, streams.remove, authority)  # also if its client left before it began
    return response
