"""A journal that fails when it is told to. Owns: full and failing disks, and slow ones, for tests. Never: writes a file."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from solo_trio.errors import JournalFailed, StorageFull
from solo_trio.journal.memory import MemoryJournal
from solo_trio.model.record import Attachment, Checkpoint, StoredEvent


class FaultyJournal(MemoryJournal):
    """`ports.Journal` in memory, whose disk a test fills, breaks and slows down. What it took stays, over any restart."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        """Nothing is taken but what may use the space that is held back: stops, revocations, removals, shutdowns."""
        self.reserve_full = False
        """With `full`: not even that."""
        self.append_s = 0.0
        """How long the disk takes for each append."""
        self._good_for: int | None = None

    def fail(self, after: int = 0) -> None:
        """Fail at the append after `after` further ones, and at every one from there: the kernel must stop."""
        self._good_for = after

    def mend(self) -> None:
        """The disk works again: for the next kernel."""
        self.full = self.reserve_full = False
        self._good_for = None

    async def append(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
    ) -> None:
        await self._disk(reserved)
        await super().append(events, attachments, reserved=reserved)

    async def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        await self._disk(False)
        await super().write_checkpoint(checkpoint)

    async def _disk(self, reserved: bool) -> None:
        """The time it takes, and what goes wrong. Raises `StorageFull`, `JournalFailed`."""
        if self.append_s:
            with trio.CancelScope(shield=True):  # as with the durable journal: a cancelled caller waits for its write
                await trio.sleep(self.append_s)
        if self._good_for is not None:
            if self._good_for <= 0:
                raise JournalFailed("the disk of this test fails")
            self._good_for -= 1
        if self.full and (self.reserve_full or not reserved):
            raise StorageFull
