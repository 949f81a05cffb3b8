"""Places to start in. Owns: holding one in each limiter, giving up the wait for one. Never: starts anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

Wait = Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]
"""Waits for what it is given, or until the service changes."""


class Place:
    """A place in each of the start limiters, given up if the service changes while it waits for one."""

    def __init__(self, limiters: tuple[trio.CapacityLimiter, ...], wait: Wait) -> None:
        self._wait = wait
        self._limiters = limiters
        self._held: list[trio.CapacityLimiter] = []
        self.taken = False

    async def __aenter__(self) -> Place:
        for limiter in self._limiters:
            try:
                limiter.acquire_on_behalf_of_nowait(self)
            except trio.WouldBlock:
                await self._wait(lambda each=limiter: self._take(each))  # type: ignore[misc]
                if limiter not in self._held:
                    self._give_back()
                    return self
            else:
                self._held.append(limiter)
        self.taken = True
        return self

    async def _take(self, limiter: trio.CapacityLimiter) -> None:
        await limiter.acquire_on_behalf_of(self)
        self._held.append(limiter)

    def _give_back(self) -> None:
        for limiter in self._held:
            limiter.release_on_behalf_of(self)
        self._held.clear()

    async def __aexit__(self, *exc: object) -> None:
        self._give_back()
