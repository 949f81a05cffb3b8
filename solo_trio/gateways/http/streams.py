"""Answers that do not end. Owns: how many there are, their pace, when one is over. Never: a frame's form, a socket.

A stream is a cursor and a loop: what is new is taken when the last write is done, so that a client that does not read holds
one write and no more (`tests/e2e/test_e2e_watch_memory.py`). Streams that have something to tell take turns, so far apart that
all of them together leave the kernel its share of the processor; what comes meanwhile is told in one write.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import thread_time
from typing import Any, Final, Protocol

import trio

from solo_trio.errors import Faulted
from solo_trio.gateways.http.limits import StreamLimits
from solo_trio.kernel.hub import Compacted, Restored
from solo_trio.model.capability import EMBEDDER, Authority
from solo_trio.operations.table import Follow

RETRY_AFTER_S: Final = 5
TURN_S: Final = 100e-6
"""What one turn takes of the processor, about, until it was measured; then between these two:"""
TURN_S_MIN: Final = 50e-6
TURN_S_MAX: Final = 500e-6
TURNS_MEASURED: Final = 256
CLOSING_CHECK_S: Final = 0.05
"""A stream that waits to tell something looks so often whether its source has closed."""
SYSTEM_SHARE: Final = 10
"""One in so many places is for system credentials only."""


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

    def restored(self, event_id: int) -> bytes: ...

    def end(self, reason: str, resume: int | None) -> bytes: ...


class OpenStreams:
    """How many streams each tenant has open, and the system (None)."""

    def __init__(
        self,
        limits: StreamLimits,
        thread_time: Callable[[], float] = thread_time,
        left_s: Callable[[Authority], float] = lambda authority: math.inf,
    ) -> None:
        """`left_s`: for how long a credential is still good, 0 if it no longer is."""
        self.limits = limits
        self.count: Counter[str | None] = Counter()
        self.total = 0
        self.turn_s = TURN_S
        self._turns = 0
        self._thread_time = thread_time
        self._measured_s = thread_time()
        self._next_turn_at = 0.0
        self.left_s = left_s
        self._telling: set[Telling] = set()

    def look_again(self) -> None:
        """Credentials have been revoked: end the streams that were opened with one of them."""
        for telling in list(self._telling):
            telling.look_again()

    def begun(self, telling: Telling) -> None:
        self._telling.add(telling)

    def over(self, telling: Telling) -> None:
        self._telling.discard(telling)

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

    def turn_at(self) -> float:
        """When it is this stream's turn to tell something.

        Turns are so far apart that they take their share of the processor. What one takes is measured with all that the kernel
        does meanwhile: the busier it is, the longer streams wait, and the more they tell in one write.
        """
        self._turns += 1
        if self._turns == TURNS_MEASURED:
            used_s = self._thread_time()
            self.turn_s = min(TURN_S_MAX, max(TURN_S_MIN, (used_s - self._measured_s) / TURNS_MEASURED))
            self._turns, self._measured_s = 0, used_s
        now = trio.current_time()
        at = max(self._next_turn_at, now)
        self._next_turn_at = at + self.turn_s / self.limits.share
        return at


class Telling:
    """One stream. `reason`: why it ended, once it has."""

    def __init__(self, source: Follow, dialect: Dialect, streams: OpenStreams, authority: Authority = EMBEDDER) -> None:
        self._source = source
        self._dialect = dialect
        self._streams = streams
        self._authority = authority
        self._good_until = math.inf
        self._waiting = trio.CancelScope()
        self.reason = ""

    def look_again(self) -> None:
        """End if what opened it is no longer good."""
        self._good_until = trio.current_time() + self._streams.left_s(self._authority)
        self._waiting.deadline = min(self._waiting.deadline, self._good_until)

    async def writes(self) -> AsyncGenerator[bytes, None]:
        """What is to be written; taking the next means that the last one was."""
        self._streams.begun(self)
        try:
            self.look_again()
            async with aclosing(self._writes()) as writes:
                async for data in writes:
                    yield data
        finally:
            self._streams.over(self)

    async def _writes(self) -> AsyncGenerator[bytes, None]:
        source, dialect, streams = self._source, self._dialect, self._streams
        limits = streams.limits
        began = trio.current_time()
        quiet_at = began + dialect.quiet_s
        data = dialect.opening
        while True:
            if data:
                yield data
            now = trio.current_time()
            if now - began > limits.slow_s:
                self.reason = "too_slow"
                yield dialect.end(self.reason, source.cursor)
                return
            if not dialect.marks:
                quiet_at = now + dialect.quiet_s
            data = b""
            while not data and not self.reason:
                with trio.CancelScope(deadline=min(quiet_at, self._good_until)) as self._waiting:
                    data = await self._next(began + limits.pace_s)
                if trio.current_time() >= self._good_until:
                    self.reason = "revoked"
                elif trio.current_time() >= quiet_at:
                    data += dialect.quiet(source.cursor)
                    quiet_at = trio.current_time() + dialect.quiet_s
            if self.reason:
                yield dialect.end(self.reason, None)
                return
            began = trio.current_time()

    async def _until(self, at: float) -> None:
        """Until then, or until the source closes: a kernel that ends has no time for pace and turns."""
        while (now := trio.current_time()) < at and not self._source.closing:  # noqa: ASYNC110 - a time is waited for
            await trio.sleep_until(min(at, now + CLOSING_CHECK_S))

    async def _next(self, not_before: float) -> bytes:
        """What there is to tell; only as bytes: while they are written no record is held."""
        await self._source.wait()
        await self._until(not_before)
        if self._source.closing:
            await trio.lowlevel.checkpoint()
        else:
            await self._until(self._streams.turn_at())
        try:
            page = await self._source.take()
        except Compacted as gap:
            return self._dialect.gap(gap.oldest_id)
        except Restored as restored:
            return self._dialect.restored(restored.event_id)
        if self._source.over:
            self.reason = "shutdown" if self._source.closing else "revoked"  # of a tenant that was removed
        data = self._dialect.items(page) if page else b""
        del page  # this frame may live on (Trio looks at frames; Python 3.13 keeps what was looked at)
        return data
