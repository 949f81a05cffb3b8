"""The delay between restarts. Owns: one formula. Never: sleeps, draws its own chance.

Exponential with jitter, after the usual advice for retries; the cap is derived so that a crash loop trips the window.
"""

from __future__ import annotations

from typing import Final

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 30.0
DOUBLINGS_MAX: Final = 32


def longest_delay(max_restarts: int, max_seconds: float) -> float:
    """The cap in seconds: N + 1 immediate crashes with N delays between them take at most half of the window."""
    return min(LONGEST_DELAY_S, max_seconds / (2 * (max_restarts + 1)))


def restart_delay(attempt: int, chance: float, *, max_restarts: int, max_seconds: float) -> float:
    """Seconds to wait before restart number `attempt` (from 1) since the last stable uptime.

    `chance` in [0, 1) takes the delay from half of the exponential value to the whole of it.
    """
    cap = longest_delay(max_restarts, max_seconds)
    if cap < FIRST_DELAY_S and attempt > max_restarts + 1:
        cap = LONGEST_DELAY_S  # the window is too short to catch such a loop: at least it gets slow
    whole = min(FIRST_DELAY_S * 2.0 ** min(max(attempt - 1, 0), DOUBLINGS_MAX), cap)
    return whole * (0.5 + 0.5 * chance)
