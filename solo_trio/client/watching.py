"""A stream of events or log entries, as a protocol. Owns: frames, where to resume, when to give up. Never: reads a socket."""

from __future__ import annotations

import json
from typing import Any, Final

from attrs import define, field

from solo_trio.client.asks import Ask
from solo_trio.client.connecting import STREAM_TIMEOUT_S
from solo_trio.errors import Faulted

RECONNECTS_MAX: Final = 8
"""In a row, without an event in between."""
RECONNECT_S: Final = 0.1
RECONNECT_S_MAX: Final = 3.0
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
_NO_EVENTS: Final = (b"end", b"compacted")
"""What the server says of the stream itself."""


@define
class EventStream:
    """Both clients drive one: `ask()` what to request, `connected()`, `received(data)`, `broken(error)` how long to wait."""

    last_id: int
    service_id: str | None = None
    type: str | None = None
    reconnects_max: int = RECONNECTS_MAX
    _failures: int = 0
    _connected: bool = False
    _buffer: bytearray = field(factory=bytearray)
    _data: list[bytes] = field(factory=list)
    _kind: bytes = b""

    def ask(self) -> Ask[None]:
        """The request of the next connection."""
        self._buffer.clear()
        self._data.clear()
        self._kind = b""
        path, since, filters = self._where()
        query = {since: self.last_id} | {name: value for name, value in filters.items() if value is not None}
        return Ask("GET", path, lambda document: None, query)

    def _where(self) -> tuple[str, str, dict[str, Any]]:
        """The path, what the last id is called there, what else is asked for."""
        return "/events", "since_id", {"service_id": self.service_id, "type": self.type}

    def connected(self) -> None:
        """The server took the request: from now on a broken connection is made again."""
        self._connected = True

    def received(self, data: bytes) -> list[dict[str, Any]]:
        """The events completed by `data`, each exactly once whatever was sent before."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            raise Faulted("not_reachable", "what answered is not a Solo server: a line of its stream does not end")
        self._buffer = bytearray(rest)
        events = []
        for line in lines:
            event = self._line(bytes(line).rstrip(b"\r"))
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: bytes) -> dict[str, Any] | None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value
        elif not line:
            data, kind = b"\n".join(self._data), self._kind
            self._data.clear()
            self._kind = b""
            return self._event(data) if data and kind not in _NO_EVENTS else None
        return None

    def _event(self, data: bytes) -> dict[str, Any] | None:
        try:
            event: dict[str, Any] = json.loads(data)
            id_ = int(event["id"])
        except (ValueError, KeyError, TypeError):
            raise Faulted("not_reachable", "what answered is not a Solo server: an event is malformed") from None
        if id_ <= self.last_id:
            return None
        self.last_id = id_
        self._failures = 0
        return event

    def broken(self, error: Faulted | None) -> float:
        """The connection ended (None: in order); how many seconds to wait before the next. Raises when it was one too often."""
        self._failures += 1
        if self._failures > self.reconnects_max or not self._connected:
            raise error or Faulted("not_reachable", "the server ended the stream, again and again")
        return float(min(RECONNECT_S * 2 ** (self._failures - 1), RECONNECT_S_MAX))


@define
class LogStream(EventStream):
    """The same for log entries; `last_id` is that of the last entry seen."""

    level: str | None = None

    def _where(self) -> tuple[str, str, dict[str, Any]]:
        return "/logs", "since", {"service_id": self.service_id, "level": self.level}


STREAM_HEADERS: Final = {"Accept": "text/event-stream"}
__all__ = ["STREAM_HEADERS", "STREAM_TIMEOUT_S", "EventStream", "LogStream"]
