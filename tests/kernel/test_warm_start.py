"""What services are forked from gets ready beside the replay, where there will be services, and is never left behind."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted
from solo_trio.runtimes import procfs
from solo_trio.runtimes.process import ProcessRuntime

SOURCE = "async def main(ctx): pass"
BOUND_S = 60


@asynccontextmanager
async def no_process_left() -> AsyncIterator[None]:
    before = set(procfs.children(os.getpid()))
    with trio.fail_after(BOUND_S):
        yield
    assert set(procfs.children(os.getpid())) <= before


async def deployed(data: Path) -> None:
    """A directory with a source, whose service is not to run."""
    async with no_process_left(), Kernel.open(data) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("one", source=SOURCE)
        await tenant.pause("one")


async def test_it_is_ready_before_anything_starts(tmp_path: Path) -> None:
    await deployed(tmp_path)
    async with no_process_left():
        before = set(procfs.children(os.getpid()))
        async with Kernel.open(tmp_path) as kernel:
            runtime = kernel.system.core.runtimes["process"]
            while runtime.confinement()["level"] is None:  # noqa: ASYNC110 - bounded
                await trio.sleep(0.01)
            assert len(set(procfs.children(os.getpid())) - before) == 1
            await (await kernel.tenant("acme")).resume("one")
            assert len(set(procfs.children(os.getpid())) - before) == 1


async def test_none_where_nothing_was_ever_deployed(tmp_path: Path) -> None:
    before = set(procfs.children(os.getpid()))
    for _ in range(2):
        async with Kernel.open(tmp_path) as kernel:
            await kernel.tenant("acme")
            await trio.testing.wait_all_tasks_blocked()
            runtime = kernel.system.core.runtimes["process"]
            assert isinstance(runtime, ProcessRuntime) and runtime._forks is None, "nothing was prepared"
            assert set(procfs.children(os.getpid())) <= before


async def test_it_ends_with_a_kernel_that_cannot_start(tmp_path: Path) -> None:
    await deployed(tmp_path)
    with sqlite3.connect(tmp_path / "kernel.db") as database:
        database.execute("DELETE FROM checkpoints")  # else what is before it is not replayed
        database.execute("UPDATE events SET payload = '{}' WHERE id = 2")
    database.close()
    async with no_process_left():
        with pytest.raises(Faulted) as caught:
            async with Kernel.open(tmp_path):
                pass
        assert caught.value.code == "data_damaged"


async def test_it_ends_with_a_kernel_that_is_closed_at_once(tmp_path: Path) -> None:
    await deployed(tmp_path)
    async with no_process_left(), Kernel.open(tmp_path):
        pass
