"""Clients. Owns: who asks what next and when; watchers that resume. Never: what an answer means (the operations say that)."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from simulation.asking import ask
from simulation.ledger import Credential
from simulation.operations import TENANTS
from simulation.rights import RightsOperations
from simulation.world import World
from solo_trio.errors import SoloError
from solo_trio.model.record import StoredEvent
from solo_trio.operations.perform import OPERATIONS, Request, perform
from solo_trio.operations.table import EventStream

PAUSE_S: Final = 1.5
"""Between two requests of one client, about."""
BURST: Final = 0.25
"""The share of requests that come together with the next one."""
WEIGHTS: Final = {
    "deploy": 22,
    "create_tenant": 7,
    "remove_tenant": 3,
    "update_tenant": 1,
    "delete_service": 8,
    "pause_service": 5,
    "resume_service": 6,
    "restart_service": 5,
    "update_service": 4,
    "call": 8,
    "look": 5,
    "grant": 5,
    "attenuate": 2,
    "revoke": 5,
    "use_revoked": 2,
    "use_any": 5,
    "set_secret": 5,
    "delete_secret": 2,
    "reveal_secret": 5,
    "verify": 1,
    "checkpoint": 2,
    "pause_system": 1,
    "resume_system": 2,
    "accept_clock": 1,
    "jump_clock": 2,
}


class Client:
    def __init__(self, world: World, system: Credential) -> None:
        self._world = world
        self._chance = world.chance
        self._operations = RightsOperations(world, system)
        self._names = list(WEIGHTS)
        self._weights = list(WEIGHTS.values())

    async def run(self) -> None:
        """Until all operations of the run are made."""
        world = self._world
        while world.operations_left > 0 and not world.failed.is_set():
            world.operations_left -= 1
            await self.one(self._chance.choices(self._names, self._weights)[0])
            if self._chance.random() >= BURST:
                await trio.sleep(self._chance.expovariate(1 / PAUSE_S))

    async def one(self, name: str) -> None:
        work: Callable[[], Awaitable[None]] = getattr(self._operations, name)
        await work()
        if name in ("pause_system", "revoke") and self._chance.random() < 0.5:
            await self.one("resume_system" if name == "pause_system" else "use_revoked")


async def begin(world: World, system: Credential) -> None:
    """Something to work on: a tenant or two."""
    operations = RightsOperations(world, system)
    for tenant_id in TENANTS[: world.chance.randint(1, 2)]:
        operations.tenant = lambda tenant_id=tenant_id: tenant_id  # type: ignore[method-assign]
        await operations.create_tenant()


class Watcher:
    """Follows all events, or a tenant's, from the first on, and goes on after each crash with what it has seen."""

    def __init__(self, world: World, credential: Credential, chance: random.Random) -> None:
        self.world = world
        self.credential = credential
        self.seen: list[StoredEvent] = []
        self._chance = chance
        self._cursor = 0

    async def run(self) -> None:
        while True:
            life = await self.world.wait_up()
            assert life.system is not None
            with trio.CancelScope() as scope:
                life.connections[scope] = None
                try:
                    query = {"since_id": str(self._cursor)}
                    request = Request(token=self.credential.token, query=query)
                    stream = await perform(life.system, OPERATIONS["watch_events"], request)
                    assert isinstance(stream, EventStream)
                    await self._follow(stream)
                except SoloError as error:
                    self.world.note(f"a watcher was refused: {error.code}")
                finally:
                    del life.connections[scope]
            await trio.sleep(self._chance.expovariate(2.0))

    async def _follow(self, stream: EventStream) -> None:
        until = self._chance.expovariate(1 / 60.0)
        with trio.move_on_after(until):
            while page := await stream.watch.next_page():
                for stored in page:
                    self._take(stored)
                if self._chance.random() < 0.1:
                    await trio.sleep(self._chance.expovariate(1.0))

    def _take(self, stored: StoredEvent) -> None:
        world = self.world
        world.check_durable(stored.id, f"a watcher was told event {stored.id}")
        world.ledger.told_id = max(world.ledger.told_id, stored.id)
        if stored.id != self._cursor + 1:
            world.violate(f"a watcher got event {stored.id} after {self._cursor}")
        self._cursor = stored.id
        self.seen.append(stored)


async def resume_everything(world: World, system: Credential) -> None:
    """At the end of a run: nothing is held back."""
    await ask(world, "resume_system", system)
