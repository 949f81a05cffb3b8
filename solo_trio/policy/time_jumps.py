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
DOWNTIME_HELD_S_MAX: Final = 86_400.0
"""The same where the clock was not believed when the last life ended: another start must not be what accepts it."""


@frozen
class Seen:
    """What is believed: `at_us` (UTC microseconds) when the monotonic clock showed `monotonic` seconds.

    `first`: it is from the log of an earlier life; nothing tells how long ago that was. `held_s`: by how much the wall clock is
    ahead of what is believed, 0 while it is believed itself.
    """

    at_us: int
    monotonic: float
    first: bool = True
    suspect: bool = False
    """The clock was not believed when the life before ended."""
    held_s: float = 0.0

    def read(self, wall_us: int, monotonic: float) -> Seen:
        """What is believed after this reading; `at_us` never decreases."""
        elapsed_s = max(0.0, monotonic - self.monotonic)
        should_us = self.at_us + round(elapsed_s * 1_000_000)
        ahead_s = (wall_us - should_us) / 1_000_000
        if self.at_us and ahead_s > self._bound_s():
            return evolve(self, at_us=should_us, monotonic=monotonic, held_s=ahead_s)
        if wall_us < self.at_us:  # set back: time goes on from where it was, or what is to end would last longer
            return evolve(self, at_us=should_us, monotonic=monotonic, held_s=0.0)
        return Seen(wall_us, monotonic, first=False)

    def _bound_s(self) -> float:
        if not self.first:
            return JUMP_S_MAX
        return DOWNTIME_HELD_S_MAX if self.suspect else DOWNTIME_S_MAX

    def accept(self, wall_us: int, monotonic: float) -> Seen:
        """The operator says that the wall clock is right."""
        return Seen(max(self.at_us, wall_us), monotonic, first=False)
