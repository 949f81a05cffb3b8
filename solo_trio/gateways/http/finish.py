"""The sending side of one ASGI call. Owns: X-Request-ID, Connection, and the end of a response. Never: decides what is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from solo_trio.gateways.http.asgi import Message, Send
from solo_trio.gateways.http.incidents import Incidents

_STARTS: Final = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_BODIES: Final = frozenset({"http.response.body", "websocket.http.response.body"})


class FinishSend:
    """Lets Hypercorn end a response although the application is cancelled while it sends the last message.

    Quart-Trio cancels its own request as soon as it is told of the end, in the middle of that: keep-alive,
    `Connection: close` and the socket itself would be forgotten (`test_http_server.py`, both Quart versions).
    """

    def __init__(
        self, send: Send, *, request_id: str, finish_s: float, incidents: Incidents, cut: Callable[[], None]
    ) -> None:
        self._send = send
        self._header = (b"x-request-id", request_id.encode("ascii"))
        self._finish_s = finish_s
        self._incidents = incidents
        self._cut = cut
        self.closing = False
        """More of the request may be on its way, that nobody reads: the answer says that it is the last."""
        self.started = False
        self.accepted = False

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind in _STARTS:
            kept = [each for each in message.get("headers", ()) if each[0].lower() != self._header[0]]
            if self.closing:
                kept.append((b"connection", b"close"))
            await self._send({**message, "headers": [*kept, self._header]})
            self.started = True
            self.accepted = kind == "websocket.accept"
        elif kind in _BODIES and not message.get("more_body"):
            if message.get("body"):
                await self._send({**message, "more_body": True})
            await self._finish({**message, "body": b""})
        elif kind == "websocket.close":
            self.started = True
            await self._finish(message)
        else:
            await self._send(message)

    async def _finish(self, message: Message) -> None:
        with trio.move_on_after(self._finish_s, shield=True) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            self._incidents.add("finish_cut")
            self._cut()
