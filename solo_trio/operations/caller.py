"""Who calls, and on what. Owns: authentication, the choice of the tenant. Never: an operation's own checks.

The tenant is the credential's. A system credential acts for the tenant it names; any other mention of another tenant is
refused, and another tenant's things do not exist.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import orjson
import trio
from attrs import field, frozen

from solo_trio.errors import Rejected, SoloError
from solo_trio.kernel.core import Core
from solo_trio.kernel.staging import Command, Idempotency, Submission
from solo_trio.model.capability import Authority
from solo_trio.model.ids import check_id
from solo_trio.model.tenant import TenantState, tenant_of
from solo_trio.operations.settings import Settings
from solo_trio.operations.table import Operation
from solo_trio.ports import Environments
from solo_trio.vault.keyring import Keyring

SYSTEM_SCOPE: Final = "system"


@frozen
class System:
    """What operations act on."""

    core: Core
    keyring: Keyring
    settings: Settings
    environments: Environments | None = None


@frozen
class Caller:
    """One request's authority and circumstances. `tenant_id` and `incarnation` are None for the whole system."""

    system: System
    authority: Authority
    tenant_id: str | None = None
    incarnation: str | None = None
    idempotency: Idempotency | None = None
    revision: int | None = None
    """What `If-Match` asked for."""
    request_id: str | None = None
    stopping: trio.Event | None = field(default=None)

    @property
    def core(self) -> Core:
        return self.system.core

    def tenant(self) -> TenantState:
        """The caller's tenant, as it is now."""
        if self.tenant_id is None:
            raise Rejected("tenant_required", "name the tenant in the header X-Tenant-ID")
        return tenant_of(self.core.loop.state, self.tenant_id, self.incarnation)

    async def submit(self, command: Command) -> Any:
        return await self.core.loop.submit(
            Submission(command, self.authority, self.idempotency, correlation_id=self.request_id)
        )


def authenticate(system: System, token: str | None) -> Authority:
    """The authority that `token` stands for. Raises `Rejected("unauthenticated")`, never saying which part was wrong."""
    if token is None:
        raise Rejected("unauthenticated", "send a token in the header 'Authorization: Bearer TOKEN'")
    try:
        parsed = system.keyring.read(token)
    except SoloError:
        parsed = None
    if parsed is not None:
        capability = system.core.loop.state.capabilities.get(parsed.capability_id)
        if capability is not None and capability.key_id == parsed.key_id:
            return Authority(capability.capability_id, capability.tenant_id, capability.incarnation)
    raise Rejected("unauthenticated", "the token is not valid here; ask for a new one")


def choose_tenant(
    system: System, authority: Authority, named: str | None, also_named: Any = None
) -> TenantState | None:
    """The tenant to act on: the credential's, or the one a system credential names (header, or `tenant_id` in a body)."""
    names = {check_id("tenant_id", name) for name in (named, also_named) if name is not None}
    if authority.tenant_id is not None:
        if names - {authority.tenant_id}:
            raise Rejected("tenant_mismatch", "name no tenant, or the one that the credential is for")
        try:
            return tenant_of(system.core.loop.state, authority.tenant_id, authority.incarnation)
        except Rejected:
            raise Rejected("unauthenticated", "the token is not valid here; ask for a new one") from None
    if len(names) > 1:
        raise Rejected("tenant_mismatch", "the header X-Tenant-ID and the body name different tenants")
    return tenant_of(system.core.loop.state, names.pop()) if names else None


def check_scope(operation: Operation, authority: Authority) -> None:
    if operation.scope == "system" and not authority.is_system:
        raise Rejected("permission_denied", "use a system credential for this")


def idempotency_of(operation: Operation, key: str, incarnation: str | None, parts: Any) -> Idempotency:
    """The record of a request with an `Idempotency-Key`; `parts` is everything that makes it the same request."""
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise Rejected("invalid_header", "Idempotency-Key must be 1 to 255 printable ASCII characters")
    fingerprint = hashlib.sha256(orjson.dumps([operation.name, parts], option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Idempotency(incarnation or SYSTEM_SCOPE, key, fingerprint)
