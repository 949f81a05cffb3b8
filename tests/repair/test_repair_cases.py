"""`solo repair`: for each kind of damage, what is kept, what is lost and said to be, and that a kernel goes on with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from repair_rig import (
    contents,
    copied,
    flip,
    folded,
    lives_on,
    made,
    planned,
    refusal,
    repaired,
    secrets,
    services,
    sql,
    verified,
    wrong,
)

from solo_trio.errors import Faulted, Rejected
from solo_trio.journal.library import driver
from solo_trio.journal.wal import FRAME_HEADER_BYTES, PAGE_BYTES, WAL_HEADER_BYTES
from solo_trio.model.record import KeyRow
from solo_trio.model.state import KernelState
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.secret import Secret
from solo_trio.vault.vault import rewrapped

FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("repair") / "data")


@pytest.fixture
def data(used: Path, tmp_path: Path) -> Path:
    return copied(used, tmp_path / "data")


@pytest.fixture
async def whole(used: Path, tmp_path: Path) -> KernelState:
    """What the log comes to where nothing is damaged."""
    return await folded(copied(used, tmp_path / "whole"))


def settled(data: Path) -> Path:
    """With all of the log in the database."""
    sql(data, "PRAGMA wal_checkpoint(TRUNCATE)")
    return data


def checkpoints_of(data: Path) -> list[int]:
    return [int(str(row[0])) for row in sql(data, "SELECT event_id FROM checkpoints ORDER BY event_id")]


async def test_nothing_to_repair(data: Path) -> None:
    from repair_rig import Asked

    from solo_trio.bootstrap import repair_data

    before = contents(data)
    outcome = await repair_data(data, Asked(answer=True), lambda what: None)
    assert not outcome.repaired and outcome.plan is None
    assert contents(data) == before


async def test_a_damaged_tail_keeps_all_before_it(data: Path, whole: KernelState) -> None:
    last = whole.last_id
    sql(settled(data), f"UPDATE events SET subject = 'x' WHERE id = {last - 2}")
    plan = await planned(data)
    assert (plan.way, plan.kept_to, plan.lost, plan.unread) == ("log", last - 3, (last - 2, last), None)
    assert plan.lost_about and plan.last_id == last
    outcome = await repaired(data)
    assert outcome.event_id == last + 1, "no id is given twice"
    state = await folded(data)
    assert services(state) == services(whole)
    [loss] = state.system.losses
    assert loss.lost == (last - 2, last) and f"events {last - 2} to {last}" in loss.said()
    assert sql(data, f"SELECT type FROM events WHERE id >= {last - 2}") == [("event_lost",)] * 3 + [("log_repaired",)]
    await lives_on(data)


@pytest.mark.parametrize("last_is", ["UPDATE", "DELETE"])
async def test_a_damaged_row_in_the_middle_is_stepped_over_by_a_checkpoint(
    data: Path, whole: KernelState, last_is: str
) -> None:
    first, second = checkpoints_of(settled(data))
    bad = first - 3
    sql(
        data,
        f"DELETE FROM events WHERE id = {bad}"
        if last_is == "DELETE"
        else f"UPDATE events SET at_us = 1 WHERE id = {bad}",
    )
    plan = await planned(data)
    assert (plan.way, plan.lost, plan.unread) == ("checkpoint", None, (bad, first))
    assert any("--way log" in other and f"up to {bad - 1}" in other for other in plan.others)
    await repaired(data)
    state = await folded(data)
    assert (services(state), secrets(state)) == (services(whole), secrets(whole)), "no effect of any event is lost"
    assert [loss.unread for loss in state.system.losses] == [(bad, first)]
    assert second not in checkpoints_of(data), "it was bound to the chain that is no more"
    await lives_on(data)


async def test_the_other_way_can_be_chosen(data: Path, whole: KernelState) -> None:
    first, _ = checkpoints_of(settled(data))
    sql(data, f"DELETE FROM events WHERE id = {first - 3}")
    plan = await planned(data, "log")
    assert (plan.kept_to, plan.lost) == (first - 4, (first - 3, whole.last_id))
    with pytest.raises(Rejected, match="there is no way unproven"):
        await planned(data, "unproven")
    await repaired(data, "log")
    state = await folded(data)
    assert services(state) < services(whole) or services(state) != services(whole)
    assert secrets(state) <= secrets(whole)
    await lives_on(data)


async def test_damage_between_the_checkpoints(data: Path, whole: KernelState) -> None:
    first, second = checkpoints_of(settled(data))
    sql(data, f"UPDATE events SET payload = CAST('{{}}' AS BLOB) WHERE id = {first + 2}")
    plan = await planned(data)
    assert (plan.way, plan.unread, plan.lost) == ("checkpoint", (first + 2, second), None)
    await repaired(data)
    assert services(await folded(data)) == services(whole)


async def test_a_bad_frame_with_commits_behind_it(data: Path, whole: KernelState) -> None:
    """What SQLite would drop without a word is read frame by frame: only what was in the bad frame alone can be lost."""
    log = data / "kernel.db-wal"
    frames = log.stat().st_size // FRAME_BYTES
    flip(log, WAL_HEADER_BYTES + (frames // 2) * FRAME_BYTES + 300)
    fault = await refusal(data)
    assert fault is not None and "is bad" in fault.detail and "solo repair" in fault.detail
    await repaired(data)
    state = await folded(data)
    assert services(state) == services(whole) and secrets(state) == secrets(whole)
    await lives_on(data)


async def test_a_tail_of_the_log_cut_off(data: Path, whole: KernelState) -> None:
    log = data / "kernel.db-wal"
    log.write_bytes(log.read_bytes()[: -3 * FRAME_BYTES - 100])
    fault = await refusal(data)
    assert fault is not None and "are missing" in fault.detail
    plan = await planned(data)
    assert plan.lost is not None and plan.lost[1] == whole.last_id
    await repaired(data)
    await lives_on(data)


def missing(data: Path) -> None:
    (data / "kernel.head").unlink()


def edited(data: Path) -> None:
    flip(data / "kernel.head", 20)


def emptied(data: Path) -> None:
    (data / "kernel.head").write_bytes(b"")


def a_directory(data: Path) -> None:
    (data / "kernel.head").unlink()
    (data / "kernel.head").mkdir()


@pytest.mark.parametrize("harm", [missing, edited, emptied, a_directory])
async def test_a_witness_that_proves_nothing(data: Path, whole: KernelState, harm: Callable[[Path], None]) -> None:
    harm(data)
    assert await refusal(data) is not None
    plan = await planned(data)
    assert plan.loses_nothing and plan.way == "log"
    assert any("nobody can tell" in note for note in plan.notes)
    await repaired(data)
    state = await folded(data)
    assert services(state) == services(whole) and state.system.losses == ()
    await lives_on(data)


async def test_a_witness_of_another_log(data: Path, used: Path, tmp_path: Path) -> None:
    """The log is whole, but not the one that was acknowledged: it is kept only as far as a checkpoint vouches for it."""
    settled(data)
    _first, second = checkpoints_of(data)
    other = copied(used, tmp_path / "other")
    # The same history goes on differently in a copy; its database comes in the place of the one that was used since.
    await lives_on(other)
    shutil.copy(other / "kernel.head", data / "kernel.head")
    fault = await refusal(data)
    assert fault is not None and "are missing" in fault.detail
    plan = await planned(data)
    assert plan.lost is not None and second <= plan.kept_to
    await repaired(data)


async def test_a_replaced_log_is_kept_only_as_far_as_it_is_proven(data: Path, used: Path, tmp_path: Path) -> None:
    settled(data)
    _, second = checkpoints_of(data)
    mine, theirs = copied(data, tmp_path / "mine"), copied(data, tmp_path / "theirs")
    await lives_on(mine)
    await lives_on(theirs)
    shutil.copy(theirs / "kernel.head", mine / "kernel.head")  # about as many events, others
    fault = await refusal(mine)
    assert fault is not None
    sql(mine, f"DELETE FROM checkpoints WHERE event_id > {second}")
    plan = await planned(mine)
    if "is not the one" in fault.detail:
        assert plan.kept_to == second and any("--way unproven" in other for other in plan.others)
        believed = await planned(mine, "unproven")
        assert believed.kept_to > second
    await repaired(mine)


async def test_a_rolled_back_copy_says_how_many_events_are_missing(data: Path, used: Path, tmp_path: Path) -> None:
    settled(data)
    old = (data / "kernel.db").read_bytes()
    await lives_on(data)
    late = (await folded(data)).last_id
    (data / "kernel.db").write_bytes(old)
    fault = await refusal(data)
    assert fault is not None and f"to {late} are missing" in fault.detail
    plan = await planned(data)
    assert plan.lost is not None and plan.lost[1] == late and plan.kept_to == plan.lost[0] - 1
    outcome = await repaired(data)
    assert outcome.event_id == late + 1
    await lives_on(data)


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM checkpoints",
        "UPDATE checkpoints SET body = zeroblob(99)",
        "UPDATE checkpoints SET mac = zeroblob(32)",
    ],
)
async def test_checkpoints_that_are_no_good_lose_nothing(data: Path, whole: KernelState, harm: str) -> None:
    sql(settled(data), harm)
    if harm.startswith("DELETE"):
        assert (await verified(data)).status == "ok"
        return
    assert (await planned(data)).loses_nothing
    await repaired(data)
    assert services(await folded(data)) == services(whole)


@pytest.mark.parametrize(
    "harm", ["DELETE FROM artifacts WHERE digest = ", "UPDATE artifacts SET content = zeroblob(5) WHERE digest = "]
)
async def test_a_lost_source_names_its_service_and_keeps_the_rest(data: Path, whole: KernelState, harm: str) -> None:
    service = whole.tenants["acme"].services["svc-1-0"]
    sql(settled(data), f"{harm} '{service.spec.digest}'")
    assert wrong(await verified(data))["artifacts"] == "failed"
    plan = await planned(data)
    assert plan.lost is None and plan.lost_sources == ["acme/svc-1-0 version 1"]
    await repaired(data)
    state = await folded(data)
    assert services(state) == services(whole), "what is wanted of it is not forgotten"
    from repair_rig import SOURCE

    from solo_trio.embedding import Kernel

    async with Kernel.open(data) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        assert await tenant.call("svc-1-1", "one") == 11
        report = await kernel.system.core.verification.verify(full=True)
        assert wrong(report)["artifacts"] == "warning"
        await tenant.deploy("svc-1-0", source=SOURCE.format(10), replace=True)
        assert await tenant.call("svc-1-0", "one") == 10
        report = await kernel.system.core.verification.verify(full=True)
        assert "artifacts" not in wrong(report)


async def test_a_lost_secret_is_taken_back_and_the_rest_is_kept(data: Path, whole: KernelState) -> None:
    assert "acme/api-key 2" in secrets(whole)
    sql(settled(data), "DELETE FROM secrets WHERE name = 'api-key' AND version = 2")
    assert wrong(await verified(data)) == {"secrets": "failed"}
    plan = await planned(data)
    assert plan.lost_secrets == ["acme/api-key version 2"]
    await repaired(data)
    state = await folded(data)
    assert secrets(state) == secrets(whole) - {"acme/api-key 2"}
    from solo_trio.embedding import Kernel

    async with Kernel.open(data) as kernel:
        tenant = await kernel.tenant("acme")
        assert await tenant.reveal_secret("api-key") == "value 2", "version 3 is whole"
        with pytest.raises(Rejected) as caught:
            await tenant.reveal_secret("api-key", version=2)
        assert caught.value.code == "secret_not_found"
        assert await tenant.set_secret("api-key", "again") == 4


async def test_a_lost_key_of_tokens_makes_them_worthless_and_nothing_else(data: Path, whole: KernelState) -> None:
    key_id = whole.tenants["acme"].key_id
    sql(settled(data), f"DELETE FROM keys WHERE key_id = '{key_id}'")
    assert wrong(await verified(data)) == {"key_rows": "failed"}
    plan = await planned(data)
    assert list(plan.lost_tokens) == ["acme"] and not plan.lost_secrets
    await repaired(data)
    await lives_on(data)


async def test_a_lost_key_of_secrets_loses_what_it_sealed(data: Path, whole: KernelState) -> None:
    incarnation = whole.tenants["acme"].incarnation
    sql(
        settled(data),
        f"UPDATE keys SET wrapped = zeroblob(80) WHERE purpose = 'secret' AND incarnation = '{incarnation}'",
    )
    assert wrong(await verified(data))["keys"] == "failed"
    plan = await planned(data)
    assert plan.lost_secrets == [f"acme/api-key version {number}" for number in (1, 2, 3)]
    await repaired(data)
    assert {each for each in secrets(await folded(data)) if each.startswith("acme")} == set()
    await lives_on(data)


async def test_the_systems_key(data: Path, whole: KernelState) -> None:
    held = whole.capabilities[whole.system.capability_id or ""]
    sql(settled(data), f"DELETE FROM keys WHERE key_id = '{held.key_id}'")
    assert list((await planned(data)).lost_tokens) == ["the system"]
    await repaired(data)
    await lives_on(data)  # its token is written anew with the start


async def test_an_index_that_does_not_match(data: Path, whole: KernelState) -> None:
    other = "(SELECT rootpage FROM sqlite_schema WHERE name = 'events_subject')"
    change = f"UPDATE sqlite_schema SET rootpage = {other} WHERE name = 'events_tenant'"
    sql(settled(data), "PRAGMA writable_schema = ON", change)
    plan = await planned(data)
    assert plan.loses_nothing
    await repaired(data)
    assert services(await folded(data)) == services(whole)


@pytest.mark.parametrize("page", [1, 2, 5])
async def test_a_page_of_zeros(data: Path, whole: KernelState, page: int) -> None:
    """The first is the schema; the second the root of the events: what is below it is read all the same."""
    path = settled(data) / "kernel.db"
    content = bytearray(path.read_bytes())
    content[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(bytes(content))
    await repaired(data)
    state = await folded(data)
    if page < 5:
        assert services(state) == services(whole) and not state.system.losses


async def test_a_damaged_audit_is_put_aside(data: Path, whole: KernelState) -> None:
    audit = data / "audit.db"
    content = audit.read_bytes()
    audit.write_bytes(content[:-PAGE_BYTES] + bytes(PAGE_BYTES))
    flip(data / "audit.head", 20)
    assert wrong(await verified(data))["audit"] == "failed"
    plan = await planned(data)
    assert plan.loses_nothing and any("audit" in note for note in plan.notes)
    outcome = await repaired(data)
    assert outcome.plan is not None and (data / outcome.plan.damaged / "audit.db").exists()
    await lives_on(data)


async def test_without_the_master_key_nothing_is_done(data: Path) -> None:
    sql(settled(data), "DELETE FROM events WHERE id = 5")
    key = (data / "master.key").read_bytes()
    (data / "master.key").unlink()
    with pytest.raises(Faulted, match="without the master key nothing in the directory can be proven"):
        await planned(data)
    (data / "master.key").write_bytes(b"ab" * 32)
    (data / "master.key").chmod(0o600)
    with pytest.raises(Faulted, match="all stored keys are under another master key"):
        await planned(data)
    (data / "master.key").write_bytes(key)
    assert (await planned(data)).way


async def test_keys_under_another_master_key_are_not_thrown_away(data: Path) -> None:
    """As an interrupted rotation leaves them where the master key comes from elsewhere."""
    old, new = MasterKey.load_or_create(data / "master.key"), MasterKey(Secret(bytes(range(32))))
    connection = driver.connect(str(settled(data) / "kernel.db"), isolation_level=None)
    for found in connection.execute("SELECT key_id, incarnation, purpose, wrapped FROM keys").fetchall():
        row = rewrapped(KeyRow(*found), old, new)
        connection.execute("UPDATE keys SET wrapped = ? WHERE key_id = ?", (row.wrapped, row.key_id))
    connection.close()
    with pytest.raises(Faulted, match="run the same solo keys rotate once more"):
        await planned(data)
    with pytest.raises(Faulted, match="solo keys rotate once more"):
        await lives_on(data)


async def test_where_nothing_can_be_saved(data: Path) -> None:
    settled(data)
    (data / "kernel.db").write_bytes(b"")
    with pytest.raises(Faulted, match="restore the whole directory from a backup"):
        await planned(data)
    assert not (data / "repair.new").exists()


async def test_no_kernel_directory(tmp_path: Path) -> None:
    with pytest.raises(Faulted) as caught:
        await planned(tmp_path)
    assert caught.value.code == "data_unwritable"
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240
