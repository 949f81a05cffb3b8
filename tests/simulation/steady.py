"""Long quiet lives. Owns: hours of steady use on the simulated clock, what memory that takes. Never: crashes the kernel.

The log grows for ever, as it must; so that nothing else does, its events are kept in a temporary file here.
"""

from __future__ import annotations

import gc
import os
import pickle
import tempfile
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, overload

import trio
from attrs import frozen

from simulation.asking import Reply, ask
from simulation.behaviours import CRASHED, steady_source
from simulation.ledger import Credential, Entry, Key, Ledger
from simulation.lives import KEY
from simulation.processes import SimRuntime
from simulation.running import system_credential
from simulation.scheduler import Ticks, run
from simulation.world import Life, Shape, SimTelemetry, World
from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel.hub import matches_query
from solo_trio.model.record import EventQuery, StoredEvent
from solo_trio.operations.perform import OPERATIONS, Request, perform
from solo_trio.operations.settings import Settings
from solo_trio.operations.table import EventStream
from solo_trio.testing import MemoryKernel
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.secret import Secret

ROUND_S: Final = 120.0
"""Between two rounds of use: in each something is deployed, called, changed, read, crashes and goes."""
SAMPLES: Final = 12
WARM: Final = 6
"""Samples that do not count: the newest 4,096 events are kept in memory, and each Idempotency-Key for a day."""


@frozen
class Steady:
    """What came of it."""

    hours: float
    events: int
    rounds: int
    real_s: float
    rss_mb: tuple[int, ...]

    @property
    def grown_mb(self) -> int:
        """From when it was warm to the end."""
        return self.rss_mb[-1] - max(self.rss_mb[: WARM + 1])

    def told(self) -> str:
        speed = self.hours * 3_600 / self.real_s
        return (
            f"{self.hours:g} simulated hours, {self.rounds} rounds, {self.events} events in {self.real_s:.0f} s:"
            f" {speed:.0f} times as fast as real time\nresident memory in MiB over that time:"
            f" {', '.join(map(str, self.rss_mb))}; grown by {self.grown_mb} since it was warm"
        )


class SpilledEvents(Sequence[StoredEvent]):
    """Events in a file that has no name; in memory only where each begins."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the journal is there
        self._at = array("Q")

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, at: int) -> StoredEvent: ...
    @overload
    def __getitem__(self, at: slice) -> list[StoredEvent]: ...
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._read(each) for each in range(*at.indices(len(self._at)))]
        return self._read(range(len(self._at))[at])

    def __iter__(self) -> Iterator[StoredEvent]:
        return (self._read(each) for each in range(len(self._at)))

    def extend(self, events: Iterable[StoredEvent]) -> None:
        for event in events:
            self._at.append(self._file.seek(0, os.SEEK_END))
            pickle.dump(event, self._file)

    def close(self) -> None:
        self._file.close()

    def _read(self, index: int) -> StoredEvent:
        self._file.seek(self._at[index])
        event: StoredEvent = pickle.load(self._file)
        return event


class SpillingJournal(MemoryJournal):
    def __init__(self) -> None:
        super().__init__()
        self._events = SpilledEvents()  # type: ignore[assignment]

    async def read(self, query: EventQuery) -> list[StoredEvent]:
        """As the one in memory, which would read the whole file."""
        if query.newest:
            return await super().read(query)
        await trio.lowlevel.checkpoint()
        found: list[StoredEvent] = []
        for index in range(query.after, len(self._events)):
            event = self._events[index]
            if matches_query(event, query):
                found.append(event)
                if len(found) == query.limit:
                    break
        return found


def live_steadily(hours: float, every_s: float = ROUND_S) -> Steady:
    """One kernel, so many simulated hours, with a round of use every so many seconds."""
    result: Steady = run("steady", partial(_main, hours, every_s))
    return result


async def _main(hours: float, every_s: float, ticks: Ticks) -> Steady:
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        world = World(Shape(0, 0, 1, 1, faults=False), ticks, nursery)
        life = Life(1)
        journal = SpillingJournal()
        world.disk.synced_mark = 2**62  # nothing is ever lost here
        memory = MemoryKernel(
            journal=journal,
            settings=Settings(hardening="off", checkpoint_interval_events=500),
            telemetry=SimTelemetry(world, life),
            clock=world.clock,
            entropy=world.entropy,
            runtimes={"process": SimRuntime(world, life)},
            master=MasterKey(Secret(KEY), random_bytes=world.drawn("master").randbytes),
        )
        life.journal = _Index(journal)  # type: ignore[assignment]
        async with memory.run() as system:
            life.system = system
            world.is_up(life)
            samples, rounds = await _use(world, hours * 3_600, every_s)
        nursery.cancel_scope.cancel()
    events = len(journal._events)
    journal._events.close()  # type: ignore[attr-defined]
    if world.trace.violations:
        raise AssertionError(world.trace.violations)
    return Steady(hours, events, rounds, time.perf_counter() - began, tuple(samples))


class _NoLedger(Ledger):
    """Nobody compares."""

    def entry(self, key: Key) -> Entry:
        return Entry(values=None)


class _Index:
    """What `asking` and `processes` look up in a journal; here nobody compares."""

    by_request: Final[dict[str, list[int]]] = {}

    def __init__(self, journal: MemoryJournal) -> None:
        self.events = journal._events
        self.newest_start = _Newest(journal)


class _Newest:
    def __init__(self, journal: MemoryJournal) -> None:
        self._events = journal._events

    def get(self, key: tuple[str, str], default: tuple[int, int]) -> tuple[int, int]:
        for at in range(len(self._events) - 1, -1, -1):
            event = self._events[at]
            if event.type == "service_started" and (event.incarnation, event.subject) == key:
                return event.id, 0
        return default


async def _use(world: World, seconds: float, every_s: float) -> tuple[list[int], int]:
    world.ledger, world.calm = _NoLedger(), True
    system = await system_credential(world)
    await trio.sleep(10)  # a start grants no burst of requests
    made = await ask(world, "create_tenant", system, body={"tenant_id": "a"})
    tenant = Credential(made.body["token"], "a", "one")
    await trio.sleep(10)
    samples: list[int] = []
    rounds = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, world, tenant)
        for service_id in ("s", "t"):
            await _ask(world, "deploy", tenant, body={"service_id": service_id, "code": steady_source()})
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            if trio.current_time() >= end - seconds * (SAMPLES - len(samples)) / SAMPLES:
                samples.append(_resident_mb())
            await _round(world, tenant, rounds)
            rounds += 1
            world.ledger = _NoLedger()
            world.tried.clear()
            await trio.sleep(every_s)
        samples.append(_resident_mb())
        nursery.cancel_scope.cancel()
    return samples, rounds


async def _round(world: World, tenant: Credential, number: int) -> None:
    """A minute in the life of an agent."""
    route = {"service_id": "s"}
    await _ask(world, "call", tenant, route={"service_id": "s", "function": "echo"}, body={"args": [number]})
    await _ask(world, "set_secret", tenant, route={"name": "k"}, body={"value": f"value {number}"})
    await _ask(world, "reveal_secret", tenant, route={"name": "k"})
    await _ask(world, "restart_service", tenant, route=route, key=f"restart {number}")
    granted = await _ask(
        world, "create_capability", tenant, body={"resource": "service:s", "permissions": ["read"], "ttl_s": 600}
    )
    if number % 2:
        await _ask(world, "revoke_capability", tenant, route={"capability_id": granted.body["id"]})
    body = {"service_id": "new", "code": steady_source(number % 50)}
    await _ask(world, "deploy", tenant, body=body)
    await _ask(world, "list_services", tenant)
    for running in list(world.processes.alive.values()):
        if running.launch.service_id == "t":
            running.end(CRASHED)  # and it is started again
    await trio.sleep(1.0)
    await _ask(world, "delete_service", tenant, route={"service_id": "new"})


async def _ask(world: World, name: str, tenant: Credential, **request: Any) -> Reply:
    while True:
        reply = await ask(world, name, tenant, **request)
        if reply.outcome != "unknown":
            break
    if not reply.answered:
        world.violate(f"{name} was refused: {reply.code}")
    return reply


async def _watch(world: World, tenant: Credential) -> None:
    life = await world.wait_up()
    assert life.system is not None
    stream = await perform(life.system, OPERATIONS["watch_events"], Request(token=tenant.token))
    assert isinstance(stream, EventStream)
    while await stream.watch.next_page():
        pass


def _resident_mb() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 2**20
