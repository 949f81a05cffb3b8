"""Tables that are not as they were made, or cannot be opened: found before the append that would need them."""

from __future__ import annotations

from pathlib import Path

import pytest
from journal_samples import events, flip, made, reopened, sql
from test_journal_damage import refused

from solo_trio.journal.library import driver
from solo_trio.journal.reads import check_tables
from solo_trio.journal.schema import connect_reader
from solo_trio.journal.wal import PAGE_BYTES

EMPTY_LEAF_OF_INDEX = 0x0A
INNER_NODE = 0x08
"""Flipped in the first byte of a leaf, it makes it a node above leaves that are not there."""


@pytest.mark.parametrize("index", ["sqlite_autoindex_idempotency_1", "idempotency_age", "segments_last"])
async def test_an_index_of_an_empty_table(tmp_path: Path, index: str) -> None:
    """What SQLite's own check does not see."""
    await made(tmp_path, 30)
    sql(tmp_path, "DELETE FROM idempotency")
    connection = connect_reader(tmp_path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
    connection.close()
    at = (page - 1) * PAGE_BYTES
    assert (tmp_path / "kernel.db").read_bytes()[at] == EMPTY_LEAF_OF_INDEX
    flip(tmp_path / "kernel.db", at, INNER_NODE)
    assert "malformed" in await refused(tmp_path)
    flip(tmp_path / "kernel.db", at, INNER_NODE)
    assert await reopened(tmp_path) == events(1, 30)


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("ALTER TABLE idempotency RENAME COLUMN at_us TO at_ts", "idempotency"),
        ("ALTER TABLE secrets DROP COLUMN sealed", "secrets"),
        ("ALTER TABLE events ADD COLUMN more", "events"),
        ("DROP INDEX events_tenant", "events_tenant"),
        ("CREATE INDEX another ON events (type)", "another"),
        ("CREATE TRIGGER quiet AFTER INSERT ON events BEGIN DELETE FROM events WHERE id = new.id; END", "quiet"),
        ("DROP TABLE erasures", "erasures"),
    ],
)
async def test_a_changed_table(tmp_path: Path, statement: str, name: str) -> None:
    await made(tmp_path, 3)
    sql(tmp_path, statement)
    assert f"{name} is not as it was made" in await refused(tmp_path)


@pytest.mark.parametrize(("offset", "mask"), [(18, 0x08), (18, 0x01), (19, 0x03)])
async def test_a_header_with_which_sqlite_only_reads(tmp_path: Path, offset: int, mask: int) -> None:
    await made(tmp_path, 30)
    flip(tmp_path / "kernel.db", offset, mask)
    assert "header is not as SQLite writes it" in await refused(tmp_path)


@pytest.mark.parametrize("statement", ["ANALYZE", "CREATE TABLE copy AS SELECT * FROM events"])
async def test_what_stands_beside_our_tables_is_let_be(tmp_path: Path, statement: str) -> None:
    await made(tmp_path, 30)
    sql(tmp_path, statement)
    assert await reopened(tmp_path) == events(1, 30)


async def test_the_full_check_looks_too(tmp_path: Path) -> None:
    """Of a kernel that runs: what was changed since it began."""
    await made(tmp_path, 3)
    sql(tmp_path, "CREATE INDEX another ON events (type)")
    connection: driver.Connection = connect_reader(tmp_path)
    try:
        with pytest.raises(Exception, match="another is not as it was made"):
            check_tables(connection)
    finally:
        connection.close()
