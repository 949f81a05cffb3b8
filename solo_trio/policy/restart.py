"""The restart window. Owns: counting crashes and saying when to give up. Never: sleeps, reads a clock, logs.

From Erlang/OTP's supervisor (intensity and period), with float seconds of kernel time instead of whole seconds.
"""

from __future__ import annotations

from typing import Literal

Window = tuple[float, ...]
"""Kernel times of the counted crashes that are still inside the window, ascending."""

RestartType = Literal["permanent", "transient", "temporary"]


def count_crash(window: Window, now: float, *, max_restarts: int, max_seconds: float) -> tuple[Window, bool]:
    """Count one crash at `now` (kernel seconds); True means: give up.

    A crash counts while t >= now - max_seconds; the new one is counted first, then compared with > max_restarts.
    The window never holds more than max_restarts + 1 entries, because reaching that many gives up.
    """
    kept = tuple(t for t in window if t >= now - max_seconds)
    counted = (*kept, now)[-(max_restarts + 1) :]
    return counted, len(counted) > max_restarts


def wants_restart(restart: RestartType, *, abnormal: bool) -> bool:
    """permanent: on any end; transient: on an abnormal end; temporary: never."""
    return restart == "permanent" or (restart == "transient" and abnormal)
