"""The world of one run. Owns: its chances, clock, disk, processes, crashes. Never: asks, or checks a log."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio
from attrs import define, field, frozen

from simulation.behaviours import BEHAVIOURS, behaviour_of, steady
from simulation.disk import SimDisk
from simulation.ledger import Ledger
from simulation.processes import Processes
from simulation.scheduler import Ticks
from simulation.trace import Trace
from solo_trio.model.record import StoredEvent
from solo_trio.ports import Launch
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.testing import JumpingClock, Plan

if TYPE_CHECKING:
    from simulation.journal import SimJournal
    from solo_trio.operations.caller import System

HANG_S: Final = 300.0
"""No answer takes so long."""


@frozen
class Shape:
    """What a run is like; the numbers are drawn from its seed where they are not given."""

    seed: int
    operations: int
    lives: int
    clients: int
    faults: bool = True
    trace: bool = False

    @classmethod
    def of(cls, seed: int, *, trace: bool = False) -> Shape:
        chance = random.Random(f"shape {seed}")
        lives = chance.choice((1, 2, 2, 3, 4))
        return cls(seed, chance.randint(20, 60), lives, chance.randint(1, 4), chance.random() < 0.6, trace)


@define(eq=False)
class Life:
    """One process of the kernel. `dead`: killed; whatever its tasks still do reaches nothing."""

    number: int
    dead: bool = False
    system: System | None = None
    journal: SimJournal | None = None
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    connections: dict[trio.CancelScope, None] = field(factory=dict)
    ending: trio.Event = field(factory=trio.Event)
    """It is to be shut down in order."""
    over: trio.Event = field(factory=trio.Event)


class SimClock(JumpingClock):
    """Its monotonic clock begins anywhere in each life."""

    base: float = 0.0

    def monotonic(self) -> float:
        return trio.current_time() + self.base


class SimEntropy:
    """Implements `ports.Entropy`."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)

    def token(self, size_bytes: int) -> bytes:
        return self._chance.randbytes(size_bytes)

    def uniform(self) -> float:
        return self._chance.random()


class SimTelemetry(Diagnostics):
    """A contained defect of a kernel that lives is a violation."""

    def __init__(self, world: World, life: Life) -> None:
        super().__init__()
        self._world, self._life = world, life

    def bug(self, where: str, error: BaseException) -> None:
        if not self._life.dead:
            self._world.violate(f"a defect while {where}: {type(error).__name__}: {error}")

    def note(self, message: str, **fields: Any) -> None:
        self._world.note(f"noted {message}")


class World:
    def __init__(self, shape: Shape, ticks: Ticks, nursery: trio.Nursery) -> None:
        self.shape = shape
        self.ticks = ticks
        self.nursery = nursery
        self.chance = self.drawn("world")
        self.trace = Trace(full=shape.trace)
        self.clock = SimClock()
        self.entropy = SimEntropy(f"entropy {shape.seed}")
        self.disk = SimDisk(self.drawn("disk"))
        self.ledger = Ledger()
        self.processes = Processes(self)
        self.life: Life | None = None
        self.calm = False
        """Nothing goes wrong any more: every new start is a good one."""
        self.failed = trio.Event()
        """Something is violated."""
        self.operations_left = shape.operations
        self.full_until = float("-inf")
        """When the disk was full for the last time."""
        self.acknowledged = 0
        self.tried: dict[int, StoredEvent] = {}
        """Every event, as it was when it was to be written last: one that is erased later means what it meant."""
        self.lives = 0
        self.ambush: Callable[[], None] | None = None
        """A crash that waits for a request to be in the middle of."""
        self._plans = self.drawn("plans")
        self._up = trio.Event()

    def drawn(self, what: str) -> random.Random:
        """Chance of its own for `what`, so that another number drawn there changes nothing elsewhere."""
        return random.Random(f"{what} {self.shape.seed}")

    def sent(self, *, keyed: bool) -> None:
        """A request is on its way, which a crash may wait for."""
        if self.ambush is not None and self.chance.random() < (0.5 if keyed else 0.05):
            self.ticks.alarm(self.chance.randint(1, 30), self.ambush)
            self.ambush = None

    # -- telling

    def note(self, what: str) -> None:
        self.trace.add(f"{self.ticks.count} {trio.current_time():.6f} {what}")

    def violate(self, what: str) -> None:
        self.trace.violate(f"{self.ticks.count} {trio.current_time():.6f}", what)
        self.failed.set()

    def note_tried(self, event: StoredEvent) -> None:
        self.tried[event.id] = event

    def check_durable(self, event_id: int, what: str) -> None:
        """What is told or done is on the platter."""
        if event_id > self.disk.synced_mark:
            self.violate(f"{what}, and event {event_id} was not forced out: only {self.disk.synced_mark} are")

    def told(self, what: str) -> None:
        """Somebody was told what the kernel believes now."""
        life = self.life
        assert life is not None and life.system is not None
        last_id = life.system.core.loop.state.last_id
        self.check_durable(last_id, what)
        self.ledger.told_id = max(self.ledger.told_id, last_id)

    # -- services

    def plan(self, launch: Launch, number: int) -> Plan:
        behave = steady if self.calm else BEHAVIOURS[behaviour_of(launch)]
        return behave(self._plans, number)

    # -- the kernel's lives

    async def wait_up(self) -> Life:
        while self.life is None or self.life.system is None or self.life.dead:
            await self._up.wait()
        return self.life

    def is_up(self, life: Life) -> None:
        self.life = life
        up, self._up = self._up, trio.Event()
        up.set()

    def crash(self, *, power: bool) -> None:
        """Now: between two steps of whatever task. What was on its way to somebody does not arrive."""
        life = self.life
        if life is None or life.dead:
            return
        self.note(f"CRASH of life {life.number}{' with the power' if power else ''}")
        life.dead = True
        self.disk.crash(power=power)
        self.processes.orphan()
        for scope in life.connections:
            scope.cancel()
        life.scope.cancel()
