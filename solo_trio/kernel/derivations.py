"""Turns at stretching passphrases. Owns: who may wait, whose turn it is. Never: a passphrase, a key.

Each takes a second of a processor and 64 MiB. Tenants have turns one after the other, whoever asked more or earlier: how long
one waits depends on how many tenants wait, not on how much they want.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from solo_trio.errors import Faulted

DERIVATIONS_MAX: Final = 2
"""At the same time."""
DERIVATIONS_TENANT_MAX: Final = 4
"""Of one tenant, at work and waiting."""
DERIVATIONS_WAITING_MAX: Final = 256
"""Of all tenants, at work and waiting."""


class Derivations:
    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[trio.Event]] = OrderedDict()
        """By tenant; the first of the first is next."""
        self._places: Counter[str] = Counter()
        self._working = 0

    @asynccontextmanager
    async def turn(self, incarnation: str) -> AsyncIterator[None]:
        """Wait for it, and have it. Raises `Faulted("overloaded")`."""
        if self._places[incarnation] >= DERIVATIONS_TENANT_MAX or self._places.total() >= DERIVATIONS_WAITING_MAX:
            raise Faulted("overloaded", "too many secrets under keys of agents are being opened", retry_after_s=1)
        mine = trio.Event()
        self._waiting.setdefault(incarnation, deque()).append(mine)
        self._places[incarnation] += 1
        self._go_on()
        try:
            await mine.wait()
            yield
        finally:
            self._leave(incarnation, mine)

    def _leave(self, incarnation: str, mine: trio.Event) -> None:
        if mine.is_set():
            self._working -= 1
        else:
            self._waiting[incarnation].remove(mine)
            if not self._waiting[incarnation]:
                del self._waiting[incarnation]
        self._places[incarnation] -= 1
        if not self._places[incarnation]:
            del self._places[incarnation]
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._working < DERIVATIONS_MAX:
            incarnation, waiting = self._waiting.popitem(last=False)
            waiting.popleft().set()
            self._working += 1
            if waiting:
                self._waiting[incarnation] = waiting
