"""The token bucket. Owns: one formula. Never: waits, reads a clock.

The usual one: `burst` tokens at most, refilled at `rate` per second, a cost is taken whole or not at all.
"""

from __future__ import annotations

from attrs import evolve, frozen


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
