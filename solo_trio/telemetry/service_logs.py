"""Services' logs. Owns: what waits to be written and when it is, ids, reading, who follows. Never: a line's meaning.

Lines are gathered in memory and written by a thread, so that a slow
disk cannot block a service or the kernel; what comes faster than a bound is dropped, counted, and the count is logged.
Logs are not acknowledged work: the last fraction of a second may be lost in a crash of the kernel.

Ids are microseconds, made unique, and ascend in all of a tenant's files whatever the wall clock did: they are given when lines
are written, and go on from the newest that is there. So a reader's last id is a place to resume from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field

from solo_trio.policy.redaction import Redactor
from solo_trio.ports import Clock, LogQuery, LogSink, Telemetry
from solo_trio.telemetry import log_files
from solo_trio.telemetry.log_files import file_of
from solo_trio.telemetry.log_lines import ID_BYTES, Key, Sink

FLUSH_INTERVAL_S: Final = 0.1
PENDING_BYTES_MAX: Final = 8 * 1_048_576
"""Of all services together, waiting for the writer; above it a tenant has only what is kept for it."""
PENDING_TENANT_BYTES_MAX: Final = 2 * 1_048_576
"""Of one tenant, waiting for the writer."""
PENDING_TENANT_BYTES_KEPT: Final = 131_072
"""So much a tenant may have waiting whatever others have: none can make another lose its lines."""
READ_THREADS_MAX: Final = 2
OUTAGE_QUIET_S: Final = 60.0
"""An error that was not seen for so long is a new outage when it comes again."""
GONE_TENANTS_MAX: Final = 1_000
"""Tenants that are gone and whose lines are still dropped, should something of them go on talking."""
DROPPED_SERVICES_MAX: Final = 10_000
"""Services whose dropped lines are counted; above it the first ones are forgotten."""


@define(eq=False)
class _Pending:
    """One tenant's lines that wait for the writer: the service, when it came, the line without its id."""

    lines: list[tuple[str, int, bytes]] = field(factory=list)
    bytes: int = 0


class ServiceLogFiles:
    """Implements `ports.ServiceLogs` below `directory`. Run `run` in a nursery; `flush` before reading is done by `read`."""

    def __init__(self, directory: Path, clock: Clock, telemetry: Telemetry) -> None:
        self.directory = directory
        self.clock = clock
        self._telemetry = telemetry
        self._pending: dict[str, _Pending] = {}
        self._pending_bytes = 0
        self._newest: dict[str, int] = {}
        """The newest id of each tenant that was looked at in this life; only touched under `_writing`."""
        self._writing = trio.Lock()
        self._writers = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(READ_THREADS_MAX)
        self._outages: dict[int | None, float] = {}
        """The number of an error -> when it was last seen."""
        self._changed: dict[str, trio.Event] = {}
        self._dropped: dict[Key, int] = {}
        self._gone: dict[str, None] = {}
        """Incarnations that were forgotten."""
        self._owing: dict[Sink, None] = {}
        """Those that dropped lines and did not say so yet."""

    def sink(
        self,
        incarnation: str,
        service_id: str,
        generation: int,
        *,
        bytes_per_s: int | None,
        redactor: Redactor | None = None,
    ) -> LogSink:
        return Sink(self, (incarnation, service_id), generation, bytes_per_s, redactor)

    # -- taking

    def put(self, key: Key, line: bytes) -> bool:
        """Take one line; False if there is no room. Of a tenant that is gone it is dropped without a word."""
        if key[0] in self._gone:
            return True
        pending = self._pending.get(key[0])
        held = 0 if pending is None else pending.bytes
        room = PENDING_TENANT_BYTES_MAX if self._pending_bytes < PENDING_BYTES_MAX else PENDING_TENANT_BYTES_KEPT
        if held + len(line) + ID_BYTES > room:
            return False
        if pending is None:
            pending = self._pending[key[0]] = _Pending()
        pending.lines.append((key[1], self.clock.wall_us(), line))
        pending.bytes += len(line) + ID_BYTES
        self._pending_bytes += len(line) + ID_BYTES
        return True

    def owes(self, sink: Sink) -> None:
        """The sink dropped a line: it is counted, and told within a second even if no line follows."""
        self._count_dropped(sink.key, 1)
        self._owing[sink] = None

    def settled(self, sink: Sink) -> None:
        self._owing.pop(sink, None)

    def _count_dropped(self, key: Key, lines: int) -> None:
        self._dropped[key] = self._dropped.get(key, 0) + lines
        while len(self._dropped) > DROPPED_SERVICES_MAX:
            del self._dropped[next(iter(self._dropped))]

    def dropped_lines(self, incarnation: str, service_id: str | None) -> int:
        return sum(
            count
            for (tenant, service), count in self._dropped.items()
            if tenant == incarnation and service_id in (None, service)
        )

    # -- writing

    async def run(self) -> None:
        """Write what was taken, until cancelled; then write the rest once more."""
        try:
            while True:
                await trio.sleep(FLUSH_INTERVAL_S)
                self._tell_dropped(self.clock.monotonic())
                await self.flush()
        finally:
            self._tell_dropped(float("inf"))
            with trio.CancelScope(shield=True):
                await self.flush()

    async def forget(self, incarnation: str) -> None:
        """See `ports.ServiceLogs.forget`."""
        async with self._writing:
            self._gone[incarnation] = None
            while len(self._gone) > GONE_TENANTS_MAX:
                del self._gone[next(iter(self._gone))]
            pending = self._pending.pop(incarnation, None)
            self._pending_bytes -= 0 if pending is None else pending.bytes
            self._newest.pop(incarnation, None)
            self._dropped = {key: count for key, count in self._dropped.items() if key[0] != incarnation}
            try:
                with trio.CancelScope(shield=True):
                    directory = self.directory / incarnation
                    await trio.to_thread.run_sync(log_files.delete_all, directory, limiter=self._writers)
            except OSError as error:
                self._telemetry.note("logs of a tenant that is gone are left until the next start", error=error)
        changed = self._changed.pop(incarnation, None)
        if changed is not None:
            changed.set()

    def _tell_dropped(self, now: float) -> None:
        for sink in list(self._owing):
            sink.tell_dropped(now)

    async def flush(self) -> None:
        async with self._writing:
            await self._flush()

    async def _flush(self) -> None:
        if not self._pending:
            return
        pending, self._pending, self._pending_bytes = self._pending, {}, 0
        with trio.CancelScope(shield=True):  # what was taken out is written, whoever asked for it
            failed = await trio.to_thread.run_sync(self._write, pending, limiter=self._writers)
        now = self.clock.monotonic()
        for key, lines, error in failed:
            self._count_dropped(key, lines)
            seen = self._outages.get(error.errno)
            self._outages[error.errno] = now
            if seen is None or now - seen > OUTAGE_QUIET_S:
                self._telemetry.note("services' logs cannot be written", error=error)
        for incarnation in pending:
            changed = self._changed.pop(incarnation, None)
            if changed is not None:
                changed.set()

    def _write(self, pending: Mapping[str, _Pending]) -> list[tuple[Key, int, OSError]]:
        """One file that cannot be written costs its own lines and nobody else's."""
        failed = []
        for incarnation, each in pending.items():
            directory = self.directory / incarnation
            newest = self._newest.get(incarnation)
            if newest is None:
                newest = log_files.newest_id(directory)
            services: dict[str, list[bytes]] = {}
            for service_id, at_us, line in each.lines:
                newest = max(at_us, newest + 1)
                services.setdefault(service_id, []).append(b'{"id":%d,%b' % (newest, line[1:]))
            self._newest[incarnation] = newest
            for service_id, lines in services.items():
                try:
                    log_files.append(file_of(directory, service_id), lines)
                except OSError as error:
                    failed.append(((incarnation, service_id), len(lines), error))
        return failed

    # -- reading

    async def read(self, query: LogQuery) -> list[dict[str, Any]]:
        return (await self.scan(query))[0]

    async def scan(self, query: LogQuery) -> tuple[list[dict[str, Any]], int]:
        """What the query asks for, and the id up to which all was looked at.

        Nothing is shown that was written after the query came: of two services' lines that are written just then, the
        later could be found and the earlier not, and who goes on behind the later would never see the other.
        """
        directory = self.directory / query.incarnation
        async with self._writing:
            await self._flush()
            newest = self._newest.get(query.incarnation)
            if newest is None:
                newest = await trio.to_thread.run_sync(log_files.newest_id, directory, limiter=self._writers)
                self._newest[query.incarnation] = newest
        found = await trio.to_thread.run_sync(log_files.read, directory, query, newest, limiter=self._readers)
        whole = query.tail is not None or len(found) < query.limit
        return found, newest if whole else found[-1]["id"]

    def changed(self, incarnation: str) -> trio.Event:
        return self._changed.setdefault(incarnation, trio.Event())
