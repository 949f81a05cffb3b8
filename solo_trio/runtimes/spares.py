"""Making sandboxes in advance. Owns: the one task that makes what the pool lacks and ends what nobody wants. Never: forks.

It lets whatever is being started come first, and is over when there is nothing left to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from solo_trio.runtimes.pool import Kind, Pool
from solo_trio.runtimes.sandboxes import Sandbox

DELAY_S: Final = 0.05
"""After a start, before another sandbox is made in advance: whatever else is to start comes first."""
LOOK_S: Final = 1.0
"""Between looks whether one of those in advance has ended or waited for too long."""


class Spares:
    """`most`: how many wait in all. `make`: one, or None if none can be made. `busy`: whether something is being started."""

    def __init__(self, most: int, make: Callable[[Kind], Awaitable[Sandbox | None]], busy: Callable[[], bool]) -> None:
        self._pool = Pool(most)
        self._wanted_at_all = most > 0
        self._make = make
        self._busy = busy
        self._running = False
        self._closed = False
        self._asked = trio.Event()
        """Set at each start, for the task."""

    def take(self, kind: Kind) -> Sandbox | None:
        """One that lives, if there is one; counts as demand either way."""
        return self._pool.take(kind, trio.current_time())

    def refill_soon(self) -> None:
        """After a start."""
        self._asked.set()
        if self._wanted_at_all and not self._running and not self._closed:
            self._running = True
            # A system task: what waits is nobody's service. It lets nothing out.
            trio.lowlevel.spawn_system_task(self._refill, name="sandboxes in advance")

    def clear_tenant(self, incarnation: str, environment: str | None = None) -> None:
        """End all for the tenant, or for it and that environment."""
        self._pool.clear_tenant(incarnation, environment)

    def close(self) -> None:
        """End all, for ever."""
        self._closed = True
        self._pool.clear()

    async def _refill(self) -> None:
        try:
            while not self._closed:
                self._asked = trio.Event()  # before the look: whoever comes after it is seen by the next one
                await trio.sleep(DELAY_S)
                kind = self._pool.lacks(trio.current_time())
                if kind is not None and not self._busy():
                    await self._add(kind)
                    continue
                look_again = self._pool.expire(trio.current_time())
                if look_again is None and kind is None:
                    return
                if kind is None and look_again is not None:
                    with trio.move_on_after(min(LOOK_S, max(0.0, look_again - trio.current_time()))):
                        await self._asked.wait()
        finally:
            self._running = False

    async def _add(self, kind: Kind) -> None:
        made = await self._make(kind)
        if made is None:
            self._pool.clear(kind)
        elif self._closed:
            made.discard()
        else:
            self._pool.put(kind, made, trio.current_time())
