"""Which kept states are believed: those this kernel wrote about this very log, unchanged; any other is named and left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
from journal_samples import KEY, checkpoint, event, events, replayed, sql

from solo_trio.errors import Faulted
from solo_trio.journal.checkpoints import COLUMNS
from solo_trio.journal.library import driver
from solo_trio.journal.sqlite import open_journal

BODY = b"canary-body" * 2_000


async def with_checkpoint(directory: Path, count: int = 30, at: int = 20, body: bytes = BODY) -> None:
    """A closed directory that holds so many events and a checkpoint after one of them."""
    journal = await open_journal(directory, KEY)
    await journal.append(events(1, at))
    await journal.write_checkpoint(checkpoint(at, body))
    await journal.append(events(at + 1, count))
    await journal.close()


async def fault_of(directory: Path, event_id: int = 20) -> str:
    """Why the checkpoint cannot be used; everything else is there."""
    journal = await open_journal(directory, KEY)
    try:
        with pytest.raises(Faulted) as caught:
            await journal.checkpoint(event_id)
        assert caught.value.code == "data_damaged"
        assert await replayed(journal) == events(1, 30)
        return caught.value.detail
    finally:
        await journal.close()


async def test_a_checkpoint_survives_closing(tmp_path: Path) -> None:
    await with_checkpoint(tmp_path)
    journal = await open_journal(tmp_path, KEY)
    assert await journal.checkpoint_ids() == [20]
    assert await journal.checkpoint(20) == checkpoint(20, BODY)
    assert await replayed(journal, after=20) == events(21, 30)
    await journal.close()


@pytest.mark.parametrize("column", COLUMNS[1:])
async def test_a_changed_column_is_seen(tmp_path: Path, column: str) -> None:
    await with_checkpoint(tmp_path)
    values = {"at_us": "at_us + 1", "reducer": "'other'", "format": "'json/9'", "body": "CAST('{}' AS BLOB)"}
    sql(tmp_path, f"UPDATE checkpoints SET {column} = {values.get(column, 'zeroblob(32)')}")
    assert "event 20" in await fault_of(tmp_path)


@pytest.mark.parametrize("value", ["'text'", "7", "1.5", "x''"])
@pytest.mark.parametrize("column", ["digest", "chain", "mac", "body", "reducer"])
async def test_a_column_of_a_wrong_type_is_seen(tmp_path: Path, column: str, value: str) -> None:
    await with_checkpoint(tmp_path)
    sql(tmp_path, f"UPDATE checkpoints SET {column} = {value}")
    assert "event 20" in await fault_of(tmp_path)


async def test_one_that_was_moved_to_another_event_is_not_believed(tmp_path: Path) -> None:
    await with_checkpoint(tmp_path)
    sql(tmp_path, "UPDATE checkpoints SET event_id = 21")
    assert "was changed" in await fault_of(tmp_path, 21)


async def test_one_of_another_log_is_not_believed(tmp_path: Path) -> None:
    """Authentic, about an event of the same id, but of another history."""
    await with_checkpoint(tmp_path / "theirs")
    journal = await open_journal(tmp_path / "ours", KEY)
    await journal.append(events(1, 30))
    await journal.close()
    theirs = tmp_path / "theirs" / "kernel.db"
    sql(
        tmp_path / "ours",
        f"ATTACH '{theirs}' AS theirs",
        "INSERT INTO checkpoints SELECT * FROM theirs.checkpoints",
    )
    assert "belongs to another log" in await fault_of(tmp_path / "ours")


async def test_one_made_with_another_master_key_is_not_believed(tmp_path: Path) -> None:
    other = b"another key of thirty-two bytes."
    journal = await open_journal(tmp_path, other)
    await journal.append(events(1, 30))
    await journal.write_checkpoint(checkpoint(20))
    await journal.close()
    (tmp_path / "kernel.head").unlink()
    shutil.copy(tmp_path / "kernel.db", tmp_path / "aside")
    (tmp_path / "kernel.db").unlink()
    journal = await open_journal(tmp_path, KEY)
    await journal.append(events(1, 30))
    await journal.close()
    sql(tmp_path, f"ATTACH '{tmp_path / 'aside'}' AS a", "INSERT INTO checkpoints SELECT * FROM a.checkpoints")
    assert "another master key" in await fault_of(tmp_path)


async def test_a_log_that_is_behind_a_checkpoint_lost_events(tmp_path: Path) -> None:
    """The witness may be behind after power loss; the checkpoint was forced out with the database."""
    await with_checkpoint(tmp_path, count=20)
    journal = await open_journal(tmp_path / "short", KEY)
    await journal.close()
    # a witness that knows nothing yet: as if its page had not been written out
    shutil.copy(tmp_path / "short" / "kernel.head", tmp_path / "kernel.head")
    sql(tmp_path, "DELETE FROM events WHERE id > 17")
    with pytest.raises(Faulted, match="events 18 to 20 are missing: a checkpoint") as caught:
        await open_journal(tmp_path, KEY)
    assert caught.value.code == "data_damaged"
    # One that is not authentic says nothing about the log.
    sql(tmp_path, "UPDATE checkpoints SET at_us = 0")
    journal = await open_journal(tmp_path, KEY)
    assert await replayed(journal) == events(1, 17)
    await journal.close()


async def test_a_changed_event_before_the_checkpoint_is_found_by_the_whole_replay_only(tmp_path: Path) -> None:
    await with_checkpoint(tmp_path)
    sql(tmp_path, "UPDATE events SET subject = 'changed' WHERE id = 5")
    journal = await open_journal(tmp_path, KEY)
    assert await journal.checkpoint(20) == checkpoint(20, BODY)
    assert await replayed(journal, after=20) == events(21, 30)
    with pytest.raises(Faulted, match="event 5 does not match the chain"):
        await replayed(journal)
    await journal.close()


@pytest.mark.parametrize("at", [20, 21, 30])
async def test_a_changed_event_from_the_checkpoint_on_is_found_at_every_start(tmp_path: Path, at: int) -> None:
    await with_checkpoint(tmp_path)
    sql(tmp_path, f"UPDATE events SET chain = zeroblob(32) WHERE id = {at}")
    with pytest.raises(Faulted):  # whichever check comes first: the witness's, the checkpoint's own, the tail's
        journal = await open_journal(tmp_path, KEY)
        try:
            kept = await journal.checkpoint(20)
            await replayed(journal, after=kept.event_id)
        finally:
            await journal.close()


async def test_a_dropped_checkpoint_leaves_no_trace_of_its_content(tmp_path: Path) -> None:
    await with_checkpoint(tmp_path, body=b"canary-first" * 2_000)
    journal = await open_journal(tmp_path, KEY)
    for event_id in (25, 30):
        await journal.write_checkpoint(checkpoint(event_id, b"canary-later" * 2_000))
    await journal.close()
    data = (tmp_path / "kernel.db").read_bytes()
    assert b"canary-later" in data
    assert b"canary-first" not in data


async def test_a_table_of_checkpoints_that_sqlite_cannot_read_stops_nothing(tmp_path: Path) -> None:
    """It only saves time: the log is used as if there were none."""
    await with_checkpoint(tmp_path)
    connection = driver.connect(tmp_path / "kernel.db")
    where = "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = 'checkpoints'"
    root, size = connection.execute(where).fetchone()
    connection.close()
    with (tmp_path / "kernel.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    journal = await open_journal(tmp_path, KEY)
    assert await journal.checkpoint_ids() == []
    with pytest.raises(Faulted, match="cannot be read") as caught:
        await journal.checkpoint(20)
    assert caught.value.code == "data_damaged"
    assert await replayed(journal, after=20) == events(21, 30)
    for id_ in (31, 32):
        with pytest.raises(Faulted, match="cannot be stored") as caught:
            await journal.write_checkpoint(checkpoint(30, BODY))
        assert caught.value.code == "data_damaged"
        await journal.append([event(id_)])
    await journal.close()
    journal = await open_journal(tmp_path, KEY)
    assert await replayed(journal, after=30) == events(31, 32)
    await journal.close()


async def test_checkpoints_and_appends_at_once(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path, KEY)
    await journal.append([event(1)])
    async with trio.open_nursery() as nursery:
        for id_ in range(2, 40):
            nursery.start_soon(journal.write_checkpoint, checkpoint(id_ - 1, BODY))
            await journal.append([event(id_)])
    assert await journal.checkpoint_ids() == [38, 37]
    assert await replayed(journal) == events(1, 39)
    await journal.close()
