"""A real writer is killed at some moment, again and again: what it acknowledged is there, whole, and nothing is half."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from journal_samples import child, events, reopened

KILLS = 15
SEED = 20_240_917


@pytest.mark.slow
def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    last = 0
    for kill in range(KILLS):
        writer = child(tmp_path, "write_for_ever", SEED + kill)
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
            found = trio.run(reopened, tmp_path)
            assert len(found) >= last
            assert found == events(1, len(found))
    found = trio.run(reopened, tmp_path)
    assert len(found) >= last
    assert found == events(1, len(found))
