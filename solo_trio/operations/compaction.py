"""Operations on how much of the log is at hand. Owns: compaction by hand, a view of the archive. Never: decides how far."""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.kernel.retention import Compaction
from solo_trio.operations.caller import Caller
from solo_trio.operations.settings import KEEP_EVENTS_MAX
from solo_trio.operations.table import Answer, body, operation

SAYS: Final = {
    "policy": "",
    "checkpoints": "the two newest checkpoints, which a start goes on from, need what follows them",
    "repeatable_requests": "requests of the last 24 hours that carried an Idempotency-Key are answered from what follows",
    "unfinished_work": "something that is not over yet began there",
}
"""Why no more was moved."""


@frozen
class CompactInput:
    """`keep_events`: the newest so many stay, however young the others are; null: what the configuration says."""

    keep_events: int | None = body(None)


@operation("POST", "/system/compact", scope="system", input=CompactInput)
async def compact(caller: Caller, given: CompactInput) -> Answer:
    """Move old events out of the database into the archive now, as far as that is safe, and answer what is left."""
    if given.keep_events is not None and not 0 <= given.keep_events <= KEEP_EVENTS_MAX:
        raise Rejected("invalid_field", f"keep_events must be between 0 and {KEEP_EVENTS_MAX}")
    done = await caller.core.compaction.compact(given.keep_events)
    return Answer(
        {
            "oldest_id": done.oldest_id,
            "events": done.events,
            "segments": done.segments,
            "bytes": done.size_bytes,
            "duration_ms": round(done.duration_s * 1_000, 3),
            "held_by": None if done.bound.reason == "policy" else done.bound.reason,
            "detail": SAYS[done.bound.reason] or None,
        }
    )


async def archive_view(compaction: Compaction) -> dict[str, Any]:
    """What `GET /system` says of it."""
    state = await compaction.archive_state()
    return {
        "oldest_id": compaction.oldest_id,
        "segments": state.segments,
        "last_id": state.last_id,
        "bytes": state.size_bytes,
    }
