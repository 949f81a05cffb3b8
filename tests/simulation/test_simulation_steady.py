"""A kernel that is used steadily does not grow. `nox -s simulate -- --hours 72` does the same for three simulated days."""

from __future__ import annotations

import pytest

from simulation.steady import live_steadily

HOURS = 5.0
EVERY_S = 30.0
GROWN_MB_MAX = 6
"""What an allocator may keep; the log itself is in a file."""


@pytest.mark.slow
def test_memory_is_flat() -> None:
    lived = live_steadily(HOURS, EVERY_S)
    print(lived.told())
    assert lived.events > 8_000  # twice what is kept in memory of them
    assert lived.grown_mb <= GROWN_MB_MAX
