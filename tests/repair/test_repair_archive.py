"""Repairs of logs whose oldest events are in the archive, and of such whose tenants were erased."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import trio
from repair_rig import (
    copied,
    flip,
    folded,
    lives_on,
    planned,
    repaired,
    secrets,
    services,
    sql,
    use,
    verified,
    wrong,
)

from solo_trio.embedding import Kernel
from solo_trio.model.state import KernelState

CANARY = "a-name-that-is-only-the-removed-tenants"


async def archive(data: Path) -> None:
    """Another tenant comes and goes; then all that can be is moved to the archive."""
    async with Kernel.open(data) as kernel:
        gone = await kernel.tenant("gone")
        await gone.set_secret(CANARY, "value")
        await kernel.remove_tenant("gone")
        await kernel.system.core.checkpoints.write()
        await kernel.system.core.checkpoints.write()
        await kernel.system.core.compaction.compact(0)
        assert kernel.system.core.journal.oldest_id > 1


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("archived") / "data"
    for life in range(2):
        trio.run(use, data, life)
    trio.run(archive, data)
    trio.run(use, data, 3)
    return data


@pytest.fixture
def data(used: Path, tmp_path: Path) -> Path:
    return copied(used, tmp_path / "data")


@pytest.fixture
async def whole(used: Path, tmp_path: Path) -> KernelState:
    return await folded(copied(used, tmp_path / "whole"))


def segment(data: Path) -> Path:
    [found] = (data / "archive").iterdir()
    return found


def oldest(data: Path) -> int:
    return int(str(sql(data, "SELECT min(id) FROM events")[0][0]))


def holds_canary(data: Path) -> bool:
    files = [path for path in data.iterdir() if path.is_file()]
    files += [*(data / "archive").glob("*")] if (data / "archive").exists() else []
    return any(CANARY.encode() in path.read_bytes() for path in files if path.suffix != ".gz") or any(
        CANARY.encode() in gzip.decompress(path.read_bytes()) for path in files if path.suffix == ".gz"
    )


async def test_a_missing_witness(data: Path, whole: KernelState) -> None:
    """Nothing is lost: what was in the archive is in the database again."""
    assert not holds_canary(data)
    (data / "kernel.head").unlink()
    assert (await planned(data)).loses_nothing
    outcome = await repaired(data)
    assert outcome.plan is not None and (data / outcome.plan.damaged / "archive").is_dir()
    assert oldest(data) == 1 and not (data / "archive").exists()
    assert services(await folded(data)) == services(whole)
    assert not holds_canary(data), "what was erased does not come back"
    await lives_on(data)


async def test_a_damaged_tail(data: Path, whole: KernelState) -> None:
    sql(data, f"DELETE FROM events WHERE id = {whole.last_id - 1}")
    plan = await planned(data)
    assert plan.lost == (whole.last_id - 1, whole.last_id)
    await repaired(data)
    assert not holds_canary(data)
    await lives_on(data)


@pytest.mark.parametrize("harm", ["flipped", "missing"])
async def test_a_damaged_segment(data: Path, whole: KernelState, harm: str) -> None:
    """The effect of every event is kept, by a checkpoint."""
    path = segment(data)
    if harm == "missing":
        path.unlink()
    else:
        flip(path, path.stat().st_size // 2)
    assert wrong(await verified(data))["chain"] == "failed"
    plan = await planned(data)
    assert plan.way == "checkpoint" and plan.lost is None and plan.unread is not None
    await repaired(data)
    state = await folded(data)
    assert (services(state), secrets(state)) == (services(whole), secrets(whole))
    assert not holds_canary(data)
    await lives_on(data)


async def test_where_the_database_says_nothing_of_the_archive(data: Path, whole: KernelState) -> None:
    sql(data, "DELETE FROM segments", "DELETE FROM anchor", "DELETE FROM segment_subjects")
    assert (await planned(data)).loses_nothing
    await repaired(data)
    assert services(await folded(data)) == services(whole)
    await lives_on(data)


async def test_where_the_table_of_erasures_is_gone(data: Path, whole: KernelState) -> None:
    """The event proves it."""
    sql(data, "DELETE FROM erasures")
    assert wrong(await verified(data))["chain"] == "failed"
    assert (await planned(data)).loses_nothing
    await repaired(data)
    assert services(await folded(data)) == services(whole)
    assert not holds_canary(data)
    await lives_on(data)


async def test_a_payload_that_was_taken_out(data: Path, whole: KernelState) -> None:
    """As an erasure would, but of a tenant that nobody erased."""
    bad = whole.last_id - 4
    sql(data, f"UPDATE events SET payload = NULL, salt = NULL WHERE id = {bad}")
    assert wrong(await verified(data))["chain"] == "failed"
    plan = await planned(data)
    assert plan.way == "checkpoint" and plan.unread is not None and plan.unread[0] <= bad
    await repaired(data)
    assert services(await folded(data)) == services(whole)


async def test_a_tenant_that_a_repair_restored_can_be_erased(data: Path) -> None:
    first = oldest(data)
    sql(data, f"UPDATE events SET at_us = 1 WHERE id = {first + 1}")
    assert (await planned(data)).way == "checkpoint"
    await repaired(data)
    async with Kernel.open(data) as kernel:
        await kernel.wait_recovered()
        await kernel.remove_tenant("acme")
        report = await kernel.system.core.verification.verify(full=True)
        assert report.status != "failed", report.checks
    assert "acme" not in (await folded(data)).tenants
    assert not any(
        b"api-key" in (data / name).read_bytes() for name in ("kernel.db", "kernel.db-wal") if (data / name).exists()
    )
