"""Who reads when. Owns: connections for reading, and the order in which those who wait get one. Never: SQL.

A tenant's scans wait in a queue of their own for the one place that it has in the queue for a connection. So a hundred
scans of one tenant delay another tenant by one scan, not by a hundred. What the kernel itself must read to start a
service waits for no scan: it has a connection apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio
from attrs import define, field

from solo_trio.errors import KernelBug
from solo_trio.journal.library import READ_ERRORS, at_open, driver

T = TypeVar("T")


class Lane:
    """Some connections, given out in order of asking."""

    def __init__(self, connections: list[driver.Connection]) -> None:
        self._idle = connections
        self._places = trio.CapacityLimiter(len(connections))
        # Never waited for, as there is a thread for each place; but not taken from those that the whole process shares.
        self._threads = trio.CapacityLimiter(len(connections))
        self._closed = False

    async def run(self, query: Callable[[driver.Connection], T]) -> T:
        """Run a query in a thread with a connection to itself; on return it is finished, and its transaction over."""
        async with self._places:
            if self._closed:
                raise KernelBug("the journal was read after it was closed")
            connection = self._idle.pop()
            try:
                return await trio.to_thread.run_sync(_query, query, connection, limiter=self._threads)
            finally:
                self._idle.append(connection)

    async def wait_closed(self) -> None:
        """Let what runs finish; who waits hears that it is closed. The connections stay open."""
        self._closed = True
        places = [object() for _ in range(int(self._places.total_tokens))]
        with trio.CancelScope(shield=True):
            for place in places:
                await self._places.acquire_on_behalf_of(place)
            for place in places:
                self._places.release_on_behalf_of(place)


def _query(query: Callable[[driver.Connection], T], connection: driver.Connection) -> T:
    try:
        return query(connection)
    except READ_ERRORS as error:
        raise at_open(error, "the data directory") from error


@define(eq=False)
class _Queue:
    lock: trio.Lock = field(factory=trio.Lock)
    tasks: int = 0


class Turns:
    """One at a time of each name: `async with turns.of(name):`. Names that nobody uses are forgotten."""

    def __init__(self) -> None:
        self._queues: dict[str | None, _Queue] = {}

    @asynccontextmanager
    async def of(self, name: str | None) -> AsyncIterator[None]:
        queue = self._queues.setdefault(name, _Queue())
        queue.tasks += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.tasks -= 1
            if not queue.tasks:
                del self._queues[name]
