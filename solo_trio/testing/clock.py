"""A clock that jumps. Owns: `ports.Clock` whose wall clock a test sets. Never: sleeps, or reads the machine's clock."""

from __future__ import annotations

from typing import Final

import trio
from attrs import define, field

FIRST_US: Final = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""


@define
class JumpingClock:
    """Time as Trio has it (a mock clock too), and a wall clock that is `ahead_s` of where it began at `start_us`.

    `jump` moves the wall clock only; the kernel's own time goes on as it was.
    """

    start_us: int = FIRST_US
    ahead_s: float = 0.0
    _zero: float | None = field(default=None, init=False)
    """Trio's time when it was read first."""

    def wall_us(self) -> int:
        return self.start_us + round((self._elapsed_s() + self.ahead_s) * 1_000_000)

    def monotonic(self) -> float:
        return trio.current_time()

    def jump(self, seconds: float) -> None:
        """Set the wall clock ahead, or back."""
        self.ahead_s += seconds

    def _elapsed_s(self) -> float:
        now = trio.current_time()
        if self._zero is None:
            self._zero = now
        return now - self._zero
