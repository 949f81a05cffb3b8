"""Compaction in the log. Owns: the event that says that old events were moved away. Never: moves any, changes the state."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.record import StoredEvent

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@event("log_compacted")
@frozen
class LogCompacted(Event):
    """The `events` before `oldest_id` that were still in the database are now in the archive only, in `segments` more of it."""

    oldest_id: int
    events: int
    segments: int

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@frozen
class RecordCompaction:
    RESERVED: ClassVar[bool] = False

    oldest_id: int
    events: int
    segments: int

    def decide(self, state: KernelState, now: Now) -> Decision:
        return Decision((Proposed(LogCompacted(self.oldest_id, self.events, self.segments)),))
