"""Answers that do not end. Owns: how many there are, their pace, when one is over. Never: a frame's form, a socket.

A stream is a cursor and a loop: what is new is taken when the last write is done, so that a client that does not read holds
one write and no more (`tests/e2e/test_e2e_watch_memory.py`). What comes within the pace is told in one write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any, Final, Protocol

import trio

from solo_trio.errors import Faulted
from solo_trio.gateways.http.limits import StreamLimits
from solo_trio.kernel.hub import Compacted
from solo_trio.model.capability import Authority

RETRY_AFTER_S: Final = 5
SYSTEM_SHARE: Final = 10
"""One in so many places is for system credentials only."""


class Source(Protocol):
    """Something to follow: `next_page` answers with at least one item, or with none once it is over."""

    cursor: int

    async def next_page(self) -> list[Any]: ...


class Dialect(Protocol):
    """How it is written."""

    quiet_s: float
    """Between two `quiet`."""
    marks: bool
    """Whether `quiet` is also told while there is much to tell."""
    opening: bytes

    def items(self, page: list[Any]) -> bytes: ...

    def quiet(self, cursor: int) -> bytes: ...

    def gap(self, oldest_id: int) -> bytes: ...

    def end(self, reason: str, resume: int | None) -> bytes: ...


class OpenStreams:
    """How many streams each tenant has open, and the system (None)."""

    def __init__(self, limits: StreamLimits) -> None:
        self.limits = limits
        self.count: Counter[str | None] = Counter()
        self.total = 0

    def check(self, authority: Authority) -> None:
        """Raises `Faulted("overloaded")` if whoever that is may open no more."""
        most = self.limits.streams_max
        if not authority.is_system:
            most -= most // SYSTEM_SHARE
            if self.count[authority.incarnation] >= self.limits.per_tenant_max:
                most = 0
        if self.total >= most:
            raise Faulted("overloaded", "too many streams are open: close some, or wait", retry_after_s=RETRY_AFTER_S)

    def add(self, authority: Authority) -> None:
        self.count[authority.incarnation] += 1
        self.total += 1

    def remove(self, authority: Authority) -> None:
        self.total -= 1
        self.count[authority.incarnation] -= 1
        if not self.count[authority.incarnation]:
            del self.count[authority.incarnation]

    @property
    def pace_s(self) -> float:
        """Between two writes to one stream."""
        return min(self.limits.pace_s_max, self.total * self.limits.pace_s_per_stream)


class Telling:
    """One stream. `reason`: why it ended, once it has."""

    def __init__(self, source: Source, dialect: Dialect, streams: OpenStreams) -> None:
        self._source = source
        self._dialect = dialect
        self._streams = streams
        self.reason = ""

    async def writes(self) -> AsyncGenerator[bytes, None]:
        """What is to be written; taking the next means that the last one was."""
        source, dialect, slow_s = self._source, self._dialect, self._streams.limits.slow_s
        began = trio.current_time()
        quiet_at = began + dialect.quiet_s
        data = dialect.opening
        while True:
            if data:
                yield data
            now = trio.current_time()
            if now - began > slow_s:
                self.reason = "too_slow"
                yield dialect.end(self.reason, source.cursor)
                return
            if data and (pace := began + self._streams.pace_s) > now:
                await trio.sleep_until(pace)
            if data and not dialect.marks:
                quiet_at = now + dialect.quiet_s
            data = b""
            with trio.CancelScope(deadline=quiet_at):
                data = await self._next()
            if self.reason:
                yield dialect.end(self.reason, None)
                return
            began = trio.current_time()
            if began >= quiet_at:
                data += dialect.quiet(source.cursor)
                quiet_at = began + dialect.quiet_s

    async def _next(self) -> bytes:
        """Only bytes: while they are written no record is held."""
        try:
            page = await self._source.next_page()
        except Compacted as gap:
            return self._dialect.gap(gap.oldest_id)
        if not page:
            self.reason = "shutdown"
            return b""
        return self._dialect.items(page)
