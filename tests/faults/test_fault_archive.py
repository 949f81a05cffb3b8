"""Archiving, pruning and erasing, whatever moment the machine stops at: no event is lost, and what was erased stays gone.

Every step of a recorded run is looked at, in every mode: what was not forced out is there, is not, is there in part. The mode
`all` is what SIGKILL leaves.
"""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from crash_states import HERE, memory
from fault_archive_workload import BUGS, CANARY, ERASED_EVERY, KEY, event, expected, in_small_steps
from fault_disk import MODES, Disk, Image
from fault_trace import Step, read_trace, recorder

from solo_trio.errors import SoloError
from solo_trio.journal import erasing, retaining
from solo_trio.journal.sqlite import open_journal

SEED = 20_261_121
ROUNDS = 110
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
KILLS = 12
EVERY_STEPS = 20
"""Every so manieth step is looked at; `EVERY_STEPS = 1` takes some twenty times as long."""


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    kept = retaining.SEGMENT_EVENTS_MAX, retaining.PRUNE_EVENTS_MAX, erasing.ERASE_EVENTS_MAX
    in_small_steps()
    yield
    retaining.SEGMENT_EVENTS_MAX, retaining.PRUNE_EVENTS_MAX, erasing.ERASE_EVENTS_MAX = kept  # type: ignore[misc]


def command(directory: Path, seed: int, rounds: int, bug: str | None = None) -> list[str]:
    script = str(HERE / "fault_archive_workload.py")
    more = [] if bug is None else [bug]
    return [sys.executable, script, str(directory / "data"), str(directory / "marks"), str(seed), str(rounds), *more]


def recorded(directory: Path, rounds: int = ROUNDS, bug: str | None = None) -> list[Step]:
    trace = directory / "trace"
    run = subprocess.run(
        [*recorder(trace), *command(directory, SEED, rounds, bug)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3_000:]
    return read_trace(trace, directory / "data", directory / "marks")


def bytes_of(directory: Path) -> bytes:
    found = b""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            found += gzip.decompress(content) if path.suffix == ".gz" else content
    return found


async def look(data: Path, mode: str, last: int, gone: set[str]) -> None:
    """A kernel that comes next: all is there, what was erased is not, what was begun is finished."""
    at_rest = bytes_of(data) if mode == "all" else b""  # before it tidies up
    for life in gone:
        assert CANARY + life.encode() not in at_rest, f"{life} is still there where it was said to be gone"
    journal = await open_journal(data, KEY)
    try:
        found = [each async for page in journal.replay() for each in page]
        assert len(found) >= last, f"acknowledged events are missing: {len(found)} of {last}"
        assert found == expected(len(found))
        for life in gone:
            assert CANARY + life.encode() not in bytes_of(data), f"{life} is still there"
        pending = await journal.erasures()
        for erasure in pending:
            while not await journal.erase(erasure):
                pass
        assert await journal.sweep()
        for erasure in pending:
            assert CANARY + erasure.incarnation.encode() not in bytes_of(data), f"{erasure.incarnation} was left"
        if len(found) > 10:
            while await journal.archive(len(found) - 2):
                pass
            oldest_id = 0
            while journal.oldest_id != oldest_id:
                oldest_id = journal.oldest_id
                await journal.prune(len(found) - 2)
        await journal.append([event(len(found) + 1)] if (len(found) + 1) % ERASED_EVERY else [])
    finally:
        await journal.close()
    journal = await open_journal(data, KEY)
    try:
        again = [each async for page in journal.replay() for each in page]
        assert again[: len(found)] == found
    finally:
        await journal.close()


def put(directory: Path, image: Image) -> Path:
    data = Path(tempfile.mkdtemp(dir=directory))
    for name, content in image.items():
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(content)
    return data


def explored(
    directory: Path, steps: list[Step], every: int = 1, enough: int = 1_000_000
) -> tuple[Counter[str], list[str]]:
    """How many states of each mode were looked at, and what was wrong."""
    disk, last, gone = Disk(), 0, set[str]()
    seen: set[int] = set()
    counts, wrong = Counter[str](), list[str]()
    for position, step in enumerate(steps):
        disk.take(step)
        last = step.mark.get("ack", {}).get("last", last)
        gone |= {step.mark["ack"]["gone"]} if "gone" in step.mark.get("ack", {}) else set()
        if position % every:
            continue
        for mode in MODES:
            if (mode == "random" and not disk.unsynced) or (mode == "torn" and not disk.can_tear):
                continue
            image = disk.image(mode, random.Random(f"{SEED}-{position}-{mode}"))
            counts[mode] += 1
            key = hash((tuple(sorted(image.items())), last, len(gone)))
            if key in seen:
                continue
            seen.add(key)
            data = put(directory, image)
            try:
                trio.run(look, data, mode, last, gone)
            except (AssertionError, SoloError) as error:
                wrong.append(f"step {position} ({step.kind} {step.path}), mode {mode}: {str(error)[:200]}")
            finally:
                subprocess.run(["rm", "-r", str(data)], check=True)
            if len(wrong) >= enough:
                return counts, wrong
    return counts, wrong


@pytest.mark.slow
def test_every_state_that_a_crash_can_leave(tmp_path: Path, small: None) -> None:
    steps = recorded(tmp_path)
    names = {step.path for step in steps if step.path.startswith("archive/")}
    assert len(names) > 10 and any(".1.jsonl" in name for name in names), "segments are made, and made anew"
    assert sum("gone" in step.mark.get("ack", {}) for step in steps) >= 2
    with memory() as directory:
        counts, wrong = explored(Path(directory), steps, EVERY_STEPS)
    print(f"{sum(counts.values())} states ({dict(counts)}) of {len(steps)} steps")
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("bug", sorted(BUGS))
def test_planted_bugs_are_found(tmp_path: Path, small: None, bug: str) -> None:
    if bug == "erased_without_an_event":
        pytest.skip("this one is in reading: tests/journal/test_archive.py finds it")
    try:
        steps = recorded(tmp_path, bug=bug)
    except AssertionError:
        return  # the run itself finds it
    with memory() as directory:
        _, wrong = explored(Path(directory), steps, every=11, enough=1)
    assert wrong


@pytest.mark.slow
def test_real_kills(tmp_path: Path, small: None) -> None:
    chance = random.Random(SEED)
    for number in range(KILLS):
        writer = subprocess.Popen(command(tmp_path, SEED + number, 1_000_000), env=ENVIRONMENT)
        marks, before = tmp_path / "marks", 0
        with open(marks, "ab") as file:
            before = file.tell()
        while marks.stat().st_size < before + chance.choice((20, 300, 900)):
            assert writer.poll() is None
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        acknowledged = [step.mark["ack"] for step in read_marks(marks)]
        last = max((ack["last"] for ack in acknowledged if "last" in ack), default=0)
        gone = {ack["gone"] for ack in acknowledged if "gone" in ack}
        if number % 3 == 2:
            trio.run(look, tmp_path / "data", "all", last, gone)


def read_marks(path: Path) -> list[Step]:
    import json

    return [Step("mark", mark=json.loads(line)) for line in path.read_text().split("\n")[:-1]]
