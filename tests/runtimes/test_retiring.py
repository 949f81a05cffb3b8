"""Zygotes and ancestors that nobody needs end, and whoever needs one just then does not notice."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from runtime_contract import IDLE
from runtime_rig import INCARNATION, Rig, process_rig

from solo_trio.ports import Running
from solo_trio.runtimes import procfs
from solo_trio.runtimes.ancestry import Ancestor
from solo_trio.runtimes.control import Zygote
from solo_trio.runtimes.environments import CONFIGURATION, PYTHON, Environments
from solo_trio.runtimes.process import NO_ENVIRONMENT, ProcessRuntime, Sandboxing

PING = """
    from solo_trio import service
    @service.export
    async def ping():
        return 1
"""
LONG_S = 1e6
"""Nothing is idle for so long in a test."""
SHORT_S = 0.05


def runtime_of(rig: Rig) -> ProcessRuntime:
    assert isinstance(rig.runtime, ProcessRuntime)
    return rig.runtime


def zygotes(rig: Rig, incarnation: str = INCARNATION) -> list[Zygote]:
    tenants = runtime_of(rig)._tenants
    return [each.zygote for key, each in tenants.items() if key[0] == incarnation and each.zygote is not None]


def ancestors(rig: Rig) -> dict[str, Ancestor]:
    """By the environment's name; of several of one name the newest."""
    kept = runtime_of(rig)._environments
    return {name.partition(":")[0]: each.ancestor for name, each in kept.items() if each.ancestor is not None}


async def ended(running: Running) -> None:
    running.kill()
    await running.ended.wait()


def make_environment(directory: Path, value: str) -> None:
    """One that is new, and whose only module says `value`."""
    shutil.rmtree(directory, ignore_errors=True)
    packages = directory / "lib" / f"python{PYTHON}" / "site-packages"
    packages.mkdir(parents=True)
    (directory / CONFIGURATION).write_text(f"version = {PYTHON}.0\n")
    (packages / "of_environment.py").write_text(f"VALUE = {value!r}\n")


@contextlib.asynccontextmanager
async def rig_with(tmp_path: Path, *, idle_s: float, spares: int = 0) -> AsyncIterator[Rig]:
    locks = tmp_path / "locks"
    locks.mkdir()
    environments = Environments(tmp_path / "environments")
    async with process_rig(locks, Sandboxing(spares=spares, idle_s=idle_s, environments=environments)) as rig:
        yield rig


async def test_one_that_is_idle_ends_and_the_next_start_makes_another(tmp_path: Path) -> None:
    async with rig_with(tmp_path, idle_s=SHORT_S) as rig:
        busy = await rig.ready(PING, incarnation="beef")
        await ended(await rig.ready(IDLE))
        [zygote] = zygotes(rig)
        await zygote.gone.wait()
        assert not procfs.usage(zygote.pid)
        assert os.listdir(tmp_path / "locks") == ["beef.lock"]
        while zygotes(rig):  # noqa: ASYNC110 - bounded by the rig
            await trio.sleep(0.01)
        again = await rig.ready(PING)
        assert await again.call("ping", [], {}) == await busy.call("ping", [], {}) == 1
        assert zygotes(rig) != [zygote] and not busy.ended.is_set(), "what has a service is not idle"
        assert list(ancestors(rig)) == [NO_ENVIRONMENT], "the one that every tenant needs stays"


async def test_not_before_its_time_and_not_while_one_is_used(tmp_path: Path) -> None:
    async with rig_with(tmp_path, idle_s=LONG_S) as rig:
        first = await rig.ready(IDLE)
        second = await rig.ready(IDLE)
        runtime, [tenant] = runtime_of(rig), runtime_of(rig)._tenants.values()
        await ended(first)
        assert (tenant.users, runtime._retiring) == (1, False)
        assert runtime._retire_idle(trio.current_time() + 2 * LONG_S) is None and not zygotes(rig)[0].over
        await ended(second)
        assert (tenant.users, runtime._retiring) == (0, True)
        assert runtime._retire_idle(trio.current_time()) == tenant.idle_since + LONG_S and not zygotes(rig)[0].over


async def test_what_waits_in_advance_ends_with_it(tmp_path: Path) -> None:
    async with rig_with(tmp_path, idle_s=LONG_S, spares=2) as rig:
        running = await rig.ready(IDLE)
        runtime, [zygote] = runtime_of(rig), zygotes(rig)
        while not any(shelf.waiting for shelf in runtime._spares._pool._shelves.values()):  # noqa: ASYNC110 - bounded by the rig
            await trio.sleep(0.01)
        await ended(running)
        runtime._retire_idle(trio.current_time() + LONG_S)
        assert zygote.over and not runtime._spares._pool._shelves
        await zygote.gone.wait()


async def test_a_start_that_fails_or_is_given_up_keeps_nothing(tmp_path: Path) -> None:
    async with rig_with(tmp_path, idle_s=SHORT_S) as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.start, IDLE)
            while not zygotes(rig):  # noqa: ASYNC110 - bounded by the rig
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        [zygote] = zygotes(rig)
        await zygote.gone.wait()
        assert sum(each.users for each in runtime_of(rig)._tenants.values()) == 0


async def test_whoever_starts_something_just_then_does_not_notice(tmp_path: Path) -> None:
    """Whenever nobody has a service, a zygote is closed at once; starts come at every moment of that."""
    seed = random.randrange(2**32)
    print(f"seed: {seed}")
    chance = random.Random(seed)
    seen: set[int] = set()
    async with rig_with(tmp_path, idle_s=0.0) as rig:

        async def deploys() -> None:
            for _ in range(8):
                running = await rig.ready(PING)
                assert await running.call("ping", [], {}) == 1
                seen.update(zygote.pid for zygote in zygotes(rig))
                await ended(running)
                for _ in range(chance.choice((0, 1, 2, 3, 20))):
                    await trio.lowlevel.checkpoint()
                await trio.sleep(chance.choice((0, 0, 0.001, 0.01, 0.05)))

        async def look() -> None:
            while True:
                runtime_of(rig)._retire_idle(trio.current_time())
                await trio.sleep(chance.choice((0, 0, 0.0005)))

        async with trio.open_nursery() as looking:
            looking.start_soon(look)
            for together in (1, 3):
                async with trio.open_nursery() as nursery:
                    for _ in range(together):
                        nursery.start_soon(deploys)
            looking.cancel_scope.cancel()
        assert len(seen) >= 8, "they did end meanwhile"


async def test_an_environments_ancestor_ends_with_its_last_zygote(tmp_path: Path) -> None:
    make_environment(tmp_path / "environments" / "science", "first")
    source = """
        from of_environment import VALUE
        from solo_trio import service
        @service.export
        def value():
            return VALUE
    """
    async with rig_with(tmp_path, idle_s=SHORT_S) as rig:
        await rig.ready(IDLE)  # without an environment
        one = await rig.ready(source, environment="science")
        two = await rig.ready(source, environment="science", incarnation="beef")
        first = ancestors(rig)["science"]
        await ended(one)
        [zygote] = [each for key, each in runtime_of(rig)._tenants.items() if key[0] == INCARNATION and key[1]]
        assert zygote.zygote is not None
        await zygote.zygote.gone.wait()
        assert not first.over and await two.call("value", [], {}) == "first"
        await ended(two)
        await first.gone.wait()
        assert not procfs.usage(first.pid) and not ancestors(rig)[NO_ENVIRONMENT].over
        make_environment(tmp_path / "environments" / "science", "second")
        again = await rig.ready(source, environment="science")
        assert await again.call("value", [], {}) == "second"


async def test_one_that_was_made_anew_has_its_own_and_the_old_ones_end(tmp_path: Path) -> None:
    source = """
        from of_environment import VALUE
        from solo_trio import service
        @service.export
        def value():
            return VALUE
    """
    seen: list[Ancestor] = []
    async with rig_with(tmp_path, idle_s=LONG_S) as rig:
        runtime = runtime_of(rig)
        for number in range(3):
            make_environment(tmp_path / "environments" / "science", f"number {number}")
            running = await rig.ready(source, environment="science")
            assert await running.call("value", [], {}) == f"number {number}"
            seen += [each for name, each in ancestors(rig).items() if name == "science" and each not in seen]
            await ended(running)
        assert len(zygotes(rig)) == 3
        runtime._retire_idle(trio.current_time() + LONG_S)
        for zygote in zygotes(rig):
            await zygote.gone.wait()
        runtime._retire_idle(trio.current_time() + LONG_S)
        runtime._end_ancestors()
        for ancestor in seen:
            await ancestor.gone.wait()
        assert len(seen) == 3


async def test_a_tenant_that_is_removed_has_none_when_that_returns(tmp_path: Path) -> None:
    make_environment(tmp_path / "environments" / "science", "first")
    async with rig_with(tmp_path, idle_s=LONG_S, spares=2) as rig:
        other = await rig.ready(PING, incarnation="beef")
        services = [await rig.ready(IDLE), await rig.ready(IDLE, environment="science")]
        gone, science = zygotes(rig), ancestors(rig)["science"]
        assert len(gone) == 2
        for running in services:
            await ended(running)
        await runtime_of(rig).forget(INCARNATION)
        assert not zygotes(rig) and all(each.gone.is_set() for each in gone)
        assert not [each for each in gone if procfs.usage(each.pid)]
        assert os.listdir(tmp_path / "locks") == ["beef.lock"]
        await science.gone.wait()
        await runtime_of(rig).forget(INCARNATION)
        await runtime_of(rig).forget("0123")
        assert await other.call("ping", [], {}) == 1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_removal_waits_for_a_start_that_was_given_up(tmp_path: Path, cancelled: bool) -> None:
    async with rig_with(tmp_path, idle_s=LONG_S) as rig:
        await rig.ready(IDLE, incarnation="beef")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.start, IDLE)
            while not zygotes(rig):  # noqa: ASYNC110 - bounded by the rig
                await trio.sleep(0.001)
            if cancelled:
                nursery.cancel_scope.cancel()
        if not cancelled:
            for service in list(runtime_of(rig)._services):
                if service._launch.incarnation == INCARNATION:
                    await ended(service)
        await runtime_of(rig).forget(INCARNATION)
        assert os.listdir(tmp_path / "locks") == ["beef.lock"]
