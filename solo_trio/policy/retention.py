"""Retention. Owns: how many of the oldest events may leave the database. Never: moves one, reads a clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from attrs import frozen

Reason = Literal["policy", "checkpoints", "repeatable_requests", "unfinished_work"]


@frozen
class Retention:
    """What the operator wants: the newest `keep_events` stay, and all that are younger than `keep_days`. `automatic`: the
    kernel sees to it by itself.
    """

    automatic: bool = True
    keep_events: int = 1_000_000
    keep_days: float = 30.0

    @property
    def keep_us(self) -> int:
        return int(self.keep_days * 86_400 * 1_000_000)


@frozen
class Bound:
    """Events up to `event_id` may go; `reason`: why no more."""

    event_id: int
    reason: Reason


def bound(last_id: int, keep_events: int, old_enough: int, holds: Iterable[tuple[int, Reason]]) -> Bound:
    """Up to where events may go. `old_enough`: the last one that is; `holds`: what must stay, from an event on, and why."""
    found = Bound(max(0, min(last_id - keep_events, old_enough)), "policy")
    for first_kept, reason in holds:
        if first_kept - 1 < found.event_id:
            found = Bound(max(0, first_kept - 1), reason)
    return found
