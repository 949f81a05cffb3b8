"""Simulated processes. Owns: what runs when, of which kernel; that nothing runs that should not. Never: what a service does.

Processes outlive the kernel that started them for a while, as real ones do until their ancestor has ended them; the next kernel
waits for that, as the locks of tenants make it wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import trio

from simulation.behaviours import LOST, behaviour_of
from simulation.ledger import ABSENT
from solo_trio.errors import Faulted
from solo_trio.ports import Launch
from solo_trio.testing import FakeRunning, FakeRuntime, Plan

if TYPE_CHECKING:
    from simulation.world import Life, World


class SimRunning(FakeRunning):
    """A process. Only the kernel that started it can reach it."""

    def __init__(self, plan: Plan, launch: Launch, life: Life) -> None:
        super().__init__(plan, launch)
        self._life = life

    def request_stop(self) -> None:
        if not self._life.dead:
            super().request_stop()

    def kill(self) -> None:
        if not self._life.dead:
            super().kill()

    def usage(self, *, exactly: bool = False) -> dict[str, float]:
        return {}


class Processes:
    """All of them, over all lives of the kernel."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.alive: dict[tuple[str, str], SimRunning] = {}
        """By (incarnation, service)."""
        self.starts = 0

    async def start(self, plan: Plan, launch: Launch, life: Life) -> SimRunning:
        key = (launch.incarnation, launch.service_id)
        running = SimRunning(plan, launch, life)
        self.starts += 1
        self._check(key, launch, life)
        self.alive[key] = running
        self._world.nursery.start_soon(self._live, key, running)
        return running

    async def _live(self, key: tuple[str, str], running: SimRunning) -> None:
        await running.run()
        if self.alive.get(key) is running:
            del self.alive[key]
        ending = running.ending
        self._world.note(f"ended {key[1]} {running.launch.generation} {None if ending is None else ending.kind}")

    def _check(self, key: tuple[str, str], launch: Launch, life: Life) -> None:
        world, about = self._world, f"{launch.tenant_id}/{launch.service_id} generation {launch.generation}"
        world.note(f"started {about} {behaviour_of(launch)}")
        if key in self.alive:
            world.violate(f"two copies: {about} was started while another runs")
        assert life.journal is not None
        event_id, _ = life.journal.newest_start.get(key, (0, 0))
        payload = orjson.loads(life.journal.events[event_id - 1].payload or b"{}") if event_id else {}
        if payload.get("generation") != launch.generation:
            world.violate(f"{about} was started, and the log does not say so")
        world.check_durable(event_id, f"{about} was started")
        if world.ledger.entry(("service", launch.tenant_id, launch.service_id)).sure == ABSENT:
            world.violate(f"{about} was started after it was deleted")
        if world.ledger.entry(("tenant", launch.tenant_id, "")).sure == ABSENT:
            world.violate(f"{about} was started after its tenant was removed")

    def orphan(self) -> None:
        """Their kernel is gone: each is ended within moments."""
        for key in sorted(self.alive):
            self.alive[key].end(LOST, self._world.chance.uniform(0.0, 2.0))

    async def wait_gone(self) -> None:
        for key in sorted(self.alive):
            if key in self.alive:
                await self.alive[key].ended.wait()


class SimRuntime(FakeRuntime):
    """`ports.Runtime` of one life of the kernel."""

    def __init__(self, world: World, life: Life) -> None:
        super().__init__(world.plan)
        self._world = world
        self._life = life

    async def start(self, launch: Launch, nursery: trio.Nursery) -> SimRunning:
        key = (launch.incarnation, launch.service_id)
        number = self._numbers[key] = self._numbers.get(key, 0) + 1
        plan = self.plan(launch, number)
        await trio.sleep(plan.starts_s)
        if self._life.dead:
            await trio.sleep_forever()
        if not plan.available:
            raise Faulted("runtime_unavailable", "this start was planned to fail")
        return await self._world.processes.start(plan, launch, self._life)

    def _own(self) -> list[SimRunning]:
        alive = self._world.processes.alive
        return [alive[key] for key in sorted(alive)]

    async def forget(self, incarnation: str) -> None:
        await trio.lowlevel.checkpoint()
        for running in self._own():
            if running.launch.incarnation == incarnation:
                self._world.violate(f"{running.launch.service_id} runs while its tenant is forgotten")

    async def close(self, deadline: float) -> None:
        if self._life.dead:
            return
        for running in self._own():
            running.kill()
        with trio.move_on_at(deadline):
            for running in self._own():
                await running.ended.wait()
