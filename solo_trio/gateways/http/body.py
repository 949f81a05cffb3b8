"""Request bodies, whole before the application runs. Owns: their size, pieces, time, sum and shares. Never: looks inside.

Who sends one is known from its head, and has a share: nobody keeps the others from being heard, least of all who has no
credential. Hypercorn limits none of it, and on Python 3.11's Quart a chunked body over Quart's limit hangs its request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

import trio
from attrs import frozen

from solo_trio.errors import Faulted, Rejected
from solo_trio.gateways.http.asgi import Message, Receive, Scope
from solo_trio.gateways.http.limits import ServerLimits


class BodyTooSlow(Exception):
    """The body did not end in time: the connection is worth no answer."""


class ClientGone(Exception):
    """The client left before its request was complete."""


@frozen
class Sender:
    """Whom a request's head names: nobody known here, a tenant (`key` tells it from others), or the system."""

    kind: Literal["unknown", "tenant", "system"]
    key: str = ""


SenderOf = Callable[[Scope], Sender]
UNKNOWN: Final = Sender("unknown")
SYSTEM: Final = Sender("system")


def everybody_alike(scope: Scope) -> Sender:
    """For an application without credentials."""
    return SYSTEM


class BodyBudget:
    """What all requests of a server hold in bodies."""

    def __init__(self, limits: ServerLimits, sender_of: SenderOf = everybody_alike) -> None:
        self._limits = limits
        self._sender_of = sender_of
        self._held_bytes = Counter[Sender]()
        self._of_tenants_bytes = 0
        self._unknown_bytes = 0
        """Declared, not received: so an unknown sender is never stopped half-way."""

    def open(self, scope: Scope) -> BodyReader:
        return BodyReader(self, self._limits, scope, self._sender_of)

    @property
    def held_bytes(self) -> int:
        return self._held_bytes.total()

    def keep_unknown(self, size_bytes: int) -> bool:
        """Whether there is room for one more body of that size from somebody unknown."""
        if self._unknown_bytes + size_bytes > self._limits.unknown_bodies_bytes_max:
            return False
        self._unknown_bytes += size_bytes
        return True

    def take(self, sender: Sender, size_bytes: int) -> bool:
        """Whether so much more is within everybody's bounds; it is held either way."""
        self._held_bytes[sender] += size_bytes
        within = self.held_bytes <= self._limits.bodies_bytes_max
        if sender.kind == "tenant":
            self._of_tenants_bytes += size_bytes
            within &= self._of_tenants_bytes <= self._limits.tenants_bodies_bytes_max
            within &= self._held_bytes[sender] <= self._limits.tenant_bodies_bytes_max
        return within

    def give_back(self, sender: Sender, size_bytes: int, unknown_bytes: int) -> None:
        self._unknown_bytes -= unknown_bytes
        if sender.kind == "tenant":
            self._of_tenants_bytes -= size_bytes
        self._held_bytes[sender] -= size_bytes
        if not self._held_bytes[sender]:
            del self._held_bytes[sender]


class BodyReader:
    """One request's share; `close` gives it back, whatever happened."""

    def __init__(self, budget: BodyBudget, limits: ServerLimits, scope: Scope, sender_of: SenderOf) -> None:
        self._budget = budget
        self._limits = limits
        self._scope = scope
        self._sender_of = sender_of
        self._sender = UNKNOWN
        self._held_bytes = 0
        self._unknown_bytes = 0
        self.dropped = False
        """The body is not kept: the application answers from the head, and the connection cannot go on."""

    async def read(self, receive: Receive) -> Receive:
        """A `receive` that answers with the whole body first; with none of it if it is `dropped`.

        Raises `Rejected("too_large")`, `Faulted("overloaded")`, `BodyTooSlow`, `ClientGone`.
        """
        declared = 0
        chunked = False
        for name, value in self._scope["headers"]:
            if name == b"content-length":
                declared = int(value)  # digits: h11 has checked
            chunked = chunked or name == b"transfer-encoding"
        if declared > self._limits.body_bytes_max:
            raise self._too_large()
        if not declared and not chunked:
            return receive
        self._sender = self._sender_of(self._scope)
        if self._sender.kind == "unknown":
            short = not chunked and declared <= self._limits.unknown_body_bytes_max
            if not short or not self._budget.keep_unknown(declared):
                self.dropped = True
                return self._drop(receive)
            self._unknown_bytes = declared
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
            within = self._budget.take(self._sender, len(part))
            if self._held_bytes > self._limits.body_bytes_max or len(parts) > self._limits.body_parts_max:
                raise self._too_large()
            if not within:
                raise Faulted("overloaded", "too many bodies are being received; try again", retry_after_s=1)
            if not message.get("more_body"):
                return b"".join(parts)

    def _drop(self, receive: Receive) -> Receive:
        async def receive_the_end() -> Message:
            with trio.move_on_after(self._limits.body_s):
                while (message := await receive())["type"] == "http.request":
                    pass
                return message
            raise BodyTooSlow

        return receive_the_end

    def _too_large(self) -> Rejected:
        limit = self._limits.body_bytes_max
        return Rejected("too_large", f"send a body of at most {limit} bytes, in few pieces", limit_bytes=limit)

    def close(self) -> None:
        self._budget.give_back(self._sender, self._held_bytes, self._unknown_bytes)
        self._held_bytes = self._unknown_bytes = 0


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        if first:
            await trio.lowlevel.checkpoint()
            return first.pop()
        return await receive()

    return receive_again
