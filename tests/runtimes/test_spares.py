"""Sandboxes made in advance: there for whoever starts next, with what its start would wait for done already."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from runtime_rig import Rig, process_rig

from solo_trio.ports import Running
from solo_trio.runtimes import spares
from solo_trio.runtimes.process import ProcessRuntime, Sandboxing

FAULTS = """
    import resource

    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
PAGES_LEAST = 50
"""Some 150 are copied when Trio runs for the first time."""
NEVER_S = 1e6


async def waiting(rig: Rig, many: int) -> list[int]:
    """The pids of the sandboxes that nobody uses, once there are so many."""
    assert isinstance(rig.runtime, ProcessRuntime)
    while True:
        shelves = rig.runtime._spares._pool._shelves.values()
        pids = [each.spawned.pid for shelf in shelves for each in shelf.waiting]
        if len(pids) == many:
            return pids
        await trio.sleep(0.001)


async def line_of(rig: Rig, number: int) -> str:
    while len(rig.messages("stdout")) <= number:
        await rig._line.wait()
    return rig.messages("stdout")[number]


async def test_each_start_has_another_one_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "LOOK_S", NEVER_S)
    async with process_rig(tmp_path, Sandboxing(spares=3)) as rig:
        runtime = rig.runtime
        assert isinstance(runtime, ProcessRuntime)
        for number in range(3):
            before = await waiting(rig, number) if number else []
            while number and not runtime._spares._asked.statistics().tasks_waiting:  # noqa: ASYNC110 - bounded by the rig
                await trio.sleep(0.001)
            running = await rig.ready("")
            assert not before or running.pid in before
        await waiting(rig, 3)


async def test_one_that_waits_has_made_its_copies(tmp_path: Path) -> None:
    async with process_rig(tmp_path, Sandboxing(spares=1)) as rig:
        await rig.ready(FAULTS)
        [pid] = await waiting(rig, 1)
        assert (await rig.ready(FAULTS)).pid == pid
        forked, made = int(await line_of(rig, 0)), int(await line_of(rig, 1))
        assert made - forked >= PAGES_LEAST, "it has not run Trio before"


@pytest.mark.parametrize("fds", range(6, 16))
async def test_how_few_descriptors_do_is_the_same_where_it_has_waited(tmp_path: Path, fds: int) -> None:
    async with process_rig(tmp_path, Sandboxing(spares=1)) as rig:
        kinds = []
        for _ in range(2):
            running = await rig.start("", limits={"fds": fds})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ended, running, nursery.cancel_scope)
                await running.ready.wait()
                nursery.cancel_scope.cancel()
            kinds.append(running.ready.is_set())
            running.kill()
            await running.ended.wait()
            await waiting(rig, 1)
        assert kinds[0] == kinds[1]


async def ended(running: Running, scope: trio.CancelScope) -> None:
    await running.ended.wait()
    scope.cancel()
