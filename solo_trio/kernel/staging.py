"""Deciding against a draft. Owns: one submission -> staged records, with nothing believed yet. Never: writes, waits.

Every event is encoded, decoded again and applied to the draft before it is appended, so that the log can never hold
something that recovery could not read.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Protocol, TypeAlias

from attrs import evolve, field, frozen
from rpds import HashTrieMap

from solo_trio.errors import Faulted, KernelBug, Rejected
from solo_trio.model import codec
from solo_trio.model.capability import EMBEDDER, Authority
from solo_trio.model.event import Decision, Now, Record
from solo_trio.model.record import Attachment, DropArtifact, DropIdempotency, IdempotencyRow, StoredEvent
from solo_trio.model.state import KernelState, apply


class Command(Protocol):
    RESERVED: ClassVar[bool]
    """May use the space that is held back on a full disk."""

    def decide(self, state: KernelState, now: Now) -> Decision: ...


EVENT_BYTES_MAX: Final = 524_288
"""Far above any event that operations and runtimes let through: their bounds are what keeps events small."""


@frozen
class Idempotency:
    """The caller's `Idempotency-Key`, within its `scope` (a tenant's incarnation, or "system")."""

    scope: str
    key: str
    fingerprint: str


@frozen
class Repeated:
    """The reply to a request that was made before: `event_id` is the first event it caused."""

    event_id: int


@frozen
class Submission:
    command: Command
    authority: Authority = EMBEDDER
    idempotency: Idempotency | None = None
    correlation_id: str | None = None
    causation_id: int | None = None
    ends_stop: bool = False
    """It reports the end of a stop that was asked for, which must work on a full disk."""

    @property
    def reserved(self) -> bool:
        return self.ends_stop or self.command.RESERVED


Seen: TypeAlias = "HashTrieMap[tuple[str, str], IdempotencyRow]"


@frozen
class Draft:
    """What would be believed if everything staged so far were committed."""

    state: KernelState
    seen: Seen = field(factory=HashTrieMap)
    records: tuple[Record, ...] = ()
    attachments: tuple[Attachment, ...] = ()


def stage(draft: Draft, submission: Submission, now: Now) -> tuple[Draft, Any]:
    """Decide one submission; returns the next draft and the reply. Raises `Rejected` or whatever a defect raises."""
    submission.authority.check(draft.state, now.at_us)
    key = submission.idempotency
    if key is not None and (row := draft.seen.get((key.scope, key.key))) is not None:
        if row.fingerprint != key.fingerprint:
            raise Rejected("idempotency_conflict", "use a new Idempotency-Key for a request that differs")
        return draft, Repeated(row.event_id)
    decision = submission.command.decide(draft.state, now)
    state, records = draft.state, []
    first_id = state.last_id + 1
    for proposed in decision.events:
        event_id = state.last_id + 1
        stored = StoredEvent(
            id=event_id,
            at_us=now.at_us,
            kernel_time=now.kernel_time,
            tenant_id=proposed.tenant_id,
            incarnation=proposed.incarnation,
            subject=proposed.subject,
            type=proposed.event.TYPE,
            schema=proposed.event.SCHEMA,
            payload=codec.encode(proposed.event),
            causation_id=submission.causation_id if event_id == first_id else first_id,
            correlation_id=submission.correlation_id,
        )
        record = _read_back(stored)
        state = apply(state, record)
        records.append(record)
    attachments = decision.attachments + _released(draft.state, state, records)
    seen = _still_seen(draft.seen, decision.attachments)
    # A request that joins one under way wrote nothing itself: it repeats that one's answer.
    cause = first_id if records else getattr(decision.reply, "event_id", None)
    if key is not None and cause is not None:
        row = IdempotencyRow(key.scope, key.key, key.fingerprint, cause, now.at_us)
        seen = seen.insert((key.scope, key.key), row)
        attachments = (*attachments, row)
    staged = evolve(
        draft,
        state=state,
        seen=seen,
        records=draft.records + tuple(records),
        attachments=draft.attachments + attachments,
    )
    return staged, decision.reply


def _still_seen(seen: Seen, attachments: tuple[Attachment, ...]) -> Seen:
    scopes = {each.scope for each in attachments if isinstance(each, DropIdempotency)}
    for scope, key in list(seen) if scopes else ():
        if scope in scopes:
            seen = seen.remove((scope, key))
    return seen


def _released(before: KernelState, after: KernelState, records: list[Record]) -> tuple[DropArtifact, ...]:
    """The sources that `records` took out of use."""
    if before.sources is after.sources:
        return ()
    candidates: set[str] = set()
    for record in records:
        stored = record.stored
        if stored.subject is None:  # about the system as a whole
            candidates.update(before.sources)
        elif (service := before.service(stored.tenant_id or "", stored.subject)) is not None:
            candidates |= service.digests
    return tuple(DropArtifact(digest) for digest in sorted(candidates) if digest not in after.sources)


def _read_back(stored: StoredEvent) -> Record:
    size_bytes = len(stored.payload or b"")
    if size_bytes > EVENT_BYTES_MAX:
        raise KernelBug(f"an event {stored.type} has {size_bytes} bytes; nothing that is recorded is that large")
    try:
        return codec.to_record(stored)
    except Faulted as error:  # here it is not the data that is damaged, but who made it
        raise KernelBug(f"an event {stored.type} cannot be read back: {error.detail}") from error
