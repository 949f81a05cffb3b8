"""That the simulation finds bugs: each one that is planted is found, and a run without one finds nothing."""

from __future__ import annotations

import pytest

from simulation.planted import PLANTED, planted
from simulation.running import run_seed


def test_there_are_enough() -> None:
    assert len(PLANTED) >= 10


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_it_is_found(name: str) -> None:
    bug = PLANTED[name]
    with planted(name):
        for seed in range(bug.first, bug.first + bug.seeds):
            result = run_seed(seed)
            if result.violations:
                print(f"{name} is found by seed {seed}: {result.violations[0]}")
                break
        else:
            pytest.fail(f"{bug.says} Nobody noticed in {bug.seeds} seeds from {bug.first}.")
    assert not run_seed(seed).violations  # it was taken out, and was what was found
