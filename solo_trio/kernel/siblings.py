"""What the services of one tenant share. Owns: places to start in, who waits for whom. Never: starts or stops one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from solo_trio.model.dependencies import find_stuck

if TYPE_CHECKING:
    from solo_trio.model.dependencies import Services

START_LIMIT_PER_TENANT: Final = 16

Wake = Callable[[], None]


class Siblings:
    def __init__(self) -> None:
        self.starts = trio.CapacityLimiter(START_LIMIT_PER_TENANT)
        self._waiting: dict[str, set[Wake]] = {}
        self._running: dict[str, trio.Event] = {}
        """Set when the supervising task of that service is over."""
        self._needed_by: dict[str, tuple[str, ...]] = {}
        self._stuck: frozenset[str] = frozenset()

    @property
    def stuck(self) -> frozenset[str]:
        """Those that wait for what nobody is about to make ready, when one of them looked last: it may be so no more."""
        return self._stuck

    def looked(self, services: Services, service_id: str, *, is_stuck: bool) -> None:
        """A service that waits looked at what it depends on. Where that is news, all of them are looked at, once, and who waits
        for those that are stuck now hears of it."""
        if is_stuck == (service_id in self._stuck):
            return
        before, self._stuck = self._stuck, find_stuck(services, services)
        for name in self._stuck - before:
            self.touched(name)

    @contextmanager
    def waiting(self, service_ids: Iterable[str], wake: Wake) -> Iterator[None]:
        """Call `wake` when something is recorded about one of `service_ids`, for as long as the block lasts."""
        names = tuple(service_ids)
        for name in names:
            self._waiting.setdefault(name, set()).add(wake)
        try:
            yield
        finally:
            for name in names:
                self._waiting[name].discard(wake)
                if not self._waiting[name]:
                    del self._waiting[name]

    def touched(self, service_id: str) -> None:
        """Something was recorded about the service, or it is gone."""
        for wake in tuple(self._waiting.get(service_id, ())):
            wake()

    @contextmanager
    def supervised(self, service_id: str) -> Iterator[None]:
        """The supervising task of the service lives as long as the block."""
        ended = self._running[service_id] = trio.Event()
        try:
            yield
        finally:
            del self._running[service_id]
            self._stuck -= {service_id}
            ended.set()

    async def wait_ended(self, service_id: str) -> None:
        """Until the supervising task that there is now for the service is over."""
        ended = self._running.get(service_id)
        if ended is not None:
            await ended.wait()

    def close(self, needed_by: dict[str, tuple[str, ...]]) -> None:
        """The kernel closes: from here on a service ends after those that `needed_by` says depend on it."""
        self._needed_by = needed_by

    async def wait_dependents_ended(self, service_id: str, deadline: float) -> None:
        """Until all that depend on it have ended, or the time (Trio's) is over."""
        with trio.move_on_at(deadline):
            for name in self._needed_by.get(service_id, ()):
                await self.wait_ended(name)
