"""Bugs of durability. Owns: those planted in the simulated journal and in the loop. Never: imported but by `planted`."""

from __future__ import annotations

from typing import Any

from simulation.journal import SimJournal
from simulation.planted import Undo, both, bug, replace
from simulation.wal_file import WalFile
from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel.hub import Hub
from solo_trio.kernel.loop import Loop
from solo_trio.model.record import Artifact, IdempotencyRow


@bug()
def skipped_fsync() -> Undo:
    """A commit is not forced out before it is acknowledged."""
    return replace(SimJournal, "force_out", lambda self: None)


@bug()
def database_not_forced_out() -> Undo:
    """The log begins anew before the database is on the platter."""
    return replace(WalFile, "sync_database", lambda self: None)


@bug()
def lost_last_transaction() -> Undo:
    """The last transaction of the log is overlooked at a start."""
    was = WalFile.read_log
    return replace(WalFile, "read_log", lambda self, log: was(self, log)[:-1])


@bug()
def told_before_durable() -> Undo:
    """Watchers are told before the append."""
    decides, publishes = Loop._decide, Hub.publish

    def decide(self: Loop, batch: list[Any], *, more: bool) -> Any:
        draft, answered = decides(self, batch, more=more)
        self._hub.publish(draft.records)
        return draft, answered

    def publish(self: Hub, records: Any) -> None:
        publishes(self, [each for each in records if each.stored.id > self.last_id])

    return both(replace(Loop, "_decide", decide), replace(Hub, "publish", publish))


@bug()
def answered_before_durable() -> Undo:
    """Callers are answered before the append."""
    was = Loop._decide

    def decide(self: Loop, batch: list[Any], *, more: bool) -> Any:
        draft, answered = was(self, batch, more=more)
        for each in answered:
            each.waiting.reply = each.reply
            each.waiting.done.set()
        return draft, answered

    return replace(Loop, "_decide", decide)


@bug()
def believed_before_durable() -> Undo:
    """The state is the draft before the append."""
    was = Loop._decide

    def decide(self: Loop, batch: list[Any], *, more: bool) -> Any:
        draft, answered = was(self, batch, more=more)
        self._believe(draft)
        return draft, answered

    return replace(Loop, "_decide", decide)


@bug(seeds=40)
def failed_append_is_tried_again() -> Undo:
    """After an fsync that failed the kernel forces out once more, and takes that for success."""
    was = SimJournal.force_out

    def force_out(self: SimJournal) -> None:
        try:
            was(self)
        except OSError:
            was(self)

    return replace(SimJournal, "force_out", force_out)


@bug(seeds=80)
def idempotency_in_another_transaction() -> Undo:
    """The record of an Idempotency-Key is appended after the events it is of have been."""
    was = SimJournal._append

    async def append(self: SimJournal, events: Any, attachments: Any, reserved: bool) -> None:
        rows = [each for each in attachments if isinstance(each, IdempotencyRow)]
        await was(self, events, [each for each in attachments if not isinstance(each, IdempotencyRow)], reserved)
        if rows:
            await self._pause()
            await was(self, (), rows, reserved)

    return replace(SimJournal, "_append", append)


@bug()
def artifact_is_not_stored() -> Undo:
    """The source of a deployment is not in the transaction of its intent."""
    was = MemoryJournal.append

    async def append(self: MemoryJournal, events: Any, attachments: Any = (), *, reserved: bool = False) -> None:
        await was(self, events, [each for each in attachments if not isinstance(each, Artifact)], reserved=reserved)

    return replace(MemoryJournal, "append", append)
