"""Server-sent events. Owns: the frames, the keep-alive comment, how many are open. Never: buffers (the server bounds a
slow reader)."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import orjson
import trio
from quart import Response

from solo_trio.errors import Faulted
from solo_trio.kernel.hub import Watch
from solo_trio.model import codec
from solo_trio.model.capability import Authority
from solo_trio.model.record import StoredEvent

KEEP_ALIVE_S: Final = 15.0
WRITE_BYTES: Final = 65_536
"""Events of one page are written together up to about this size."""
STREAMS_PER_TENANT_MAX: Final = 32
STREAMS_OF_SYSTEM_MAX: Final = 128
"""A stream holds one of the server's connections for as long as its client likes."""
RETRY_AFTER_S: Final = 5


def frame(stored: StoredEvent) -> bytes:
    """One event: `id:` to resume from, `event:` its type, `data:` the bare event in one line."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (stored.id, stored.type.encode(), orjson.dumps(codec.public(stored)))


class OpenStreams:
    """How many streams each tenant has open, and the system."""

    def __init__(self) -> None:
        self.count: Counter[str | None] = Counter()

    def check(self, authority: Authority) -> None:
        """Raises `Faulted("overloaded")` if whoever that is may open no more."""
        most = STREAMS_OF_SYSTEM_MAX if authority.is_system else STREAMS_PER_TENANT_MAX
        if self.count[authority.incarnation] >= most:
            raise Faulted(
                "overloaded", f"end one of the {most} event streams that are open, or wait", retry_after_s=RETRY_AFTER_S
            )

    def add(self, authority: Authority) -> None:
        self.count[authority.incarnation] += 1

    def remove(self, authority: Authority) -> None:
        self.count[authority.incarnation] -= 1
        if not self.count[authority.incarnation]:
            del self.count[authority.incarnation]


def event_stream(watch: Watch, streams: OpenStreams, authority: Authority) -> Response:
    """A response that goes on until the client leaves or the kernel closes; it counts from now on.

    Raises `Faulted("overloaded")`.
    """
    streams.check(authority)

    async def counted() -> AsyncIterator[bytes]:
        try:
            async with aclosing(frames(watch)) as parts:
                async for part in parts:
                    yield part
        finally:
            ended()

    response = Response(counted(), 200, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None
    streams.add(authority)
    ended = weakref.finalize(response, streams.remove, authority)  # also if its client left before it began
    return response


async def frames(watch: Watch) -> AsyncGenerator[bytes, None]:
    """What is written. A page is let go event by event: a client that does not read keeps the rest of one, no more."""
    yield b": solo\n\n"
    while True:
        page: deque[StoredEvent] | None = None
        with trio.move_on_after(KEEP_ALIVE_S):
            page = deque(await watch.next_page())
        if page is None:
            yield b": keep-alive\n\n"
        elif page:
            while page:
                yield _gather(page)
        else:
            yield b'event: end\ndata: {"reason": "shutdown"}\n\n'
            return


def _gather(page: deque[StoredEvent]) -> bytes:
    gathered = b""
    while page and len(gathered) < WRITE_BYTES:
        gathered += frame(page.popleft())
    return gathered
