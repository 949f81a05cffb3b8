"""When refusals are an attack. Owns: counting them over a sliding window, one alert a window. Never: reads a clock, refuses.

The window is kept in `SLOTS` parts, so it is exact to one of them, and costs the same however high the threshold is.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

SLOTS: Final = 10


@frozen
class DenialWindow:
    """`counts`: (slot, denials), oldest first. `quiet_until`: an alert was given, and there is no other before that."""

    threshold: int
    window_s: float
    counts: tuple[tuple[int, int], ...] = ()
    quiet_until: float = float("-inf")

    def add(self, now: float, denials: int = 1) -> tuple[DenialWindow, int | None]:
        """The window with `denials` more at `now` (seconds), and how many there are in it if that calls for an alert."""
        slot = int(now // (self.window_s / SLOTS))
        counts = [(each, count) for each, count in self.counts if slot - SLOTS < each <= slot]
        if counts and counts[-1][0] == slot:
            counts[-1] = slot, counts[-1][1] + denials
        else:
            counts.append((slot, denials))
        total = sum(count for _, count in counts)
        if total < self.threshold or now < self.quiet_until:
            return evolve(self, counts=tuple(counts)), None
        return evolve(self, counts=tuple(counts), quiet_until=now + self.window_s), total
