"""One seed. Owns: the course of a run from the first life to the last checks, its result. Never: a rule that is checked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import partial

import trio
from attrs import frozen

from simulation.asking import ask
from simulation.behaviours import steady_source
from simulation.checks import Checks, check_watchers
from simulation.clients import Client, Watcher, begin, resume_everything
from simulation.ledger import Credential
from simulation.lives import Lives, weather
from simulation.scheduler import Ticks, run
from simulation.world import Shape, World
from solo_trio.model.capability import system_capability

SETTLING_S = 200.0
"""In which everything that was begun comes to its end: the longest start, backoff, grace."""
RUN_S_MAX = 20_000.0
"""A run in which everybody waits for ever jumps to here."""


@frozen
class Result:
    """`digest`: of the trace. `log_digest`: of the rows of the log at the end."""

    seed: int
    violations: Sequence[str]
    trace: Sequence[str]
    digest: str
    log_digest: str
    events: int
    lives: int
    steps: int
    acknowledged: int
    simulated_s: float
    real_s: float

    @property
    def replay(self) -> str:
        return f"nox -s simulate -- --start {self.seed} --seeds 1 --trace"


def run_seed(seed: int, *, trace: bool = False) -> Result:
    """Simulate one run."""
    return run_shape(Shape.of(seed, trace=trace))


def run_shape(shape: Shape) -> Result:
    began = time.perf_counter()
    result: Result = run(f"order {shape.seed}", partial(_main, shape, began))
    return result


async def _main(shape: Shape, began: float, ticks: Ticks) -> Result:
    async with trio.open_nursery() as nursery:
        world = World(shape, ticks, nursery)
        checks = Checks(world)
        with trio.move_on_after(RUN_S_MAX) as scope:
            await _course(world, checks)
        if scope.cancelled_caught:
            world.violate("the run did not come to its end")
        nursery.cancel_scope.cancel()
    rows = hashlib.sha256()
    for stored in checks.log:
        rows.update(repr(stored).encode())
    return Result(
        seed=shape.seed,
        violations=tuple(world.trace.violations),
        trace=tuple(world.trace.lines),
        digest=world.trace.digest,
        log_digest=rows.hexdigest(),
        events=len(checks.log),
        lives=world.lives,
        steps=ticks.count,
        acknowledged=world.acknowledged,
        simulated_s=trio.current_time(),
        real_s=time.perf_counter() - began,
    )


async def _course(world: World, checks: Checks) -> None:
    lives = Lives(world, checks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_failed, world, nursery.cancel_scope)
        async with trio.open_nursery() as living:
            living.start_soon(lives.all)
            await _clients(world, checks)
            assert world.life is not None
        nursery.cancel_scope.cancel()
    if not world.failed.is_set():
        await lives.one_more_look()


async def _until_failed(world: World, scope: trio.CancelScope) -> None:
    await world.failed.wait()
    scope.cancel()


async def _clients(world: World, checks: Checks) -> None:
    system = await system_credential(world)
    watcher = Watcher(world, system, world.drawn("watcher"))
    async with trio.open_nursery() as watching:
        watching.start_soon(watcher.run)
        if world.shape.faults:
            watching.start_soon(weather, world)
        await begin(world, system)
        async with trio.open_nursery() as clients:
            for _ in range(world.shape.clients):
                clients.start_soon(Client(world, system).run)
        await _end(world, checks, system)
        watching.cancel_scope.cancel()
    check_watchers(world, watcher.seen, [world.tried[each.id] for each in watcher.seen])


async def system_credential(world: World) -> Credential:
    """The system's token, as an operator reads it from its file."""
    while True:
        life = await world.wait_up()
        assert life.system is not None
        capability = system_capability(life.system.core.loop.state)
        if capability is not None:
            return Credential(life.system.keyring.mint(capability.key_id, capability.capability_id).reveal_text())
        await trio.sleep(0.1)


async def _end(world: World, checks: Checks, system: Credential) -> None:
    """Go through the lives that are left, then let everything settle, and look."""
    chance = world.drawn("end")
    while world.lives < world.shape.lives:
        life = await world.wait_up()
        if life.number >= world.shape.lives:
            break
        await trio.sleep(chance.expovariate(1 / 20.0))
        if not life.dead:
            life.ending.set()
            await life.over.wait()
    world.calm = True
    world.disk.full, world.disk.failing_writes, world.disk.failing_syncs = False, 0, 0
    await _make_last_tenant(world, system)
    await resume_everything(world, system)
    await trio.sleep(SETTLING_S)
    life = await world.wait_up()
    assert life.system is not None and life.journal is not None
    state = life.system.core.loop.state
    checks.settled(state)
    checks.leftovers(life.journal, state)
    reply = await ask(world, "verify", system)
    if reply.answered and reply.body["status"] == "failed":
        world.violate(f"the last verification failed: {reply.body['checks']}")
    for credential in world.ledger.credentials:
        await ask(world, "list_services", credential)
    await _works(world, system)
    await _reveal_all(world, system)
    life.ending.set()


async def _make_last_tenant(world: World, system: Credential) -> None:
    """Something is written, so that a kernel ends whose disk has failed while nothing was."""
    for kind, name in (("tenant", ""), ("service", "probe")):
        world.ledger.entry((kind, "last", name)).values = None
    while not world.failed.is_set():
        life = await world.wait_up()
        made = await ask(world, "create_tenant", system, body={"tenant_id": "last"})
        if made.answered or made.code == "tenant_exists":
            return
        if made.outcome == "refused":
            world.violate(f"at the end no tenant can be made: {made.code}")
        await life.over.wait()


async def _works(world: World, system: Credential) -> None:
    """Whatever happened: what is deployed now, runs."""
    body = {"service_id": "probe", "code": steady_source()}
    deployed = await ask(world, "deploy", system, tenant_id="last", body=body)
    if not deployed.answered:
        world.violate(f"at the end nothing can be deployed: {deployed.code}")


async def _reveal_all(world: World, system: Credential) -> None:
    """Every secret is what it was set to."""
    for key, entry in list(world.ledger.entries.items()):
        if key[0] != "secret" or entry.values is None:
            continue
        reply = await ask(world, "reveal_secret", system, tenant_id=key[1], route={"name": key[2]})
        found = reply.body["value"] if reply.answered else "absent"
        if reply.outcome != "unknown" and found not in entry.values:
            world.violate(f"{key} is {found}, and may be {sorted(entry.values)}")
