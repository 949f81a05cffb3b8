"""Seeds of the normal test run: in none of them anything is violated. `nox -s simulate -- --seeds N` runs any number."""

from __future__ import annotations

import pytest

from simulation.running import run_seed
from simulation.scheduler import check_trio

SEEDS = 160
PARTS = 4
"""So that several processes share them."""


def test_trio_schedules_as_it_did() -> None:
    check_trio()


@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_violates_anything(part: int) -> None:
    answers = lives = 0
    for seed in range(part, SEEDS, PARTS):
        result = run_seed(seed)
        assert not result.violations, "\n".join([*result.trace, *result.violations, f"again: {result.replay}"])
        answers, lives = answers + result.acknowledged, lives + result.lives
    assert answers > 10 * SEEDS / PARTS  # it did something: kernels lived, and clients had answers
    assert lives > 1.5 * SEEDS / PARTS
