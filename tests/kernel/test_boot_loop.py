"""The boot-loop breaker, and pausing the kernel as a whole."""

from __future__ import annotations

import pytest
import trio
from kernel_rig import Actor, crashing, history, opened, recorded
from trio.testing import MockClock

from solo_trio.errors import Rejected
from solo_trio.kernel.staging import Submission
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.system import BOOT_LOOP_S, PauseSystem, ResumeSystem
from solo_trio.operations.settings import Settings
from solo_trio.testing import MemoryKernel


def watched() -> tuple[MemoryKernel, Actor]:
    actor = Actor()
    return MemoryKernel({"it": actor}, settings=Settings()), actor


async def lives(memory: MemoryKernel, seconds: float, *, starts: int = 1) -> list[bool]:
    """Start and crash so many times; whether each start was paused."""
    paused = []
    for _ in range(starts):
        async with crashing(memory) as kernel:
            await kernel.wait_recovered()
            paused.append(kernel.system.core.loop.state.system.hold is not None)
            await trio.sleep(seconds)
    return paused


async def deployed(memory: MemoryKernel, actor: Actor) -> None:
    async with opened(memory) as kernel:
        await (await kernel.tenant("acme")).deploy("web", actor)


async def test_after_three_short_lives_it_starts_paused_until_one_lasts(autojump_clock: MockClock) -> None:
    memory, actor = watched()
    await deployed(memory, actor)
    assert await lives(memory, BOOT_LOOP_S - 0.1, starts=5) == [False, False, False, True, True]
    assert len(actor.began) == 1 + 3
    assert await lives(memory, BOOT_LOOP_S + 0.1, starts=2) == [True, False]
    started = [record.event for record in await history(memory, None, "system_started")]
    assert [event.hold for event in started] == [None] * 4 + ["boot_loop"] * 3 + [None]  # type: ignore[union-attr]


async def test_an_orderly_end_is_no_part_of_a_boot_loop(autojump_clock: MockClock) -> None:
    memory, actor = watched()
    await deployed(memory, actor)
    for _ in range(3):
        assert await lives(memory, 1, starts=2) == [False, False]
        async with opened(memory) as kernel:
            assert kernel.system.core.loop.state.system.hold is None
    assert await lives(memory, 1, starts=4) == [False, False, False, True]


async def test_a_life_that_did_what_was_asked_for_is_no_part_of_a_boot_loop(autojump_clock: MockClock) -> None:
    memory, actor = watched()
    await deployed(memory, actor)
    for number in range(8):
        async with crashing(memory) as kernel:
            assert kernel.system.core.loop.state.system.hold is None
            tenant = await kernel.tenant("acme")
            if number % 2:
                await tenant.kill("other")
            else:
                await tenant.deploy("other", actor)
            await recorded(kernel, None, "system_settled", after=kernel.system.core.recovery.state.last_id)


@pytest.mark.parametrize("starts", [0, 1, 5])
async def test_how_many_starts_is_configured(autojump_clock: MockClock, starts: int) -> None:
    memory, actor = watched()
    memory.settings = Settings(boot_loop_starts=starts)
    await deployed(memory, actor)
    expected = [False] * 7 if starts == 0 else [number >= starts for number in range(7)]
    assert await lives(memory, 1, starts=7) == expected


async def test_embedded_without_settings_it_never_trips(autojump_clock: MockClock) -> None:
    actor = Actor()
    memory = MemoryKernel({"it": actor})
    await deployed(memory, actor)
    assert await lives(memory, 1, starts=7) == [False] * 7


async def test_pausing_and_resuming_the_kernel(autojump_clock: MockClock) -> None:
    actors = {name: Actor() for name in "abc"}
    memory = MemoryKernel(actors)
    async with crashing(memory) as kernel:
        core = kernel.system.core
        tenant = await kernel.tenant("acme")
        for name in "ab":
            await tenant.deploy(name, actors[name])
        await tenant.pause("b")
        assert await core.loop.submit(Submission(PauseSystem(), EMBEDDER)) is True
        assert await core.loop.submit(Submission(PauseSystem(), EMBEDDER)) is False
        await trio.sleep(100)
        assert [each["status"] for each in await tenant.services()] == ["paused", "paused"]
        assert [actor.alive for actor in actors.values()] == [0, 0, 0]
        await tenant.deploy("c", actors["c"])  # what is asked for by name is done
        assert await core.loop.submit(Submission(ResumeSystem(), EMBEDDER)) is True
        await recorded(kernel, "a", "service_ready", count=2)
        assert [each["status"] for each in await tenant.services()] == ["ready", "paused", "ready"]
        assert await core.loop.submit(Submission(ResumeSystem(), EMBEDDER)) is False
        await core.loop.submit(Submission(PauseSystem(), EMBEDDER))
    async with opened(memory) as kernel:  # an ordinary start lets everything run again that was held
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        assert [each["status"] for each in await tenant.services()] == ["ready", "paused", "ready"]


async def test_who_waits_for_a_start_hears_that_the_kernel_was_paused(autojump_clock: MockClock) -> None:
    async def slowly(ctx: object, task_status: trio.TaskStatus[None]) -> None:
        nonlocal starts
        starts += 1
        await trio.sleep(0 if starts == 1 else 1_000)
        task_status.started()
        await trio.sleep_forever()

    starts = 0
    memory = MemoryKernel({"it": slowly})
    codes: list[str] = []
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", slowly, limits={"start_timeout_s": 600})

        async def restart() -> None:
            try:
                await tenant.restart("web")
            except Rejected as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await recorded(kernel, "web", "service_started", count=2)
            await kernel.system.core.loop.submit(Submission(PauseSystem(), EMBEDDER))
    assert codes == ["wrong_status"]
