"""What a repair comes to. Owns: folding what was saved, what the state then misses, saying in words what would be lost.
Never: reads a file, writes one, or decides that it is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from attrs import frozen

from solo_trio.errors import Faulted, KernelBug
from solo_trio.model import codec
from solo_trio.model.codec import rfc3339
from solo_trio.model.record import Artifact, IdempotencyRow, KeyRow, SecretRow, StoredEvent
from solo_trio.model.repair import LogRepaired, LostSecret
from solo_trio.model.state import KernelState, apply

NAMED_MAX: Final = 20
"""So many are named in a list; the rest is counted."""
SYSTEM: Final = "system"
"""Whose keys and requests are no tenant's."""
TOKEN: Final = "token"
SECRET: Final = "secret"

Opens = Callable[[KeyRow], bool]
Span = tuple[int, int]


@frozen
class Beside:
    """What stands beside the log, as far as it was found and the state names it; and what the state names and was not
    found."""

    artifacts: tuple[Artifact, ...]
    keys: tuple[KeyRow, ...]
    secrets: tuple[SecretRow, ...]
    idempotency: tuple[IdempotencyRow, ...]
    lost_sources: tuple[str, ...]
    lost_secrets: tuple[LostSecret, ...]
    lost_keys: tuple[KeyRow, ...]
    """Of purpose "token", without what they wrapped."""


@frozen
class RepairPlan:
    """What would become of a directory. `lost`: acknowledged events whose effect is gone; `unread`: those whose effect is
    kept."""

    way: str
    others: Sequence[str]
    """More ways there are, in words."""
    found: Sequence[str]
    """What is wrong."""
    last_id: int
    kept_to: int
    lost: Span | None
    unread: Span | None
    state_at_us: int
    services: Sequence[tuple[str, str, str]]
    """Tenant, service, status that the state comes to."""
    tenants: int
    secrets: int
    lost_about: Sequence[str]
    """What lost events were about, as far as they can still be read."""
    lost_secrets: Sequence[str]
    lost_sources: Sequence[str]
    lost_tokens: Sequence[str]
    notes: Sequence[str]
    damaged: str

    @property
    def loses_nothing(self) -> bool:
        return not (self.lost or self.unread or self.lost_secrets or self.lost_sources or self.lost_tokens)

    def view(self) -> dict[str, Any]:
        """As the command shows it."""
        return {
            "way": self.way,
            "other_ways": list(self.others),
            "found": list(self.found),
            "loses_nothing": self.loses_nothing,
            "events": {
                "last": self.last_id,
                "kept_to": self.kept_to,
                "lost": None if self.lost is None else {"first": self.lost[0], "last": self.lost[1]},
                "unread": None if self.unread is None else {"first": self.unread[0], "last": self.unread[1]},
                "lost_about": list(self.lost_about),
            },
            "state": {
                "at": rfc3339(self.state_at_us),
                "tenants": self.tenants,
                "secrets": self.secrets,
                "services": [
                    {"tenant_id": tenant, "service_id": service, "status": status}
                    for tenant, service, status in self.services
                ],
            },
            "lost_secrets": list(self.lost_secrets),
            "lost_sources": list(self.lost_sources),
            "lost_tokens": list(self.lost_tokens),
            "notes": list(self.notes),
            "damaged": self.damaged,
        }


def folded(state: KernelState, events: Iterable[StoredEvent]) -> KernelState:
    """Raises `Faulted("data_newer")`; what cannot be folded although it is proven is our defect."""
    for stored in events:
        state = apply(state, codec.to_record(stored))
    return state


def find_beside(
    state: KernelState,
    artifact: Callable[[str], Artifact | None],
    keys: Sequence[KeyRow],
    secrets: Sequence[SecretRow],
    idempotency: Sequence[IdempotencyRow],
    opens: Opens,
) -> Beside:
    """Hold what lies there against `state`: versions of a row come oldest first, and the newest that is whole counts."""
    alive = {tenant.incarnation: tenant for tenant in state.tenants.values()}
    sound = {row.key_id: row for row in keys if (row.incarnation in alive or row.incarnation == SYSTEM) and opens(row)}
    needed = {tenant.key_id: tenant.incarnation for tenant in state.tenants.values()}
    needed |= {each.key_id: each.incarnation or SYSTEM for each in state.capabilities.values()}
    lost_keys = tuple(
        KeyRow(key_id, incarnation, TOKEN, b"") for key_id, incarnation in sorted(needed.items()) if key_id not in sound
    )
    known = {(row.incarnation, row.name, row.version, row.version_id): row for row in secrets}
    found, lost = [], []
    for tenant in sorted(state.tenants.values(), key=lambda each: each.tenant_id):
        for name in sorted(tenant.secrets):
            for each in tenant.secrets[name].versions:
                row = known.get((tenant.incarnation, name, each.version, each.version_id))
                if row is None or row.key_id not in sound:
                    lost.append(LostSecret(tenant.tenant_id, name, each.version))
                else:
                    found.append(row)
    sources = {digest: artifact(digest) for digest in sorted(state.sources)}
    return Beside(
        artifacts=tuple(each for each in sources.values() if each is not None),
        keys=tuple(sound.values()),
        secrets=tuple(found),
        idempotency=tuple(
            row
            for row in idempotency
            if 0 < row.event_id <= state.last_id and (row.scope in alive or row.scope == SYSTEM)
        ),
        lost_sources=tuple(digest for digest, each in sources.items() if each is None),
        lost_secrets=tuple(lost),
        lost_keys=lost_keys,
    )


def whose_tokens(state: KernelState, keys: Sequence[KeyRow]) -> list[str]:
    """Whose tokens were made with these keys."""
    names = {tenant.incarnation: tenant.tenant_id for tenant in state.tenants.values()}
    return sorted({names.get(row.incarnation, "the system") for row in keys})


def sources_named(state: KernelState, digests: Sequence[str]) -> list[str]:
    """Which services have a source among `digests`, and in which version."""
    found, wanted = [], frozenset(digests)
    for tenant, service in state.services():
        for each in service.versions:
            if each.digest in wanted:
                current = "" if each.version == service.version else " (an earlier one)"
                found.append(f"{tenant.tenant_id}/{service.service_id} version {each.version}{current}")
    return found


def about(rows: Iterable[tuple[str | None, str | None, str]]) -> list[str]:
    """What events were about, by tenant, subject and type: the most frequent first."""
    counted = Counter(rows)
    named = [
        f"{count} x {type_} of {'/'.join(part for part in (tenant, subject) if part) or 'the system'}"
        for (tenant, subject, type_), count in counted.most_common(NAMED_MAX)
    ]
    more = len(counted) - len(named)
    return [*named, f"and {more} more kinds"] if more > 0 else named


def in_words(span: Span) -> str:
    first, last = span
    return f"event {first}" if first == last else f"events {first} to {last} ({last - first + 1})"


def checked(before: KernelState, events: Sequence[StoredEvent]) -> KernelState:
    """Fold what the repair itself records. Raises `KernelBug`."""
    try:
        return folded(before, events)
    except Faulted as fault:
        raise KernelBug(f"what a repair records cannot be read back: {fault.detail}") from fault


__all__ = [
    "LogRepaired",
    "RepairPlan",
    "about",
    "checked",
    "find_beside",
    "folded",
    "in_words",
    "sources_named",
    "whose_tokens",
]
