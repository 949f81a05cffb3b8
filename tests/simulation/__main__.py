"""`python -m simulation`: many seeds in a row. Owns: options, what is printed, the exit status. Never: a rule that is checked.

Exit status 0: nothing was violated; 1: something was: the trace of each such run is printed, with the command that repeats it.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import time

from simulation.planted import PLANTED, planted
from simulation.running import Result, run_seed
from simulation.scheduler import check_trio
from simulation.steady import live_steadily

PROGRESS_EVERY_S = 30.0
GARBAGE_OBJECTS = 100_000
"""So many more, and they are looked through: a run ends before most of what it made is garbage."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many (200)")
    parser.add_argument("--start", type=int, default=0, help="the first one (0)")
    parser.add_argument("--trace", action="store_true", help="print what happens in each run")
    parser.add_argument("--hours", type=float, help="instead: one steady life of so many simulated hours")
    parser.add_argument("--plant", choices=sorted(PLANTED), help="with a bug that is to be found")
    given = parser.parse_args()
    check_trio()
    if given.hours is not None:
        print(live_steadily(given.hours).told())
        return 0
    if given.plant is None:
        return _seeds(given.start, given.seeds, trace=given.trace)
    with planted(given.plant):
        return _seeds(given.start, given.seeds, trace=given.trace)


def _seeds(start: int, count: int, *, trace: bool) -> int:
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    began = told = time.perf_counter()
    cpu = time.process_time()
    results: list[Result] = []
    violated = events = steps = acknowledged = lives = 0
    simulated_s = 0.0
    for seed in range(start, start + count):
        result = run_seed(seed, trace=trace)
        violated += bool(result.violations)
        events, steps = events + result.events, steps + result.steps
        acknowledged, lives = acknowledged + result.acknowledged, lives + result.lives
        simulated_s += result.simulated_s
        if result.violations or trace:
            _show(result)
            results.append(result)
        now = time.perf_counter()
        if now - told >= PROGRESS_EVERY_S:
            told = now
            done = seed - start + 1
            print(f"{done} of {count} seeds, {violated} violated, {done / (now - began):.1f} seeds/s", flush=True)
    real_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    print(
        f"{count} seeds from {start}: {violated} violated\n"
        f"{lives} lives of the kernel, {events} events, {acknowledged} answers, {steps} steps\n"
        f"{simulated_s:.0f} simulated seconds in {real_s:.0f} s ({cpu_s:.0f} s of one processor):"
        f" {simulated_s / real_s:.0f} times as fast as real time,"
        f" {count / real_s:.1f} seeds/s ({count / cpu_s:.1f} a processor second)\n"
        f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB"
    )
    return 1 if violated else 0


def _show(result: Result) -> None:
    for line in result.trace:
        print(line)
    for each in result.violations:
        print(f"seed {result.seed}: {each}")
    print(f"seed {result.seed}: trace {result.digest}, log {result.log_digest}")
    print(f"again: {result.replay}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
