"""One seed is one run: whatever the process, the trace and the log are the same to the byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
SEEDS = (3, 11, 18)
PRINT = """
import sys
from simulation.running import run_seed
for seed in map(int, sys.argv[1:]):
    result = run_seed(seed)
    print(seed, result.digest, result.log_digest, result.steps, *result.violations)
"""


def _run(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    command = [sys.executable, "-c", PRINT, *map(str, SEEDS)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout


def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    first, second = _run("1"), _run("31337")
    assert first == second
    assert len(first.splitlines()) == len(SEEDS)
