"""The task runtime: the contract, and what only a task can do."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from runtime_contract import RuntimeContract
from runtime_rig import task_rig

from solo_trio import service


class TestTaskContract(RuntimeContract):
    isolation = "task"
    rig = staticmethod(task_rig)


async def _run(tmp_path: Path, thing: object) -> Any:
    async with task_rig(tmp_path, {"it": thing}) as rig:
        return await rig.ending(await rig.start("", entry="callable:it"))


async def test_an_async_callable_is_main(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    seen = []

    async def ticker(ctx: service.Context) -> None:
        for _ in range(3):
            await trio.sleep(10)
            seen.append(ctx.service_id)

    assert (await _run(tmp_path, ticker)).kind == "completed"
    assert seen == ["svc"] * 3


async def test_an_object_or_a_mapping_has_exports_and_main(tmp_path: Path) -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        @service.export
        async def add(self, amount: int) -> int:
            self.count += amount
            return self.count

    thing = Counter()
    both = {"object": thing, "mapping": {"add": thing.add}, "namespace": SimpleNamespace(add=thing.add)}
    async with task_rig(tmp_path, both) as rig:
        for total, name in enumerate(both, 1):
            running = await rig.ready("", entry=f"callable:{name}", service_id=name)
            assert await running.call("add", [1], {}) == total


@pytest.mark.parametrize(
    "entry",
    [
        "callable:missing",
        "callable:",
        "callable:empty",
        "source",
        "import:os",
        "import:solo_allowed_not.x",
        "import:",
        "nonsense:it",
    ],
)
async def test_entries_that_do_not_load(tmp_path: Path, entry: str) -> None:
    async with task_rig(tmp_path, {"empty": SimpleNamespace()}) as rig:
        rig.runtime._allowed_imports = ["solo_allowed"]  # type: ignore[attr-defined]
        running = await rig.start("", entry=entry)
        assert (await rig.ending(running)).kind == "load_failed"


async def test_import_of_an_attribute_below_an_allowed_prefix(tmp_path: Path) -> None:
    package = tmp_path / "solo_task_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("class Box:\n    async def main(ctx): ctx.log.info('in the box')\n")
    async with task_rig(tmp_path) as rig:
        rig.runtime._allowed_imports = ["solo_task_package"]  # type: ignore[attr-defined]
        running = await rig.start("", entry="import:solo_task_package.inner:Box.main")
        assert (await rig.ending(running)).kind == "completed"
        await rig.line("in the box")


async def test_a_shielded_task_lives_on_after_kill(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def stubborn(ctx: service.Context) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    async with task_rig(tmp_path, {"it": stubborn}) as rig:
        running = await rig.ready("", entry="callable:it")
        running.kill()
        with trio.move_on_after(10) as scope:
            await running.ended.wait()
        assert scope.cancelled_caught
        await running.ended.wait()


async def test_arguments_and_results_are_copies(tmp_path: Path) -> None:
    kept: list[Any] = []

    @service.export
    async def keep(value: list[Any]) -> list[Any]:
        value.append("changed")
        kept.append(value)
        return value

    async with task_rig(tmp_path, {"it": {"keep": keep}}) as rig:
        running = await rig.ready("", entry="callable:it")
        mine: list[Any] = [1]
        result = await running.call("keep", [mine], {})
        assert mine == [1] and result == [1, "changed"] and result is not kept[0]


def test_ctrl_c_while_a_service_runs_reaches_the_application(tmp_path: Path) -> None:
    endings = []

    async def spin(ctx: service.Context) -> None:
        signal.raise_signal(signal.SIGINT)
        ctx.log.info("not interrupted")
        await trio.sleep_forever()

    async def main() -> None:
        async with task_rig(tmp_path, {"it": spin}) as rig:
            running = await rig.start("", entry="callable:it")
            try:
                await running.ended.wait()
            finally:
                assert rig.messages("log") == ["not interrupted"]
                endings.append(running.ending)

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        trio.run(main)
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1
        error = error.exceptions[0]
    assert isinstance(error, KeyboardInterrupt)
    assert endings == [None]  # the service did not crash
