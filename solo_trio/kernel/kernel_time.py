"""The kernel's time. Owns: what time it is for everything that is decided. Never: believes a leap of the clock by itself."""

from __future__ import annotations

from solo_trio.model.event import Now
from solo_trio.policy.time_jumps import Seen
from solo_trio.ports import Clock


class KernelTime:
    """`at_us` and `kernel_time` are those of the newest event; neither ever goes back, also not across restarts."""

    def __init__(self, clock: Clock, at_us: int, kernel_time: float, *, suspect: bool = False) -> None:
        """`suspect`: the wall clock was not believed when the life before ended."""
        self._clock = clock
        self._base = kernel_time - clock.monotonic()
        self._seen = Seen(at_us, clock.monotonic(), suspect=suspect)

    @property
    def held_s(self) -> float:
        """By how much the wall clock is ahead of what is believed; 0 if it is believed."""
        return self._seen.held_s

    def now(self, at_us: int, kernel_time: float) -> Now:
        """Not before `at_us` and `kernel_time`, those of the newest event."""
        monotonic = self._clock.monotonic()
        self._seen = self._seen.read(self._clock.wall_us(), monotonic)
        return Now(max(self._seen.at_us, at_us), max(self._base + monotonic, kernel_time))

    def accept(self) -> None:
        """Believe the wall clock from now on."""
        self._seen = self._seen.accept(self._clock.wall_us(), self._clock.monotonic())
