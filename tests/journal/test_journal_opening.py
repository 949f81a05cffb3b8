"""A start that fails, or is refused: nothing is moved from the log into the database on the way out."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from journal_samples import KEY, child, events, flip, reopened
from test_journal_disk import inject, outcome

from solo_trio.errors import Faulted
from solo_trio.journal.sqlite import open_journal


def killed(directory: Path) -> int:
    """A directory whose log holds what was acknowledged; the last id."""
    writer = child(directory, "write_and_die", 20, 3)
    out, _ = writer.communicate()
    return int(out.split()[-1])


def digests(directory: Path) -> dict[str, str]:
    files = (directory / name for name in ("kernel.db", "kernel.db-wal", "kernel.head"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


async def test_a_refused_start_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    killed(tmp_path)
    flip(tmp_path / "kernel.head", 20)
    before = digests(tmp_path)
    with pytest.raises(Faulted):
        await open_journal(tmp_path, KEY)
    assert digests(tmp_path) == before
    flip(tmp_path / "kernel.head", 20)
    older = (tmp_path / "kernel.head").read_bytes()
    assert await reopened(tmp_path) == events(1, 60)
    killed(tmp_path / "other")
    (tmp_path / "other" / "kernel.head").write_bytes(older)  # of another log, with the same key
    before = digests(tmp_path / "other")
    with pytest.raises(Faulted):
        await open_journal(tmp_path / "other", KEY)
    assert digests(tmp_path / "other") == before


@pytest.mark.slow
@pytest.mark.parametrize("when", [1, 2])
async def test_an_fsync_that_fails_at_the_start_is_not_tried_again_by_closing(tmp_path: Path, when: int) -> None:
    """What the log holds is acknowledged, and after the failed fsync it may be in memory only."""
    last = killed(tmp_path)
    files = [tmp_path / name for name in ("kernel.db", "kernel.db-wal")]
    lines, _ = outcome(tmp_path, 1, 0, before=inject("fsync,fdatasync", "EIO", when, *files))
    assert lines == ["opening"], lines
    assert (tmp_path / "kernel.db-wal").stat().st_size > 0, "the log was given up"
    assert (await reopened(tmp_path))[:last] == events(1, last)
