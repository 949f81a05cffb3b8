"""What clients were told. Owns: what must be there, may be, must not; which credentials are good. Never: asks a kernel.

Each thing that clients change has an entry with the values that it may have. An answer leaves one; a request whose answer was
lost leaves the value before and the one after; requests that overlapped leave it open until one comes that did not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from attrs import define, field, frozen

ABSENT: Final = "absent"
VALID: Final = "valid"
NOTHING_WRITTEN: Final = frozenset(
    {
        "capability_not_found",
        "circuit_open",
        "dependency_cycle",
        "dependency_not_found",
        "function_not_found",
        "idempotency_conflict",
        "invalid_field",
        "overloaded",
        "permission_denied",
        "quota_exceeded",
        "rate_limited",
        "revision_mismatch",
        "secret_not_found",
        "service_exists",
        "service_not_found",
        "service_required",
        "service_stopping",
        "storage_full",
        "tenant_exists",
        "tenant_mismatch",
        "token_invalid",
        "unauthenticated",
    }
)
"""A refusal with one of these has left nothing behind. (Others may come after something was recorded.)"""

Key = tuple[str, str, str]
"""("service", tenant, id), ("secret", tenant, name), ("capability", tenant, id), ("tenant", tenant, "")."""
Values = frozenset[Any]


@define
class Entry:
    """`values`: what it may be; None: anything."""

    values: Values | None = frozenset({ABSENT})
    in_flight: int = 0
    overlapped: bool = False
    settled: int = 0
    """Which change of the whole ledger was the last one of this entry."""

    @property
    def sure(self) -> Any:
        """What it surely is now; None if that is not sure."""
        if self.values is None or self.in_flight or len(self.values) != 1:
            return None
        return next(iter(self.values))

    def can_be(self, value: Any) -> bool:
        return self.in_flight > 0 or self.values is None or value in self.values


@frozen
class Credential:
    """`chain`: all capabilities and attenuations whose revocation makes it worthless. `label`: of its tenant's life."""

    token: str = field(repr=False)
    tenant_id: str | None = None
    label: str = ""
    chain: tuple[str, ...] = ()
    whole: bool = True
    """It may do all that there is to do in the tenant."""
    expires: bool = False
    narrowed: bool = False
    """The last of the chain is an attenuation."""


@define
class Asked:
    """One request: what became of it, and the chain of the credential that it was made with."""

    name: str
    chain: tuple[str, ...]
    key: str | None
    outcome: str = "unknown"
    code: str = ""


Effect = Callable[[Values | None], Values | None]


def becomes(*values: Any) -> Effect:
    """It is one of these, whatever it was."""
    return lambda before: frozenset(values)


@define
class Change:
    """A request under way that changes some entries; `settle` says what came of it."""

    keys: list[Key]
    outcome: str = "unknown"
    effect: Effect = field(default=becomes())

    def settle(self, outcome: str, effect: Effect) -> None:
        self.outcome, self.effect = outcome, effect


@define
class Ledger:
    entries: dict[Key, Entry] = field(factory=dict)
    credentials: list[Credential] = field(factory=list)
    asked: dict[str, Asked] = field(factory=dict)
    """By request id."""
    told_id: int = 0
    """Whatever was told to anybody was told when this event was the newest: it must be there for ever."""
    removing: dict[str, int] = field(factory=dict)
    settlements: int = 0
    """How many changes were settled."""

    def entry(self, key: Key) -> Entry:
        found = self.entries.get(key)
        if found is None:
            under_way = self.removing.get(key[1], 0)
            found = self.entries[key] = Entry(in_flight=under_way)
        return found

    def of_tenant(self, tenant_id: str) -> list[Key]:
        return [key for key in self.entries if key[1] == tenant_id and key[0] != "tenant"]

    @contextmanager
    def change(self, *keys: Key) -> Iterator[Change]:
        change = Change(list(keys))
        for key in keys:
            entry = self.entry(key)
            entry.in_flight += 1
            entry.overlapped |= entry.in_flight > 1
        try:
            yield change
        finally:
            self.settlements += 1
            for key in change.keys:
                entry = self.entry(key)
                entry.settled = self.settlements
                self._settle(entry, change)

    @contextmanager
    def removal(self, tenant_id: str) -> Iterator[Change]:
        """Of a tenant, with all that it has and all that it gets meanwhile."""
        self.removing[tenant_id] = self.removing.get(tenant_id, 0) + 1
        with self.change(("tenant", tenant_id, ""), *self.of_tenant(tenant_id)) as change:
            known = set(change.keys)
            try:
                yield change
            finally:
                self.removing[tenant_id] -= 1
                change.keys += [key for key in self.of_tenant(tenant_id) if key not in known]

    @staticmethod
    def _settle(entry: Entry, change: Change) -> None:
        entry.in_flight -= 1
        if entry.overlapped:
            entry.values = None
            entry.overlapped = entry.in_flight > 0
            return
        if change.outcome == "refused":
            return
        after = change.effect(entry.values)
        if change.outcome == "answered":
            entry.values = after
        else:
            entry.values = None if entry.values is None or after is None else entry.values | after

    def renewed(self, tenant_id: str, since: int) -> None:
        """A tenant was made, at some time after `settlements` was `since`: whatever one of that id had is not there."""
        for key in self.of_tenant(tenant_id):
            entry = self.entries[key]
            if entry.in_flight:
                entry.overlapped = True
            else:
                entry.values = frozenset({ABSENT}) if entry.settled <= since else None

    def is_dead(self, credential: Credential) -> bool:
        """Surely worthless."""
        if credential.tenant_id is None:
            return False
        tenant = self.entry(("tenant", credential.tenant_id, ""))
        if not tenant.can_be(credential.label):
            return True
        return any(self.entry(("capability", credential.tenant_id, each)).sure == ABSENT for each in credential.chain)

    def is_good(self, credential: Credential) -> bool:
        """Surely worth what it says."""
        if credential.tenant_id is None:
            return True
        if credential.expires or self.entry(("tenant", credential.tenant_id, "")).sure != credential.label:
            return False
        return all(self.entry(("capability", credential.tenant_id, each)).sure == VALID for each in credential.chain)
