"""Request bodies, whole before the application runs. Owns: their size, pieces, time and sum. Never: looks inside.

Hypercorn limits none of it, and on Python 3.11's Quart a chunked body over Quart's limit hangs its request.
"""

from __future__ import annotations

import trio

from solo_trio.errors import Faulted, Rejected
from solo_trio.gateways.http.asgi import Message, Receive, Scope
from solo_trio.gateways.http.limits import ServerLimits


class BodyTooSlow(Exception):
    """The body did not end in time: the connection is worth no answer."""


class ClientGone(Exception):
    """The client left before its request was complete."""


class BodyBudget:
    """What all requests of a server hold in bodies."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self.held_bytes = 0

    def open(self) -> BodyReader:
        return BodyReader(self, self._limits)


class BodyReader:
    """One request's share; `close` gives it back, whatever happened."""

    def __init__(self, budget: BodyBudget, limits: ServerLimits) -> None:
        self._budget = budget
        self._limits = limits
        self._held_bytes = 0

    async def read(self, scope: Scope, receive: Receive) -> Receive:
        """A `receive` that answers with the whole body first.

        Raises `Rejected("too_large")`, `Faulted("overloaded")`, `BodyTooSlow`, `ClientGone`.
        """
        declared = 0
        chunked = False
        for name, value in scope["headers"]:
            if name == b"content-length":
                declared = int(value)  # digits: h11 has checked
            chunked = chunked or name == b"transfer-encoding"
        if declared > self._limits.body_bytes_max:
            raise self._too_large()
        if not declared and not chunked:
            return receive
        with trio.move_on_after(self._limits.body_s):
            return _replay(await self._read_all(receive), receive)
        raise BodyTooSlow

    async def _read_all(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGone
            part = message.get("body", b"")
            parts.append(part)
            self._held_bytes += len(part)
            self._budget.held_bytes += len(part)
            if self._held_bytes > self._limits.body_bytes_max or len(parts) > self._limits.body_parts_max:
                raise self._too_large()
            if self._budget.held_bytes > self._limits.bodies_bytes_max:
                raise Faulted("overloaded", "too many bodies are being received; try again", retry_after_s=1)
            if not message.get("more_body"):
                return b"".join(parts)

    def _too_large(self) -> Rejected:
        limit = self._limits.body_bytes_max
        return Rejected("too_large", f"send a body of at most {limit} bytes, in few pieces", limit_bytes=limit)

    def close(self) -> None:
        self._budget.held_bytes -= self._held_bytes
        self._held_bytes = 0


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        if first:
            await trio.lowlevel.checkpoint()
            return first.pop()
        return await receive()

    return receive_again
