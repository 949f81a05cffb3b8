"""Errors and delays in the kernel's own system calls, one in turn. Owns: a run with one of them, what must hold after it.

python tests/faults/fault_injecting.py --operations 20          # every call of the run, every error, once
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

HERE: Final = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from crash_states import memory  # noqa: E402
from fault_opening import Book, Opener  # noqa: E402
from fault_trace import Step, tracer  # noqa: E402

RUN_S_MAX: Final = 120.0
FILES: Final = ("kernel.db", "kernel.db-wal", "kernel.db-journal", "kernel.head", "kernel.new", "master.key")
CALLS: Final = ("pwrite64", "write", "fsync", "fdatasync", "ftruncate")
FAULTS: Final = {
    "pwrite64": ("error=EIO", "error=ENOSPC"),
    "write": ("error=EIO", "error=ENOSPC"),
    "fsync": ("error=EIO", "error=ENOSPC"),
    "fdatasync": ("error=EIO", "error=ENOSPC"),
    "ftruncate": ("error=EIO",),
}
"""What is put into which call."""
AT_THE_END: Final = "could not be closed in order; nothing acknowledged is lost"
"""The shutdown was over but for this, and says it."""
_CALL: Final = re.compile(r"^(\d+) +(\w+)\(\d+<([^>]*)>.* = (-?\d+)")


@frozen
class Injected:
    """How one run went."""

    code: int
    stderr: str
    hit: str
    """The call that failed; empty if it did not come to it."""
    after: list[str]
    """Which calls on the log and the database succeeded after it."""
    acknowledged: int
    wrong: list[str]


def run(directory: Path, operations: int, *, seed: int, inject: str | None, when: int = 0) -> Injected:
    """A kernel and its clients, with something put into the `when`-th of the calls, in each thread that gets so far."""
    directory.mkdir(parents=True, exist_ok=True)
    data, marks, trace = directory / "data", directory / "marks", directory / "trace"
    names = [str(data / name) for name in FILES]
    options = ["-y", "-o", str(trace), "-e", f"trace={','.join(CALLS)}", "--seccomp-bpf"]
    options += [word for name in names for word in ("-P", name)]
    if inject is not None:
        call, _, what = inject.partition(":")
        options += ["-e", f"inject={call}:{what}:when={when}"]
    command = [sys.executable, str(HERE / "fault_workload.py"), str(data), str(marks), str(operations), str(seed), "1"]
    done = subprocess.run(
        [*tracer(*options), *command, "none"],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    hit, after = _read(trace)
    book = Book()
    lines = marks.read_text().split("\n")[:-1] if marks.exists() else []
    for line in lines:
        book.take(Step("mark", mark=json.loads(line)))
    found = Opener(directory / "opened").open_there(data) if (data / "kernel.db").exists() else None
    if found is None:
        wrong = ["what was acknowledged is gone"] if book.known else []
    else:
        wrong = [found] if isinstance(found, str) else book.lacks(found)
    return Injected(done.returncode, done.stderr, hit, after, sum('"ack"' in line for line in lines), wrong)


def _read(trace: Path) -> tuple[str, list[str]]:
    hit, after = "", []
    for line in trace.read_text().splitlines():
        if "(INJECTED)" in line and not hit:
            hit = line
        elif hit and (found := _CALL.match(line)) and int(found[4]) >= 0 and "/kernel.db" in found[3]:
            after.append(line)
    return hit, after


def calls_of(directory: Path, operations: int, seed: int) -> Counter[str]:
    """How many of each call the busiest thread makes on the files that count."""
    done = run(directory, operations, seed=seed, inject=None)
    assert done.code == 0 and not done.wrong, (done.stderr, done.wrong)
    threads: Counter[tuple[str, str]] = Counter()
    for line in (directory / "trace").read_text().splitlines():
        if found := re.match(r"^(\d+) +(\w+)\(", line):
            threads[found[1], found[2]] += 1
    return Counter({call: max(n for (_, c), n in threads.items() if c == call) for _, call in threads})


def faults_of(done: Injected, what: str) -> list[str]:
    """What is wrong with how it went."""
    wrong = list(done.wrong)
    of_log = "kernel.db" in done.hit
    final = "EIO" in what or ("sync(" in done.hit and "error" in what)
    if of_log and final and done.code == 0 and AT_THE_END not in done.stderr:
        wrong.append("the kernel went on")
    if (
        of_log
        and "sync(" in done.hit
        and "error" in what
        and (again := [line for line in done.after if _is_sync(line)])
    ):
        wrong.append(f"an fsync was tried again: {again[:2]}")
    if done.code != 0 and "check the disk" not in done.stderr and "space" not in done.stderr:
        wrong.append(f"nobody was told what to do: {done.stderr[-300:]}")
    return wrong


def _is_sync(line: str) -> bool:
    """Of the log: before there is one, nothing was acknowledged."""
    return "sync(" in line and "kernel.db-wal>" in line


def main() -> int:
    parser = argparse.ArgumentParser(description="Every system call of a run fails in turn.")
    parser.add_argument("--operations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="only one in so many")
    parser.add_argument("--calls", default=",".join(CALLS))
    given = parser.parse_args()
    began, counted, wrong = time.monotonic(), Counter[str](), 0
    with memory() as directory:
        calls = calls_of(Path(directory) / "count", given.operations, given.seed)
        print("calls of the busiest thread:", dict(calls), flush=True)
        for call, count in sorted((call, calls[call]) for call in given.calls.split(",")):
            for what in FAULTS.get(call, ()):
                for when in range(1, count + 1, given.every):
                    at = Path(directory) / f"{call}-{what}-{when}"
                    done = run(at, given.operations, seed=given.seed, inject=f"{call}:{what}", when=when)
                    counted[f"{call} {what}"] += bool(done.hit)
                    for each in faults_of(done, what):
                        wrong += 1
                        print(f"{call}:{what}:when={when}: {each}", flush=True)
        total = sum(counted.values())
        seconds = time.monotonic() - began
        print(f"{total} runs with one failure each {dict(counted)} in {seconds:.0f} s: {wrong} violations")
    return int(bool(wrong))


def sampled(count: int, samples: int, chance: random.Random) -> Sequence[int]:
    """Some of 1 to `count`: the first, the last, and others."""
    return sorted({1, count, *(chance.randint(1, count) for _ in range(max(0, samples - 2)))})


if __name__ == "__main__":
    sys.exit(main())
