"""The world's time and chance. Owns: the real `ports.Clock` and `ports.Entropy`. Never: used by a pure room."""

from __future__ import annotations

import random
import secrets
import time

import trio


class SystemClock:
    """The wall clock, and Trio's own clock (so that a program on a mock clock is on it as a whole).

    While the machine sleeps Trio's clock stands still; the kernel's time must not, or the wall clock leaps at each wake-up.
    """

    def wall_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        return trio.current_time() + _asleep_s()


def _asleep_s() -> float:
    """How long the machine has slept since it was booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class SystemEntropy:
    def __init__(self) -> None:
        self._jitter = random.Random()

    def token(self, size_bytes: int) -> bytes:
        return secrets.token_bytes(size_bytes)

    def uniform(self) -> float:
        return self._jitter.random()
