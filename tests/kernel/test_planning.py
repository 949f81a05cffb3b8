"""A plan is what the next start does: rehearsed on the log that a crash left, and compared with what a real recovery writes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from attrs import evolve
from kernel_rig import Actor, SlowActor, crash_after, crashing, history, opened, recorded, stubborn
from trio.testing import MockClock

from solo_trio import __version__
from solo_trio.bootstrap.running import start_of
from solo_trio.errors import SoloError
from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.kernel_time import KernelTime
from solo_trio.kernel.planning import Rehearsal, rehearse
from solo_trio.kernel.recovery import folded
from solo_trio.kernel.staging import Submission
from solo_trio.model import codec
from solo_trio.model.ending import Ending
from solo_trio.model.record import StoredEvent
from solo_trio.model.tenant_removal import RemoveTenant
from solo_trio.operations.settings import EMBEDDED, Settings
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock
from solo_trio.testing import MemoryKernel

NEVER = {"start_timeout_s": 600, "stop_timeout_s": 600}
KINDS = ("service_", "tenant_removed")


class KeepingJournal(MemoryJournal):
    """What was appended, as it was: what a removed tenant's events said is erased later."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[StoredEvent] = []

    async def append(self, events: Sequence[StoredEvent], *args: Any, **more: Any) -> None:
        await super().append(events, *args, **more)
        self.written += events


async def never(number: int) -> None:
    await trio.sleep_forever()


def kernel_of(callables: dict[str, Any], settings: Settings = EMBEDDED) -> MemoryKernel:
    return MemoryKernel(callables, settings=settings, journal=KeepingJournal())


async def planned(memory: MemoryKernel, **obstacles: Ending) -> Rehearsal:
    state, _ = await folded(memory.journal, Diagnostics(), reducer_version())
    time = KernelTime(SystemClock(), state.last_at_us, state.kernel_time, suspect=state.system.clock_held)
    now = time.now(state.last_at_us, state.kernel_time)
    known = {
        (tenant.tenant_id, service.service_id, service.deployment): obstacles[service.service_id]
        for tenant, service in state.services()
        if service.service_id in obstacles
    }
    return rehearse(state, start_of(memory.settings, __version__), now, known)


def story_of(records: Any) -> dict[str, list[str]]:
    """What was written about each service and tenant: kinds, with the cause of a start and the reason of an end."""
    told: dict[str, list[str]] = defaultdict(list)
    for record in records:
        stored, event = record.stored, record.event
        if not stored.type.startswith(KINDS):
            continue
        more = getattr(event, "cause", None) or (event.reason if stored.type == "service_stopped" else None)
        if stored.type == "service_deployment_failed":
            more = event.reason
        told[f"{stored.tenant_id}/{stored.subject}"].append(f"{stored.type} {more}" if more else stored.type)
    return dict(told)


async def real(memory: MemoryKernel, after: int, *, settle_s: float = 5.0) -> dict[str, list[str]]:
    """What a start writes about services until everything has settled."""
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        with trio.move_on_after(settle_s):
            await trio.sleep_forever()
        upto = kernel.system.core.loop.state.last_id
    assert isinstance(memory.journal, KeepingJournal)
    return story_of(codec.to_record(each) for each in memory.journal.written if after < each.id <= upto)


async def check(memory: MemoryKernel, **obstacles: Ending) -> Rehearsal:
    before = len(await history(memory))
    plan = await planned(memory, **obstacles)
    assert len(await history(memory)) == before, "nothing is written for a plan"
    assert story_of(plan.draft.records) == await real(memory, before)
    return plan


def starts(plan: Rehearsal) -> list[tuple[int, str]]:
    return [(each.round, each.service_id) for each in plan.starts]


# -- prepared logs


async def test_dependencies_are_started_in_rounds(autojump_clock: MockClock) -> None:
    memory = kernel_of({name: Actor() for name in ("a", "b", "c", "alone")})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("c", memory.callables["c"])
        await tenant.deploy("b", memory.callables["b"], depends_on=["c"])
        await tenant.deploy("a", memory.callables["a"], depends_on=["b", "c"])
        await tenant.deploy("alone", memory.callables["alone"])
    plan = await check(memory)
    assert starts(plan) == [(1, "alone"), (1, "c"), (2, "b"), (3, "a")]
    assert {each.outcome for each in plan.starts} == {"ready"} and {each.cause for each in plan.starts} == {"recovery"}


async def test_what_waits_what_is_left_and_what_is_forgotten(autojump_clock: MockClock) -> None:
    callables = {"base": Actor(), "top": Actor(), "wild": Actor(crash_after(0.01)), "calm": Actor()}
    memory = kernel_of(callables)
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("base", callables["base"])
        await tenant.deploy("top", callables["top"], depends_on=["base"])
        await tenant.pause("base")
        await tenant.deploy("wild", callables["wild"], max_restarts=0)
        await recorded(kernel, "wild", "service_given_up")
        await tenant.deploy("fleeting", callables["calm"], ephemeral=True)
    plan = await check(memory)
    assert starts(plan) == []
    assert [(each.service_id, each.missing) for each in plan.waiting] == [("top", ("base",))]
    assert plan.started.service("acme", "fleeting") is None


async def test_a_stop_and_a_removal_are_brought_to_their_end(autojump_clock: MockClock) -> None:
    memory = kernel_of({"slow": Actor(lambda number, ctx: stubborn(30.0)), "calm": Actor()})
    async with crashing(memory) as kernel:
        acme, blau = await kernel.tenant("acme"), await kernel.tenant("blau")
        for tenant in (acme, blau):
            await tenant.deploy("slow", memory.callables["slow"])
        await acme.deploy("calm", memory.callables["calm"])
        with trio.move_on_after(0.5):
            await acme.kill("slow", grace_ms=600_000)
        await kernel.system.core.loop.report(Submission(RemoveTenant("blau", 600_000)))
    plan = await check(memory)
    assert plan.finished == [("acme", "slow"), ("blau", "slow")] and plan.removed == ["blau"]
    assert starts(plan) == [(1, "calm")]


async def test_intents_are_tried_or_forgotten(autojump_clock: MockClock) -> None:
    memory = kernel_of({"slow": SlowActor(never), "base": Actor()})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("base", memory.callables["base"])
        async with trio.open_nursery() as nursery:
            for name, needs in (("alone", []), ("needy", ["base"])):
                nursery.start_soon(
                    partial(tenant.deploy, name, memory.callables["slow"], depends_on=needs, limits=NEVER)
                )
            await recorded(kernel, None, "service_started", count=3)
            nursery.cancel_scope.cancel()
        await tenant.pause("base")
    memory.callables = {**memory.callables, "slow": Actor()}
    plan = await check(memory)
    assert [(each.service_id, each.cause, each.outcome) for each in plan.starts] == [("alone", "recovery", "ready")]
    assert plan.failed == [(("acme", "needy"), "it depends on base, which does not run")]


async def test_a_paused_start_and_a_boot_loop(autojump_clock: MockClock) -> None:
    memory = kernel_of({"calm": Actor()}, settings=evolve(EMBEDDED, boot_loop_starts=2))
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("calm", memory.callables["calm"])
    for _ in range(2):
        assert (await planned(memory)).started.system.hold is None
        async with crashing(memory):
            pass
    plan = await check(memory)
    assert plan.started.system.hold == "boot_loop" and not plan.starts
    memory.settings = evolve(EMBEDDED, start_paused=True)
    plan = await check(memory)
    assert plan.started.system.hold == "asked"


async def test_what_cannot_be_loaded_any_more(autojump_clock: MockClock) -> None:
    memory = kernel_of({"old": Actor(), "top": Actor(), "slow": SlowActor(never)})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("old", memory.callables["old"])
        await tenant.deploy("top", memory.callables["top"], depends_on=["old"])
        with trio.move_on_after(0.5):
            await tenant.deploy("slow", memory.callables["slow"], limits=NEVER)
    memory.callables = {"top": memory.callables["top"]}
    gone = Ending("load_failed", "NotAService: no callable 'old' was passed to this kernel")
    never_there = Ending("load_failed", "NotAService: no callable 'slow' was passed to this kernel")
    plan = await check(memory, old=gone, slow=never_there)
    assert {each.service_id: each.outcome for each in plan.starts} == {"old": "given_up", "slow": "failed"}
    assert [each.service_id for each in plan.waiting] == ["top"]


# -- logs that nobody prepared


@pytest.mark.parametrize("seed", range(30))
async def test_any_log_that_a_crash_left(autojump_clock: MockClock, seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    callables: dict[str, Any] = {f"s{number}": Actor() for number in range(5)}
    memory = kernel_of({**callables, "slow": SlowActor(never)}, settings=evolve(EMBEDDED, boot_loop_starts=0))
    for _ in range(chance.randrange(1, 4)):
        async with crashing(memory) as kernel, trio.open_nursery() as nursery:
            for _ in range(chance.randrange(5, 25)):
                nursery.start_soon(attempt, kernel, chance, memory.callables)
                await trio.sleep(chance.choice((0.0, 0.0, 0.01, 1.0)))
            nursery.cancel_scope.cancel()
    memory.callables = {**callables, "slow": Actor()}
    if chance.random() < 0.2:
        memory.settings = evolve(memory.settings, start_paused=True)
    await check(memory)


async def attempt(kernel: Any, chance: random.Random, callables: dict[str, Any]) -> None:
    with suppress(SoloError):
        tenant = await kernel.tenant(chance.choice(("acme", "blau")))
        name = f"s{chance.randrange(5)}"
        needs = sorted({f"s{each}" for each in (chance.randrange(5), chance.randrange(5)) if chance.random() < 0.3})
        match chance.choice(
            ("deploy", "deploy", "deploy", "slow", "kill", "pause", "resume", "restart", "remove", "all")
        ):
            case "deploy":
                await tenant.deploy(name, callables[name], depends_on=needs, replace=chance.random() < 0.5)
            case "slow":
                await tenant.deploy(
                    name, callables["slow"], depends_on=needs, replace=chance.random() < 0.5, limits=NEVER
                )
            case "remove" if chance.random() < 0.2:
                await kernel.remove_tenant(tenant.tenant_id)
            case "kill" | "pause" | "resume" | "restart" as verb:
                await getattr(tenant, verb)(name)
