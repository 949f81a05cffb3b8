"""SIGKILL under load, again and again: of what was acknowledged nothing is lost. 1,000 of them: `nox -s kill-storm`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fault_storm import storm

pytestmark = [
    pytest.mark.slow,
    # the kernel is killed in the middle of requests: httpx leaves the generators of their bodies to the collector
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]


def test_kills_of_a_server_under_load(tmp_path: Path) -> None:
    """Besides those of `tests/e2e`: also secrets, grants, revocations, tenants and calls."""
    seed = random.randrange(2**32)
    found = storm(tmp_path, 6, seed, servers=True)
    print(found)
    assert not found.wrong, "\n".join(found.wrong)
    assert found.acknowledged
