"""The real clock: what tells of the machine's sleep must not disturb the time in which it is awake."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from solo_trio.telemetry.sources import SystemClock


async def test_awake_it_is_trios_own_time_to_the_last_digit(autojump_clock: MockClock) -> None:
    clock = SystemClock()
    for _ in range(10):
        assert len({clock.monotonic() for _ in range(1_000)}) == 1, (
            "two clocks that are read one after the other differ"
        )
        before, began = clock.monotonic(), trio.current_time()
        await trio.sleep(1.5)
        assert abs(clock.monotonic() - before - (trio.current_time() - began)) < 1e-6
