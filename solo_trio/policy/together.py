"""When the services of a tenant use more memory together than it may. Owns: soft and hard crossings of that. Never: measures,
kills.

At the limit the service that uses most is to end, and again at the next sample, until what is left is below it.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, field, frozen

from solo_trio.policy.bucket import Bucket
from solo_trio.policy.pressure import Gauge, talk
from solo_trio.policy.violations import SOFT, Crossing

RESOURCE: Final = "max_memory_mb"


@frozen
class Together:
    """What is remembered of one tenant between two samples."""

    bucket: Bucket
    gauge: Gauge = field(factory=Gauge)

    @classmethod
    def since(cls, at: float) -> Together:
        return cls(talk(at))

    def step(self, used_mb: float, limit_mb: float, at: float) -> tuple[Together, Crossing | None]:
        """After a sample at the time `at` (seconds); what is to be told or done, if anything is."""
        share = used_mb / limit_mb
        gauge = self.gauge.read(share, (SOFT,))
        if share >= 1:
            return evolve(self, gauge=gauge.tell()), Crossing(RESOURCE, round(used_mb, 3), limit_mb, "kill")
        if not gauge.news:
            return evolve(self, gauge=gauge), None
        bucket, granted = self.bucket.take(1, at)
        if not granted:
            return evolve(self, gauge=gauge), None
        return Together(bucket, gauge.tell()), Crossing(RESOURCE, round(used_mb, 3), limit_mb, "warn")
