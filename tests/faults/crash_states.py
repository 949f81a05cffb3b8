"""Every state that a crash can leave. Owns: recording a run, replaying it up to each step in each mode, the count of it.

    python tests/faults/crash_states.py --operations 500            # every step of the run, in every mode

The kernel and its clients run under strace (`fault_workload.py`); then, step after step, the disk is made as a crash at that
moment may leave it (`fault_disk.py`), and opened by the kernel's own code (`fault_opening.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen

HERE: Final = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import fault_bugs  # noqa: E402
from fault_disk import MODES, Disk, Image, Mode  # noqa: E402
from fault_opening import Book, Found, Opener, Truth  # noqa: E402
from fault_trace import Step, read_trace, recorder  # noqa: E402

SHARED_MEMORY: Final = Path("/dev/shm")
RECORD_S_MAX: Final = 900.0
REMEMBERED_IMAGES_MAX: Final = 48
"""So many of the last images are not opened again when they come again."""
VIOLATIONS_MAX: Final = 20
"""A worker that found so many stops, if it is not told another number."""
PROGRESS_S: Final = 30.0
CHUNK_STEPS: Final = 97
"""Workers take turns of so many steps."""


@frozen
class Recording:
    """The steps of one run, and all that its kernel appended."""

    steps: list[Step]
    truth: Truth
    operations: int
    seconds: float

    @property
    def acknowledged(self) -> int:
        return sum("ack" in step.mark for step in self.steps)


@define
class Explored:
    """How many states of which mode were looked at, how many of them opened (the others were the same again)."""

    states: Counter[str] = field(factory=Counter)
    opened: int = 0
    violations: list[str] = field(factory=list)
    seconds: float = 0.0

    def add(self, other: Explored) -> None:
        self.states += other.states
        self.opened += other.opened
        self.violations += other.violations

    def __str__(self) -> str:
        total = sum(self.states.values())
        modes = ", ".join(f"{count} {mode}" for mode, count in sorted(self.states.items()))
        rate = total / self.seconds if self.seconds else 0.0
        return (
            f"{total} crash states ({modes}), {self.opened} different ones opened, in {self.seconds:.0f} s "
            f"({rate:.0f}/s): {len(self.violations)} violations"
        )


def memory(prefix: str = "solo-faults-") -> tempfile.TemporaryDirectory[str]:
    """A directory whose fsyncs cost nothing, where there is one."""
    usable = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    return tempfile.TemporaryDirectory(prefix=prefix, dir=SHARED_MEMORY if usable else None, ignore_cleanup_errors=True)


def record(directory: Path, operations: int, *, seed: int, lives: int = 2, bug: str = "none") -> Recording:
    """Run a kernel under the recorder; `bug` is planted into it."""
    directory.mkdir(parents=True, exist_ok=True)
    data, marks, trace = directory / "data", directory / "marks", directory / "trace"
    command = [sys.executable, str(HERE / "fault_workload.py"), str(data), str(marks), str(operations), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    began = time.monotonic()
    run = subprocess.run(
        [*recorder(trace), *command, str(lives), bug],
        env=environment,
        capture_output=True,
        text=True,
        timeout=RECORD_S_MAX,
        check=False,
    )
    assert run.returncode == 0, f"the recorded kernel failed:\n{run.stderr[-4_000:]}"
    steps = read_trace(trace, data, marks)
    trace.unlink()
    seconds = time.monotonic() - began
    disk = Disk()
    for step in steps:
        disk.take(step)
    last = disk.image("all", random.Random(0))
    for name, content in last.items():
        assert (data / name).read_bytes() == content, f"the trace does not lead to the {name} that is there"
    return Recording(steps, Opener(directory / "truth").truth(last), operations, seconds)


class Explorer:
    """Goes through the steps once, and looks at the states that it is to look at."""

    def __init__(self, recording: Recording, directory: Path, seed: int, done: Any) -> None:
        self._done = done
        """A number that all workers count up."""
        self._recording = recording
        self._opener = Opener(directory)
        self._seed = seed
        self._remembered: dict[bytes, Found | str] = {}
        self.explored = Explored()

    def run(self, chosen: Sequence[int], modes: Collection[Mode], until: float, enough: int) -> Explored:
        """States after each of the `chosen` numbers of steps, ascending; until it is time, or there are enough violations."""
        disk, book = Disk(), Book()
        for position in chosen:
            for step in self._recording.steps[disk.number : position]:
                disk.take(step)
                book.take(step)
            for mode in modes:
                if (mode == "random" and not disk.unsynced) or (mode == "torn" and not disk.can_tear):
                    continue  # the same as `all`
                self._look(position, mode, disk, book)
            if len(self.explored.violations) >= enough or time.monotonic() > until:
                break
        return self.explored

    def _look(self, position: int, mode: Mode, disk: Disk, book: Book) -> None:
        image = disk.image(mode, random.Random(f"{self._seed}-{position}-{mode}"))
        self.explored.states[mode] += 1
        with self._done.get_lock():
            self._done.value += 1
        found = self._found(image)
        wrong = [found] if isinstance(found, str) else book.lacks(found)
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            self.explored.violations.append(f"after step {position}, mode {mode}: {'; '.join(wrong[:3])}{more}")

    def _found(self, image: Image) -> Found | str:
        key = _digest(image)
        found = self._remembered.pop(key, None)
        if found is None:
            self.explored.opened += 1
            found = self._opener.open(image, self._recording.truth)
            if len(self._remembered) >= REMEMBERED_IMAGES_MAX:
                del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = found
        return found


def _digest(image: Image) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(image):
        total.update(f"{name}\0{len(image[name])}\0".encode())
        total.update(image[name])
    return total.digest()


_shared: dict[str, Any] = {}
"""What the workers are forked with."""


def _work(worker: int) -> Explored:
    chosen, count = _shared["chosen"], _shared["workers"]
    mine = [each for index, each in enumerate(chosen) if index // CHUNK_STEPS % count == worker]
    fault_bugs.plant(_shared["bug"])
    explorer = Explorer(
        _shared["recording"], _shared["directory"] / f"worker-{worker}", _shared["seed"], _shared["done"]
    )
    return explorer.run(mine, _shared["modes"], _shared["until"], _shared["enough"])


def explore(
    recording: Recording,
    directory: Path,
    *,
    seed: int,
    chosen: Sequence[int] | None = None,
    modes: Collection[Mode] = MODES,
    workers: int = 1,
    seconds: float = float("inf"),
    bug: str = "none",
    enough: int = VIOLATIONS_MAX,
    progress: Callable[[int, float], None] = lambda done, seconds: None,
) -> Explored:
    """Look at the states after `chosen` numbers of steps (None: every one). `bug` is planted into who opens them."""
    began = time.monotonic()
    chosen = range(len(recording.steps) + 1) if chosen is None else sorted(chosen)
    _shared.update(recording=recording, directory=directory, seed=seed, chosen=chosen, modes=modes, bug=bug)
    context = multiprocessing.get_context("fork")
    done = context.Value("q", 0)
    _shared.update(done=done, workers=workers, until=began + seconds, enough=enough)
    total = Explored()
    if workers == 1:  # here: a process with threads must not fork
        total.add(_work(0))
        total.seconds = time.monotonic() - began
        _shared.clear()
        return total
    with context.Pool(workers) as pool:
        working = pool.map_async(_work, range(workers), chunksize=1)
        while not working.ready():
            working.wait(PROGRESS_S)
            progress(done.value, time.monotonic() - began)
        for each in working.get():
            total.add(each)
    total.seconds = time.monotonic() - began
    _shared.clear()
    return total


def _say(count: int, done: int, seconds: float) -> None:
    print(f"{done} of at most {count} states in {seconds:.0f} s", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Every crash state of one recorded run, in every damage mode.")
    parser.add_argument("--operations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--lives", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=1, help="of the random and torn modes, each with another seed")
    parser.add_argument("--bug", default="none", choices=["none", *fault_bugs.BUGS])
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    with memory() as directory:
        recording = record(Path(directory), given.operations, seed=seed, lives=given.lives, bug=given.bug)
        print(
            f"recorded {given.operations} operations in {given.lives} lives: {len(recording.steps)} steps, "
            f"{recording.acknowledged} acknowledgements, {len(recording.truth.events)} events, {recording.seconds:.0f} s",
            flush=True,
        )
        failed = False
        for round_ in range(given.rounds):
            modes: Sequence[Mode] = MODES if round_ == 0 else ("random", "torn")
            count = len(modes) * (len(recording.steps) + 1)
            found = explore(
                recording,
                Path(directory),
                seed=seed + round_,
                modes=modes,
                workers=given.workers,
                progress=partial(_say, count),
            )
            print(found, *found.violations, sep="\n", flush=True)
            failed = failed or bool(found.violations)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
