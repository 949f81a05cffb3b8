"""The bytes of the audit's chain are for ever; what is done to a file without the key is found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_samples import KEY, Notes, entries, entry, kept, names, opened, sql, written

from solo_trio.journal import audit_chain, audit_reads
from solo_trio.journal.audit import check_file
from solo_trio.journal.audit_chain import GENESIS, BrokenChain

ROWS = 30


def test_the_bytes_are_for_ever() -> None:
    row = audit_chain.row_of(KEY, GENESIS, 1, entry(1), 5)
    assert row[-1].hex() == "2b9d79b2f55690228e8148056bafb67a79bad65b9621d0aa54b554439910a145"
    bare = audit_chain.row_of(KEY, row[-1], 2, entry(2, tenant_id=None, subject=None, peer=None), 6)
    assert bare[-1].hex() == "426a9d4614d41931ea097dee8f87e699ed80df370da92b3b086d6fb8ef865c35"
    assert (
        audit_chain.seal(KEY, "head", (2, bare[-1])).hex()
        == "e06a354ba85105282d4f60d259f6ce8e5d4646f38f263188ac4d47e5a17579ef"
    )
    assert audit_chain.verify(KEY, (0, GENESIS), [row, bare]) == (2, bare[-1])


def test_no_two_rows_have_the_same_bytes() -> None:
    """A text that moves to the next column, or None in the place of an empty one, is another row."""
    rows = [
        entry(1),
        entry(1, tenant_id="t1life1", incarnation=""),
        entry(1, tenant_id="", incarnation="t1life1"),
        entry(1, subject=None),
        entry(1, subject=""),
        entry(1, outcome="2", request_id="01r1"),
    ]
    assert len({audit_chain.row_of(KEY, GENESIS, 1, each, 5)[-1] for each in rows}) == len(rows)
    assert (
        audit_chain.row_of(KEY, GENESIS, 1, entry(1), 5)[-1]
        != audit_chain.row_of(bytes(32), GENESIS, 1, entry(1), 5)[-1]
    )


def _other_text(row: tuple[object, ...], column: int) -> object:
    value = row[column]
    return value + 1 if isinstance(value, int) else f"{value}x"


@pytest.mark.parametrize("column", range(len(audit_chain.COLUMNS) - 1))
def test_every_column_is_covered(column: int) -> None:
    row = audit_chain.row_of(KEY, GENESIS, 1, entry(1), 5)
    changed = (*row[:column], _other_text(row, column), *row[column + 1 :])
    with pytest.raises(BrokenChain, match="entry 1"):
        audit_chain.verify(KEY, (0, GENESIS), [changed])


SET_NULL = "UPDATE audit SET subject = NULL WHERE id = 9"
DAMAGES: dict[str, tuple[list[str], str]] = {
    "edited": (["UPDATE audit SET outcome = '200' WHERE id = 9"], "entry 9"),
    "edited to nothing": ([SET_NULL], "entry 9"),
    "edited to another type": (["UPDATE audit SET subject = x'00ff' WHERE id = 9"], "entry 9"),
    "hash edited too": (["UPDATE audit SET outcome = 'x', chain = zeroblob(32) WHERE id = 9"], "entry 9"),
    "last edited": ([f"UPDATE audit SET peer = '::1' WHERE id = {ROWS + 1}"], f"entry {ROWS + 1}"),
    "deleted": (["DELETE FROM audit WHERE id = 9"], "entry 9"),
    "swapped": (
        [
            "UPDATE audit SET id = -9 WHERE id = 9",
            "UPDATE audit SET id = 9 WHERE id = 10",
            "UPDATE audit SET id = 10 WHERE id = -9",
        ],
        "entry 9",
    ),
    "inserted": (
        [
            "INSERT INTO audit SELECT 32, at_us, duration_us, tenant_id, incarnation, credential, operation, subject, outcome, "
            "request_id, peer, chain FROM audit WHERE id = 31"
        ],
        "entries 1 to 32",
    ),
    "cut": ([f"DELETE FROM audit WHERE id > {ROWS - 3}"], "cut off"),
    "cut with its head": (
        [
            "DELETE FROM audit WHERE id > 20",
            "UPDATE ends SET id = 20, chain = (SELECT chain FROM audit WHERE id = 20) WHERE name = 'head'",
        ],
        "head is not authentic",
    ),
    "prefix deleted": (["DELETE FROM audit WHERE id <= 12"], "oldest were deleted"),
    "prefix deleted with a made-up anchor": (
        [
            "UPDATE ends SET id = 12, chain = (SELECT chain FROM audit WHERE id = 12) WHERE name = 'anchor'",
            "DELETE FROM audit WHERE id <= 12",
        ],
        "anchor is not authentic",
    ),
    "anchor deleted": (["DELETE FROM ends WHERE name = 'anchor'"], "anchor is missing"),
    "the head in the place of the anchor": (
        [
            "UPDATE ends SET (id, chain, seal) = (SELECT id, chain, seal FROM ends WHERE name = 'head') WHERE name = 'anchor'"
        ],
        "anchor is not authentic",
    ),
    "emptied": (["DELETE FROM audit"], "cut off"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_found_and_named(tmp_path: Path, name: str) -> None:
    await written(tmp_path, ROWS)
    assert check_file(tmp_path, KEY).fault is None
    statements, said = DAMAGES[name]
    sql(tmp_path, *statements)
    fault = check_file(tmp_path, KEY).fault
    assert fault is not None and said in fault
    # a start sets it aside, whole, and begins anew, saying so
    damaged = (tmp_path / "audit.db").read_bytes()
    notes = Notes()
    async with opened(tmp_path, notes) as audit:
        assert audit.state.status == "begun_anew" and audit.state.set_aside is not None
        [first] = [each.entry for each in await kept(audit)]
        assert (first.operation, first.outcome, first.subject) == ("audit_begun", "damaged", audit.state.set_aside)
        aside = tmp_path / audit.state.set_aside
        assert aside.read_bytes() == damaged
        assert len(notes.notes) == 1 and said in notes.notes[0] and audit.state.set_aside in notes.notes[0]
        assert (await audit.check()).fault is None
    async with opened(tmp_path) as audit:
        assert audit.state.status == "ok"


async def test_the_chain_of_another_key_is_not_believed(tmp_path: Path) -> None:
    await written(tmp_path, ROWS)
    assert "not authentic" in (check_file(tmp_path, bytes(32)).fault or "")


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [_garbage, _cut, _directory])
async def test_a_file_that_is_none_is_set_aside(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    await written(tmp_path, 300)
    harm(tmp_path / "audit.db")
    notes = Notes()
    async with opened(tmp_path, notes, used=True) as audit:
        audit.record(entry(1))
        found = [each.entry for each in await kept(audit)]
        assert [each.operation for each in found] == ["audit_begun", "call"]
        assert found[0].outcome == "damaged" and (tmp_path / (found[0].subject or "-")).exists()
        assert len(notes.notes) == 1 and not notes.bugs


@pytest.mark.parametrize("left", [(), ("audit.head",)])
async def test_a_missing_file_is_told(tmp_path: Path, left: tuple[str, ...]) -> None:
    await written(tmp_path, ROWS)
    for name in names(tmp_path).difference(left):
        (tmp_path / name).unlink()
    notes = Notes()
    async with opened(tmp_path, notes, used=True) as audit:
        [first] = [each.entry for each in await kept(audit)]
        assert (first.operation, first.outcome, audit.state.status) == ("audit_begun", "missing", "begun_anew")
        assert len(notes.notes) == 1 and "was missing" in notes.notes[0]


async def test_the_first_start_of_all_is_no_loss(tmp_path: Path) -> None:
    notes = Notes()
    async with opened(tmp_path / "data", notes) as audit:
        [first] = [each.entry for each in await kept(audit)]
        assert (first.operation, first.outcome, audit.state.status) == ("audit_begun", "first", "ok")
    assert not notes.notes
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()} == {0o600}


async def test_an_older_copy_is_found(tmp_path: Path) -> None:
    """The database alone put back: its own ends are right, but the witness knows better."""
    data = tmp_path / "data"
    await written(data, ROWS)
    shutil.copy(data / "audit.db", tmp_path / "old.db")
    async with opened(data) as audit:
        audit.record(entry(77))
    shutil.copy(tmp_path / "old.db", data / "audit.db")
    assert "older copy" in (check_file(data, KEY).fault or "")
    async with opened(data) as audit:
        assert audit.state.status == "begun_anew"


async def test_the_newest_only(tmp_path: Path) -> None:
    """A bounded check reads the newest, and still knows both ends."""
    await written(tmp_path, 200)
    connection = audit_reads.connect(tmp_path, "ro")
    try:
        finding = audit_reads.check(connection, KEY, 50)
        assert (finding.entries, finding.checked, finding.fault) == (201, 50, None)
        steps: list[tuple[int, int]] = []
        audit_reads.check(connection, KEY, None, lambda done, total: steps.append((done, total)))
        assert steps == [(201, 201)]
    finally:
        connection.close()
    sql(tmp_path, "UPDATE audit SET peer = 'x' WHERE id = 9")
    assert check_file(tmp_path, KEY, 50).fault is None
    assert "entry 9" in (check_file(tmp_path, KEY).fault or "")
    sql(tmp_path, "UPDATE audit SET peer = 'x' WHERE id = 180")
    assert "entry 180" in (check_file(tmp_path, KEY, 50).fault or "")


def test_samples_differ() -> None:
    assert len(set(entries(1, 9))) == 9
