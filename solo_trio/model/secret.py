"""Secrets in the state. Owns: which names and versions there are, the events about them. Never: a value, sealed or not.

What is sealed is a row beside the log, written and dropped in the transaction of its event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from attrs import frozen

from solo_trio.model.event import Event, event
from solo_trio.model.evolving import evolve
from solo_trio.model.record import StoredEvent

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

VERSIONS_MAX: Final = 10
"""Versions of one secret that are kept; a newer one drops the oldest."""

SealedBy = Literal["tenant", "agent"]
"""With which key: the tenant's, which the kernel has; or one that only the agent has, inside of the tenant's."""


@frozen
class SecretVersion:
    """`version_id`: random, bound into what is sealed, so that no version can stand in for another of its number."""

    version: int
    version_id: str
    sealed_by: SealedBy
    at_us: int


@frozen
class SecretState:
    """`versions`: ascending, the last one counts. `revision`: the id of the event that stored it."""

    name: str
    versions: tuple[SecretVersion, ...]
    revision: int

    @property
    def newest(self) -> SecretVersion:
        return self.versions[-1]

    def version(self, number: int) -> SecretVersion | None:
        return next((each for each in self.versions if each.version == number), None)


@event("secret_stored")
@frozen
class SecretStored(Event):
    """A version of a secret is kept, sealed. `sealed_by`: the tenant's key, or the agent's own besides.

    Only the newest versions are kept: the oldest one beyond them is dropped with this.
    """

    name: str
    version: int
    version_id: str
    sealed_by: SealedBy

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        assert stamp.tenant_id is not None
        tenant = state.tenants[stamp.tenant_id]
        before = tenant.secrets.get(self.name)
        if self.version != (1 if before is None else before.newest.version + 1):
            raise LookupError(f"version {self.version} of the secret {self.name} is not the next one")
        made = SecretVersion(self.version, self.version_id, self.sealed_by, stamp.at_us)
        versions = (*(before.versions if before is not None else ()), made)[-VERSIONS_MAX:]
        secrets = tenant.secrets.insert(self.name, SecretState(self.name, versions, stamp.id))
        return evolve(state, tenants=state.tenants.insert(tenant.tenant_id, evolve(tenant, secrets=secrets)))


@event("secret_accessed")
@frozen
class SecretAccessed(Event):
    """A secret's value was asked for, and is handed out. `by`: the capability that revealed it, or the service that has it.

    Of a service this is recorded once for each of its generations and version of the secret.
    """

    name: str
    version: int
    by: str
    generation: int | None

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@event("secret_access_denied")
@frozen
class SecretAccessDenied(Event):
    """Secrets were asked for by whom they are not for, or with a key that does not open them: `count` times since the last.

    `by`: who asked, whatever the names were; `name`: the first of them.
    """

    name: str
    by: str
    count: int

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@event("secret_revoked")
@frozen
class SecretRevoked(Event):
    """All versions of a secret are shredded, at once also for the services that it was granted to."""

    name: str

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        assert stamp.tenant_id is not None
        tenant = state.tenants[stamp.tenant_id]
        if self.name not in tenant.secrets:
            raise LookupError(f"no secret {self.name}")
        secrets = tenant.secrets.remove(self.name)
        return evolve(state, tenants=state.tenants.insert(tenant.tenant_id, evolve(tenant, secrets=secrets)))
