"""Supervision row 24: a service that hogs the kernel's loop is named within a second.

It is about real time and real stalls, which no clock of Trio's can show: here seconds pass.
"""

# ruff: noqa: ASYNC110, ASYNC251 - to block the loop is what these services are for

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field

from solo_trio import Kernel, service
from solo_trio.operations.settings import Settings
from solo_trio.runtimes import watchdog

NAMED_S = 1.0
HOG_S = 1.5


@define
class Told(logging.Handler):
    """What was logged, when, and by which thread."""

    lines: list[tuple[float, str, str]] = field(factory=list)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((time.monotonic(), record.getMessage(), record.threadName or ""))

    @property
    def texts(self) -> list[str]:
        return [text for _, text, _ in self.lines]

    __hash__ = logging.Handler.__hash__


@pytest.fixture
def told() -> Any:
    handler = Told()
    logger = logging.getLogger("solo")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


Hogging = Callable[[], Awaitable[Any]]


async def hog(tmp_path: Path, thing: object, start: Callable[[Any], Awaitable[Any]]) -> tuple[float, list[Any]]:
    """A kernel with the service `greedy` beside a good one; when the hogging began, and the warnings in both logs."""

    async def good(ctx: service.Context) -> None:
        while True:
            await trio.sleep(0.01)

    with trio.fail_after(60):
        async with Kernel.open(tmp_path / "data", callables={"greedy": thing, "good": good}) as kernel:
            tenant = await kernel.tenant("t1")
            await tenant.deploy("good", good)
            await tenant.deploy("greedy", thing)
            await trio.sleep(0.3)
            began = time.monotonic()
            await start(tenant)
            entries: list[Any] = []
            while not entries and time.monotonic() < began + HOG_S + 5:
                await trio.sleep(0.05)
                entries = [each for each in await tenant.logs("greedy") if each["level"] == "warning"]
            assert not [each for each in await tenant.logs("good") if each["level"] == "warning"]
    return began, entries


async def sleeps() -> None:
    time.sleep(HOG_S)  # the guilty line


async def spins() -> None:
    until = time.monotonic() + HOG_S
    while time.monotonic() < until:  # the guilty line
        pass


@pytest.mark.parametrize(
    ("bad", "where"), [(spins, "main"), *((sleeps, where) for where in ("main", "child", "call", "finally"))]
)
async def test_a_service_that_hogs_is_named_within_a_second(
    tmp_path: Path, told: Told, bad: Callable[[], Awaitable[None]], where: str
) -> None:
    go = trio.Event()

    async def main(ctx: service.Context) -> None:
        try:
            await go.wait()
            if where == "main":
                await bad()
            elif where == "child":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bad)
            await trio.sleep_forever()
        finally:
            if where == "finally":
                await bad()

    thing = {"main": main, "greedy": service.export(bad)}

    async def start(tenant: Any) -> None:
        if where == "call":
            await tenant.call("greedy", "greedy")
        elif where == "finally":
            await tenant.restart("greedy")
        go.set()

    began, entries = await hog(tmp_path, thing, start)
    [(at, text, thread)] = told.lines
    assert at - began < NAMED_S and thread == "solo watchdog"
    assert "'greedy'" in text and "'t1'" in text and f"in {bad.__name__}" in text
    line = bad.__code__.co_firstlineno
    assert any(f"{__file__}:{line + near} in" in text for near in range(1, 5))
    [entry] = entries
    assert entry["message"].startswith("held the kernel's loop for 1.")
    assert bad.__name__ in entry["fields"]["stack"] and 1.0 < entry["fields"]["held_s"] < 5


async def test_a_hog_of_the_application_is_outside_of_services(tmp_path: Path, told: Told) -> None:
    async def idle(ctx: service.Context) -> None:
        await trio.sleep_forever()

    async with Kernel.open(tmp_path / "data", callables={"idle": idle}) as kernel:
        await (await kernel.tenant("t1")).deploy("idle", idle)
        await trio.sleep(0.3)
        began = time.monotonic()
        await sleeps()
        await trio.sleep(0.1)
    [(at, text, _)] = told.lines
    assert at - began < NAMED_S
    assert text.startswith("code outside of services holds") and "in sleeps" in text and "idle" not in text


async def test_importing_a_service_that_takes_long_is_its_own(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text(f"import time\ntime.sleep({HOG_S})\nasync def main(ctx): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    async with Kernel.open(tmp_path / "data", settings=Settings(allowed_imports=("slow_to_import",))) as kernel:
        await (await kernel.tenant("t1")).deploy("importer", "slow_to_import", restart="temporary")
        await trio.sleep(0.1)
    [text] = told.texts
    assert "'importer'" in text and "slow_to_import.py:2" in text


async def test_a_second_time_is_told_with_the_count_later(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(ctx: service.Context) -> None:
        for _ in range(3):
            await trio.sleep(0.3)
            time.sleep(0.8)
        monkeypatch.setattr(watchdog, "REPEAT_S", 0.9)
        await trio.sleep(0.3)
        time.sleep(0.8)

    async with Kernel.open(tmp_path / "data", callables={"often": main}) as kernel:
        tenant = await kernel.tenant("t1")
        await tenant.deploy("often", main, restart="temporary")
        with trio.fail_after(30):
            while len(told.lines) < 2:
                await trio.sleep(0.05)
    first, second = told.texts
    assert "times more" not in first and "(2 times more since this was last told)" in second


async def test_who_behaves_is_not_named_though_the_loop_is_busy(tmp_path: Path, told: Told) -> None:
    """Many services, each with much to do, none of them for long."""

    async def busy(ctx: service.Context) -> None:
        while True:
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                pass
            await trio.lowlevel.checkpoint()

    async with Kernel.open(tmp_path / "data", callables={"busy": busy}) as kernel:
        tenant = await kernel.tenant("t1")
        for number in range(3):
            await tenant.deploy(f"busy-{number}", busy)
        await trio.sleep(2.5)
    assert told.lines == []


async def test_the_thread_ends_with_the_kernel(tmp_path: Path, told: Told) -> None:
    async with Kernel.open(tmp_path / "data"):
        [thread] = [each for each in threading.enumerate() if each.name == "solo watchdog"]
        assert thread.daemon
    await trio.to_thread.run_sync(thread.join, 5.0)
    assert not thread.is_alive()


async def test_a_loop_that_waits_is_not_woken() -> None:
    """It costs nothing: without work the thread only looks."""
    steps = 0

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += 1

    with watchdog.watchdog({}, None):  # type: ignore[arg-type]  # there is nothing to tell
        instrument = Steps()
        trio.lowlevel.add_instrument(instrument)
        await trio.sleep(6 * watchdog.PERIOD_S)
        trio.lowlevel.remove_instrument(instrument)
    assert steps <= 2


def test_a_run_that_ended_ends_the_thread(told: Told) -> None:
    """Also if nobody said that it is over."""
    found: list[Any] = []

    async def main() -> None:
        guard = watchdog.watchdog({}, None)  # type: ignore[arg-type]
        guard.__enter__()
        found.append(guard)
        found.extend(each for each in threading.enumerate() if each.name == "solo watchdog")

    trio.run(main)
    _, thread = found
    thread.join(5 * watchdog.PERIOD_S + 5)
    assert not thread.is_alive() and told.lines == []
