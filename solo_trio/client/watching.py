"""A stream of events or log entries, as a protocol. Owns: frames, where to resume, when to give up. Never: reads a socket."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from attrs import define, field

from solo_trio.client.asks import Ask
from solo_trio.client.connecting import STREAM_TIMEOUT_S
from solo_trio.errors import Faulted, SoloError

PATIENCE_S: Final = 3_600.0
"""So long a server may be away, counted from its last byte; a restart, an update and a reboot take less."""
RECONNECT_S: Final = 0.1
RECONNECT_S_MAX: Final = 3.0
DOUBLINGS_MAX: Final = 16
"""More would overflow."""
TOLD_AFTER: Final = 2
"""Failures in a row after which it is told: a stream that ends and is taken up at once is nothing to speak of."""
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
EVENT_STREAM: Final = "text/event-stream"
_RESTORED: Final = b"restored"
_NO_EVENTS: Final = (b"end", b"compacted", _RESTORED)
"""What the server says of the stream itself."""


class Onlooker(Protocol):
    """Who is told how a stream fares."""

    def gone(self, error: SoloError | None) -> None:
        """The server is away, and tried again; told once until it is back."""

    def back(self) -> None:
        """It is there again, after `gone`."""

    def place(self) -> str | None:
        """The server's URL for the next try, where it may have changed. Raises `Faulted` while there is none."""


@define
class EventStream:
    """Both clients drive one: `ask()` what to request, `connected()`, `received(data)`, `broken(error)` how long to wait."""

    last_id: int
    service_id: str | None = None
    type: str | None = None
    patience_s: float = PATIENCE_S
    onlooker: Onlooker | None = None
    clock: Callable[[], float] = time.monotonic
    _failures: int = 0
    _away_since: float | None = None
    _connected: bool = False
    _streamed: bool = False
    _hopeless: bool = False
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

    def place(self) -> str | None:
        """Another URL to ask than before, if it is known to have moved."""
        return self.onlooker.place() if self.onlooker is not None and self._failures else None

    def connected(self) -> None:
        """The server took the request: from now on a broken connection is made again."""
        self._connected = True

    def accepted(self, content_type: str) -> None:
        """The answer has begun. Raises `not_reachable` unless it is a stream of events."""
        if not content_type.startswith(EVENT_STREAM):
            raise Faulted("not_reachable", "what answered is not a Solo server: it sends no events")
        self.connected()

    def received(self, data: bytes) -> list[dict[str, Any]]:
        """The events completed by `data`, each exactly once whatever was sent before."""
        if data:
            self._is_there()
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        if len(rest) > LINE_BYTES_MAX:
            self._hopeless = True
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
            if kind == _RESTORED:
                self._begin_again(data)
            return self._event(data) if data and kind not in _NO_EVENTS else None
        return None

    def _event(self, data: bytes) -> dict[str, Any] | None:
        try:
            event: dict[str, Any] = json.loads(data)
            id_ = int(event["id"])
        except (ValueError, KeyError, TypeError):
            self._hopeless = True  # it would be sent again and again
            raise Faulted("not_reachable", "what answered is not a Solo server: an event is malformed") from None
        if id_ <= self.last_id:
            return None
        self.last_id = id_
        return event

    def _begin_again(self, data: bytes) -> None:
        """The log was restored from a backup: ids from there on are those of other events than were seen."""
        with suppress(ValueError, KeyError, TypeError):
            self.last_id = min(self.last_id, int(json.loads(data)["event_id"]) - 1)

    def _is_there(self) -> None:
        """It sends, be it nothing that is asked for: all failures before are over."""
        if self._failures >= TOLD_AFTER and self.onlooker is not None:
            self.onlooker.back()
        self._failures = 0
        self._away_since = None
        self._streamed = True

    def broken(self, error: SoloError | None) -> float:
        """The connection ended (None: in order); how many seconds to wait before the next.

        Raises `error` if it is a refusal, if there never was a connection, or if the server is away for longer than
        `patience_s`; its `extra["last_id"]` says where to go on.
        """
        now = self.clock()
        self._away_since = now if self._away_since is None else self._away_since
        self._failures += 1
        too_long = now - self._away_since >= self.patience_s
        refused = error is not None and not isinstance(error, Faulted)
        if refused or too_long or self._hopeless or not self._connected:
            raised = error or Faulted("not_reachable", "the server ended the stream, and does not come back")
            if self._streamed:
                raised.extra["last_id"] = self.last_id
            raise raised
        if self._failures == TOLD_AFTER and self.onlooker is not None:
            self.onlooker.gone(error)
        return float(min(RECONNECT_S * 2 ** min(self._failures - 1, DOUBLINGS_MAX), RECONNECT_S_MAX))


@define
class LogStream(EventStream):
    """The same for log entries; `last_id` is that of the last entry seen."""

    level: str | None = None

    def _where(self) -> tuple[str, str, dict[str, Any]]:
        return "/logs", "since", {"service_id": self.service_id, "level": self.level}


STREAM_HEADERS: Final = {"Accept": EVENT_STREAM}
__all__ = ["PATIENCE_S", "STREAM_HEADERS", "STREAM_TIMEOUT_S", "EventStream", "LogStream", "Onlooker"]
