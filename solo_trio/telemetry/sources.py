"""The world's time and chance. Owns: the real `ports.Clock` and `ports.Entropy`. Never: used by a pure room."""

from __future__ import annotations

import random
import secrets
import time
from typing import Final

import trio

SLEPT_LEAST_S: Final = 0.1
"""Less than that is not called sleep: the two clocks are not read at one instant; the task may wait between the readings."""


class SystemClock:
    """The wall clock, and Trio's own clock (so that a program on a mock clock is on it as a whole).

    While the machine sleeps Trio's clock stands still; the kernel's time must not, or the wall clock leaps at each wake-up.
    """

    def __init__(self) -> None:
        self._asleep_s = _asleep_s()

    def wall_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        asleep_s = _asleep_s()
        if asleep_s >= self._asleep_s + SLEPT_LEAST_S:  # never less, or time would go back
            self._asleep_s = asleep_s
        return trio.current_time() + self._asleep_s


def _asleep_s() -> float:
    """How long the machine has slept since it was booted; never more than that, as what has not slept is read last."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class SystemEntropy:
    def __init__(self) -> None:
        self._jitter = random.Random()

    def token(self, size_bytes: int) -> bytes:
        return secrets.token_bytes(size_bytes)

    def uniform(self) -> float:
        return self._jitter.random()
