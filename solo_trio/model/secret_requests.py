"""What is asked of secrets. Owns: command + state -> events and rows, or a refusal. Never: a value, a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.model.event import Decision, Now, Proposed
from solo_trio.model.evolving import evolve
from solo_trio.model.ids import check_secret_name
from solo_trio.model.record import Attachment, DropSecrets, KeyRow, SecretRow
from solo_trio.model.secret import (
    VERSIONS_MAX,
    SealedBy,
    SecretAccessDenied,
    SecretAccessed,
    SecretRevoked,
    SecretState,
    SecretStored,
    SecretVersion,
)
from solo_trio.model.tenant import TenantState, tenant_of

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

SECRETS_PER_TENANT_MAX: Final = 200


@frozen
class Stored:
    """The reply to `StoreSecret`."""

    version: int
    event_id: int


@frozen
class StoreSecret:
    """Keep a version of a secret; its number is given here, so that what is sealed meanwhile is the next.

    `key`: the key that it is sealed with, written again while it is not known to be in the journal.
    """

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    sealed: SecretRow
    sealed_by: SealedBy
    key: KeyRow | None = None
    revision: int | None = None
    secrets_max: int = SECRETS_PER_TENANT_MAX

    def decide(self, state: KernelState, now: Now) -> Decision:
        sealed = self.sealed
        tenant = tenant_of(state, self.tenant_id, sealed.incarnation)
        before = tenant.secrets.get(check_secret_name(sealed.name))
        _check_revision(before, self.revision)
        if before is None and len(tenant.secrets) >= self.secrets_max:
            raise Rejected("quota_exceeded", f"delete a secret first; the tenant may have {self.secrets_max}")
        sealed = evolve(sealed, version=1 if before is None else before.newest.version + 1)
        stored = SecretStored(sealed.name, sealed.version, sealed.version_id, self.sealed_by)
        attachments: tuple[Attachment, ...] = (sealed,) if self.key is None else (self.key, sealed)
        if before is not None and len(before.versions) >= VERSIONS_MAX:
            attachments += (DropSecrets(sealed.incarnation, sealed.name, before.versions[0].version),)
        reply = Stored(sealed.version, state.last_id + 1)
        return Decision((Proposed(stored, tenant.tenant_id, tenant.incarnation),), attachments, reply)


@frozen
class RevokeSecret:
    """Shred every version."""

    RESERVED: ClassVar[bool] = True

    tenant_id: str
    name: str
    revision: int | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = tenant_of(state, self.tenant_id)
        _check_revision(secret_of(tenant, self.name), self.revision)
        return Decision(
            (Proposed(SecretRevoked(self.name), tenant.tenant_id, tenant.incarnation),),
            (DropSecrets(tenant.incarnation, self.name),),
        )


@frozen
class RecordAccess:
    """Say that a version is handed out, unless it is not there any more. `service_id`: to that service, if it may have it."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    incarnation: str
    name: str
    version: int
    version_id: str
    by: str
    service_id: str | None = None
    deployment: int | None = None
    generation: int | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = tenant_of(state, self.tenant_id, self.incarnation)
        found = version_of(tenant, self.name, self.version)
        if found.version_id != self.version_id:
            raise not_found(self.name)
        if self.service_id is not None:
            granted_to(tenant, self.service_id, self.deployment, self.name)
        accessed = SecretAccessed(self.name, self.version, self.by, self.generation)
        return Decision((Proposed(accessed, tenant.tenant_id, tenant.incarnation, self.service_id),))


@frozen
class RecordDenials:
    """Say that a secret was refused `count` times."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    incarnation: str
    name: str
    by: str
    count: int
    service_id: str | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = state.tenants.get(self.tenant_id)
        if tenant is None or tenant.incarnation != self.incarnation:
            return Decision()
        denied = SecretAccessDenied(self.name, self.by, self.count)
        return Decision((Proposed(denied, tenant.tenant_id, tenant.incarnation, self.service_id),))


def secret_of(tenant: TenantState, name: str) -> SecretState:
    """The secret, or `Rejected`: invalid_id, secret_not_found."""
    found = tenant.secrets.get(check_secret_name(name))
    if found is None:
        raise not_found(name)
    return found


def version_of(tenant: TenantState, name: str, number: int | None) -> SecretVersion:
    """One version, or the newest. Raises `Rejected`: invalid_id, secret_not_found."""
    secret = secret_of(tenant, name)
    found = secret.newest if number is None else secret.version(number)
    if found is None:
        raise not_found(name, number)
    return found


def granted_to(tenant: TenantState, service_id: str, deployment: int | None, name: str) -> None:
    """Raise `Rejected("secret_access_denied")` unless that deployment of the service lists the secret."""
    service = tenant.services.get(service_id)
    if service is None or service.deployment != deployment or name not in service.spec.secrets:
        raise denied(f"list '{name}' among the secrets of the service's deployment")


def denied(what_to_do: str) -> Rejected:
    return Rejected("secret_access_denied", what_to_do)


def not_found(name: str, number: int | None = None) -> Rejected:
    if number is not None:
        return Rejected("secret_not_found", f"ask for one of the versions that '{name}' has; {number} is not kept")
    return Rejected("secret_not_found", f"set the secret '{name}' first, or list the secrets to see their names")


def _check_revision(secret: SecretState | None, revision: int | None) -> None:
    have = 0 if secret is None else secret.revision
    if revision is not None and revision != have:
        raise Rejected("revision_mismatch", f"read the secret again; its revision is {have}")
