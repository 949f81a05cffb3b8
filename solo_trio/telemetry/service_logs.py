"""Services' logs. Owns: taking lines without blocking, what each may take, when they are written. Never: their meaning.

Lines are gathered in memory and written by a thread, so that a slow
disk cannot block a service or the kernel; what comes faster than a bound is dropped, counted, and the count is logged.
Logs are not acknowledged work: the last fraction of a second may be lost in a crash of the kernel.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import trio
from attrs import define, field

from solo_trio.model.codec import rfc3339
from solo_trio.policy.bucket import Bucket
from solo_trio.ports import Clock, LogQuery, LogSink, Telemetry
from solo_trio.telemetry import log_files
from solo_trio.telemetry.log_files import LEVELS, file_of

FLUSH_INTERVAL_S: Final = 0.1
PENDING_BYTES_MAX: Final = 8 * 1_048_576
"""Of all services together, waiting for the writer; above it a tenant has only what is kept for it."""
PENDING_TENANT_BYTES_MAX: Final = 2 * 1_048_576
"""Of one tenant, waiting for the writer."""
PENDING_TENANT_BYTES_KEPT: Final = 131_072
"""So much a tenant may have waiting whatever others have: none can make another lose its lines."""
MESSAGE_BYTES_MAX: Final = 65_536
FIELDS_BYTES_MAX: Final = 16_384
"""As JSON; larger fields are left out, and a note says so."""
BURST_SECONDS: Final = 2.0
LINE_BYTES_MIN: Final = 128
"""What a line takes besides its message, at least: a line that cannot be allowed is not encoded first."""
ID_BYTES: Final = len(b'"id":1700000000000000,')
READ_THREADS_MAX: Final = 2
OUTAGE_QUIET_S: Final = 60.0
"""An error that was not seen for so long is a new outage when it comes again."""

Stream = Literal["stdout", "stderr", "log"]
Key = tuple[str, str]
"""A tenant's incarnation, a service's id."""


class _Sink:
    """One generation's way into the logs."""

    def __init__(self, logs: ServiceLogFiles, key: tuple[str, str], generation: int, bytes_per_s: int | None) -> None:
        self._logs = logs
        self._key = key
        self._generation = generation
        rate = float(bytes_per_s) if bytes_per_s is not None else float("inf")
        self._bucket = Bucket(rate, rate * BURST_SECONDS, rate * BURST_SECONDS, logs.clock.monotonic())
        self._bounded = bytes_per_s is not None
        self._dropped = 0

    def __call__(self, stream: Stream, level: str, message: str, fields: dict[str, Any]) -> None:
        now = self._logs.clock.monotonic()
        if not self._allows(min(len(message), MESSAGE_BYTES_MAX) + LINE_BYTES_MIN, now):
            self._dropped += 1
            return
        line = self._logs.encode(self._key, self._generation, stream, level, message, fields)
        if self._bounded:
            self._bucket, allowed = self._bucket.take(float(len(line) + ID_BYTES), now)
            if not allowed:
                self._dropped += 1
                return
        if self._dropped and self._logs.put(self._key, self._note(self._dropped)):
            self._dropped = 0
        if not self._logs.put(self._key, line):
            self._dropped += 1

    def _allows(self, cost: int, now: float) -> bool:
        return not self._bounded or self._bucket.take(float(cost), now)[1]

    def _note(self, dropped: int) -> bytes:
        message = f"{dropped} lines were dropped: more than log_bytes_per_s"
        return self._logs.encode(self._key, self._generation, "log", "warning", message, {"dropped": dropped})


@define(eq=False)
class _Pending:
    """One tenant's lines that wait for the writer."""

    lines: dict[str, list[bytes]] = field(factory=dict)
    bytes: int = 0


class ServiceLogFiles:
    """Implements `ports.ServiceLogs` below `directory`. Run `run` in a nursery; `flush` before reading is done by `read`."""

    def __init__(self, directory: Path, clock: Clock, telemetry: Telemetry) -> None:
        self.directory = directory
        self.clock = clock
        self._telemetry = telemetry
        self._pending: dict[str, _Pending] = {}
        self._pending_bytes = 0
        self._last_id = 0
        self._writing = trio.Lock()
        self._writers = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(READ_THREADS_MAX)
        self._outages: dict[int | None, float] = {}
        """The number of an error -> when it was last seen."""

    def sink(self, incarnation: str, service_id: str, generation: int, *, bytes_per_s: int | None) -> LogSink:
        return _Sink(self, (incarnation, service_id), generation, bytes_per_s)

    def encode(
        self, key: Key, generation: int, stream: Stream, level: str, message: str, fields: dict[str, Any]
    ) -> bytes:
        """One entry as a line, of bounded length; its id is put before it when it is taken."""
        entry = {
            "at": rfc3339(self.clock.wall_us()),
            "level": level if level in LEVELS else "info",
            "service_id": key[1],
            "generation": generation,
            "stream": stream,
            "message": orjson.Fragment(_message(message)),
            "fields": orjson.Fragment(_fields(fields)),
        }
        return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)

    def put(self, key: Key, line: bytes) -> bool:
        """Take one line; False if there is no room. Ids are microseconds, made unique, so they sort by time."""
        pending = self._pending.get(key[0])
        held = 0 if pending is None else pending.bytes
        room = PENDING_TENANT_BYTES_MAX if self._pending_bytes < PENDING_BYTES_MAX else PENDING_TENANT_BYTES_KEPT
        if held + len(line) + ID_BYTES > room:
            return False
        if pending is None:
            pending = self._pending[key[0]] = _Pending()
        self._last_id = max(self.clock.wall_us(), self._last_id + 1)
        pending.lines.setdefault(key[1], []).append(b'{"id":%d,%b' % (self._last_id, line[1:]))
        pending.bytes += len(line) + ID_BYTES
        self._pending_bytes += len(line) + ID_BYTES
        return True

    async def run(self) -> None:
        """Write what was taken, until cancelled; then write the rest once more."""
        try:
            while True:
                await trio.sleep(FLUSH_INTERVAL_S)
                await self.flush()
        finally:
            with trio.CancelScope(shield=True):
                await self.flush()

    async def flush(self) -> None:
        async with self._writing:
            if not self._pending:
                return
            pending, self._pending, self._pending_bytes = self._pending, {}, 0
            errors = await trio.to_thread.run_sync(self._write, pending, limiter=self._writers)
        now = self.clock.monotonic()
        for error in errors:
            seen = self._outages.get(error.errno)
            self._outages[error.errno] = now
            if seen is None or now - seen > OUTAGE_QUIET_S:
                self._telemetry.note("services' logs cannot be written", error=error)

    def _write(self, pending: Mapping[str, _Pending]) -> list[OSError]:
        """One file that cannot be written costs its own lines and nobody else's."""
        errors = []
        for incarnation, each in pending.items():
            for service_id, lines in each.lines.items():
                try:
                    log_files.append(file_of(self.directory / incarnation, service_id), lines)
                except OSError as error:
                    errors.append(error)
        return errors

    async def read(self, query: LogQuery) -> list[dict[str, Any]]:
        await self.flush()
        directory = self.directory / query.incarnation
        return await trio.to_thread.run_sync(log_files.read, directory, query, limiter=self._readers)


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
