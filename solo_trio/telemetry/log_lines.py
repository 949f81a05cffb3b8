"""Lines of services' logs. Owns: an entry's bytes, what one generation of a service may say. Never: files, waiting."""

from __future__ import annotations

import reprlib
from typing import Any, Final, Literal, Protocol

import orjson

from solo_trio.model.codec import rfc3339
from solo_trio.policy.bucket import Bucket
from solo_trio.policy.redaction import Redactor
from solo_trio.ports import Clock
from solo_trio.telemetry.log_files import LEVELS

MESSAGE_BYTES_MAX: Final = 65_536
FIELDS_BYTES_MAX: Final = 16_384
"""As JSON; larger fields are left out, and a note says so."""
BURST_SECONDS: Final = 2.0
LINE_BYTES_MIN: Final = 128
"""What a line takes besides its message, at least: a line that cannot be allowed is not encoded first."""
ID_BYTES: Final = len(b'"id":1700000000000000,')
DROPPED_TOLD_S: Final = 1.0
"""Between two entries that say how many lines were dropped; they count in no bound."""

Stream = Literal["stdout", "stderr", "log"]
Key = tuple[str, str]
"""A tenant's incarnation, a service's id."""


class Taker(Protocol):
    clock: Clock

    def put(self, key: Key, line: bytes) -> bool: ...

    def owes(self, sink: Sink) -> None: ...

    def settled(self, sink: Sink) -> None: ...


class Sink:
    """One generation's way into the logs, without the secrets that `redactor` knows by then."""

    def __init__(
        self, logs: Taker, key: Key, generation: int, bytes_per_s: int | None, redactor: Redactor | None = None
    ) -> None:
        self.key = key
        self._logs = logs
        self._generation = generation
        self._redactor = Redactor() if redactor is None else redactor
        rate = float(bytes_per_s) if bytes_per_s is not None else float("inf")
        self._bucket = Bucket(rate, rate * BURST_SECONDS, rate * BURST_SECONDS, logs.clock.monotonic())
        self._bounded = bytes_per_s is not None
        self._dropped = 0
        self._told_at = float("-inf")

    def __call__(self, stream: Stream, level: str, message: str, fields: dict[str, Any]) -> None:
        now = self._logs.clock.monotonic()
        if not self._allows(min(len(message), MESSAGE_BYTES_MAX) + LINE_BYTES_MIN, now):
            self._drop()
            return
        line = self._encode(stream, level, message, fields)
        if not self._takes(len(line) + ID_BYTES, now):
            self._drop()
            return
        if self._redactor:  # after it was paid for, and of no more than would be kept
            before = len(line)
            message = self._redactor.text(message[:MESSAGE_BYTES_MAX])
            line = self._encode(stream, level, message, self._redactor.json(orjson.loads(_fields(fields))))
            if len(line) > before and not self._takes(len(line) - before, now):
                self._drop()
                return
        if self._dropped:
            self.tell_dropped(now)
        if not self._logs.put(self.key, line):
            self._drop()

    def _allows(self, cost: int, now: float) -> bool:
        return not self._bounded or self._bucket.take(float(cost), now)[1]

    def _takes(self, cost: int, now: float) -> bool:
        if not self._bounded:
            return True
        self._bucket, allowed = self._bucket.take(float(cost), now)
        return allowed

    def _drop(self) -> None:
        self._dropped += 1
        self._logs.owes(self)

    def tell_dropped(self, now: float) -> None:
        """Say how many lines were dropped, unless that was said a moment ago."""
        if now - self._told_at < DROPPED_TOLD_S:
            return
        message = f"{self._dropped} lines were dropped: more than log_bytes_per_s"
        if self._logs.put(self.key, self._encode("log", "warning", message, {"dropped": self._dropped})):
            self._dropped, self._told_at = 0, now
            self._logs.settled(self)

    def _encode(self, stream: Stream, level: str, message: str, fields: dict[str, Any]) -> bytes:
        """One entry as a line, of bounded length; its id is put before it when it is written."""
        entry = {
            "at": rfc3339(self._logs.clock.wall_us()),
            "level": level if level in LEVELS else "info",
            "service_id": self.key[1],
            "generation": self._generation,
            "stream": stream,
            "message": orjson.Fragment(_message(message)),
            "fields": orjson.Fragment(_fields(fields)),
        }
        return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


def _message(message: str) -> bytes:
    """As JSON, cut to what a message may have."""
    message = message[:MESSAGE_BYTES_MAX]
    try:
        encoded = orjson.dumps(message)
    except TypeError:  # lone surrogates: keep what can be kept
        message = message.encode("utf-8", "backslashreplace").decode()
        encoded = orjson.dumps(message)
    while len(encoded) > MESSAGE_BYTES_MAX + 2:  # the quotes
        message = message[: len(message) * MESSAGE_BYTES_MAX // len(encoded)]
        encoded = orjson.dumps(message)
    return encoded


def _fields(fields: dict[str, Any]) -> bytes:
    """As JSON, or a note in their place."""
    try:
        encoded = orjson.dumps(fields)
    except TypeError:  # fields that are not JSON
        encoded = orjson.dumps({"unreadable": reprlib.repr(fields).encode("utf-8", "backslashreplace").decode()})
    if len(encoded) > FIELDS_BYTES_MAX:
        return orjson.dumps({"left_out": f"{len(encoded)} bytes of fields: more than {FIELDS_BYTES_MAX}"})
    return encoded
