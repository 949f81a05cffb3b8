"""Services' logs. Owns: taking lines without blocking, keeping them in bounded files, reading them. Never: their meaning.

One file and its predecessor per service, JSON lines. Lines are gathered in memory and written by a thread, so that a slow
disk cannot block a service or the kernel; what comes faster than a bound is dropped, counted, and the count is logged.
Logs are not acknowledged work: the last fraction of a second may be lost in a crash of the kernel.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal

import orjson
import trio

from solo_trio.model.codec import rfc3339
from solo_trio.policy.bucket import Bucket
from solo_trio.ports import Clock, LogQuery, LogSink, Telemetry

FLUSH_INTERVAL_S: Final = 0.1
PENDING_BYTES_MAX: Final = 8 * 1_048_576
"""Of all services together, waiting for the writer; above it lines are dropped."""
FILE_BYTES_MAX: Final = 1_048_576
"""A service keeps at most two files of this size."""
FILES_PER_TENANT_MAX: Final = 400
OVERVIEW_BYTES_MAX: Final = 262_144
"""Read from the end of each file when the logs of all services are asked for at once."""
MESSAGE_CHARS_MAX: Final = 65_536
BURST_SECONDS: Final = 2.0
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

Stream = Literal["stdout", "stderr", "log"]


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
        if self._bounded:
            self._bucket, allowed = self._bucket.take(len(message) + 128.0, now)
            if not allowed:
                self._dropped += 1
                return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._put(
                "log", "warning", f"{dropped} lines were dropped: more than log_bytes_per_s", {"dropped": dropped}
            )
        self._put(stream, level, message, fields)

    def _put(self, stream: Stream, level: str, message: str, fields: dict[str, Any]) -> None:
        if not self._logs.put(self._key, self._generation, stream, level, message[:MESSAGE_CHARS_MAX], fields):
            self._dropped += 1


class ServiceLogFiles:
    """Implements `ports.ServiceLogs` below `directory`. Run `run` in a nursery; `flush` before reading is done by `read`."""

    def __init__(self, directory: Path, clock: Clock, telemetry: Telemetry) -> None:
        self.directory = directory
        self.clock = clock
        self._telemetry = telemetry
        self._pending: dict[tuple[str, str], list[bytes]] = {}
        self._pending_bytes = 0
        self._last_id = 0
        self._writing = trio.Lock()
        self._failed = False

    def sink(self, incarnation: str, service_id: str, generation: int, *, bytes_per_s: int | None) -> LogSink:
        return _Sink(self, (incarnation, service_id), generation, bytes_per_s)

    def put(
        self, key: tuple[str, str], generation: int, stream: Stream, level: str, message: str, fields: dict[str, Any]
    ) -> bool:
        """Take one entry; False if there is no room. Ids are microseconds, made unique, so they sort by time."""
        if self._pending_bytes > PENDING_BYTES_MAX:
            return False
        at_us = self.clock.wall_us()
        self._last_id = max(at_us, self._last_id + 1)
        entry = {
            "id": self._last_id,
            "at": rfc3339(at_us),
            "level": level if level in LEVELS else "info",
            "service_id": key[1],
            "generation": generation,
            "stream": stream,
            "message": message,
            "fields": fields,
        }
        try:
            line = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:  # lone surrogates, or fields that are not JSON: keep what can be kept
            entry["message"] = message.encode("utf-8", "backslashreplace").decode()
            entry["fields"] = {"unreadable": repr(fields)[:1_000].encode("utf-8", "backslashreplace").decode()}
            line = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
        self._pending.setdefault(key, []).append(line)
        self._pending_bytes += len(line)
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
            try:
                await trio.to_thread.run_sync(self._write, pending)
                self._failed = False
            except OSError as error:
                if not self._failed:  # once per outage
                    self._telemetry.note("services' logs cannot be written", error=error)
                self._failed = True

    def _path(self, key: tuple[str, str]) -> Path:
        return self.directory / key[0] / f"{key[1].encode().hex()}.jsonl"

    def _write(self, pending: dict[tuple[str, str], list[bytes]]) -> None:
        for key, lines in pending.items():
            path = self._path(key)
            if not path.exists():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _drop_oldest(path.parent)
            elif path.stat().st_size > FILE_BYTES_MAX:
                path.replace(path.with_suffix(".1"))
            data = b"".join(lines)[-FILE_BYTES_MAX:]
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)

    async def read(self, query: LogQuery) -> list[dict[str, Any]]:
        await self.flush()
        return await trio.to_thread.run_sync(self._read, query)

    def _read(self, query: LogQuery) -> list[dict[str, Any]]:
        if query.service_id is not None:
            paths, bytes_max = [self._path((query.incarnation, query.service_id))], 2 * FILE_BYTES_MAX
        else:
            paths, bytes_max = sorted((self.directory / query.incarnation).glob("*.jsonl")), OVERVIEW_BYTES_MAX
        lowest = LEVELS.get(query.level or "", 0)
        entries = []
        for path in paths:
            for line in _lines(path.with_suffix(".1"), bytes_max) + _lines(path, bytes_max):
                try:
                    entry = orjson.loads(line)
                except orjson.JSONDecodeError:  # a line cut by a crash or by the bounds
                    continue
                if entry["id"] > query.after and LEVELS[entry["level"]] >= lowest:
                    entries.append(entry)
        entries.sort(key=lambda entry: int(entry["id"]))
        return entries[-query.tail :] if query.tail else entries[: query.limit]


def _lines(path: Path, bytes_max: int) -> list[bytes]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - bytes_max))
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _drop_oldest(directory: Path) -> None:
    """Make room for one more service's file, so that ever new service ids cannot fill the disk."""
    files = sorted(directory.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    for path in files[: max(0, len(files) + 1 - FILES_PER_TENANT_MAX)]:
        path.unlink(missing_ok=True)
        path.with_suffix(".1").unlink(missing_ok=True)
