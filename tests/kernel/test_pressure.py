"""What the kernel itself is short of: told at two marks, shown, and no new deployment is taken while it is serious."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import define, evolve, field
from kernel_rig import Actor, history, opened, recorded
from trio.testing import MockClock

from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted
from solo_trio.kernel.loop import QUEUE_SUBMISSIONS_MAX
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.resources import RuntimePressureHigh
from solo_trio.operations import system
from solo_trio.operations.caller import Caller
from solo_trio.operations.settings import Settings
from solo_trio.operations.table import Nothing
from solo_trio.policy.pressure import TOLD_PER_MINUTE_MAX
from solo_trio.ports import MachineState
from solo_trio.testing import MemoryKernel

CALM = MachineState(
    rss_bytes=100_000_000,
    available_bytes=10_000_000_000,
    fds=100,
    fds_limit=1_000,
    threads=10,
    threads_limit=10_000,
    free_disk_bytes=10_000_000_000,
)
SHORT = {
    "memory": {"available_bytes": 5_000_000},
    "fds": {"fds": 950},
    "disk": {"free_disk_bytes": 66 * 1_048_576},
}
"""What makes each of the resources critical that deployments need."""


@define
class PlannedMachine:
    """Implements `ports.Machine`."""

    state: MachineState = CALM
    fails: bool = False
    reads: int = field(default=0)

    async def read(self) -> MachineState:
        self.reads += 1
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise OSError("gone")
        return self.state


async def told(memory: MemoryKernel) -> list[tuple[str, str]]:
    found = []
    for record in await history(memory, None, "runtime_pressure_high"):
        event = record.event
        assert isinstance(event, RuntimePressureHigh)
        found.append((event.resource, event.level))
    return found


async def shown(kernel: Kernel) -> tuple[dict[str, Any], str]:
    """What GET /system and GET /health say."""
    caller = Caller(kernel.system, EMBEDDER)
    health = await system.health(caller, Nothing())
    assert health.status == 200
    return (await system.show_system(caller, Nothing())).body["pressure"], health.body["components"]["pressure"]


async def test_nothing_is_told_where_nothing_is_short(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(machine=PlannedMachine())
    async with opened(memory) as kernel:
        await trio.sleep(100)
        view, component = await shown(kernel)
        assert set(view) == {"memory", "fds", "threads", "disk", "tasks", "loop_lag", "queue"}
        assert {each["level"] for each in view.values()} == {"ok"} and component == "ok"
        assert view["fds"] == {"value": 100, "limit": 1_000, "percent": 10.0, "level": "ok"}
        assert view["queue"] == {"value": 0, "limit": QUEUE_SUBMISSIONS_MAX, "percent": 0.0, "level": "ok"}
    assert await told(memory) == []


async def test_each_mark_is_told_once_until_it_is_left(autojump_clock: MockClock) -> None:
    machine = PlannedMachine()
    memory = MemoryKernel(machine=machine)
    async with opened(memory) as kernel:
        for fds in (790, 801, 798, 805, 899, 901, 895, 902, 760, 801, 100, 850, 100):
            machine.state = evolve(CALM, fds=fds)
            await trio.sleep(2)
            view, component = await shown(kernel)
            assert view["fds"]["value"] == fds and view["fds"]["level"] == component
        assert component == "ok"
    assert await told(memory) == [("fds", "high"), ("fds", "critical"), ("fds", "high")]


@pytest.mark.parametrize("resource", sorted(SHORT))
async def test_a_new_deployment_is_refused_and_all_else_goes_on(autojump_clock: MockClock, resource: str) -> None:
    machine, old, new = PlannedMachine(), Actor(), Actor()
    memory = MemoryKernel({"old": old, "new": new}, machine=machine)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", old)
        machine.state = evolve(CALM, **SHORT[resource])
        last = await recorded(kernel, None, "runtime_pressure_high")
        for replace in (False, True):
            with pytest.raises(Faulted) as refused:
                await tenant.deploy("web" if replace else "more", new, replace=replace)
            assert refused.value.code == "overloaded" and refused.value.retry_after_s == 5
            assert refused.value.extra == {"resource": resource} and resource in refused.value.detail
        await tenant.deploy("web", old)  # it is there: nothing is asked for
        assert (await tenant.status("web"))["status"] == "ready"
        await tenant.restart("web")
        await tenant.kill("web")
        assert not [each for each in await history(memory, "more") if each.stored.id > last.id], "nothing written"
        machine.state = CALM
        await trio.sleep(2)
        await tenant.deploy("more", new)
    assert (await told(memory))[-1] == (resource, "critical")


@pytest.mark.parametrize("resource", sorted(SHORT))
async def test_high_is_told_and_refuses_nothing(autojump_clock: MockClock, resource: str) -> None:
    high = {
        "memory": {"available_bytes": 20_000_000},
        "fds": {"fds": 850},
        "disk": {"free_disk_bytes": 75 * 1_048_576},
    }
    memory = MemoryKernel({"it": (actor := Actor())}, machine=PlannedMachine(evolve(CALM, **high[resource])))
    async with opened(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", actor)
        await trio.sleep(5)
    assert await told(memory) == [(resource, "high")]


async def test_a_start_on_a_full_machine_refuses_from_its_first_moment(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"it": (actor := Actor())}, machine=PlannedMachine(evolve(CALM, **SHORT["disk"])))
    async with opened(memory) as kernel:
        with pytest.raises(Faulted, match="overloaded"):
            await (await kernel.tenant("acme")).deploy("web", actor)


@pytest.mark.parametrize(
    ("settings", "state", "expected"),
    [
        ({"kernel_memory_mb": 100}, {"rss_bytes": 95 * 1_048_576}, ("memory", "critical")),
        ({"kernel_memory_mb": 100}, {"rss_bytes": 50 * 1_048_576}, None),
        ({"free_disk_mb": 0}, {"free_disk_bytes": 0}, None),
        ({"free_disk_mb": 1_000}, {"free_disk_bytes": 1_100 * 1_048_576}, ("disk", "critical")),
        ({}, {"free_disk_bytes": 0}, ("disk", "critical")),
        ({}, {"threads": 990}, ("threads", "critical")),
        ({}, {"threads": 90, "threads_limit": 100}, ("threads", "critical")),
        ({}, {"fds_limit": 0, "fds": 100_000}, None),
    ],
)
async def test_the_operator_and_the_machine_say_what_the_limits_are(
    autojump_clock: MockClock, settings: dict[str, Any], state: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    memory = MemoryKernel(
        settings=Settings(boot_loop_starts=0, **settings), machine=PlannedMachine(evolve(CALM, **state))
    )
    async with opened(memory):
        await trio.sleep(5)
    assert await told(memory) == ([] if expected is None else [expected])


async def test_a_loop_that_is_late_is_told(autojump_clock: MockClock) -> None:
    memory = MemoryKernel(machine=PlannedMachine())
    async with opened(memory) as kernel:
        await trio.sleep(3.1)
        autojump_clock.jump(2.0)  # as a task that holds the loop for so long does
        await recorded(kernel, None, "runtime_pressure_high")
        await trio.sleep(5)
        view, _ = await shown(kernel)
        assert view["loop_lag"] == {"value": 0.0, "limit": 1_000, "percent": 0.0, "level": "ok"}
    assert await told(memory) == [("loop_lag", "critical")]


async def test_what_swings_is_told_a_few_times_a_minute(autojump_clock: MockClock) -> None:
    machine = PlannedMachine()
    memory = MemoryKernel(machine=machine)
    async with opened(memory):
        for number in range(300):
            machine.state = evolve(CALM, fds=(100, 950)[number % 2])
            await trio.sleep(1)
    assert TOLD_PER_MINUTE_MAX * 4 <= len(await told(memory)) <= TOLD_PER_MINUTE_MAX * 6


async def test_a_machine_that_cannot_be_read_stops_nothing(autojump_clock: MockClock) -> None:
    machine = PlannedMachine()
    memory = MemoryKernel({"it": (actor := Actor())}, machine=machine)
    async with opened(memory) as kernel:
        await trio.sleep(3)
        machine.fails = True
        await trio.sleep(10)
        machine.fails, machine.state = False, evolve(CALM, fds=950)
        await recorded(kernel, None, "runtime_pressure_high")
        with pytest.raises(Faulted):
            await (await kernel.tenant("acme")).deploy("web", actor)


async def test_a_machine_without_numbers_is_not_asked_again(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"it": (actor := Actor())})
    async with opened(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", actor)
        await trio.sleep(80_000)  # jumps there at once: nobody wakes each second
        assert await shown(kernel) == ({}, "ok") and not kernel.system.core.pressure.measures
