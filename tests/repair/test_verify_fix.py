"""What a verification mends when it is asked to, with a server and without; and what it leaves alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from repair_rig import SOURCE, copied, folded, repaired, services, sql, use, verified, wrong

from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted
from solo_trio.model.record import Artifact, SecretRow

ORPHAN = b"nobody's source"


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("fix") / "data"
    for life in range(2):
        trio.run(use, data, life)
    return data


@pytest.fixture
def data(used: Path, tmp_path: Path) -> Path:
    return copied(used, tmp_path / "data")


def orphans(data: Path) -> None:
    sql(
        data,
        "INSERT INTO artifacts SELECT 'f' || substr(digest, 2), content FROM artifacts LIMIT 1",
        "INSERT INTO secrets SELECT 'gone', name, version, version_id, key_id, sealed FROM secrets LIMIT 1",
        "INSERT INTO keys SELECT 'f' || key_id, 'gone', purpose, wrapped FROM keys LIMIT 1",
        "INSERT INTO idempotency VALUES ('gone', 'k', 'ff', 3, 1)",
    )
    (data / "logs" / ("b" * 32)).mkdir()
    (data / "tenants" / f"{'a' * 32}.lock").touch()
    (data / "logs" / "somebody's").touch()


async def recorded(data: Path) -> list[tuple[object, ...]]:
    return sql(
        data, "SELECT type, CAST(payload AS TEXT) FROM events WHERE type IN ('inconsistency_fixed', 'loss_accepted')"
    )


async def test_what_nothing_names_is_removed_and_nothing_else(data: Path) -> None:
    before = await folded(data)
    orphans(data)
    report = await verified(data)
    # The key does not open, and that is what counts: what it is of is nobody's.
    assert wrong(report) == {"keys": "failed", "orphans": "warning", "leftovers": "warning"}
    report = await verified(data, fix=True)
    assert wrong(report) == {"leftovers": "warning"}, report.checks
    assert any("removed 4 rows" in each for each in report.fixed) and any("2 files" in each for each in report.fixed)
    assert (data / "logs" / "somebody's").exists(), "what is no tenant's is left alone"
    assert not (data / "logs" / ("b" * 32)).exists()
    after = await folded(data)
    assert services(after) == services(before) and after.tenants == before.tenants
    types = [each[0] for each in await recorded(data)]
    assert types == ["inconsistency_fixed"] * 2
    again = await verified(data, fix=True)
    assert again.fixed == () and again.counts["events"] == report.counts["events"], "nothing is written for nothing"


@pytest.mark.parametrize("harm", ["body = zeroblob(50)", "mac = zeroblob(32)", "chain = zeroblob(32)"])
async def test_a_bad_checkpoint_is_written_as_the_log_says(data: Path, harm: str) -> None:
    ids = sql(data, "SELECT event_id FROM checkpoints ORDER BY event_id")
    sql(data, f"UPDATE checkpoints SET {harm}")
    assert wrong(await verified(data)) == {"checkpoints": "warning"}
    report = await verified(data, fix=True)
    assert wrong(report) == {} and len([c for c in report.checks if c.name == "checkpoints"]) == 2
    assert sql(data, "SELECT event_id FROM checkpoints ORDER BY event_id") == ids
    async with Kernel.open(data) as kernel:
        assert kernel.system.core.recovery.checkpoint == ids[-1][0], "and it is used"


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE events SET at_us = 1 WHERE id = 9",
        "DELETE FROM secrets",
        "DELETE FROM keys WHERE purpose = 'token'",
        "DELETE FROM artifacts",
    ],
)
async def test_what_would_lose_something_is_left_alone(data: Path, harm: str) -> None:
    """Also what is otherwise mended: where the log is not sound nobody knows what it names."""
    sql(data, harm)
    if "events" in harm:
        sql(data, "INSERT INTO idempotency VALUES ('gone', 'k', 'ff', 3, 1)")
    tables = ("events", "secrets", "keys", "artifacts", "idempotency")
    before = [sql(data, f"SELECT count(*) FROM {table}") for table in tables]
    report = await verified(data, fix=True)
    assert report.status == "failed" and report.fixed == ()
    assert [sql(data, f"SELECT count(*) FROM {table}") for table in tables] == before


async def test_a_running_kernel_mends(data: Path) -> None:
    async with Kernel.open(data) as kernel:
        await kernel.wait_recovered()
        core = kernel.system.core
        tenant = await kernel.tenant("acme")
        stray = Artifact(hashlib.sha256(ORPHAN).hexdigest(), ORPHAN)
        row = SecretRow("gone", "name", 1, "id", "key", b"sealed")
        await core.journal.append((), (stray, row))
        report = await core.verification.verify(full=True)
        assert wrong(report) == {"orphans": "warning"} and report.status == "warning"
        report = await core.verification.verify(full=True, fix=True)
        assert wrong(report) == {} and len(report.fixed) == 1
        with pytest.raises(Faulted):
            await core.journal.artifact(stray.digest)
        assert await tenant.call("svc-0-1", "one") == 1


async def test_a_source_that_is_deployed_meanwhile_is_not_removed(data: Path) -> None:
    """What was found is looked at again when it is decided."""
    text = SOURCE.format(4711)
    async with Kernel.open(data) as kernel:
        await kernel.wait_recovered()
        core = kernel.system.core
        tenant = await kernel.tenant("acme")
        stray = Artifact(hashlib.sha256(text.encode()).hexdigest(), text.encode())
        await core.journal.append((), (stray,))
        looked = await core.verification._look(True)
        assert [each.name for each in looked.unnamed] == [f"source {stray.digest}"]
        await tenant.deploy("late", source=text)
        assert await core.verification._mend(looked) == []
        assert (await core.journal.artifact(stray.digest)).content == text.encode()


async def test_a_supervisor_that_lost_a_service_looks_again(data: Path) -> None:
    async with Kernel.open(data) as kernel:
        await kernel.wait_recovered()
        core: Any = kernel.system.core
        tenant = await kernel.tenant("acme")
        supervisor = core.tenants["acme"].supervisors["svc-0-0"]
        lost, supervisor.running = supervisor.running, None
        report = await core.verification.verify(full=True)
        assert [each.kind for each in report.inconsistencies] == ["not_running"]
        report = await core.verification.verify(full=True, fix=True)
        lost.kill()
        assert report.fixed == ("looked again at acme/svc-0-0",) and report.inconsistencies == ()
        assert await tenant.call("svc-0-0", "one") == 0
        assert supervisor.running is not lost


async def test_losses_are_told_until_they_are_accepted(tmp_path: Path, used: Path) -> None:
    data = copied(used, tmp_path / "data")
    last = (await folded(data)).last_id
    sql(data, f"DELETE FROM events WHERE id = {last}")
    await repaired(data)
    assert wrong(await verified(data)) == {"losses": "warning"}
    async with Kernel.open(data) as kernel:
        await kernel.wait_recovered()
        report = await kernel.system.core.verification.verify(full=True)
        assert wrong(report) == {"losses": "warning"}
    report = await verified(data, accept_loss=True)
    assert wrong(report) == {} and report.fixed == ("accepted 1 losses",)
    assert [each[0] for each in await recorded(data)] == ["loss_accepted"]
    assert (await folded(data)).system.losses == ()
