"""The lives of the kernel. Owns: running the real one on its journal, how a life ends; the bad weather. Never: asks."""

from __future__ import annotations

import random

import trio

from simulation.checks import Checks
from simulation.journal import SimJournal
from simulation.processes import SimRuntime
from simulation.world import Life, SimTelemetry, World
from solo_trio.errors import JournalFailed, SoloError
from solo_trio.operations.settings import Settings
from solo_trio.testing import MemoryKernel, MemoryLogs
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.secret import Secret

KEY = bytes(range(32))
WITNESS_KEY = bytes(range(32, 64))


def settings_of(chance: random.Random) -> Settings:
    return Settings(
        boot_loop_starts=chance.choice((0, 0, 3)),
        checkpoint_interval_events=chance.choice((5, 30, 10_000)),
        checkpoint_interval_s=chance.choice((20.0, 900.0)),
        shutdown_timeout_ms=chance.choice((500, 5_000)),
        hardening="off",
    )


class Lives:
    """Those of one run, one after the other."""

    def __init__(self, world: World, checks: Checks) -> None:
        self._world = world
        self._checks = checks
        self._chance = world.drawn("lives")
        self._settings = settings_of(self._chance)
        self._fell = False
        """The newest life ended by itself: its disk failed."""
        self._master = MasterKey(Secret(KEY), random_bytes=world.drawn("master").randbytes)

    async def all(self) -> None:
        """One life after the other until the run is over; the last one is nobody's to kill."""
        world = self._world
        while not world.failed.is_set():
            last = world.lives >= world.shape.lives - 1
            if not last:
                self._set_alarm()
            if await self.one() and last:
                return

    def _set_alarm(self) -> None:
        """Somewhere in the next life, perhaps soon, it ends."""
        world, how = self._world, self._chance.random()
        if how < 0.2:
            return  # in order, when the clients are done or tire
        power = how < 0.65
        if self._chance.random() < 0.35:
            world.ambush = lambda: world.crash(power=power)
            return
        steps = int(10 ** self._chance.uniform(1.0, 3.7))
        world.ticks.alarm(steps, lambda: world.crash(power=power))

    async def one(self) -> bool:
        """One life; whether it ended in order."""
        world = self._world
        await world.processes.wait_gone()
        world.lives += 1
        life = Life(world.lives)
        world.life = life
        world.clock.base = self._chance.uniform(0, 1e6)
        world.note(f"life {life.number} begins")
        try:
            with life.scope:
                await self._run(life)
        except* SoloError as group:
            self._ended(life, group)
        except* Exception as group:  # noqa: BLE001 - whatever it is, it is a finding
            world.violate(
                f"life {life.number} ended with {[f'{type(each).__name__}: {each}' for each in _leaves(group)]}"
            )
        if life.system is not None and life.journal is not None:
            self._checks.lived(life.journal, life.system.core.loop.state)
        in_order = not life.dead
        if not life.dead:
            world.ticks.quiet()
            world.ambush = None
            life.dead = True
            for scope in life.connections:
                scope.cancel()
            world.disk.crash(power=False)  # the process ends; what it closed in order is on the platter
            world.processes.orphan()
        life.over.set()
        world.note(f"life {life.number} is over")
        return in_order and not self._fell

    async def one_more_look(self) -> None:
        """What a start after the last life would find."""
        world = self._world
        world.disk.crash(power=True)
        journal = SimJournal(world.disk, WITNESS_KEY, world.drawn("last look"))
        try:
            await journal.open()
        except SoloError as error:
            world.violate(f"after the last life: {error}")
        else:
            await self._checks.recovered(journal)

    def _ended(self, life: Life, group: BaseExceptionGroup[SoloError]) -> None:
        if life.dead:
            return
        errors = list(_leaves(group))
        self._fell = True
        self._world.note(f"life {life.number} ended by itself: {[str(each) for each in errors]}")
        if not all(isinstance(each, JournalFailed) for each in errors):
            self._world.violate(f"a kernel ended with {[str(each) for each in errors]}")
        elif life.journal is None or life.journal.failure is None:
            self._world.violate("a kernel ended because of a disk that did not fail")

    async def _run(self, life: Life) -> None:
        world, self._fell = self._world, False
        journal = SimJournal(world.disk, WITNESS_KEY, world.drawn(f"journal {life.number}"), world.note_tried)
        life.journal = journal
        await journal.open()
        await self._checks.recovered(journal)
        memory = MemoryKernel(
            settings=self._settings,
            journal=journal,
            logs=MemoryLogs(),
            telemetry=SimTelemetry(world, life),
            clock=world.clock,
            entropy=world.entropy,
            runtimes={"process": SimRuntime(world, life)},
            master=self._master,
        )
        async with memory.run() as system:
            life.system = system
            world.is_up(life)
            await life.ending.wait()
            world.note("a shutdown in order")
        await journal.close()


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def weather(world: World) -> None:
    """A disk that is full for a while, and one that fails."""
    chance = world.drawn("weather")
    while not world.calm:
        await trio.sleep(chance.expovariate(1 / 20.0))
        kind = chance.random()
        if world.calm or world.life is None or world.life.system is None:
            continue
        if kind < 0.5:
            world.note("the disk is full")
            world.disk.full = True
            await trio.sleep(chance.expovariate(1 / 5.0))
            world.disk.full = False
            world.full_until = trio.current_time()
        elif kind < 0.6:
            world.note("the disk fails")
            world.disk.failing_writes = 1
        elif kind < 0.7:
            world.note("the disk does not force out")
            world.disk.failing_syncs = 1
