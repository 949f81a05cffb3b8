"""The supervision table, rows 20 to 22: bad input, counts, cost."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from attrs import asdict
from kernel_rig import Actor, FixedEntropy, crash_after, history, opened, stubborn
from trio.testing import MockClock

import solo_trio
from solo_trio import service
from solo_trio.embedding import Kernel, Tenant
from solo_trio.errors import Rejected, SoloError
from solo_trio.model.event import Record
from solo_trio.model.service import count_services
from solo_trio.operations.settings import Settings
from solo_trio.testing import MemoryKernel

# -- 20

INF, NAN = float("inf"), float("nan")
BAD: dict[str, dict[str, Any]] = {
    "negative restarts": {"max_restarts": -1},
    "fraction of a restart": {"max_restarts": 1.5},
    "too many restarts": {"max_restarts": 10**9},
    "true as a number": {"max_restarts": True},
    "no window": {"max_seconds": 0},
    "negative window": {"max_seconds": -1},
    "infinite window": {"max_seconds": INF},
    "no number as window": {"max_seconds": NAN},
    "unknown restart type": {"restart": "always"},
    "no restart type": {"restart": None},
    "infinite limit": {"limits": {"start_timeout_s": INF}},
    "no number as limit": {"limits": {"stop_timeout_s": NAN}},
    "negative limit": {"limits": {"memory_mb": -1}},
    "unknown limit": {"limits": {"memory": 64}},
    "text as limit": {"limits": {"memory_mb": "64"}},
}


async def of_tenants(memory: MemoryKernel) -> int:
    """How many events are about a tenant; the kernel's own life is in the log too."""
    return sum(record.stored.tenant_id is not None for record in await history(memory))


@pytest.mark.parametrize("name", BAD)
async def test_row_20_bad_input_is_refused_and_nothing_is_started(autojump_clock: MockClock, name: str) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        before = await of_tenants(memory)
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("web", actor, **BAD[name])
        assert caught.value.code in ("invalid_field", "unknown_field") and caught.value.status == 400
        await trio.sleep(100)
        assert await of_tenants(memory) == before and await tenant.services() == []
    assert actor.began == []


@pytest.mark.parametrize("service_id", ["", "Web", "a/b", "../x", "a" * 64, "-a", "a\n", "ä", "a b"])
async def test_row_20_bad_ids_are_refused_and_nothing_is_started(autojump_clock: MockClock, service_id: str) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        before = len(await history(memory))
        with pytest.raises(Rejected) as caught:
            await tenant.deploy(service_id, actor)
        assert caught.value.code == "invalid_id"
        assert len(await history(memory)) == before
    assert actor.began == []


async def test_row_20_a_duplicate_id_is_refused_and_leaves_the_first_alone(autojump_clock: MockClock) -> None:
    actor, other = Actor(), Actor()
    memory = MemoryKernel({"it": actor, "other": other})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor)
        before = len(await history(memory))
        for same in (lambda: tenant.deploy("web", other), lambda: tenant.deploy("web", actor, max_restarts=1)):
            with pytest.raises(Rejected) as caught:
                await same()
            assert (caught.value.code, caught.value.status) == ("service_exists", 409)
        assert (await tenant.deploy("web", actor))["status"] == "ready"  # an equal specification is a no-op
        assert len(await history(memory)) == before
        await (await kernel.tenant("blau")).deploy("web", other)  # another tenant's is another service
    assert (len(actor.began), len(other.began)) == (1, 1)


# -- 21


class Tally:
    """Counts statuses from the events alone, by rules written down here, and compares at every committed batch."""

    def __init__(self, kernel: Kernel) -> None:
        self.statuses: dict[tuple[str, str], str] = {}
        self.batches = 0
        self.seen: set[str] = set()
        self._loop = kernel.system.core.loop
        self._then = self._loop.touched
        self._loop.touched = self.check

    def check(self, records: Sequence[Record]) -> None:
        for record in records:
            self._take(record)
        by_status = Counter(self.statuses.values())
        self.seen |= set(by_status)
        found = asdict(count_services(each for _, each in self._loop.state.services()))
        wanted = by_status["starting"] + by_status["running"] + by_status["restarting"]
        names = ("running", "starting", "restarting", "stopping", "stopped", "given_up")
        expected = {name: by_status[name] for name in names}
        assert found == {**expected, "paused": 0, "wanted": wanted, "total": len(self.statuses)}
        self.batches += bool(records)
        self._then(records)

    def _take(self, record: Record) -> None:
        event: Any = record.event
        key = (record.stored.tenant_id or "", record.stored.subject or "")
        now = self.statuses.get(key)
        match record.stored.type:
            case "service_deployment_started":
                self.statuses[key] = "starting"
            case "service_started":
                assert now in ("starting", "restarting")
            case "service_ready":
                self.statuses[key] = "running"
            case "service_crashed" if now != "stopping":
                self.statuses[key] = "restarting" if event.restart else "stopped"
            case "service_given_up":
                self.statuses[key] = "given_up"
            case "service_restart_requested":
                self.statuses[key] = "restarting"
            case "service_killed":
                self.statuses[key] = "stopping"
            case "service_stopped" if now != "stopping":
                self.statuses[key] = "stopped"
            case "service_stopped" | "service_deployment_failed":
                del self.statuses[key]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_row_21_the_counts_are_right_at_every_batch_of_a_busy_run(autojump_clock: MockClock, seed: int) -> None:
    async def behave(number: int, ctx: service.Context) -> None:
        luck = random.Random(f"{seed} {ctx.service_id} {number}")
        try:
            await trio.sleep(luck.choice([0, 0.1, 3, 1_000]))
            if luck.random() < 0.7:
                raise ValueError("crash")
        finally:
            await stubborn(luck.choice([0, 0, 0.5, 8]))

    async def live_briefly(number: int, ctx: service.Context) -> None:
        await trio.sleep(9)

    actor, doomed, brief = Actor(behave), Actor(crash_after(5)), Actor(live_briefly)
    memory = MemoryKernel({"it": actor, "doomed": doomed, "brief": brief}, entropy=FixedEntropy())

    async def client(tenant: Tenant, number: int) -> None:
        luck = random.Random(f"{seed} {number}")
        for _ in range(25):
            await trio.sleep(luck.choice([0, 0.01, 1]))
            service_id = f"s{luck.randrange(6)}"
            restart = luck.choice(["permanent", "transient", "temporary"])
            try:
                match luck.randrange(4):
                    case 0 | 1:
                        await tenant.deploy(service_id, actor, restart=restart, max_restarts=2)  # type: ignore[arg-type]
                    case 2:
                        await tenant.restart(service_id)
                    case 3:
                        await tenant.kill(service_id, grace_ms=luck.choice([0, 1_000]), force=luck.random() < 0.2)
            except SoloError as error:
                assert error.code != "kernel_bug"

    async with opened(memory) as kernel:
        tally = Tally(kernel)
        await (await kernel.tenant("t0")).deploy("doomed", doomed, max_restarts=2)
        await (await kernel.tenant("t1")).deploy("brief", brief, restart="transient")
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(client, await kernel.tenant(f"t{number % 2}"), number)
        await trio.sleep(100)
        tally.check(())
    assert tally.batches > 100
    assert tally.seen == {"running", "starting", "restarting", "stopping", "stopped", "given_up"}


# -- 22

PHASES = ("deploying", "crashing", "closing", "recovering", "deleting")
ROOMS = tuple(str(Path(solo_trio.__file__).parent / room) for room in ("kernel", "model", "policy", "operations"))


class LineCount:
    """How many lines of the kernel, the model and the operations were executed: work, not time."""

    def __init__(self) -> None:
        self.lines = 0

    def __enter__(self) -> LineCount:
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        return self._line if frame.f_code.co_filename.startswith(ROOMS) else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        self.lines += event == "line"
        return self._line


async def _start_and_stop(count: int) -> dict[str, float]:
    """Lines per service of each phase: deploying all at once, crashing all once, a start of the kernel, deleting all."""
    alive: set[tuple[str, int]] = set()
    crash = trio.Event()

    async def main(ctx: service.Context) -> None:
        alive.add((ctx.service_id, ctx.generation))
        try:
            if ctx.generation == 1:
                await crash.wait()
                raise ValueError("crash")
            await trio.sleep_forever()
        finally:
            alive.remove((ctx.service_id, ctx.generation))

    memory = MemoryKernel({"it": main}, settings=Settings(max_per_tenant=count, max_total=count))
    phases = {name: LineCount() for name in PHASES}

    async def all_of(what: Callable[[str], Any]) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(what, f"s{number}")

    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        with phases["deploying"]:
            await all_of(lambda service_id: tenant.deploy(service_id, main))
        assert len(alive) == count
        with phases["crashing"]:
            crash.set()
            await trio.sleep(50)
        assert alive == {(f"s{number}", 2) for number in range(count)}
        with phases["closing"]:
            await kernel.system.core.shutdown(5, "test")
            await trio.sleep(5)
    assert alive == set()
    with phases["recovering"]:
        async with opened(memory) as kernel:
            await kernel.wait_recovered()
            phases["recovering"].__exit__()
            assert len(alive) == count
            tenant = await kernel.tenant("acme")
            with phases["deleting"]:
                await all_of(tenant.kill)
            assert await tenant.services() == [] and alive == set()
    assert len(await history(memory, None, "service_started")) == 3 * count
    return {name: phase.lines / count for name, phase in phases.items()}


@pytest.mark.slow
async def test_row_22_a_thousand_services_start_and_stop_without_quadratic_cost(autojump_clock: MockClock) -> None:
    few, many = await _start_and_stop(250), await _start_and_stop(1_000)
    for phase in PHASES:
        assert 0 < many[phase] < 1.25 * few[phase], (few, many)


async def test_row_22_a_flood_of_crashes_costs_a_service_what_it_does_alone(autojump_clock: MockClock) -> None:
    """The log is linear in what happens: no event of one service causes one of another."""
    lengths = []
    for count in (1, 50):
        actor = Actor(crash_after(0))
        memory = MemoryKernel({"it": actor}, settings=Settings(max_per_tenant=count))
        async with opened(memory) as kernel:
            tenant = await kernel.tenant("acme")
            before = await of_tenants(memory)
            for number in range(count):
                await tenant.deploy(f"s{number}", actor, max_restarts=5)
            await trio.sleep(1_000)
            lengths.append((await of_tenants(memory) - before) / count)
    assert lengths[0] == lengths[1]
