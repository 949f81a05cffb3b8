"""A real writer is killed at some moment, again and again: what it acknowledged is there, whole, and nothing is half."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from journal_child import whole
from journal_samples import KEY, child, events, replayed

from solo_trio.journal.checkpoints import CHECKPOINTS_KEPT
from solo_trio.journal.sqlite import open_journal

KILLS = 15
SEED = 20_240_917


async def check(directory: Path, last: int) -> int:
    """Everything acknowledged is there, every checkpoint is whole, and the events behind one follow it; how many there are."""
    journal = await open_journal(directory, KEY)
    try:
        found = await replayed(journal)
        assert len(found) >= last
        assert found == events(1, len(found))
        ids = await journal.checkpoint_ids()
        assert len(ids) <= CHECKPOINTS_KEPT
        for event_id in ids:
            assert await journal.checkpoint(event_id) == whole(event_id)
            assert await replayed(journal, after=event_id) == found[event_id:]
        return len(ids)
    finally:
        await journal.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["write_for_ever", "keep_for_ever"])
def test_what_was_acknowledged_survives_kills(tmp_path: Path, mode: str) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    last = 0
    for kill in range(KILLS):
        writer = child(tmp_path, mode, SEED + kill)
        assert writer.stdout is not None
        for _ in range(chance.choice((1, 2, 3, 10, 40, 150))):
            line = writer.stdout.readline()
            assert line, "the writer ended by itself"
            last = int(line)
        writer.kill()
        rest = writer.stdout.read().split(b"\n")[:-1]
        writer.stdout.close()
        writer.wait()
        last = int(rest[-1]) if rest else last

        if kill % 3 == 0:
            # At the other kills it is the next writer that opens the directory first.
            trio.run(check, tmp_path, last)
    kept = trio.run(check, tmp_path, last)
    assert kept == (CHECKPOINTS_KEPT if mode == "keep_for_ever" else 0)
