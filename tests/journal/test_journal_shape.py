"""Tables that are not as they were made, or cannot be opened: found before the append that would need them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from journal_samples import KEY, child, events, flip, made, reopened, sql
from test_journal_damage import refused
from test_journal_opening import digests, killed

from solo_trio.errors import Faulted
from solo_trio.journal import shape
from solo_trio.journal.inspection import open_inspection
from solo_trio.journal.library import driver
from solo_trio.journal.reads import check_tables
from solo_trio.journal.schema import MIGRATIONS, connect_reader
from solo_trio.journal.sqlite import open_journal
from solo_trio.journal.wal import PAGE_BYTES

INNER_NODE = 0x08
"""Flipped in the first byte of a leaf, it makes it a node above leaves that are not there."""
VERSION_AT = 60
"""Of the schema, four bytes, the highest first."""
MADE = "74fec6b1"
"""What the migrations make is part of the file format: it must be the same whatever makes it."""


def root(directory: Path, name: str) -> int:
    connection = connect_reader(directory)
    try:
        return int(connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0])
    finally:
        connection.close()


def rewrite(directory: Path, change: str) -> None:
    """Of the texts that say what the tables are."""
    sql(directory, "PRAGMA writable_schema = ON", f"UPDATE sqlite_schema SET {change}")


async def looked_at(directory: Path) -> None:
    async with open_inspection(directory, KEY):
        pass


@pytest.mark.parametrize("name", ["sqlite_autoindex_idempotency_1", "idempotency_age", "segments_last", "segments"])
async def test_what_is_empty_and_cannot_be_opened(tmp_path: Path, name: str) -> None:
    """What SQLite's own check does not see, of indexes."""
    await made(tmp_path, 30)
    sql(tmp_path, "DELETE FROM idempotency")
    at = (root(tmp_path, name) - 1) * PAGE_BYTES
    assert (tmp_path / "kernel.db").read_bytes()[at] in (0x0A, 0x0D), "no leaf"
    flip(tmp_path / "kernel.db", at, INNER_NODE)
    assert "malformed" in await refused(tmp_path)
    with pytest.raises(Faulted, match="malformed"):
        await looked_at(tmp_path)
    flip(tmp_path / "kernel.db", at, INNER_NODE)
    assert await reopened(tmp_path) == events(1, 30)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("ALTER TABLE idempotency RENAME COLUMN at_us TO at_ts", "idempotency is not as it was made"),
        ("ALTER TABLE secrets DROP COLUMN sealed", "secrets is not as it was made"),
        ("ALTER TABLE keys RENAME COLUMN wrapped TO wrappee", "keys is not as it was made"),
        ("ALTER TABLE events ADD COLUMN more", "events is not as it was made"),
        ("DROP INDEX events_tenant", "events_tenant is not as it was made"),
        ("ALTER TABLE checkpoints RENAME COLUMN body TO bodx", "checkpoints is not as it was made"),
        ("DROP TABLE checkpoints", "checkpoints is not as it was made"),
        ("DROP TABLE erasures", "erasures is not as it was made"),
        ("CREATE INDEX another ON events (type)", "Solo did not make another, which is on events"),
        (
            "CREATE TRIGGER quiet AFTER INSERT ON events BEGIN DELETE FROM events WHERE id = new.id; END",
            "Solo did not make quiet, which is on events",
        ),
        ("PRAGMA user_version = 3", "its schema version is not that of its tables"),
        ("PRAGMA user_version = 0", "its schema version is not that of its tables"),
        ("PRAGMA user_version = -2", "has schema version -2"),
    ],
)
async def test_a_changed_table(tmp_path: Path, statement: str, says: str) -> None:
    await made(tmp_path, 3)
    sql(tmp_path, statement)
    assert says in await refused(tmp_path)
    with pytest.raises(Faulted) as caught:
        await looked_at(tmp_path)
    assert caught.value.code == "data_damaged" and says in caught.value.detail


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("""sql = replace(sql, '"tenant_id", "subject"', '"subject", "tenant_id"')""", "events_subject"),
        ("sql = replace(sql, 'UNIQUE ', '')", "segments_last"),
        ("""sql = replace(sql, '"at_us"', '"at_us" DESC')""", "idempotency_age"),
        ("sql = replace(sql, 'REAL', 'RDAL')", "events"),
    ],
)
async def test_a_changed_definition(tmp_path: Path, change: str, name: str) -> None:
    await made(tmp_path, 3)
    rewrite(tmp_path, f"{change} WHERE name = '{name}'")
    assert f"{name} is not as it was made" in await refused(tmp_path)


async def test_two_in_one_place(tmp_path: Path) -> None:
    """What is written into one would be found in the other."""
    await made(tmp_path, 3)
    rewrite(tmp_path, f"rootpage = {root(tmp_path, 'idempotency_age')} WHERE name = 'segments_last'")
    assert "idempotency_age and segments_last are in the same place" in await refused(tmp_path)


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


@pytest.mark.parametrize("what", ["another version", "a newer version", "a dropped table"])
async def test_a_refusal_leaves_the_log_as_it_was(tmp_path: Path, what: str) -> None:
    """What is said in it is no longer in the database alone: a repair needs both, and as they were."""
    killed(tmp_path)
    harm = {"another version": "PRAGMA user_version = -2", "a newer version": "PRAGMA user_version = 99"}
    # A second one, that dies with its change in the log.
    harmed = child(tmp_path, "harm_and_die", harm.get(what, "DROP TABLE events"))
    harmed.communicate()
    before = digests(tmp_path)
    assert (tmp_path / "kernel.db-wal").stat().st_size
    with pytest.raises(Faulted):
        await open_journal(tmp_path, KEY)
    assert digests(tmp_path) == before


async def test_the_full_check_looks_too(tmp_path: Path) -> None:
    """Of a kernel that runs: what was changed since it began."""
    await made(tmp_path, 3)
    sql(tmp_path, "CREATE INDEX another ON events (type)")
    connection: driver.Connection = connect_reader(tmp_path)
    try:
        with pytest.raises(Faulted, match="did not make another"):
            check_tables(connection)
    finally:
        connection.close()


def test_what_the_migrations_make_never_changes() -> None:
    text = repr(sorted(shape._made(len(MIGRATIONS)).shape, key=repr))
    assert hashlib.sha256(text.encode()).hexdigest()[:8] == MADE, (
        "directories that others made would be refused: a changed table is a new migration"
    )
