"""Jumps of the wall clock. Owns: which of its readings are believed. Never: reads a clock.

Expiry goes by the latest time ever seen: a clock that is set back makes nothing valid again. One that leaps ahead is not
believed until the operator accepts it, or one bad clock would let every token expire for ever.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

JUMP_S_MAX: Final = 300.0
"""What a clock may be ahead of where it should be while the kernel runs."""
DOWNTIME_S_MAX: Final = 366 * 86_400.0
"""The same between two lives of a kernel: for so long one may have been switched off."""


@frozen
class Seen:
    """What is believed: `at_us` (UTC microseconds) when the monotonic clock showed `monotonic` seconds.

    `first`: it is from the log of an earlier life; nothing tells how long ago that was. `held_s`: by how much the wall clock is
    ahead of what is believed, 0 while it is believed itself.
    """

    at_us: int
    monotonic: float
    first: bool = True
    held_s: float = 0.0

    def read(self, wall_us: int, monotonic: float) -> Seen:
        """What is believed after this reading; `at_us` never decreases."""
        if wall_us < self.at_us:  # kept as it is: once it is set right again, that is no leap
            return evolve(self, held_s=0.0)
        elapsed_s = max(0.0, monotonic - self.monotonic)
        should_us = self.at_us + round(elapsed_s * 1_000_000)
        ahead_s = (wall_us - should_us) / 1_000_000
        if self.at_us and ahead_s > (DOWNTIME_S_MAX if self.first else JUMP_S_MAX):
            return Seen(should_us, monotonic, self.first, ahead_s)
        return Seen(wall_us, monotonic, first=False)

    def accept(self, wall_us: int, monotonic: float) -> Seen:
        """The operator says that the wall clock is right."""
        return evolve(self, at_us=max(self.at_us, wall_us), monotonic=monotonic, first=False, held_s=0.0)
