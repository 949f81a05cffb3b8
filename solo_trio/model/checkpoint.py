"""Checkpoints in the log. Owns: the event that says that one was written. Never: what is in one (`snapshot` has that)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.record import StoredEvent

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@event("checkpoint_written")
@frozen
class CheckpointWritten(Event):
    """The state after event `event_id` was kept, in `size_bytes` bytes: a start need not read the events before it."""

    event_id: int
    size_bytes: int

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@frozen
class RecordCheckpoint:
    RESERVED: ClassVar[bool] = False

    event_id: int
    size_bytes: int

    def decide(self, state: KernelState, now: Now) -> Decision:
        return Decision((Proposed(CheckpointWritten(self.event_id, self.size_bytes)),))
