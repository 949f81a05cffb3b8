"""A long log. Owns: seconds from opening its directory until its state is there, with a checkpoint and without one.

The events are encoded and appended as a kernel does it, in large transactions: thousands of services are deployed, crash and
are restarted, are killed and deployed again. The floor is reading the same rows raw, one after the other.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from figures import heading, rounds, seconds
from floors import read_through

from solo_trio.bootstrap import DATABASE_FILE
from solo_trio.journal.sqlite import SqliteJournal, open_journal
from solo_trio.kernel.checkpoints import CHECKPOINT_INTERVAL_EVENTS
from solo_trio.kernel.recovery import Recovery, replay
from solo_trio.model import codec, snapshot
from solo_trio.model.capability_events import CapabilityGranted
from solo_trio.model.event import Event
from solo_trio.model.record import Checkpoint, StoredEvent
from solo_trio.model.service_events import (
    ServiceCrashed,
    ServiceDeployed,
    ServiceDeploymentStarted,
    ServiceGivenUp,
    ServiceKilled,
    ServiceReady,
    ServiceStarted,
    ServiceStopped,
)
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.state import KernelState, apply
from solo_trio.model.system import StartSystem, SystemStarted
from solo_trio.model.tenant import TenantCreated, TenantLimits
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock

EVENTS = 1_000_000
TENANTS, SERVICES = 50, 20
CRASHES = 3
"""In each life of a service."""
TRANSACTION = 5_000
ROUNDS = 3
"""With the checkpoint; without it a start takes long enough to need no second one."""
KEY = bytes(32)
DIGEST = "d" * 64
SPEC = ServiceSpec(digest=DIGEST, config={"every_s": 2.5, "names": ["a", "b"]})
TRACEBACK = 'Traceback (most recent call last):\n  File "<service>", line 7, in tick\nValueError: no answer in time\n'
Told = tuple[str | None, str | None, Event]


def life(deployment: int, last: bool) -> Iterator[Event]:
    """One deployment of a service until it is killed, or for its `last` one given up."""
    yield ServiceDeploymentStarted(SPEC, DIGEST, 1, replaces=None, grantor=None)
    yield ServiceStarted(deployment, 1, "deploy")
    yield ServiceReady(deployment, 1)
    yield ServiceDeployed(deployment, 1, 1, DIGEST)
    for generation in range(1, CRASHES + 1):
        yield ServiceCrashed(
            deployment, generation, "raised ValueError", TRACEBACK, 1, None, counted=True, restart=True
        )
        if last and generation == CRASHES:
            yield ServiceGivenUp(deployment, generation, "raised ValueError", 3, 2, 60.0)
            return
        yield ServiceStarted(deployment, generation + 1, "restart")
        yield ServiceReady(deployment, generation + 1)
    yield ServiceKilled(deployment, CRASHES + 1, 5_000, force=False)
    yield ServiceStopped(deployment, CRASHES + 1, "stopped")


def told(count: int) -> Iterator[Told]:
    """At least so many events; services of all tenants take turns, event by event."""
    yield None, None, SystemStarted("0.1.0", "3.11.0", clean=True, hold=None)
    for number in range(TENANTS):
        yield f"t{number}", None, TenantCreated(f"key{number}", f"cap{number}", TenantLimits())
        yield f"t{number}", None, CapabilityGranted.of_its_own(f"cap{number}", f"key{number}", "tenant")
    each = 6 + 3 * CRASHES
    lives = max(1, round(count / (TENANTS * SERVICES * each)))
    done = 1 + 2 * TENANTS
    for number in range(lives):
        names = [(f"t{tenant}", f"service-{service}") for tenant in range(TENANTS) for service in range(SERVICES)]
        running = [life(done + 1 + place, number == lives - 1) for place in range(len(names))]
        while running:
            left = []
            for name, events in zip(names, running, strict=True):
                event = next(events, None)
                if event is not None:
                    yield (*name, event)
                    done += 1
                    left.append((name, events))
            names, running = [name for name, _ in left], [events for _, events in left]


def stored(count: int) -> Iterator[StoredEvent]:
    for id_, (tenant, service, event) in enumerate(told(count), start=1):
        incarnation = None if tenant is None else f"{tenant}-incarnation"
        kernel_time = id_ / 100
        at_us = 1_700_000_000_000_000 + 10_000 * id_
        yield StoredEvent(
            id_, at_us, kernel_time, tenant, incarnation, service, event.TYPE, event.SCHEMA, codec.encode(event)
        )


async def write(journal: SqliteJournal, count: int) -> int:
    """Append them; the id of the last."""
    last, page = 0, []
    for each in stored(count):
        page.append(each)
        last = each.id
        if len(page) == TRANSACTION:
            await journal.append(page)
            page = []
    await journal.append(page)
    return last


async def started(data: Path, reducer: str) -> tuple[float, Recovery]:
    """Seconds until the state is there, from opening the directory."""
    gc.collect()
    began = perf_counter()
    journal = await open_journal(data, KEY)
    try:
        start = StartSystem("0.1.0", "3.11.0")
        found = await replay(journal, SystemClock(), Diagnostics(), reducer=reducer, start=start, timeout_s=1)
        return perf_counter() - began, found
    finally:
        await journal.close()


async def measure(directory: Path, count: int = EVENTS) -> None:
    data = directory / "longlog"
    data.mkdir()
    journal = await open_journal(data, KEY)
    began = perf_counter()
    last = await write(journal, count)
    made = perf_counter() - began
    await journal.close()
    heading(f"start on a log of {last:,} events, made in {seconds(made).strip()} (floor: raw read of the same rows)")

    floor = [read_through(data / DATABASE_FILE) for _ in range(ROUNDS)]
    took, found = await started(data, "whole")
    assert found.checkpoint is None and found.replayed == last
    rounds("without a checkpoint", [took], [median(floor)])

    journal = await open_journal(data, KEY)
    at = last - CHECKPOINT_INTERVAL_EVENTS
    body = snapshot.encode(await state_at(journal, at))
    await journal.write_checkpoint(Checkpoint(at, 0, "kept", snapshot.FORMAT, body))
    await journal.close()
    behind = []
    for _ in range(ROUNDS):
        again, found_with = await started(data, "kept")
        assert found_with.checkpoint == at and found_with.state == found.state
        behind.append(again)
    rounds(f"with one {CHECKPOINT_INTERVAL_EVENTS:,} events before the end", behind, floor)
    print(f"    {seconds(took / last).strip()} an event without; the checkpoint has {len(body):,} bytes", flush=True)


async def state_at(journal: SqliteJournal, last: int) -> KernelState:
    state = KernelState()
    async for page in journal.replay():
        for each in page:
            if each.id > last:
                return state
            state = apply(state, codec.to_record(each))
    return state
