"""Nothing is kept for ever: sources, keys; and nothing is said to be what it is not."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from attrs import evolve
from kernel_rig import Actor, Plan, PlannedRuntime, history, opened, recorded
from trio.testing import MockClock

from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted, Rejected
from solo_trio.kernel import loop as loop_module
from solo_trio.testing import MemoryKernel


def with_runtime(kernel: Kernel, runtime: PlannedRuntime) -> None:
    kernel.system.core.runtimes = {**kernel.system.core.runtimes, "process": runtime}


async def kept(memory: MemoryKernel, source: str) -> bool:
    try:
        await memory.journal.artifact(hashlib.sha256(source.encode()).hexdigest())
    except Faulted:
        return False
    return True


async def test_a_source_is_kept_as_long_as_a_service_has_it(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        with_runtime(kernel, PlannedRuntime({"good": [Plan()], "bad": [Plan(ready_s=9, ends_s=1)]}))
        one, two = await kernel.tenant("one"), await kernel.tenant("two")
        with pytest.raises(Rejected, match="service_start_failed"):
            await one.deploy("web", source="bad")
        assert not await kept(memory, "bad")
        for tenant in (one, two):
            await tenant.deploy("web", source="good")
        await one.kill("web")
        assert await kept(memory, "good")
        await one.deploy("web", source="good")
        await two.kill("web")
        assert await kept(memory, "good")
        await one.kill("web")
        assert not await kept(memory, "good")
        await one.deploy("web", source="good")
        assert await kept(memory, "good")
    async with opened(evolve(memory, telemetry=memory.telemetry)) as kernel:
        assert kernel.system.core.loop.state.sources.get(hashlib.sha256(b"good").hexdigest()) == 1


async def test_a_source_that_cannot_be_read_fails_the_start_for_good(autojump_clock: MockClock) -> None:
    memory = MemoryKernel()
    async with opened(memory) as kernel:
        with_runtime(kernel, PlannedRuntime({"good": [Plan(ends_s=1)]}))
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", source="good", max_restarts=2)
        memory.journal._artifacts.clear()
        await recorded(kernel, "web", "service_given_up")
    assert (await history(memory, "web", "service_given_up"))[0].event is not None


async def test_an_equal_deploy_says_how_the_service_really_is(autojump_clock: MockClock) -> None:
    async def end(number: int, ctx: Any) -> None:
        raise ValueError

    actor = Actor(end)
    async with opened(MemoryKernel({"it": actor})) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("web", actor, max_restarts=0, config={"pair": (1, 2)})
        await recorded(kernel, "web", "service_given_up")
        again = await tenant.deploy("web", actor, max_restarts=0, config={"pair": [1, 2]})
        assert again["status"] == "given_up"


async def test_keys_are_forgotten_from_the_scope_that_has_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "IDEMPOTENCY_ROWS_MAX", 10)
    async with opened(MemoryKernel()) as kernel:
        loop = kernel.system.core.loop
        loop.remember([_row("modest", 1)])
        loop.remember([_row("greedy", number) for number in range(2, 12)])
        await kernel.tenant("acme")
        assert ("modest", "key1") in loop._seen
        assert ("greedy", "key2") not in loop._seen
        assert ("greedy", "key11") in loop._seen


def _row(scope: str, number: int) -> Any:
    return loop_module.IdempotencyRow(scope, f"key{number}", "f", number, 0)
