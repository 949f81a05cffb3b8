"""Server-sent events. Owns: the frames, the keep-alive comment. Never: buffers (the server bounds a slow reader)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import orjson
import trio
from quart import Response

from solo_trio.kernel.hub import Watch
from solo_trio.model import codec
from solo_trio.model.record import StoredEvent

KEEP_ALIVE_S: Final = 15.0
WRITE_BYTES: Final = 65_536
"""Events of one page are written together up to about this size."""


def frame(stored: StoredEvent) -> bytes:
    """One event: `id:` to resume from, `event:` its type, `data:` the bare event in one line."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (stored.id, stored.type.encode(), orjson.dumps(codec.public(stored)))


def event_stream(watch: Watch) -> Response:
    """A response that goes on until the client leaves or the kernel closes."""

    async def frames() -> AsyncIterator[bytes]:
        yield b": solo\n\n"
        while True:
            page = None
            with trio.move_on_after(KEEP_ALIVE_S):
                page = await watch.next_page()
            if page is None:
                yield b": keep-alive\n\n"
            elif page:
                gathered = b""
                for stored in page:
                    gathered += frame(stored)
                    if len(gathered) >= WRITE_BYTES:
                        yield gathered
                        gathered = b""
                if gathered:
                    yield gathered
            else:
                yield b'event: end\ndata: {"reason": "shutdown"}\n\n'
                return

    response = Response(frames(), 200, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None
    return response
