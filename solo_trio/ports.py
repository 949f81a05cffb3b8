"""The seams. Owns: what the kernel asks of the world, as protocols on one page. Never: an implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import trio
from attrs import field, frozen

from solo_trio.errors import Rejected
from solo_trio.model.audit import AuditEntry, AuditFinding, AuditPage, AuditQuery, AuditState
from solo_trio.model.ending import Breach as Breach
from solo_trio.model.ending import Ending as Ending
from solo_trio.model.ending import EndKind as EndKind
from solo_trio.model.mandate import NOBODYS, Mandate
from solo_trio.model.record import (
    Archived,
    ArchiveState,
    Artifact,
    Attachment,
    Checkpoint,
    Erasure,
    EventQuery,
    IdempotencyRow,
    Inventory,
    KeyRow,
    Scan,
    SecretRow,
    StoredEvent,
)
from solo_trio.policy.egress import NOWHERE, Reach
from solo_trio.policy.redaction import Redactor


class Clock(Protocol):
    def wall_us(self) -> int:
        """UTC microseconds since 1970; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds; never jumps, meaning only in differences."""
        ...


class Entropy(Protocol):
    def token(self, size_bytes: int) -> bytes:
        """Unpredictable bytes, for keys and ids."""
        ...

    def uniform(self) -> float:
        """A number in [0, 1), for jitter."""
        ...


class Journal(Protocol):
    """The durable log. One writer; every method is called from the Trio thread. The order of durability is `append`'s."""

    @property
    def oldest_id(self) -> int:
        """The id of the oldest event that was not pruned; 1 for a log that is whole, also an empty one."""
        ...

    async def append(
        self, events: Sequence[StoredEvent], attachments: Sequence[Attachment] = (), *, reserved: bool = False
    ) -> None:
        """Write all of it in one transaction, or nothing; on return it survives power loss.

        `events` continue the ids without a gap. `reserved` may use the space that is held back on a full disk.
        Raises `StorageFull` (nothing written) or `JournalFailed` (stop: nothing may be acknowledged any more).
        Cancelling the caller never cancels the write.
        """
        ...

    def replay(self, after: int = 0) -> AsyncIterator[Sequence[StoredEvent]]:
        """All events with id > `after`, ascending, in pages; damage raises `Faulted("data_damaged")`.

        What is before `after` is not looked at; from 0, the tables and indexes of the log are checked too.
        """
        ...

    async def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep it and drop the oldest beyond a few. Raises `StorageFull` (nothing written) or `JournalFailed`.

        Its event must be in the log. Cancelling the caller never cancels the write.
        """
        ...

    async def checkpoint_ids(self) -> list[int]:
        """After which events there are checkpoints, newest first; whether one can be used, reading it says."""
        ...

    async def checkpoint(self, event_id: int) -> Checkpoint:
        """Raises `Faulted("data_damaged")` if it is missing, was changed, or belongs to another log than this."""
        ...

    async def read(self, query: EventQuery) -> list[StoredEvent]:
        """All that the query says, however many scans it takes; others have their turn between them.

        The `newest` of one subject of an incarnation are looked for in the archive too.
        """
        ...

    async def scan(self, query: EventQuery) -> Scan:
        """Look at a bounded number of rows: fewer than `limit` may be found although more exist. Not for `newest`.

        The scans of one tenant are made one at a time, and tenants are served in turn.
        """
        ...

    async def artifact(self, digest: str) -> Artifact:
        """Raises `Faulted("data_damaged")` if it is missing or does not have its digest."""
        ...

    async def keys(self) -> list[KeyRow]: ...

    async def inventory(self) -> Inventory:
        """All that stands beside the log, by its names."""
        ...

    async def secret(self, incarnation: str, name: str, version: int) -> SecretRow:
        """Raises `Faulted("data_damaged")` if it is missing."""
        ...

    async def idempotency(self, since_us: int) -> list[IdempotencyRow]:
        """Rows with `at_us` >= `since_us`, ascending; older ones are deleted."""
        ...

    async def archive(self, upto: int, *, fewest: int = 1) -> Archived | None:
        """One step of copying the oldest events, up to `upto`, durably to where they cost less; `replay` finds them there.

        None: fewer than `fewest` are to be copied. Raises `StorageFull`, `Faulted` (data_unwritable, data_damaged), or
        `JournalFailed`; nothing is lost by that.
        """
        ...

    async def prune(self, upto: int) -> int:
        """One step of deleting archived events up to `upto`, never the last one; what `oldest_id` is now. As `archive`."""
        ...

    async def archive_state(self) -> ArchiveState: ...

    async def erasures(self) -> list[Erasure]:
        """What is still to be erased (see `EraseEvents`), oldest first."""
        ...

    async def erase(self, erasure: Erasure) -> bool:
        """One step of erasing what an incarnation's events held, wherever they are, and checkpoints from before it was asked.

        True: all of it is done, and no event holds it any more. Raises as `archive`.
        """
        ...

    async def sweep(self) -> bool:
        """After an erasure, remove what it may have left between what is stored: appends wait meanwhile.

        Whether nothing is left in any file; False: too much is stored for that now, or somebody reads. Raises as `archive`.
        """
        ...


# -- runtimes


class SecretOut(Protocol):
    async def __call__(self, name: str) -> str | bytes:
        """The newest value of a secret, for a service that was granted it; raises `SoloError`."""
        ...


class MayOut(Protocol):
    def __call__(self, mandate: Mandate, resource: str, permission: str) -> bool:
        """Whether whoever made a call has that right at this moment; raises `SoloError` for what is no right."""
        ...


def _no_rights(mandate: Mandate, resource: str, permission: str) -> bool:
    return False


async def _no_secrets(name: str) -> str | bytes:
    raise Rejected("secret_access_denied", "this service was granted no secret")


@frozen
class Launch:
    """Everything a runtime needs to start one generation of one service."""

    tenant_id: str
    incarnation: str
    service_id: str
    version: int
    generation: int
    entry: str
    """"source", or "callable:NAME", or "import:PATH"."""
    source: str | bytes
    """The text of a module, or the bytes of an archive of several."""
    config: dict[str, Any]
    limits: dict[str, float]
    """`memory_mb cpu_seconds threads fds disk_mb calls_in_flight` where set; see `model.limits`."""
    log: LogSink = field(repr=False)
    outgoing: CallOut = field(repr=False)
    environment: str | None = None
    """Whose packages it finds beside the kernel's own: the name of an environment."""
    secret: SecretOut = field(default=_no_secrets, repr=False)
    redactor: Redactor = field(factory=Redactor, repr=False, eq=False)
    """Knows what it was given by `secret`; whatever it says goes through this."""
    egress: Callable[[], Reach] = field(default=lambda: NOWHERE, repr=False)
    """What it may reach at the moment; nothing that a task runtime could keep anybody to."""
    may: MayOut = field(default=_no_rights, repr=False)
    """What it may ask of whoever calls it."""


class Environments(Protocol):
    """The packages that the operator prepared for services, by name."""

    def check(self, name: str) -> None:
        """Whether services can be started on it; reads files. Raises `Rejected`: environment_not_found or _unusable."""
        ...


class LogSink(Protocol):
    def __call__(
        self, stream: Literal["stdout", "stderr", "log"], level: str, message: str, fields: dict[str, Any]
    ) -> None:
        """Take one line of a service's output; never blocks, drops and counts above the service's bound."""
        ...


class CallOut(Protocol):
    async def __call__(
        self,
        service_id: str,
        function: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        timeout_s: float,
        mandate: Mandate | None,
    ) -> Any:
        """A service calls another one of its tenant; raises `SoloError`.

        `mandate`: of the call that it does so for, which must be in flight to it; None: by itself.
        """
        ...


class Running(Protocol):
    """A started service. `ready` and `ended` are set once and stay set; a service may end without becoming ready."""

    ready: trio.Event
    ended: trio.Event
    ending: Ending | None
    """Set before `ended` is."""

    async def call(self, function: str, args: Sequence[Any], kwargs: dict[str, Any], mandate: Mandate = NOBODYS) -> Any:
        """Call an exported function; the caller bounds the time by cancelling, which cancels the function.

        `mandate`: what the service may do for this call, besides what it may itself, until it is answered or given up.

        Raises `Rejected("function_not_found")`, `Faulted` with `call_failed` (extra: error_type, message), `call_interrupted`,
        `result_not_serialisable`, or `overloaded` (too many calls in flight).
        """
        ...

    def request_stop(self) -> None:
        """Ask it to end by itself; idempotent."""
        ...

    def kill(self) -> None:
        """End it now, as far as the runtime can; idempotent. A shielded task may live on: watch `ended`."""
        ...

    def adjust(self, limits: Mapping[str, float]) -> frozenset[str]:
        """Make these limits (as in `Launch`) count from now on; the names of those for which that worked."""
        ...

    def reconsider_egress(self) -> None:
        """What `Launch.egress` says has changed: cut connections that it no longer admits."""
        ...

    def usage(self, *, exactly: bool = False) -> dict[str, float]:
        """What the runtime can tell of `rss_bytes memory_bytes cpu_s threads fds throttled_s`; {}: nothing.

        `memory_bytes` is what counts against `memory_mb`: its own, without what it shares with others. `throttled_s`: how
        long it was held back because of `cpu_percent`. `exactly`: `memory_bytes` without any file, also of a small service.
        """
        ...


class Runtime(Protocol):
    isolation: str
    """"task" or "process"."""

    async def start(self, launch: Launch, nursery: trio.Nursery) -> Running:
        """Start it; its tasks live in `nursery` and never raise into it. Raises `Faulted("runtime_unavailable")`.

        Returns once the process was forked or the task was spawned, not once it is ready: the start clock begins here.
        """
        ...

    def confinement(self) -> dict[str, Any]:
        """What keeps services from everything else: `level` (0: nothing does), and what it is made of; see `solo doctor`.

        `level` is None while it is not known.
        """
        ...

    async def probe(self) -> object:
        """Find out what `confinement` says, before anything is started. Raises `Faulted("runtime_unavailable")`."""
        ...

    async def forget(self, incarnation: str) -> None:
        """End what is kept for a tenant that is removed; nothing of it is started any more, and nothing of it runs after."""
        ...

    async def close(self, deadline: float) -> None:
        """End whatever still runs by `deadline` (trio.current_time() seconds); called when no service is wanted any more."""
        ...


class ServiceLogs(Protocol):
    """What services said, kept and bounded, readable after their death."""

    def sink(
        self,
        incarnation: str,
        service_id: str,
        generation: int,
        *,
        bytes_per_s: int | None,
        redactor: Redactor | None = None,
    ) -> LogSink:
        """For one generation; what `redactor` knows is taken out of what is kept."""
        ...

    async def read(self, query: LogQuery) -> list[dict[str, Any]]:
        """Entries as in `contract.md`, ascending by id."""
        ...

    async def scan(self, query: LogQuery) -> tuple[list[dict[str, Any]], int]:
        """As `read`, and the id up to which all was looked at: nothing that matches and has a lower id comes later."""
        ...

    def changed(self, incarnation: str) -> trio.Event:
        """Set when something more was written for that tenant; get it before reading, so that nothing is missed."""
        ...

    async def forget(self, incarnation: str) -> None:
        """Delete all that a tenant's services said; what comes after is dropped. Never raises for what cannot be deleted."""
        ...

    def dropped_lines(self, incarnation: str, service_id: str | None) -> int:
        """How many lines of one service, or of all, were dropped since the kernel started."""
        ...


class TenantFiles(Protocol):
    """What the data directory has of each tenant."""

    def leftovers(self, incarnations: frozenset[str]) -> list[str]:
        """What is there of tenants that are not among these; reads the directories."""
        ...

    async def sweep(self, incarnations: frozenset[str]) -> None:
        """Delete that. Raises OSError, having deleted what can be."""
        ...

    async def remove(self, names: Sequence[str], incarnations: frozenset[str]) -> list[str]:
        """Delete those of `names`, as `leftovers` gives them, that are no file of these; which those were. Raises OSError."""
        ...

    async def erase(self, incarnation: str) -> None:
        """Delete all of one. Raises OSError."""
        ...


@frozen
class LogQuery:
    """Which log entries: of one service or of all of the tenant; at least `level`; id > `after`.

    `tail`: the newest so many; otherwise the oldest `limit`.
    """

    incarnation: str
    service_id: str | None = None
    level: str | None = None
    after: int = 0
    tail: int | None = None
    limit: int = 100


@frozen
class MachineState:
    """What the kernel's process uses, and what the machine lets it have; a limit of 0 is none."""

    rss_bytes: int
    available_bytes: int
    """Of memory, beyond what it has."""
    fds: int
    fds_limit: int
    threads: int
    threads_limit: int
    free_disk_bytes: int
    """Where the data directory is."""


class Machine(Protocol):
    async def read(self) -> MachineState | None:
        """None: nothing can be measured, now and later. Raises OSError."""
        ...


class Audit(Protocol):
    """What is kept of requests, apart from the log and its fsyncs."""

    @property
    def state(self) -> AuditState: ...

    def record(self, entry: AuditEntry) -> None:
        """Never blocks, never raises; what cannot be kept is counted."""
        ...

    def skip(self) -> None:
        """Count one that is not to be kept."""
        ...

    async def page(self, query: AuditQuery) -> AuditPage:
        """Entries, with all that was recorded before. Raises `Faulted`."""
        ...

    async def check(self, newest: int | None = None) -> AuditFinding:
        """Read the chain of all entries, or of the `newest` so many."""
        ...


@frozen
class BackupMade:
    """A backup that was written and checked: the file `path` (of this machine), which holds the log up to `event_id`."""

    name: str
    path: str
    event_id: int
    size_bytes: int
    digest: str
    """SHA-256 of the file, in hex."""
    duration_s: float
    warnings: tuple[str, ...] = ()
    """What the checks say of the log beside that it can be believed."""


BackupProgress = Callable[[int, int], None]
"""Told, from any thread, how many bytes were dealt with so far, and of about how many."""


class Telemetry(Protocol):
    def bug(self, where: str, error: BaseException) -> None:
        """A contained defect of the kernel: kept and shown, never swallowed."""
        ...

    def note(self, message: str, **fields: Any) -> None: ...
