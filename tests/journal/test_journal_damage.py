"""Every class of tampering with a closed directory is refused, and said in words that help."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from journal_samples import KEY, artifact, child, event, events, flip, key_row, made, reopened, sql

from solo_trio.errors import Faulted
from solo_trio.journal.chain import COLUMNS, seal
from solo_trio.journal.schema import connect_reader
from solo_trio.journal.sqlite import open_journal
from solo_trio.journal.wal import FRAME_HEADER_BYTES, PAGE_BYTES, WAL_HEADER_BYTES


async def refused(directory: Path) -> str:
    """The detail of the refusal; a refusal also leaves the database as it found it, so it is the same the second time."""
    details = []
    for _ in range(2):
        with pytest.raises(Faulted) as caught:
            await reopened(directory)
        assert caught.value.code == "data_damaged"
        assert "restore the whole directory from a backup" in caught.value.detail
        details.append(caught.value.detail)
    assert details[0] == details[1]
    return details[0]


async def test_an_untouched_directory_is_believed(tmp_path: Path) -> None:
    await made(tmp_path, 30)
    assert await reopened(tmp_path) == events(1, 30)


@pytest.mark.parametrize("column", COLUMNS[1:])
@pytest.mark.parametrize("at", [1, 17, 30])
async def test_a_changed_column(tmp_path: Path, column: str, at: int) -> None:
    await made(tmp_path, 30)
    values = {
        "at_us": "at_us + 1",
        "kernel_time": "kernel_time + 0.5",
        "schema": "schema + 1",
        "causation_id": "coalesce(causation_id, 0) + 1",
        "payload": "CAST('{}' AS BLOB)",
        "salt": "zeroblob(16)",
        "payload_digest": "zeroblob(32)",
        "chain": "zeroblob(32)",
    }
    sql(tmp_path, f"UPDATE events SET {column} = {values.get(column, repr('other'))} WHERE id = {at}")
    assert f"event {at}" in await refused(tmp_path)


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["DELETE FROM events WHERE id > 28"], "events 29 to 30 are missing"),
        (["DELETE FROM events"], "events 1 to 30 are missing"),
        (["DELETE FROM events WHERE id = 12"], "event 12 is missing"),
        (["DELETE FROM events WHERE id = 1"], "event 1 is missing"),
        (
            [
                "UPDATE events SET id = -1 WHERE id = 8",
                "UPDATE events SET id = 8 WHERE id = 9",
                "UPDATE events SET id = 9 WHERE id = -1",
            ],
            "event 8 does not match",
        ),
        (["UPDATE events SET payload = NULL WHERE id = 5"], "event 5"),
        (["UPDATE events SET payload = 'text', salt = 'text' WHERE id = 5"], "event 5"),
        (["UPDATE events SET tenant_id = CAST(x'ff' AS TEXT) WHERE id = 5"], "event 5 cannot be read"),
        (
            [
                "CREATE TABLE other AS SELECT * FROM events",
                "DROP TABLE events",
                "ALTER TABLE other RENAME TO events",
                "UPDATE events SET subject = 'x' WHERE id = 30",
            ],
            "events is not as it was made",
        ),
        (["DROP TABLE events"], "events is not as it was made"),
    ],
)
async def test_changed_rows(tmp_path: Path, statements: list[str], says: str) -> None:
    await made(tmp_path, 30)
    sql(tmp_path, *statements)
    assert says in await refused(tmp_path)


async def test_the_last_row_rewritten_with_a_right_hash_of_its_own(tmp_path: Path) -> None:
    """The chain has no key, so an intruder can compute it; the witness has one."""
    await made(tmp_path / "ours", 30)
    await made(tmp_path / "theirs", 30)
    shutil.copy(tmp_path / "theirs" / "kernel.db", tmp_path / "ours" / "kernel.db")
    assert "event 30 is not the one" in await refused(tmp_path / "ours")


async def test_an_older_copy_of_the_database(tmp_path: Path) -> None:
    await made(tmp_path, 20)
    shutil.copy(tmp_path / "kernel.db", tmp_path / "older")
    journal = await open_journal(tmp_path, KEY)
    await journal.append([event(21)])
    await journal.close()
    shutil.copy(tmp_path / "older", tmp_path / "kernel.db")
    assert "events 21 to 21 are missing" in await refused(tmp_path)


@pytest.mark.parametrize("offset", [0, 8, 15, 16, 47, 48, 79])
async def test_a_changed_witness(tmp_path: Path, offset: int) -> None:
    await made(tmp_path, 3)
    flip(tmp_path / "kernel.head", offset)
    assert "kernel.head is not authentic" in await refused(tmp_path)


async def test_a_witness_of_another_length_or_key(tmp_path: Path) -> None:
    await made(tmp_path, 3)
    whole = (tmp_path / "kernel.head").read_bytes()
    for data in (b"", whole[:-1], whole + b"\0"):
        (tmp_path / "kernel.head").write_bytes(data)
        await refused(tmp_path)
    (tmp_path / "kernel.head").write_bytes(whole)
    with pytest.raises(Faulted, match="master key"):
        await open_journal(tmp_path, b"another key")
    assert await reopened(tmp_path) == events(1, 3)


async def test_a_missing_witness(tmp_path: Path) -> None:
    await made(tmp_path, 3)
    (tmp_path / "kernel.head").unlink()
    assert "kernel.head is missing" in await refused(tmp_path)
    assert not (tmp_path / "kernel.head").exists()


@pytest.mark.parametrize("rest", [None, b"", b"not a database, but long enough to have a header of its own" * 99])
async def test_a_missing_or_foreign_database(tmp_path: Path, rest: bytes | None) -> None:
    await made(tmp_path, 3)
    (tmp_path / "kernel.db").unlink()
    if rest is not None:
        (tmp_path / "kernel.db").write_bytes(rest)
    await refused(tmp_path)
    assert (tmp_path / "kernel.db").exists() is (rest is not None)


async def test_any_page_of_the_database(tmp_path: Path) -> None:
    """A bit in the middle, and at both ends, of every page that holds something the kernel relies on."""
    await made(tmp_path, 120, group=40)
    whole = (tmp_path / "kernel.db").read_bytes()
    unseen = []
    for page in range(len(whole) // PAGE_BYTES):
        start = page * PAGE_BYTES
        used = [at for at in range(start, start + PAGE_BYTES) if whole[at]]
        for at in (used[0], used[len(used) // 2], used[-1]) if used else ():
            (tmp_path / "kernel.db").write_bytes(whole)
            flip(tmp_path / "kernel.db", at, 0x04)
            try:
                found = await reopened(tmp_path)
            except Faulted as error:
                assert error.code in ("data_damaged", "data_newer")
            else:
                assert found == events(1, 120)
                unseen.append((page, at - start))
    # What goes unseen must have changed nothing: a few header fields, such as counters that SQLite ignores.
    assert len(unseen) <= 6, unseen


async def test_a_changed_artifact(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path, KEY)
    source = artifact(b"async def main(): ...")
    await journal.append([event(1)], [source, key_row("k")])
    await journal.close()
    sql(tmp_path, "UPDATE artifacts SET content = CAST('import os' AS BLOB)")
    journal = await open_journal(tmp_path, KEY)
    with pytest.raises(Faulted, match="does not have its digest") as caught:
        await journal.artifact(source.digest)
    assert caught.value.code == "data_damaged"
    await journal.close()


async def test_damage_after_opening_is_found_by_the_replay(tmp_path: Path) -> None:
    await made(tmp_path, 30)
    journal = await open_journal(tmp_path, KEY)
    sql(tmp_path, "DELETE FROM events WHERE id > 28")
    with pytest.raises(Faulted, match="events 29 to 30 are missing"):
        async for _ in journal.replay():
            pass
    with pytest.raises(Faulted, match="events 29 to 30 are missing"):
        async for _ in journal.replay(after=20):
            pass
    await journal.close()


async def test_an_event_replaced_after_opening_with_a_right_hash_of_its_own(tmp_path: Path) -> None:
    await made(tmp_path, 30)
    journal = await open_journal(tmp_path, KEY)
    reader = connect_reader(tmp_path)
    (previous,) = reader.execute("SELECT chain FROM events WHERE id = 29").fetchone()
    reader.close()
    forged = seal(previous, attrs.evolve(event(30), payload=b"{}"), bytes(16))
    cells = dict(zip(COLUMNS, forged, strict=True))
    changed = ", ".join(f"{name} = x'{cells[name].hex()}'" for name in ("payload", "salt", "payload_digest", "chain"))
    sql(tmp_path, f"UPDATE events SET {changed} WHERE id = 30")
    for after in (0, 15, 30):
        with pytest.raises(Faulted, match=r"event 30 (is not the one that was acknowledged|is missing or was changed)"):
            async for _ in journal.replay(after):
                pass
    await journal.close()


# -- the log of a kernel that was killed


async def killed(directory: Path, transactions: int) -> int:
    """A directory whose writer died: the events are in the WAL. Returns how many."""
    writer = child(directory, "write_and_die", transactions, 3)
    out, _ = writer.communicate()
    return int(out.split()[-1])


def frames(directory: Path) -> list[int]:
    """Where each frame begins."""
    size = (directory / "kernel.db-wal").stat().st_size
    return list(range(WAL_HEADER_BYTES, size, FRAME_HEADER_BYTES + PAGE_BYTES))


async def test_the_log_of_a_killed_kernel_is_believed(tmp_path: Path) -> None:
    last = await killed(tmp_path, 4)
    assert await reopened(tmp_path) == events(1, last) == events(1, 12)


@pytest.mark.parametrize("place", [0, 4, 20, FRAME_HEADER_BYTES + 1_000])
async def test_a_bad_frame_with_later_commits(tmp_path: Path, place: int) -> None:
    await killed(tmp_path, 4)
    flip(tmp_path / "kernel.db-wal", frames(tmp_path)[1] + place)
    assert "frame 2 is bad" in await refused(tmp_path)


async def test_a_bad_frame_with_later_commits_needs_no_witness(tmp_path: Path) -> None:
    """After power loss the witness may be old; the log alone must tell."""
    await made(tmp_path, 0)
    old = (tmp_path / "kernel.head").read_bytes()
    await killed(tmp_path, 4)
    flip(tmp_path / "kernel.db-wal", frames(tmp_path)[1] + 50)
    (tmp_path / "kernel.head").write_bytes(old)
    assert "frame 2 is bad" in await refused(tmp_path)


Tear = Callable[[Path], None]


def cut_half_of_last_frame(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-2_000])


def spoil_last_frame(log: Path) -> None:
    flip(log, log.stat().st_size - 100)


def forget_last_frame(log: Path) -> None:
    log.write_bytes(log.read_bytes()[: -(FRAME_HEADER_BYTES + PAGE_BYTES)])


@pytest.mark.parametrize("tear", [cut_half_of_last_frame, spoil_last_frame, forget_last_frame])
async def test_a_torn_tail_is_silently_cut(tmp_path: Path, tear: Tear) -> None:
    """Power loss in the last transaction, before its fsync returned: so nobody was told, and the witness is older."""
    await killed(tmp_path, 4)
    # The oldest witness there can be: its pages may reach the disk much later than the log's.
    journal = await open_journal(tmp_path / "control", KEY)
    await journal.close()
    shutil.copy(tmp_path / "control" / "kernel.head", tmp_path / "kernel.head")
    tear(tmp_path / "kernel.db-wal")
    assert await reopened(tmp_path) == events(1, 9)
    journal = await open_journal(tmp_path, KEY)
    await journal.append(events(10, 11))
    await journal.close()
    assert await reopened(tmp_path) == events(1, 11)


@pytest.mark.parametrize("tear", [cut_half_of_last_frame, spoil_last_frame, forget_last_frame])
async def test_a_tail_torn_off_acknowledged_events(tmp_path: Path, tear: Tear) -> None:
    """The same, but the witness knows the last transaction: it had been acknowledged."""
    await killed(tmp_path, 4)
    tear(tmp_path / "kernel.db-wal")
    assert "events 10 to 12 are missing" in await refused(tmp_path)


async def test_a_log_without_its_database_or_a_database_without_its_log(tmp_path: Path) -> None:
    await killed(tmp_path, 2)
    shutil.copytree(tmp_path, tmp_path / "copy")
    (tmp_path / "kernel.db-wal").unlink()
    await refused(tmp_path)
    (tmp_path / "copy" / "kernel.db").unlink()
    (tmp_path / "copy" / "kernel.head").unlink()
    await refused(tmp_path / "copy")
    assert (tmp_path / "copy" / "kernel.db-wal").stat().st_size > 0
