"""A journal in memory. Owns: `ports.Journal` for tests and for kernels that need not survive. Never: threads, files.

It keeps the contract of the durable one (`tests/journal/journal_contract.py`), save that nothing outlives the object. The same
object given to a second kernel is a restart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import trio

from solo_trio.errors import KernelBug
from solo_trio.journal.archive import SEGMENT_EVENTS_MAX
from solo_trio.journal.checkpoints import CHECKPOINTS_KEPT
from solo_trio.journal.erasing import masked
from solo_trio.journal.library import damaged
from solo_trio.journal.pruning import PRUNE_EVENTS_MAX
from solo_trio.journal.reads import SCAN_BYTES_MAX, SCAN_ROWS_MAX
from solo_trio.journal.statements import check_artifact
from solo_trio.model.record import (
    Archived,
    ArchiveState,
    Artifact,
    Attachment,
    Checkpoint,
    DropArtifact,
    DropIdempotency,
    DropKey,
    DropKeys,
    DropSecrets,
    EraseEvents,
    Erasure,
    EventQuery,
    IdempotencyRow,
    Inventory,
    KeyRow,
    NamedRequest,
    NamedSecret,
    Scan,
    SecretRow,
    StoredEvent,
)

REPLAY_PAGE_ROWS: Final = 2_000


class MemoryJournal:
    """`ports.Journal` in lists."""

    def __init__(self) -> None:
        self.warning: str | None = None
        self.oldest_id = 1
        self._events: list[StoredEvent] = []
        self._artifacts: dict[str, Artifact] = {}
        self._keys: dict[str, KeyRow] = {}
        self._secrets: dict[tuple[str, str, int], SecretRow] = {}
        self._idempotency: dict[tuple[str, str], IdempotencyRow] = {}
        self._checkpoints: dict[int, tuple[StoredEvent | None, Checkpoint]] = {}
        self._archived: list[Archived] = []
        self._erased: dict[str, int] = {}
        self._erasures: dict[str, Erasure] = {}

    async def append(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
    ) -> None:
        # A checkpoint that cannot be cancelled: as with the durable journal, who calls this hears how it ended.
        await trio.lowlevel.cancel_shielded_checkpoint()
        for id_, event in enumerate(events, start=len(self._events) + 1):
            if event.id != id_:
                raise KernelBug(f"event {event.id} was to be appended where event {id_} is next")
        for item in attachments:
            if isinstance(item, Artifact):
                check_artifact(item)
        self._events.extend(events)
        for item in attachments:
            match item:
                case Artifact():
                    self._artifacts.setdefault(item.digest, item)
                case DropArtifact():
                    self._artifacts.pop(item.digest, None)
                case KeyRow():
                    self._keys[item.key_id] = item
                case DropKey():
                    self._keys.pop(item.key_id, None)
                case DropKeys():
                    self._keys = {id_: row for id_, row in self._keys.items() if row.incarnation != item.incarnation}
                case SecretRow():
                    self._secrets[item.incarnation, item.name, item.version] = item
                case DropSecrets():
                    self._secrets = {name: row for name, row in self._secrets.items() if not _drops(item, row)}
                case IdempotencyRow():
                    self._idempotency[item.scope, item.key] = item
                case DropIdempotency():
                    kept = {name: row for name, row in self._idempotency.items() if row.scope != item.scope}
                    self._idempotency = kept
                case EraseEvents():
                    self._erased[item.incarnation] = item.event_id
                    asked = Erasure(item.tenant_id, item.incarnation, item.event_id, item.removed_at_us)
                    self._erasures[item.incarnation] = asked
                    self._events = [masked(event, self._erased) for event in self._events]

    def replay(self, after: int = 0) -> AsyncIterator[Sequence[StoredEvent]]:
        return _Replay(self._events, after)

    async def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        if checkpoint.event_id > len(self._events):
            raise KernelBug(f"a checkpoint after event {checkpoint.event_id}, where {len(self._events)} is the last")
        self._checkpoints[checkpoint.event_id] = (self._event(checkpoint.event_id), checkpoint)
        kept = sorted(self._checkpoints)[-CHECKPOINTS_KEPT:]
        self._checkpoints = {event_id: self._checkpoints[event_id] for event_id in kept}

    async def checkpoint_ids(self) -> list[int]:
        await trio.lowlevel.checkpoint()
        return sorted(self._checkpoints, reverse=True)

    async def checkpoint(self, event_id: int) -> Checkpoint:
        await trio.lowlevel.checkpoint()
        after, checkpoint = self._checkpoints.get(event_id, (None, None))
        if checkpoint is None or event_id > len(self._events) or self._event(event_id) != after:
            raise damaged(f"the checkpoint after event {event_id} is missing, or belongs to another log")
        return checkpoint

    def _event(self, event_id: int) -> StoredEvent | None:
        return self._events[event_id - 1] if event_id else None

    async def read(self, query: EventQuery) -> list[StoredEvent]:
        await trio.lowlevel.checkpoint()
        # What was pruned is looked at for the newest of one subject only, as in an archive.
        after = query.after
        if not (query.newest and query.subject is not None and query.incarnation is not None):
            after = max(after, self.oldest_id - 1)
        found = [event for event in self._events[after:] if _matches(event, query)]
        if query.newest:
            return found[max(0, len(found) - query.limit) :]
        return found[: query.limit]

    async def scan(self, query: EventQuery) -> Scan:
        await trio.lowlevel.checkpoint()
        if query.newest:
            raise KernelBug("a scan goes forward: read the newest by `read`")
        after = max(query.after, self.oldest_id - 1)
        looked_at = max(query.after, min(after + SCAN_ROWS_MAX, len(self._events)))
        found, size_bytes = [], 0
        for event in self._events[after:looked_at]:
            if _matches(event, query):
                found.append(event)
                size_bytes += len(event.payload or b"")
                if len(found) == query.limit or size_bytes >= SCAN_BYTES_MAX:
                    looked_at = event.id
                    break
        return Scan(found, looked_at, complete=looked_at >= len(self._events))

    async def artifact(self, digest: str) -> Artifact:
        await trio.lowlevel.checkpoint()
        if digest not in self._artifacts:
            raise damaged(f"artifact {digest} is missing")
        return self._artifacts[digest]

    async def inventory(self) -> Inventory:
        await trio.lowlevel.checkpoint()
        return Inventory(
            frozenset(self._artifacts),
            tuple(sorted(self._keys.values(), key=lambda row: row.key_id)),
            tuple(NamedSecret(*name, row.version_id, row.key_id) for name, row in sorted(self._secrets.items())),
            tuple(NamedRequest(row.scope, row.key, row.event_id) for row in self._idempotency.values()),
        )

    async def keys(self) -> list[KeyRow]:
        await trio.lowlevel.checkpoint()
        return [self._keys[key_id] for key_id in sorted(self._keys)]

    async def secret(self, incarnation: str, name: str, version: int) -> SecretRow:
        await trio.lowlevel.checkpoint()
        found = self._secrets.get((incarnation, name, version))
        if found is None:
            raise damaged(f"version {version} of a secret is missing")
        return found

    async def idempotency(self, since_us: int) -> list[IdempotencyRow]:
        await trio.lowlevel.checkpoint()
        self._idempotency = {name: row for name, row in self._idempotency.items() if row.at_us >= since_us}
        return sorted(self._idempotency.values(), key=lambda row: (row.at_us, row.scope, row.key))

    async def archive(self, upto: int, *, fewest: int = 1) -> Archived | None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        first_id = (await self.archive_state()).last_id + 1
        upto = min(upto, len(self._events), first_id + SEGMENT_EVENTS_MAX - 1)
        if upto + 1 - first_id < max(1, fewest):
            return None
        self._archived.append(Archived(first_id, upto, 0))
        return self._archived[-1]

    async def prune(self, upto: int) -> int:
        await trio.lowlevel.cancel_shielded_checkpoint()
        archived = (await self.archive_state()).last_id
        upto = min(upto, archived, self.oldest_id - 1 + PRUNE_EVENTS_MAX, len(self._events) - 1)
        self.oldest_id = max(self.oldest_id, upto + 1)
        return self.oldest_id

    async def archive_state(self) -> ArchiveState:
        await trio.lowlevel.cancel_shielded_checkpoint()
        last = self._archived[-1].last_id if self._archived else 0
        return ArchiveState(len(self._archived), last, 0)

    async def erasures(self) -> list[Erasure]:
        await trio.lowlevel.checkpoint()
        return list(self._erasures.values())

    async def erase(self, erasure: Erasure) -> bool:
        await trio.lowlevel.cancel_shielded_checkpoint()
        kept = {id_: each for id_, each in self._checkpoints.items() if id_ >= (erasure.event_id or 0)}
        self._checkpoints = kept
        self._erasures.pop(erasure.incarnation, None)
        return True

    async def sweep(self) -> bool:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return True

    async def close(self) -> None:
        """Nothing to do; the events stay, so that a test can open a second kernel on them."""
        await trio.lowlevel.cancel_shielded_checkpoint()


def _drops(drop: DropSecrets, row: SecretRow) -> bool:
    return row.incarnation == drop.incarnation and drop.name in (None, row.name) and drop.version in (None, row.version)


class _Replay:
    def __init__(self, events: list[StoredEvent], after: int) -> None:
        self._events = events
        self._at = after
        if after > len(events):
            raise damaged(f"event {after} is missing")

    def __aiter__(self) -> _Replay:
        return self

    async def __anext__(self) -> Sequence[StoredEvent]:
        await trio.lowlevel.checkpoint()
        page = self._events[self._at : self._at + REPLAY_PAGE_ROWS]
        if not page:
            raise StopAsyncIteration
        self._at += len(page)
        return page


def _matches(event: StoredEvent, query: EventQuery) -> bool:
    return (
        (query.tenant_id is None or event.tenant_id == query.tenant_id)
        and (query.incarnation is None or event.incarnation == query.incarnation)
        and (query.subject is None or event.subject == query.subject)
        and (query.types is None or event.type in query.types)
    )
