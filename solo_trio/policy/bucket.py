"""The token bucket. Owns: one formula. Never: waits, reads a clock.

The usual one: `burst` tokens at most, refilled at `rate` per second, a cost is taken whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

MOMENT_S: Final = 0.001


@frozen
class Bucket:
    """`tokens` as of `at` (seconds)."""

    rate: float
    burst: float
    tokens: float
    at: float

    def take(self, cost: float, now: float) -> tuple[Bucket, bool]:
        """The bucket after it, and whether `cost` was there. A cost above `burst` is taken from a full bucket.

        A `now` before `at` counts as `at`, so that no stretch of time refills twice.
        """
        now = max(now, self.at)
        tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        if tokens >= min(cost, self.burst):
            return evolve(self, tokens=max(0.0, tokens - cost), at=now), True
        return evolve(self, tokens=tokens, at=now), False

    def changed(self, rate: float, burst: float, now: float) -> Bucket:
        """The same bucket with other numbers from `now` on; what it holds by then it keeps, as far as it has room."""
        if (rate, burst) == (self.rate, self.burst):
            return self
        now = max(now, self.at)
        tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        return Bucket(rate, burst, min(tokens, burst), now)

    def wait_s(self, cost: float, now: float) -> float:
        """How long until `cost` is there, if nobody else takes anything; 0 if it is, infinite if it never will be."""
        now = max(now, self.at)
        missing = min(cost, self.burst) - (self.tokens + (now - self.at) * self.rate)
        if missing <= 0:
            return 0.0
        return missing / self.rate if self.rate > 0 else float("inf")

    def empty_at(self, now: float) -> float | None:
        """When it would have been empty, had nothing been taken since; None if it is full at `now`, whatever was taken."""
        if self.rate <= 0 or self.tokens + (max(now, self.at) - self.at) * self.rate >= self.burst:
            return None
        return self.at - self.tokens / self.rate


def take_all(buckets: Sequence[Bucket], cost: float, now: float) -> tuple[tuple[Bucket, ...], float]:
    """`cost` from every one of them, or from none: the buckets after it, and how long to wait first (0: it was taken)."""
    wait_s = max((each.wait_s(cost, now) for each in buckets), default=0.0)
    if wait_s > 0:
        return tuple(buckets), wait_s
    taken = [each.take(cost, now) for each in buckets]
    if not all(granted for _, granted in taken):  # a rounding apart: what `wait_s` lets through, `take` may not
        return tuple(buckets), MOMENT_S
    return tuple(bucket for bucket, _ in taken), 0.0
