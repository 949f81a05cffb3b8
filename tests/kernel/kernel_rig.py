"""A kernel under test: in memory, on the mock clock. Owns: services that note what happened to them, reading the log."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio
from attrs import define, field, frozen

from solo_trio import service
from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted
from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel.loop import Loop
from solo_trio.model import codec
from solo_trio.model.event import Record
from solo_trio.model.mandate import NOBODYS, Mandate
from solo_trio.model.record import Attachment, EventQuery, StoredEvent
from solo_trio.model.state import fold
from solo_trio.ports import Ending, Launch
from solo_trio.testing import MemoryKernel

Behaviour = Callable[[int, service.Context], Awaitable[None]]


async def forever(number: int, ctx: service.Context) -> None:
    await trio.sleep_forever()


def crash_after(seconds: float) -> Behaviour:
    """Every start crashes after so long."""

    async def behave(number: int, ctx: service.Context) -> None:
        await trio.sleep(seconds)
        raise ValueError(f"crash {number}")

    return behave


def crash_at(*times: float) -> Behaviour:
    """Start number i crashes at the absolute time `times[i]`; the ones after that live for ever."""

    async def behave(number: int, ctx: service.Context) -> None:
        if number > len(times):
            await trio.sleep_forever()
        await trio.sleep_until(times[number - 1])
        raise ValueError(f"crash {number}")

    return behave


class Actor:
    """A callable service, ready on entry, that does what `behave(number of the start, ctx)` says."""

    def __init__(self, behave: Behaviour = forever) -> None:
        self.behave = behave
        self.began: list[float] = []
        """The time of each start."""
        self.ended: list[float] = []
        self.alive = 0
        self.alive_max = 0

    async def __call__(self, ctx: service.Context) -> None:
        await self._live(ctx)

    async def _live(self, ctx: service.Context) -> None:
        self.began.append(trio.current_time())
        self.alive += 1
        self.alive_max = max(self.alive_max, self.alive)
        try:
            await self.behave(len(self.began), ctx)
        finally:
            self.alive -= 1
            self.ended.append(trio.current_time())


class SlowActor(Actor):
    """An actor that is ready when `start(number)` has returned."""

    def __init__(self, start: Callable[[int], Awaitable[None]], behave: Behaviour = forever) -> None:
        super().__init__(behave)
        self.start = start

    async def __call__(self, ctx: service.Context, task_status: Any) -> None:  # type: ignore[override]
        async def behave(number: int, ctx: service.Context) -> None:
            await self.start(number)
            task_status.started()
            await self.told(number, ctx)

        self.told, self.behave = self.__dict__.get("told", self.behave), behave
        await self._live(ctx)


async def stubborn(seconds: float) -> None:
    """Cannot be cancelled for so long."""
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


# -- a runtime in which services can be what a task cannot: deaf to a request, killable at once


EXIT_1 = Ending("crashed", "exit status 1", exit_code=1)


@frozen
class Plan:
    """What one start does, in seconds from it (or from the request to stop, or from the kill)."""

    ready_s: float = 0.0
    ends_s: float = math.inf
    ending: Ending = EXIT_1
    stops_s: float = math.inf
    dies_s: float = 0.0
    fault: bool = False
    """The runtime cannot start it."""
    uses: Callable[[float], Mapping[str, float]] | None = None
    """What it uses so many seconds after its start."""
    exactly: Mapping[str, float] | None = None
    """What is said of that to who asks for it exactly; None: the same."""


class PlannedRunning:
    """Implements `ports.Running`."""

    def __init__(self, plan: Plan) -> None:
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.ending: Ending | None = None
        self._plan = plan
        now = self._started_at = trio.current_time()
        self._ready_at = now + plan.ready_s
        self._end = (now + plan.ends_s, plan.ending)
        self._changed = trio.Event()
        self._asked = self._killed = False
        self.adjusted: list[dict[str, float]] = []
        self.reconsidered = 0

    async def run(self) -> None:
        while trio.current_time() < self._end[0]:
            if trio.current_time() >= self._ready_at:
                self.ready.set()
            self._changed = trio.Event()
            with trio.move_on_at(self._end[0] if self.ready.is_set() else min(self._end[0], self._ready_at)):
                await self._changed.wait()
        self.ending = self._end[1]
        self.ended.set()

    def _end_in(self, seconds: float, ending: Ending) -> None:
        self._end = min(self._end, (trio.current_time() + seconds, ending), key=lambda end: end[0])
        self._changed.set()

    def request_stop(self) -> None:
        if not self._asked:
            self._asked = True
            self._end_in(self._plan.stops_s, Ending("stopped", "stopped on request"))

    def kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._end_in(self._plan.dies_s, Ending("killed", "killed", signal="SIGKILL"))

    async def call(self, function: str, args: Sequence[Any], kwargs: dict[str, Any], mandate: Mandate = NOBODYS) -> Any:
        await trio.lowlevel.checkpoint()
        return function

    def adjust(self, limits: Mapping[str, float]) -> frozenset[str]:
        self.adjusted.append(dict(limits))
        return frozenset(limits) - {"threads"}

    def reconsider_egress(self) -> None:
        self.reconsidered += 1

    def usage(self, *, exactly: bool = False) -> dict[str, float]:
        if self._plan.uses is None:
            return {}
        if exactly and self._plan.exactly is not None:
            return dict(self._plan.exactly)
        return dict(self._plan.uses(trio.current_time() - self._started_at))


class PlannedRuntime:
    """Implements `ports.Runtime`: a source is the name of its plans, one for each start (the last one for all further)."""

    isolation = "process"

    def __init__(self, plans: Mapping[str, Sequence[Plan]]) -> None:
        self.plans = plans
        self.starts: dict[str, int] = {}
        self.alive: list[PlannedRunning] = []
        self.forgotten: list[str] = []

    async def start(self, launch: Launch, nursery: trio.Nursery) -> PlannedRunning:
        await trio.lowlevel.checkpoint()
        number = self.starts[launch.service_id] = self.starts.get(launch.service_id, 0) + 1
        plans = self.plans[launch.source]
        plan = plans[min(number, len(plans)) - 1]
        if plan.fault:
            raise Faulted("runtime_unavailable", "no more processes")
        running = PlannedRunning(plan)
        self.alive.append(running)
        nursery.start_soon(running.run)
        return running

    def confinement(self) -> dict[str, Any]:
        return {"level": 3}

    async def probe(self) -> object:
        return None

    async def forget(self, incarnation: str) -> None:
        await trio.lowlevel.checkpoint()
        self.forgotten.append(incarnation)

    async def close(self, deadline: float) -> None:
        await trio.lowlevel.checkpoint()


# -- the world's parts, decided by the test


@define
class FixedEntropy:
    """Implements `ports.Entropy`: always the same jitter."""

    chance: float = 0.5
    _random: random.Random = field(factory=lambda: random.Random(5))

    def token(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)

    def uniform(self) -> float:
        return self.chance


@define
class JumpingClock:
    """Implements `ports.Clock`: a wall clock that goes where `jump` says at each reading, and Trio's monotonic one."""

    jump: Callable[[int], int]
    """The number of the reading -> UTC microseconds."""
    _reads: int = 0

    def wall_us(self) -> int:
        self._reads += 1
        return self.jump(self._reads)

    def monotonic(self) -> float:
        return trio.current_time()


class GatedJournal(MemoryJournal):
    """A journal whose appends can be held up, counted, or made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()
        self.gate.set()
        self.waiting = 0
        self.appends: list[list[str]] = []
        """The types of the events of each append that succeeded."""
        self.failures: list[Callable[[Sequence[StoredEvent], bool], Exception | None]] = []
        """Each is asked before an append, and may answer with what to raise."""

    def hold(self) -> None:
        self.gate = trio.Event()

    async def append(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
    ) -> None:
        self.waiting += 1
        with trio.move_on_after(20_000, shield=True):  # a test that failed while it held the gate must end too
            await self.gate.wait()
        self.waiting -= 1
        for failure in self.failures:
            error = failure(events, reserved)
            if error is not None:
                raise error
        await super().append(events, attachments, reserved=reserved)
        self.appends.append([event.type for event in events])


# -- running a kernel and reading its log

DEADLOCK_S = 1e9
"""On the mock clock a test in which everybody waits for ever jumps to here and fails, where it would hang."""


@contextlib.asynccontextmanager
async def opened(memory: MemoryKernel, *, bugs: int = 0) -> AsyncIterator[Kernel]:
    """A kernel until the body is left; then its log is checked, and that no defect but `bugs` was contained."""
    with trio.fail_after(DEADLOCK_S):
        async with memory.open() as kernel:
            yield kernel
            state = kernel.system.core.loop
    await check_log(memory, state)
    assert list(memory.telemetry.bugs)[bugs:] == []


@contextlib.asynccontextmanager
async def crashing(memory: MemoryKernel) -> AsyncIterator[Kernel]:
    """A kernel that crashes where the body is left."""
    with trio.fail_after(DEADLOCK_S), trio.CancelScope() as scope:
        async with memory.open() as kernel:
            yield kernel
            state = kernel.system.core.loop
            scope.cancel()
            await trio.sleep_forever()
    await check_log(memory, state)
    assert list(memory.telemetry.bugs) == []


async def check_log(memory: MemoryKernel, loop: Loop | None = None) -> None:
    """Ids without a gap, times that never decrease, and the state is what the log folds to."""
    records = await history(memory)
    assert [record.stored.id for record in records] == list(range(1, len(records) + 1))
    for before, after in itertools.pairwise(records):
        assert after.stored.at_us >= before.stored.at_us
        assert after.stored.kernel_time >= before.stored.kernel_time
    folded = fold(records)
    if loop is not None and loop.state.last_id == folded.last_id:  # a crash may lose what was appended last
        assert loop.state == folded


async def history(memory: MemoryKernel, service_id: str | None = None, *types: str) -> list[Record]:
    """The log (of one service; of these types)."""
    return [
        codec.to_record(stored)
        async for page in memory.journal.replay()
        for stored in page
        if service_id in (None, stored.subject) and (not types or stored.type in types)
    ]


async def story(memory: MemoryKernel, service_id: str) -> list[str]:
    """What happened to a service, in words: the events' types without `service_`, with the cause of a start."""
    words = []
    for record in await history(memory, service_id):
        word = record.stored.type.removeprefix("service_")
        cause = getattr(record.event, "cause", None) or (
            getattr(record.event, "reason", None) if word == "stopped" else None
        )
        words.append(f"{word} {cause}" if cause else word)
    return words


DEPLOYED = ["deployment_started", "started deploy", "ready", "deployed"]


async def recorded(kernel: Kernel, service_id: str | None, *types: str, after: int = 0, count: int = 1) -> StoredEvent:
    """Wait until `count` events of these types are in the log after `after`; the last of them."""
    found: list[StoredEvent] = []
    watch = kernel.system.core.hub.watch(EventQuery(after=after, subject=service_id, types=types))
    while len(found) < count:
        page = await watch.next_page()
        assert page, f"the kernel closed before {types} of {service_id}"
        found += page
    return found[count - 1]


@frozen
class Note:
    """A command that writes nothing; `decide` is what it is made of."""

    RESERVED = False

    decides: Callable[..., Any]

    def decide(self, state: Any, now: Any) -> Any:
        return self.decides(state, now)
