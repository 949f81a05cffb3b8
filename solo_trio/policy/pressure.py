"""When a reading is worth a word. Owns: marks with hysteresis, a reading's share of its limit. Never: reads anything, waits.

A mark is passed at its share of the limit, and given back a little below it: what swings around a mark is told once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from attrs import evolve, field, frozen

from solo_trio.policy.bucket import Bucket

GIVEN_BACK: Final = 0.08
"""So far below a mark (as a share of the limit) it counts as left."""
TOLD_PER_MINUTE_MAX: Final = 6
"""What is watched is told about at most this often; what was held back is told if it still holds then."""

HIGH: Final = 0.8
CRITICAL: Final = 0.9
KERNEL_MARKS: Final = (HIGH, CRITICAL)
Level = Literal["ok", "high", "critical"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "high", "critical")
REFUSING: Final = frozenset({"memory", "fds", "disk"})
"""Of these, `critical` refuses new deployments: what is left is for stopping and for what runs already."""


@frozen
class Gauge:
    """`level`: how many marks are passed now. `told`: how many of them were told about."""

    level: int = 0
    told: int = 0

    def read(self, share: float, marks: tuple[float, ...]) -> Gauge:
        """After a reading; `marks` ascend."""
        passed = sum(share >= mark for mark in marks)
        kept = sum(share >= mark - GIVEN_BACK for mark in marks)
        level = max(passed, min(self.level, kept))
        return Gauge(level, min(self.told, level))

    @property
    def news(self) -> bool:
        return self.level > self.told

    def tell(self) -> Gauge:
        return evolve(self, told=self.level)


def talk(at: float) -> Bucket:
    """What tells at most `TOLD_PER_MINUTE_MAX` times a minute."""
    return Bucket(TOLD_PER_MINUTE_MAX / 60, TOLD_PER_MINUTE_MAX, TOLD_PER_MINUTE_MAX, at)


@frozen
class Reading:
    """One resource of the kernel: how much is used of how much there is; of `disk` what is free, and what should be."""

    value: float
    limit: float
    floor: bool = False
    """The value should stay above the limit, not below."""

    @property
    def share(self) -> float:
        """1 at the limit. Without a limit (0) nothing is pressing."""
        if self.limit <= 0:
            return 0.0
        above, below = (self.limit, self.value) if self.floor else (self.value, self.limit)
        return above / below if below > 0 else float("inf")

    @property
    def percent(self) -> float:
        """Bounded, because JSON has no infinity."""
        return round(min(100 * self.share, 1_000_000.0), 1)


@frozen
class Pressed:
    """One resource, with its gauge and what may still be said about it."""

    reading: Reading
    gauge: Gauge
    bucket: Bucket

    @property
    def level(self) -> Level:
        return LEVELS[self.gauge.level]


@frozen
class Pressure:
    """All of them, by name."""

    pressed: Mapping[str, Pressed] = field(factory=dict)

    def read(
        self, readings: Mapping[str, Reading], at: float, *, quiet: bool = False
    ) -> tuple[Pressure, tuple[str, ...]]:
        """After readings at the time `at` (seconds), and which of them are to be told about now; `quiet`: the next time."""
        pressed, news = {}, []
        for name, reading in readings.items():
            before = self.pressed.get(name) or Pressed(reading, Gauge(), talk(at))
            gauge, bucket = before.gauge.read(reading.share, KERNEL_MARKS), before.bucket
            if gauge.news and not quiet:
                bucket, granted = bucket.take(1, at)
                if granted:
                    gauge = gauge.tell()
                    news.append(name)
            pressed[name] = Pressed(reading, gauge, bucket)
        return Pressure(pressed), tuple(news)

    @property
    def level(self) -> Level:
        """The worst."""
        return LEVELS[max((each.gauge.level for each in self.pressed.values()), default=0)]

    @property
    def refusing(self) -> tuple[str, ...]:
        """For want of what no new deployment is taken."""
        return tuple(sorted(name for name in REFUSING & set(self.pressed) if self.pressed[name].level == "critical"))
