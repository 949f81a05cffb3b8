"""What the audit of requests holds. Owns: the shape of an entry, and of a question for entries. Never: where they are kept.

An entry names who, what, on what and with which outcome. It has no field that an argument, a value, a token or a body could
be in.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen

from solo_trio.model.instant import rfc3339

SYSTEM_CREDENTIAL: Final = "system"
BEGUN: Final = "audit_begun"
"""The operation of an entry with which a file begins. Its outcome says why: first, missing or damaged; its subject is the name
under which a damaged file was set aside."""
DAMAGED: Final = "audit_damaged"
"""The operation of an entry that tells of damage among others that are too old to be kept: its subject is what was wrong."""
GAP: Final = "audit_gap"
"""The operation of an entry that stands for others which were not kept: its outcome is how many."""


@frozen
class AuditEntry:
    """One call, or one refusal. `credential`: a capability's id, "system", or None for nobody's."""

    at_us: int
    operation: str
    outcome: str
    """The status of an answer, the code of a refusal, or `cancelled` if nobody waited for it to the end."""
    duration_us: int = 0
    tenant_id: str | None = None
    incarnation: str | None = None
    credential: str | None = None
    subject: str | None = None
    request_id: str | None = None
    peer: str | None = None


@frozen
class KeptEntry:
    """An entry as it is kept: with an id, without gaps, in the order of `at_us`."""

    id: int
    entry: AuditEntry

    def view(self, *, whole: bool = True) -> dict[str, Any]:
        """As gateways show it; not `whole`: to a tenant, who is not told from where the operator came."""
        entry = self.entry
        hidden = not whole and entry.credential == SYSTEM_CREDENTIAL
        return {
            "id": self.id,
            "at": rfc3339(entry.at_us),
            "tenant_id": entry.tenant_id,
            "credential": entry.credential,
            "operation": entry.operation,
            "subject": entry.subject,
            "outcome": entry.outcome,
            "duration_ms": entry.duration_us / 1_000,
            "request_id": entry.request_id,
            "peer": None if hidden else entry.peer,
        }


VIEW: Final = tuple(KeptEntry(1, AuditEntry(0, "", "")).view())
"""The names in a view, in order: the columns of a table of entries."""


@frozen
class AuditQuery:
    """Which entries: id > `after`, `since_us` <= at < `until_us`, equal in whatever is given; at most `limit`, oldest first.

    `incarnation`: of a tenant that asks for its own; another one of the same name had other entries.
    """

    after: int = 0
    limit: int = 100
    since_us: int | None = None
    until_us: int | None = None
    tenant_id: str | None = None
    incarnation: str | None = None
    operation: str | None = None
    outcome: str | None = None
    credential: str | None = None


@frozen
class AuditPage:
    """`next`: where to go on after, None if there is no more. What is looked at is bounded: a page may be short, even empty."""

    entries: tuple[KeptEntry, ...] = ()
    next: int | None = None


@frozen
class AuditState:
    """How the audit itself is. `status`: ok; dropping (it cannot be written now); begun_anew (at this start)."""

    status: str = "ok"
    entries: int = 0
    oldest_id: int = 0
    newest_id: int = 0
    bytes: int = 0
    dropped: int = 0
    """Since the kernel started."""
    skipped: int = 0
    """Since then, of tenants that had more than their share of the file."""
    set_aside: str | None = None


@frozen
class AuditFinding:
    """What a check came to: `fault` None is sound. `checked` of `entries` were read."""

    entries: int
    checked: int
    fault: str | None = None
