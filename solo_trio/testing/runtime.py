"""Services that a test makes up. Owns: `ports.Runtime` whose services do as planned, on any clock. Never: runs any code.

They can be what a task cannot: deaf to a request, killable at once, lost with their sandbox, ready too late or never.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import trio
from attrs import field, frozen

from solo_trio.errors import Faulted
from solo_trio.model.mandate import NOBODYS, Mandate
from solo_trio.ports import Ending, Launch

EXIT_1: Final = Ending("crashed", "exit status 1", exit_code=1)

Answer = Callable[[Launch, str, Sequence[Any], Mapping[str, Any]], Awaitable[Any]]
"""What a call of a function comes to; `Launch` has the service's own ways out: `outgoing`, `secret`, `log`."""


@frozen
class Plan:
    """What one start does; times are seconds from it, `stops_s` and `dies_s` from the request and the kill."""

    starts_s: float = 0.0
    """How long the runtime takes to fork it."""
    available: bool = True
    """False: the runtime cannot start it now."""
    ready_s: float = 0.0
    ends_s: float = math.inf
    ending: Ending | None = EXIT_1
    """How it ends by itself. None: it ends without saying how."""
    ready_after_end: bool = False
    """It says that it is ready once more when it has ended."""
    stops_s: float = math.inf
    """It is deaf unless this is set."""
    dies_s: float = 0.0
    uses: Callable[[float], Mapping[str, float]] | None = None
    """What it uses so many seconds after its start; see `Running.usage`."""
    answer: Answer | None = field(default=None, repr=False)
    """By itself a call answers with `[function, args, kwargs]`."""


class FakeRunning:
    """Implements `ports.Running`: one start, as planned; `launch` is what it was started with."""

    def __init__(self, plan: Plan, launch: Launch) -> None:
        self.plan = plan
        self.launch = launch
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.ending: Ending | None = None
        self.adjusted: list[dict[str, float]] = []
        """Limits that were changed while it ran."""
        self.asked = self.killed = False
        self._began = now = trio.current_time()
        self._ready_at = now + plan.ready_s
        self._end: tuple[float, Ending | None] = (now + plan.ends_s, plan.ending)
        self._changed = trio.Event()

    async def run(self) -> None:
        """Live; the runtime sees to it."""
        while trio.current_time() < self._end[0]:
            if trio.current_time() >= self._ready_at:
                self.ready.set()
            self._changed = trio.Event()
            with trio.move_on_at(self._end[0] if self.ready.is_set() else min(self._end[0], self._ready_at)):
                await self._changed.wait()
        self.ending = self._end[1]
        self.ended.set()
        if self.plan.ready_after_end:
            self.ready.set()

    def end(self, ending: Ending, after_s: float = 0.0) -> None:
        """Have it end like that, if it does not end sooner."""
        at = trio.current_time() + after_s
        if at < self._end[0]:
            self._end = (at, ending)
            self._changed.set()

    def request_stop(self) -> None:
        if not self.asked:
            self.asked = True
            self.end(Ending("stopped", "stopped on request"), self.plan.stops_s)

    def kill(self) -> None:
        if not self.killed:
            self.killed = True
            self.end(Ending("killed", "killed", signal="SIGKILL"), self.plan.dies_s)

    async def call(self, function: str, args: Sequence[Any], kwargs: dict[str, Any], mandate: Mandate = NOBODYS) -> Any:
        await trio.lowlevel.checkpoint()
        if self.ended.is_set():
            raise Faulted("call_interrupted", "the service has ended")
        if self.plan.answer is None:
            return [function, list(args), kwargs]
        return await self.plan.answer(self.launch, function, args, kwargs)

    def adjust(self, limits: Mapping[str, float]) -> frozenset[str]:
        self.adjusted.append(dict(limits))
        return frozenset(limits)

    def reconsider_egress(self) -> None:
        """There are no connections to cut."""

    def usage(self, *, exactly: bool = False) -> dict[str, float]:
        return {} if self.plan.uses is None else dict(self.plan.uses(trio.current_time() - self._began))


class FakeRuntime:
    """Implements `ports.Runtime`: `plan(launch, number)` says what start `number` (from 1) of a service does."""

    def __init__(self, plan: Callable[[Launch, int], Plan] = lambda launch, number: Plan(stops_s=0.0)) -> None:
        self.isolation = "process"
        self.plan = plan
        self.started: list[FakeRunning] = []
        """Every start, in order."""
        self.forgotten: list[str] = []
        """Incarnations of tenants that were removed."""
        self._numbers: dict[tuple[str, str], int] = {}

    async def start(self, launch: Launch, nursery: trio.Nursery) -> FakeRunning:
        key = (launch.incarnation, launch.service_id)
        number = self._numbers[key] = self._numbers.get(key, 0) + 1
        plan = self.plan(launch, number)
        await trio.sleep(plan.starts_s)
        if not plan.available:
            raise Faulted("runtime_unavailable", "this start was planned to fail")
        running = FakeRunning(plan, launch)
        self.started.append(running)
        nursery.start_soon(running.run)
        return running

    def alive(self, service_id: str | None = None) -> list[FakeRunning]:
        """What runs now, of one service or of all."""
        return [
            each for each in self.started if not each.ended.is_set() and service_id in (None, each.launch.service_id)
        ]

    def confinement(self) -> dict[str, Any]:
        return {"level": 3}

    async def probe(self) -> object:
        await trio.lowlevel.checkpoint()
        return None

    async def forget(self, incarnation: str) -> None:
        await trio.lowlevel.checkpoint()
        self.forgotten.append(incarnation)

    async def close(self, deadline: float) -> None:
        await trio.lowlevel.checkpoint()
        for running in self.alive():
            running.kill()
