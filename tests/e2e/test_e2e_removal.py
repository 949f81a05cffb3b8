"""A tenant is removed although the kernel is killed at any step of it, and nobody else loses anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from removal_child import CANARY, STEPS

from solo_trio import Kernel
from solo_trio.errors import Rejected
from solo_trio.journal.library import driver
from solo_trio.runtimes import procfs

LONG_S = 120.0
CHILD = Path(__file__).with_name("removal_child.py")


def killed_at(data: Path, step: str) -> str:
    """The incarnation that a kernel was removing when it was killed."""
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(CHILD), str(data), step]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=LONG_S, env=os.environ | {"PYTHONPATH": paths}
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return ended.stdout.strip()


def left_of(data: Path, incarnation: str) -> list[str]:
    """What its files, and the tables that are to have nothing of it, have of it. Nobody uses the directory."""
    found = [str(path.relative_to(data)) for path in data.rglob(f"*{incarnation}*")]
    connection = driver.connect(f"file:{data / 'kernel.db'}?mode=ro", uri=True)
    try:
        for table, column in (("keys", "incarnation"), ("secrets", "incarnation"), ("idempotency", "scope")):
            rows = connection.execute(f"SELECT count(*) FROM {table} WHERE {column} = ?", [incarnation])
            found += [table] * rows.fetchone()[0]
    finally:
        connection.close()
    return found


@pytest.mark.parametrize("step", STEPS)
async def test_killed_at_any_step_it_is_finished_by_the_next_kernel(tmp_path: Path, step: str) -> None:
    data = tmp_path / "data"
    before = set(procfs.children(os.getpid()))
    incarnation = await trio.to_thread.run_sync(killed_at, data, step)
    if step in ("erase", "logs", "tenant_removed", "events", "sweep"):
        assert not {"keys", "secrets", "idempotency"} & set(left_of(data, incarnation))
    else:
        assert {"keys", "secrets"} <= set(left_of(data, incarnation))
    with trio.fail_after(LONG_S):
        async with Kernel.open(data) as kernel:
            await kernel.wait_recovered()
            state = kernel.system.core.loop.state
            if step == "asked":  # nothing was promised, and nothing happened
                assert set(state.tenants) == {"gone", "other"}
                await kernel.remove_tenant("gone", grace_s=0)
            await kernel.system.core.removals.wait_over(incarnation)
            state = kernel.system.core.loop.state
            assert set(state.tenants) == {"other"}
            assert {each.tenant_id for each in state.capabilities.values()} == {None, "other"}
            with pytest.raises(Rejected):
                await kernel.remove_tenant("gone")
            types = [event["type"] for event in await (await kernel.tenant("other")).events()]
            assert "tenant_removed" not in types and types.count("service_recovered") == 1
            assert await kernel.system.core.erasures.finish(None)
            assert (await kernel.system.core.verification.verify(full=True)).status == "ok"
            again = await kernel.tenant("gone")
            assert await again.logs("calm") == [] and await again.services() == []
    assert left_of(data, incarnation) == []
    for path in data.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), f"{path} still has it"
    assert set(procfs.children(os.getpid())) <= before
