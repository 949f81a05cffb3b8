"""Sandboxes that wait. Owns: how many there are for whom, and for how long. Never: makes one.

A fork with all its steps takes some milliseconds; one that is there already takes none. How many are kept follows what was
asked for lately: none for a tenant that starts nothing, and none while there is a crowd to start, which would only wait longer.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from attrs import define, field, frozen

from solo_trio.runtimes.sandboxes import Sandbox

WAITING_EACH_MAX: Final = 4
DEMAND_S: Final = 10.0
"""Starts within so long count as demand."""
IDLE_S_MAX: Final = 30.0
"""One that nobody wanted for so long ends."""


@frozen
class Kind:
    """What makes two sandboxes alike; `shape`: their limits, as sorted items."""

    incarnation: str
    environment: str
    shape: tuple[tuple[str, float], ...]


@define
class _Shelf:
    starts: deque[float] = field(factory=lambda: deque(maxlen=WAITING_EACH_MAX))
    waiting: list[Sandbox] = field(factory=list)


class Pool:
    """`most`: how many wait in all. Times are of one monotonic clock, seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._shelves: dict[Kind, _Shelf] = {}

    def take(self, kind: Kind, now: float) -> Sandbox | None:
        """One that lives, if there is one; counts as demand either way."""
        shelf = self._shelves.setdefault(kind, _Shelf())
        shelf.starts.append(now)
        while shelf.waiting:
            found = shelf.waiting.pop()
            if not found.has_ended():
                return found
            found.discard()
        return None

    def lacks(self, now: float) -> Kind | None:
        """Whom another one should be made for; None: there are enough."""
        if sum(len(shelf.waiting) for shelf in self._shelves.values()) >= self._most:
            return None
        for kind, shelf in self._shelves.items():
            if len(shelf.waiting) < sum(now - at <= DEMAND_S for at in shelf.starts):
                return kind
        return None

    def put(self, kind: Kind, sandbox: Sandbox, now: float) -> None:
        sandbox.made_at = now
        self._shelves.setdefault(kind, _Shelf()).waiting.append(sandbox)

    def expire(self, now: float) -> float | None:
        """End those that waited too long; when to look again, None if there are none."""
        oldest: float | None = None
        for kind in list(self._shelves):
            shelf = self._shelves[kind]
            for sandbox in list(shelf.waiting):
                if now - sandbox.made_at >= IDLE_S_MAX or sandbox.has_ended():
                    shelf.waiting.remove(sandbox)
                    sandbox.discard()
                elif oldest is None or sandbox.made_at < oldest:
                    oldest = sandbox.made_at
            if not shelf.waiting and not any(now - at <= DEMAND_S for at in shelf.starts):
                del self._shelves[kind]
        return None if oldest is None else oldest + IDLE_S_MAX

    def clear_tenant(self, incarnation: str, environment: str | None = None) -> None:
        """End all for the tenant, or for it and that environment."""
        for kind in list(self._shelves):
            if kind.incarnation == incarnation and environment in (None, kind.environment):
                self.clear(kind)

    def clear(self, kind: Kind | None = None) -> None:
        """End all, or those for `kind`."""
        for each in list(self._shelves) if kind is None else [kind]:
            shelf = self._shelves.pop(each, None)
            for sandbox in [] if shelf is None else shelf.waiting:
                sandbox.discard()
