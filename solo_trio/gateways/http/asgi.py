"""ASGI as used here. Owns: names for its types, and the queue before an application. Never: reads a socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


class Inbox:
    """What the wire received for one application call. Full: the wire waits. A disconnect never waits.

    Hypercorn's own queue deadlocks when the application left with the queue full: the reader waits for room, and so
    does the disconnect that would end the reader (`test_http_inbox.py`).
    """

    def __init__(self, messages_max: int) -> None:
        self._put, self._take = trio.open_memory_channel[Message](messages_max)
        self._last: Message | None = None

    async def put(self, message: Message) -> None:
        """Dropped after a disconnect, and after the application ended."""
        if message["type"].endswith(".disconnect"):
            self._last = self._last or message
            self._put.close()
            return
        try:
            await self._put.send(message)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            await trio.lowlevel.checkpoint()

    async def receive(self) -> Message:
        try:
            return await self._take.receive()
        except trio.EndOfChannel:
            assert self._last is not None
            return self._last

    def close(self) -> None:
        self._take.close()
