"""What services said, in a list. Owns: `ports.ServiceLogs` for tests. Never: files."""

from __future__ import annotations

from typing import Any, Final

import trio
from attrs import define, field

from solo_trio.policy.redaction import Redactor
from solo_trio.ports import LogQuery, LogSink

ENTRIES_MAX: Final = 10_000
"""Of all services together; the oldest go first."""


@define
class MemoryLogs:
    """Implements `ports.ServiceLogs` in a list: the newest `ENTRIES_MAX` entries of all services."""

    entries: list[tuple[str, str, dict[str, Any]]] = field(factory=list)
    _newest: int = 0
    _changed: trio.Event = field(factory=trio.Event)

    def sink(
        self,
        incarnation: str,
        service_id: str,
        generation: int,
        *,
        bytes_per_s: int | None,
        redactor: Redactor | None = None,
    ) -> LogSink:
        redacted = Redactor() if redactor is None else redactor

        def take(stream: str, level: str, message: str, fields: dict[str, Any]) -> None:
            self._newest += 1
            entry = {
                "id": self._newest,
                "level": level,
                "service_id": service_id,
                "generation": generation,
                "stream": stream,
                "message": redacted.text(message),
                "fields": redacted.json(fields),
            }
            self.entries.append((incarnation, service_id, entry))
            if len(self.entries) >= 2 * ENTRIES_MAX:  # half of them at once: to cut each would take as long
                del self.entries[:-ENTRIES_MAX]
            changed, self._changed = self._changed, trio.Event()
            changed.set()

        return take

    async def read(self, query: LogQuery) -> list[dict[str, Any]]:
        found = [
            entry
            for incarnation, service_id, entry in self.entries
            if incarnation == query.incarnation and query.service_id in (None, service_id) and entry["id"] > query.after
        ]
        return found[-query.tail :] if query.tail else found[: query.limit]

    async def scan(self, query: LogQuery) -> tuple[list[dict[str, Any]], int]:
        found, newest = await self.read(query), self._newest
        return found, newest if query.tail or len(found) < query.limit else found[-1]["id"]

    async def forget(self, incarnation: str) -> None:
        await trio.lowlevel.checkpoint()
        self.entries = [("", "", {}) if each[0] == incarnation else each for each in self.entries]

    def changed(self, incarnation: str) -> trio.Event:
        return self._changed

    def dropped_lines(self, incarnation: str, service_id: str | None) -> int:
        return 0
