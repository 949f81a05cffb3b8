"""What a crash can leave of a real run, opened again: all that was acknowledged is there. And planted defects are found so."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import fault_bugs
import pytest
from crash_states import Recording, explore, memory, record
from fault_disk import MODES, SECTOR_BYTES, Disk
from fault_trace import Step

from solo_trio.journal import opening

pytestmark = pytest.mark.slow
OPERATIONS = 36
SAMPLE_SECONDS = 240.0
SAMPLED_STEPS = 150
PLANTED_OPERATIONS = 14
PLANTED_SECONDS = 240.0
EVERY = 6


def telling(steps: Sequence[Step]) -> list[int]:
    """Where defects show, and some more: after what was told, what says that there is more, and where something goes."""
    return [
        number
        for number, step in enumerate(steps, 1)
        if step.kind in ("mark", "truncate", "rename", "link") or step.path == "kernel.head" or number % EVERY == 0
    ]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with memory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def recording(directory: Path) -> Recording:
    """Of two lives; the first is killed in the middle of its work."""
    return record(directory / "sample", OPERATIONS, seed=random.randrange(2**32))


def test_a_sample_of_the_crash_states_of_a_run(recording: Recording, directory: Path) -> None:
    """All of them, of a longer run: `nox -s crash-states`."""
    seed = random.randrange(2**32)
    print("seed", seed)
    count = len(recording.steps)
    chosen = {0, count, *random.Random(seed).sample(range(count), min(SAMPLED_STEPS, count))}
    found = explore(recording, directory / "explored", seed=seed, chosen=sorted(chosen), seconds=SAMPLE_SECONDS)
    print(found)
    assert not found.violations, "\n".join(found.violations)
    assert sum(found.states.values()) > 4 and set(found.states) == set(MODES)
    assert recording.acknowledged > OPERATIONS / 2


@pytest.mark.parametrize("bug", sorted(set(fault_bugs.BUGS) - fault_bugs.AT_OPENING))
def test_a_planted_defect_is_found(bug: str, directory: Path) -> None:
    try:
        planted = record(directory / bug, PLANTED_OPERATIONS, seed=5, lives=1, bug=bug)
    except AssertionError as error:
        assert "the recorded kernel failed" in str(error)
        return  # the run itself finds it
    chosen = telling(planted.steps)
    found = explore(planted, directory / f"{bug}-explored", seed=5, chosen=chosen, seconds=PLANTED_SECONDS, enough=1)
    print(found, *found.violations, sep="\n")
    assert found.violations


@pytest.mark.parametrize("bug", sorted(fault_bugs.AT_OPENING))
def test_a_planted_defect_of_the_start_is_found(
    bug: str, recording: Recording, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "check_files", opening.check_files)  # so that what is planted goes again
    chosen = telling(recording.steps)
    found = explore(recording, directory / bug, seed=5, chosen=chosen, seconds=PLANTED_SECONDS, bug=bug, enough=1)
    print(found, *found.violations, sep="\n")
    assert found.violations


# -- the disk itself


def write(path: str, offset: int, data: bytes) -> Step:
    return Step("write", path, offset=offset, data=data)


def taken(*steps: Step) -> Disk:
    disk = Disk()
    for step in steps:
        disk.take(step)
    return disk


CHANCE = random.Random(11)
PLAIN = (Step("create", "a"), write("a", 0, b"1" * 2_000))
FORCED = (*PLAIN, Step("sync", "a", began=2), Step("sync_directory", "", began=2))


def test_what_was_not_forced_out_may_be_lost() -> None:
    assert taken(*PLAIN).image("none", CHANCE) == {}
    assert taken(*PLAIN).image("all", CHANCE) == {"a": b"1" * 2_000}
    assert taken(*PLAIN, Step("sync", "a", began=2)).image("none", CHANCE) == {}, "it has no name"
    assert taken(*PLAIN, Step("sync_directory", "", began=2)).image("none", CHANCE) == {"a": b""}, "it has no content"
    assert taken(*FORCED).image("none", CHANCE) == {"a": b"1" * 2_000}
    later = taken(*PLAIN, write("a", 0, b"2"), Step("sync", "a", began=2), Step("sync_directory", "", began=2))
    assert later.image("none", CHANCE)["a"][:1] == b"1", "an fsync forces out what was there when it began"


def test_of_what_was_forced_out_nothing_is_lost_in_any_mode() -> None:
    disk = taken(*FORCED, write("a", 2_000, b"2" * 9_000), Step("create", "b"))
    for mode in MODES:
        for _ in range(50):
            assert disk.image(mode, CHANCE)["a"][:2_000] == b"1" * 2_000


def test_random_and_torn_are_neither_all_nor_nothing() -> None:
    disk = taken(*FORCED, *(write("a", 4_096 * number, b"2" * 4_096) for number in range(4)))
    before, after = disk.image("none", CHANCE)["a"], disk.image("all", CHANCE)["a"]
    for mode in ("random", "torn"):
        seen = [disk.image(mode, CHANCE)["a"] for _ in range(200)]  # type: ignore[arg-type]
        assert len({*seen} - {before, after}) > 20
    torn = [disk.image("torn", CHANCE)["a"] for _ in range(100)]
    assert all(each[: 3 * 4_096] == after[: 3 * 4_096] for each in torn), "of all but the last write nothing is torn"


def test_a_sector_is_whole_or_as_it_was() -> None:
    disk = taken(*FORCED, write("a", 0, b"2" * SECTOR_BYTES))
    for mode in ("random", "torn"):
        for _ in range(50):
            first = disk.image(mode, CHANCE)["a"][:SECTOR_BYTES]  # type: ignore[arg-type]
            assert first in (b"1" * SECTOR_BYTES, b"2" * SECTOR_BYTES)


def test_a_file_takes_its_content_along_when_it_is_renamed() -> None:
    steps = [*FORCED, Step("rename", "a", to="b")]
    assert set(taken(*steps).image("none", CHANCE)) == {"a"}
    assert taken(*steps).image("all", CHANCE) == {"b": b"1" * 2_000}
    steps.append(Step("sync_directory", "", began=5))
    assert taken(*steps).image("none", CHANCE) == {"b": b"1" * 2_000}
