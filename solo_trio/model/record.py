"""What the log holds. Owns: the stored form of an event and what is written with it. Never: knows how it is stored."""

from __future__ import annotations

from typing import Final

from attrs import field, frozen


@frozen
class StoredEvent:
    """One row of the log, as bytes that are for ever.

    `at_us`: UTC microseconds since 1970, never decreasing. `kernel_time`: seconds of kernel life, downtime counts zero.
    `payload`: JSON, or None once it was erased (the row then applies as identity).
    `incarnation`: the tenant's, so that all of an incarnation can be erased; None for the system's own.
    """

    id: int
    at_us: int
    kernel_time: float
    tenant_id: str | None
    incarnation: str | None
    subject: str | None
    type: str
    schema: int
    payload: bytes | None
    causation_id: int | None = None
    correlation_id: str | None = None


@frozen
class Artifact:
    """Content-addressed source: `digest` is the lower-case hex SHA-256 of `content`. Writing it twice is a no-op."""

    digest: str
    content: bytes


@frozen
class DropArtifact:
    """Delete the artifact of `digest` in the same transaction; one that is not there is a no-op."""

    digest: str


@frozen
class KeyRow:
    """A wrapped key: deleting the row shreds everything made with it.

    `purpose`: "token" (a macaroon root key), "secret" (what a tenant's secrets are sealed with).
    """

    key_id: str
    incarnation: str
    purpose: str
    wrapped: bytes


@frozen
class DropKey:
    """Delete the key of that id in the same transaction; one that is not there is a no-op."""

    key_id: str


@frozen
class DropKeys:
    """Delete all keys of an incarnation in the same transaction: nothing that was made with one can be opened any more.

    What is deleted is in no file of the journal any more when the append returns.
    """

    incarnation: str


@frozen
class SecretRow:
    """One version of a tenant's secret, sealed; `key_id`: the wrapped key of purpose "secret" that seals it."""

    incarnation: str
    name: str
    version: int
    version_id: str
    key_id: str
    sealed: bytes = field(repr=False)


@frozen
class DropSecrets:
    """Delete sealed versions in the same transaction: of a whole incarnation, of one name, or one version; none is a no-op.

    What is deleted is in no file of the journal any more when the append returns.
    """

    incarnation: str
    name: str | None = None
    version: int | None = None


@frozen
class IdempotencyRow:
    """Which event a request with an `Idempotency-Key` caused first, so that the same request gets the same answer.

    `scope`: the tenant's incarnation, or "system". `fingerprint`: hex SHA-256 of operation and input.
    """

    scope: str
    key: str
    fingerprint: str
    event_id: int
    at_us: int


@frozen
class DropIdempotency:
    """Forget in the same transaction which events the requests of a scope caused."""

    scope: str


@frozen
class Checkpoint:
    """The state after event `event_id` as bytes, so that a start need not read all events before it.

    `reducer`: the version of the program's reducer that made it, the only one that can go on from it. `format`: of the body.
    """

    event_id: int
    at_us: int
    reducer: str
    format: str
    body: bytes = field(repr=False)


ERASED_TYPE: Final = "tenant_erased"
"""The event that makes it lawful that the payloads of an incarnation before it are gone: without one they were changed."""


@frozen
class EraseEvents:
    """From this transaction on every event of the incarnation before `event_id` counts as erased; what it held is to go.

    `event_id`: of an event of `ERASED_TYPE` in the same transaction. `Journal.erase` does the rest, also after a crash.
    """

    tenant_id: str
    incarnation: str
    event_id: int
    removed_at_us: int


@frozen
class Erasure:
    """Something that is still to be erased. `event_id` None: removed before there was such an event; none says so yet."""

    tenant_id: str
    incarnation: str
    event_id: int | None
    removed_at_us: int


@frozen
class Archived:
    """What one step of archiving wrote: the events `first_id` to `last_id`."""

    first_id: int
    last_id: int
    size_bytes: int


@frozen
class ArchiveState:
    """What is in the archive. `last_id`: of the newest event there; 0: none is."""

    segments: int = 0
    last_id: int = 0
    size_bytes: int = 0


Attachment = (
    Artifact
    | DropArtifact
    | KeyRow
    | DropKey
    | DropKeys
    | SecretRow
    | DropSecrets
    | IdempotencyRow
    | DropIdempotency
    | EraseEvents
)


@frozen
class NamedSecret:
    """A sealed version, without what is sealed."""

    incarnation: str
    name: str
    version: int
    version_id: str
    key_id: str


@frozen
class NamedRequest:
    """An `IdempotencyRow`, without what was asked."""

    scope: str
    key: str = field(repr=False)
    event_id: int


@frozen
class Inventory:
    """What stands beside the log at one moment."""

    artifacts: frozenset[str]
    keys: tuple[KeyRow, ...]
    secrets: tuple[NamedSecret, ...]
    requests: tuple[NamedRequest, ...]


@frozen
class EventQuery:
    """Which events to read: id > `after`, ascending, at most `limit`. None means any."""

    after: int = 0
    limit: int = 100
    tenant_id: str | None = None
    incarnation: str | None = None
    subject: str | None = None
    types: tuple[str, ...] | None = None
    newest: bool = False
    """Take the last `limit` that match instead of the first; still answered in ascending order."""
    segments_max: int | None = None
    """Of the archive, look into the newest so many segments only: what is in older ones is not found then."""


@frozen
class Scan:
    """What one look into the log found: `events` are all that match with an id after the query's and up to `looked_at`.

    `complete`: the log had no more to look at. If not, go on with `after=looked_at`, even if nothing was found.
    """

    events: list[StoredEvent]
    looked_at: int
    complete: bool
