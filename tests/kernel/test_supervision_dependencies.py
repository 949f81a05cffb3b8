"""The supervision table, row 12: services that depend on services start in order, stop in reverse, never in a circle."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from kernel_rig import (
    Actor,
    GatedJournal,
    Plan,
    PlannedRuntime,
    SlowActor,
    crashing,
    history,
    opened,
    recorded,
    story,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio import service
from solo_trio.errors import Rejected, StorageFull
from solo_trio.testing import MemoryKernel


class Order:
    """Actors that note when they began, were ready and ended, in one list."""

    def __init__(self, slow_s: float = 1.0, linger_s: float = 0.5) -> None:
        self.notes: list[tuple[str, str]] = []
        self.slow_s = slow_s
        self.linger_s = linger_s
        self.actors = {name: self._actor(name) for name in "abcd"}
        self.fail: set[str] = set()

    def _actor(self, name: str) -> Any:
        async def run(ctx: service.Context, task_status: Any) -> None:
            self.notes.append(("began", name))
            await trio.sleep(self.slow_s)
            if name in self.fail:
                raise ValueError("no")
            self.notes.append(("ready", name))
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.linger_s)
                self.notes.append(("ended", name))

        return run

    def at(self, what: str, name: str) -> int:
        [found] = [index for index, note in enumerate(self.notes) if note == (what, name)]
        return found

    async def deploy_chain(self, kernel: Any) -> Any:
        """c needs b, which needs a."""
        tenant = await kernel.tenant("acme")
        await tenant.deploy("a", self.actors["a"])
        await tenant.deploy("b", self.actors["b"], depends_on=["a"])
        await tenant.deploy("c", self.actors["c"], depends_on=["b"])
        return tenant


async def test_row_12_recovery_starts_in_order_of_readiness_and_shutdown_stops_in_reverse(
    autojump_clock: MockClock,
) -> None:
    order = Order()
    memory = MemoryKernel(order.actors)
    async with opened(memory) as kernel:
        await order.deploy_chain(kernel)
    assert [name for what, name in order.notes if what == "ended"] == ["c", "b", "a"]
    order.notes.clear()
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        assert kernel.system.core.report is not None and kernel.system.core.report.ready == 3
        assert order.at("ready", "a") < order.at("began", "b")
        assert order.at("ready", "b") < order.at("began", "c")
        assert trio.current_time() >= 3 * order.slow_s
    assert [name for what, name in order.notes if what == "ended"] == ["c", "b", "a"]


async def test_row_12_the_reverse_order_does_not_take_longer_than_the_shutdown_may(autojump_clock: MockClock) -> None:
    order = Order(linger_s=100)
    memory = MemoryKernel(order.actors)
    async with opened(memory) as kernel:
        await order.deploy_chain(kernel)
        began = trio.current_time()
    # shielded tasks cannot be cut off, so that is all that can be seen here: all were told before the time was over
    assert trio.current_time() - began <= 2 * 100 + 5


@pytest.mark.parametrize(
    ("wants", "shown"),
    [(("a",), "a -> a"), (("b",), "a -> b -> a"), (("c",), "a -> c -> b -> a"), (("d", "c"), "a -> c -> b -> a")],
)
async def test_row_12_a_circle_is_refused_and_shown(
    autojump_clock: MockClock, wants: tuple[str, ...], shown: str
) -> None:
    order = Order()
    memory = MemoryKernel(order.actors)
    async with opened(memory) as kernel:
        tenant = await order.deploy_chain(kernel)
        await tenant.deploy("d", order.actors["d"])
        before = await history(memory)
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("a", order.actors["a"], depends_on=wants, replace=True)
        assert caught.value.code == "dependency_cycle" and shown in caught.value.detail
        assert await history(memory) == before


async def test_row_12_a_dependency_must_be_there_and_run(autojump_clock: MockClock) -> None:
    order = Order()
    memory = MemoryKernel(order.actors)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await (await kernel.tenant("blau")).deploy("a", order.actors["a"])  # another tenant's does not count
        for name in ("a", "nobody"):
            with pytest.raises(Rejected) as caught:
                await tenant.deploy("b", order.actors["b"], depends_on=[name])
            assert caught.value.code == "dependency_not_found"
        await tenant.deploy("a", order.actors["a"])
        await tenant.pause("a")
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("b", order.actors["b"], depends_on=["a"])
        assert caught.value.code == "dependency_not_running"
        for bad in (["a", "a"], ["A"], [1], [f"s{number}" for number in range(33)]):
            with pytest.raises(Rejected) as caught:
                await tenant.deploy("b", order.actors["b"], depends_on=bad)  # type: ignore[arg-type]
            assert caught.value.status == 400
        assert [each["service_id"] for each in await tenant.services()] == ["a"]


async def test_row_12_a_restart_waits_for_a_dependency_that_is_down(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"a": [Plan(ends_s=10), Plan(ready_s=3)], "b": [Plan(ends_s=10), Plan()]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("a", source="a")
        await tenant.deploy("b", source="b", depends_on=["a"])
        await recorded(kernel, "b", "service_crashed")
        await recorded(kernel, "b", "service_ready", count=2)
        assert (await tenant.status("a"))["status"] == "ready"
        [first, second] = [each.stored for each in await history(memory, "a", "service_ready")]
        [_, begun] = [each.stored for each in await history(memory, "b", "service_started")]
        assert begun.id > second.id > first.id
        assert (await tenant.status("b"))["waiting_for"] == []


async def test_row_12_recovery_does_not_wait_for_what_cannot_start(autojump_clock: MockClock) -> None:
    order = Order()
    memory = MemoryKernel(order.actors)
    async with crashing(memory) as kernel:
        tenant = await order.deploy_chain(kernel)
        await tenant.pause("a")
    async with opened(memory) as kernel:
        before = trio.current_time()
        await kernel.wait_recovered()
        assert trio.current_time() - before < 1, "nobody waits for the time-out of the recovery"
        report = kernel.system.core.report
        assert report is not None and (report.wanted, report.ready, report.failed, report.pending) == (2, 0, 2, 0)
        tenant = await kernel.tenant("acme")
        shown = await tenant.status("b")
        assert (shown["status"], shown["waiting_for"]) == ("starting", ["a"])
        with pytest.raises(Rejected) as caught:
            await tenant.restart("b")
        assert caught.value.code == "dependency_not_running", "it would wait for ever"
        await tenant.resume("a")
        await recorded(kernel, "c", "service_recovered")


async def test_row_12_a_deployment_fails_when_its_dependency_gives_up_meanwhile(autojump_clock: MockClock) -> None:
    runtime = PlannedRuntime({"a": [Plan(ends_s=1), Plan(ready_s=4, ends_s=4)], "b": [Plan()]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("a", source="a", max_restarts=1)
        await recorded(kernel, "a", "service_crashed")
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("b", source="b", depends_on=["a"])
        assert caught.value.code == "service_start_failed" and "'a'" not in caught.value.detail
        assert "depends on a" in caught.value.detail
    assert await story(memory, "b") == ["deployment_started", "deployment_failed"]


async def test_row_12_nobody_waits_for_what_waits_in_vain(autojump_clock: MockClock) -> None:
    """A chain, of which the first is paused when the others are to be started again."""
    order = Order(slow_s=0)
    memory = MemoryKernel(order.actors)
    async with crashing(memory) as kernel:
        tenant = await order.deploy_chain(kernel)
        await tenant.pause("a")
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        with pytest.raises(Rejected) as caught:
            await tenant.deploy("d", order.actors["d"], depends_on=["c"])
        assert caught.value.code == "dependency_not_running" and "'c' waits for 'a'" in caught.value.detail
        with pytest.raises(Rejected) as caught:
            await tenant.restart("c")
        assert caught.value.code == "dependency_not_running" and "see that a runs" in caught.value.detail
        await tenant.resume("a")
        await tenant.deploy("d", order.actors["d"], depends_on=["c"])
        assert [each["status"] for each in await tenant.services()] == ["ready"] * 4


async def test_row_12_a_deployment_fails_when_what_it_waits_for_begins_to_wait_in_vain(
    autojump_clock: MockClock,
) -> None:
    """However long the chain is; one that was ready before goes on waiting."""
    runtime = PlannedRuntime(
        {"a": [Plan(), Plan(ready_s=60)], "b": [Plan(ends_s=1)], "c": [Plan(ends_s=2)], "d": [Plan()]}
    )
    memory = MemoryKernel(runtimes={"process": runtime})
    refusals: dict[str, str] = {}

    async def refused(name: str, verb: Any, *arguments: Any, **options: Any) -> None:
        with pytest.raises(Rejected) as caught:
            await verb(name, *arguments, **options)
        refusals[name] = f"{caught.value.code} {caught.value.detail}"

    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for name, needed in (("a", []), ("b", ["a"]), ("c", ["b"])):
            await tenant.deploy(name, source=name, depends_on=needed, limits={"start_timeout_s": 100})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, "a", tenant.restart)
            await recorded(kernel, "b", "service_crashed")
            await recorded(kernel, "c", "service_crashed")
            nursery.start_soon(lambda: refused("d", tenant.deploy, source="d", depends_on=["c"]))
            await recorded(kernel, "d", "service_deployment_started")
            await trio.sleep(10)
            assert not refusals, "somebody is about to make them ready"
            await tenant.pause("a")
            nursery.cancel_scope.deadline = trio.current_time() + 30
        assert refusals["a"] == "wrong_status it was paused while it started"
        assert "service_start_failed" in refusals["d"] and "depends on c" in refusals["d"]
        assert [each["status"] for each in await tenant.services()] == ["paused", "restarting", "restarting"]
        with pytest.raises(Rejected):
            await tenant.deploy("d", source="d", depends_on=["c"])
        await tenant.resume("a")
        await recorded(kernel, "c", "service_ready", count=2)


@pytest.mark.parametrize("length", [2, 10])
@pytest.mark.parametrize("later", [0, 6])
async def test_row_12_nothing_fails_for_what_was_so_a_moment_ago(
    autojump_clock: MockClock, length: int, later: int
) -> None:
    """The first of a chain that waited in vain is resumed while somebody deploys behind its end."""
    names = [f"s{number}" for number in range(length)]
    runtime = PlannedRuntime({name: [Plan()] for name in (*names, "d")})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with crashing(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for number, name in enumerate(names):
            await tenant.deploy(name, source=name, depends_on=names[max(0, number - 1) : number])
        await tenant.pause("s0")
    async with opened(memory) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tenant.resume, "s0")
            for _ in range(later):
                await trio.lowlevel.checkpoint()
            await recorded(kernel, "s0", "service_resumed")
            nursery.start_soon(lambda: tenant.deploy("d", source="d", depends_on=names[-1:]))
    assert await story(memory, "d") == ["deployment_started", "started deploy", "ready", "deployed"]


async def test_row_12_a_replacement_that_fails_takes_nobody_with_it(autojump_clock: MockClock) -> None:
    """Who waits for it waits for what it was before."""
    runtime = PlannedRuntime({"a": [Plan(), Plan(ready_s=60)], "b": [Plan()], "d": [Plan()]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("a", source="a", limits={"start_timeout_s": 100})
        await tenant.deploy("b", source="b")

        async def refused(verb: Any) -> None:
            with pytest.raises(Rejected):
                await verb()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, lambda: tenant.restart("a"))
            await trio.sleep(1)
            nursery.start_soon(refused, lambda: tenant.deploy("b", source="b", depends_on=["a"], replace=True))
            await recorded(kernel, "b", "service_deployment_started", count=2)
            nursery.start_soon(lambda: tenant.deploy("d", source="d", depends_on=["b"]))
            await recorded(kernel, "d", "service_deployment_started")
            await tenant.pause("a")
        assert {each["service_id"]: each["status"] for each in await tenant.services()} == {
            "a": "paused",
            "b": "ready",
            "d": "ready",
        }


async def test_row_12_a_dependency_that_was_ready_goes_down_while_another_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    runtime = PlannedRuntime({"a": [Plan(), Plan(ready_s=60)], "x": [Plan()], "d": [Plan()]})
    memory = MemoryKernel(runtimes={"process": runtime})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("a", source="a", limits={"start_timeout_s": 100})
        await tenant.deploy("x", source="x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tenant.restart, "a")
            await trio.sleep(1)
            before = trio.current_time()

            async def deploy() -> None:
                with pytest.raises(Rejected) as caught:
                    await tenant.deploy("d", source="d", depends_on=["a", "x"])
                assert "depends on x" in caught.value.detail and trio.current_time() - before < 2

            nursery.start_soon(deploy)
            await recorded(kernel, "d", "service_deployment_started")
            await tenant.pause("x")


async def test_row_12_a_failure_that_could_not_be_recorded_in_time_is_none(autojump_clock: MockClock) -> None:
    """The disk is full; when there is space again, what it would have failed for is over."""
    runtime = PlannedRuntime({"a": [Plan(), Plan(ready_s=60), Plan()], "d": [Plan()]})
    journal, full = GatedJournal(), True

    def fails(events: Any, reserved: bool) -> Exception | None:
        failing = any(each.type == "service_deployment_failed" for each in events)
        return StorageFull("no space") if full and failing else None

    journal.failures.append(fails)
    memory = MemoryKernel(runtimes={"process": runtime}, journal=journal)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("a", source="a", limits={"start_timeout_s": 100})

        async def restart() -> None:
            with pytest.raises(Rejected):
                await tenant.restart("a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await trio.sleep(1)
            nursery.start_soon(lambda: tenant.deploy("d", source="d", depends_on=["a"]))
            await recorded(kernel, "d", "service_deployment_started")
            await tenant.pause("a")
            await tenant.resume("a")
            await trio.sleep(5)
            full = False
        assert [each["status"] for each in await tenant.services()] == ["ready", "ready"]


async def test_row_12_what_others_need_is_not_deleted_unless_forced(autojump_clock: MockClock) -> None:
    order = Order(linger_s=0)
    memory = MemoryKernel(order.actors)
    async with opened(memory) as kernel:
        tenant = await order.deploy_chain(kernel)
        with pytest.raises(Rejected) as caught:
            await tenant.kill("b")
        assert caught.value.code == "service_required" and "c" in caught.value.detail
        assert (await tenant.status("b"))["status"] == "ready"
        await tenant.kill("b", force=True)
        assert [each["status"] for each in await tenant.services()] == ["ready", "ready"]
        await tenant.kill("c")
        await tenant.kill("a")  # nobody is left who needs it
        assert await tenant.services() == []


async def test_row_12_a_deployment_waits_until_its_dependency_is_ready(autojump_clock: MockClock) -> None:
    async def slowly(number: int) -> None:
        await trio.sleep(3)

    slow, other = SlowActor(slowly), Actor()
    memory = MemoryKernel({"slow": slow, "other": other})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tenant.deploy, "slow", slow)
            await wait_all_tasks_blocked()
            before = trio.current_time()
            await tenant.deploy("other", other, depends_on=["slow"])
            assert trio.current_time() - before == pytest.approx(3)
    assert other.began == [pytest.approx(before + 3)]
