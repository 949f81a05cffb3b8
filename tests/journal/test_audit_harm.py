"""The audit under `kill -9`, and on a full disk: the chain is whole, what is missing is counted."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from audit_samples import KEY, Notes, entry, kept, opened
from test_journal_disk import fill, mount

from solo_trio.journal.audit import check_file

KILLS = 12
SEED = 20_260_101
DISK_KIB = 2_048


def recorder(directory: Path, days: int) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("audit_child.py")), str(directory), str(days)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )


@pytest.mark.slow
@pytest.mark.parametrize("days", [36_500, 1])  # kept for ever; and forgotten all the time
def test_kills_break_nothing(tmp_path: Path, days: int) -> None:
    """What was flushed before a kill is there after it, and the chain is whole: also of what the next one wrote behind it."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    flushed = 0
    for kill in range(KILLS):
        child = recorder(tmp_path, days)
        assert child.stdout is not None
        for _ in range(chance.choice((1, 2, 3, 10, 40))):
            line = child.stdout.readline()
            assert line.strip().isdigit(), f"it said {line!r}"
            flushed = int(line)
        child.kill()
        rest = child.stdout.read().split(b"\n")[:-1]
        child.stdout.close()
        child.wait()
        flushed = int(rest[-1]) if rest else flushed
        if kill % 3 == 0:  # at the other kills it is the next one that opens it first
            finding = check_file(tmp_path, KEY)
            assert finding.fault is None

    async def last() -> None:
        async with opened(tmp_path, used=True) as audit:
            assert audit.state.status == "ok"  # nothing was missing or set aside
            assert audit.state.newest_id >= flushed
            assert (await audit.check()).fault is None
            found = await kept(audit)
            numbers = [int((each.entry.subject or "n-0")[2:]) for each in found if each.id > 1]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "whole, in order, nothing twice"
            assert days > 1 or audit.state.oldest_id > 1

    trio.run(last)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("missing: permission to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_a_full_disk_drops_counts_and_goes_on(small_disk: Path) -> None:
    notes = Notes()
    async with opened(small_disk / "data", notes) as audit:
        audit.record(entry(1))
        await audit.flush()
        filler = fill(small_disk)
        for number in range(2, 6):
            audit.record(entry(number))
        await audit.flush()
        assert (audit.state.status, audit.state.dropped) == ("dropping", 4)
        assert len(notes.notes) == 1 and "dropped" in notes.notes[0]
        assert len(await kept(audit)) == 2, "what was written can be read"
        audit.record(entry(6))
        await audit.flush()
        assert len(notes.notes) == 1, "said once"
        filler.unlink()
        audit.record(entry(7))
        found = [each.entry for each in await kept(audit)]
        assert [(each.operation, each.outcome) for each in found[2:]] == [
            ("audit_gap", "5"),
            (entry(7).operation, "200"),
        ]
        assert audit.state.status == "ok" and len(notes.notes) == 2
    assert check_file(small_disk / "data", KEY).fault is None


async def test_it_leaves_the_last_of_the_disk_to_the_log(small_disk: Path) -> None:
    """By itself it never fills the disk."""
    async with opened(small_disk / "data") as audit:
        for number in range(30_000):
            audit.record(entry(number))
            if number % 1_000 == 0:
                await audit.flush()
                if audit.state.status == "dropping":
                    break
        assert audit.state.status == "dropping"
        status = os.statvfs(small_disk)
        assert status.f_bavail * status.f_frsize > DISK_KIB * 1_024 // 32
    assert check_file(small_disk / "data", KEY).fault is None


async def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    """There is no file then; one begins as soon as there is space, and says what is missing before it."""
    data = small_disk / "data"
    data.mkdir()
    filler = fill(small_disk)
    notes = Notes()
    async with opened(data, notes) as audit:
        audit.record(entry(1))
        await audit.flush()
        assert audit.state.status == "dropping" and not (data / "audit.db").exists()
        filler.unlink()
        with trio.fail_after(30):
            number = 1
            while audit.state.status != "ok":
                number += 1
                audit.record(entry(number))
                await audit.flush()
        found = [each.entry for each in await kept(audit)]
        assert [each.operation for each in found[:2]] == ["audit_begun", "audit_gap"]
        assert int(found[1].outcome) + len(found) - 2 == number
    assert check_file(data, KEY).fault is None and not notes.bugs
