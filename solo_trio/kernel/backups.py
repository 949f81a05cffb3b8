"""Backups of a running kernel. Owns: that there is one at a time, what is shown of it, recording it. Never: how one is
made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio
from attrs import asdict, evolve, frozen

from solo_trio.errors import Faulted, StorageFull
from solo_trio.kernel.loop import Loop, shutting_down
from solo_trio.kernel.staging import Submission
from solo_trio.model.backup import RecordBackup
from solo_trio.ports import BackupMade, BackupProgress, Telemetry

Make = Callable[[BackupProgress], Awaitable[BackupMade]]


class BackedUp(Protocol):
    """What is backed up."""

    loop: Loop
    telemetry: Telemetry
    closed: trio.Event


@frozen
class BackupState:
    """`running`: whether one is being written, `done_bytes` of about `total_bytes` dealt with. `last`: the newest of this
    life."""

    running: bool = False
    done_bytes: int = 0
    total_bytes: int = 0
    last: BackupMade | None = None

    def view(self) -> dict[str, object]:
        return asdict(self)


class Backups:
    """Those of one running kernel; `make` writes one."""

    def __init__(self, core: BackedUp, make: Make) -> None:
        self._core = core
        self._make = make
        self.state = BackupState()

    async def write(self, correlation_id: str | None = None) -> BackupMade:
        """Write one; it holds everything that was recorded before this was called. Cancelled, nothing of it is left.

        Raises `Faulted("overloaded")` while another one is written, `StorageFull`, and what `make` does.
        """
        if self.state.running:
            raise Faulted("overloaded", "a backup is being written: wait for its end", retry_after_s=5)
        self.state = BackupState(running=True, last=self.state.last)
        try:
            made = await self._unless_closed()
        finally:
            self.state = BackupState(last=self.state.last)
        self.state = BackupState(last=made)
        record = RecordBackup(made.name, made.event_id, made.size_bytes, made.digest)
        try:
            await self._core.loop.report(Submission(record, correlation_id=correlation_id))
        except StorageFull as full:
            self._core.telemetry.note("a backup was written; that could not be recorded", name=made.name, error=full)
        return made

    async def _unless_closed(self) -> BackupMade:
        """A shutdown does not wait for it."""
        made: list[BackupMade] = []
        failed: list[Exception] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, self._core.closed, nursery.cancel_scope)
            try:
                made.append(await self._make(self._went_on))
            except Exception as error:  # noqa: BLE001 - raised below, not in a group
                failed.append(error)
            nursery.cancel_scope.cancel()
        if failed:
            raise failed[0]
        if not made:
            raise shutting_down()
        return made[0]

    def _went_on(self, done: int, total: int) -> None:
        """From any thread."""
        self.state = evolve(self.state, done_bytes=done, total_bytes=total)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
