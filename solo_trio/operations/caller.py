"""Who calls, and on what. Owns: authentication, the choice of the tenant. Never: an operation's own checks.

The tenant is the credential's. A system credential acts for the tenant it names; any other mention of another tenant is
refused, and another tenant's things do not exist.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Final

import orjson
import trio
from attrs import field, frozen

from solo_trio.errors import Rejected, SoloError
from solo_trio.kernel.backups import Backups
from solo_trio.kernel.core import Core
from solo_trio.kernel.staging import Command, Idempotency, Repeated, Submission
from solo_trio.model.capability import Authority
from solo_trio.model.caveat import read_caveats
from solo_trio.model.certificate import Certificate
from solo_trio.model.ids import check_id
from solo_trio.model.record import EventQuery, StoredEvent
from solo_trio.model.repair import IN_PLACE_OF_LOST
from solo_trio.model.rights import SCOPED
from solo_trio.model.tenant import TenantState, tenant_of
from solo_trio.operations.admission import Admission
from solo_trio.operations.auditing import Auditing
from solo_trio.operations.certified import certified, narrowed
from solo_trio.operations.settings import Settings
from solo_trio.operations.table import Operation
from solo_trio.ports import Environments
from solo_trio.vault.keyring import Keyring
from solo_trio.vault.secret import Secret

SYSTEM_SCOPE: Final = "system"
_NAMED: Final = re.compile(r"\{(\w+)\}")


class TokenFile:
    """Where the system's own token is kept for whoever may read the data directory; here, nowhere."""

    async def prepare(self, token: Secret) -> None:
        """Keep what may become the token. Raises `Faulted("data_unwritable")`."""
        await trio.lowlevel.checkpoint()

    async def put(self, token: Secret) -> None:
        """It is the token from now on. Raises `Faulted("data_unwritable")`."""
        await trio.lowlevel.checkpoint()

    async def drop(self) -> None:
        """What was prepared did not become the token."""
        await trio.lowlevel.checkpoint()


@frozen
class System:
    """What operations act on."""

    core: Core
    keyring: Keyring
    settings: Settings
    admission: Admission
    environments: Environments | None = None
    audit: Auditing = field(factory=Auditing)
    token_file: TokenFile = field(factory=TokenFile)
    backups: Backups | None = None
    """None: the log is not in a place that could be backed up."""


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

    @property
    def core(self) -> Core:
        return self.system.core

    def tenant(self) -> TenantState:
        """The caller's tenant, as it is now."""
        if self.tenant_id is None:
            raise Rejected("tenant_required", "name the tenant in the header X-Tenant-ID")
        return tenant_of(self.core.loop.state, self.tenant_id, self.incarnation)

    def may(self, resource: str, permission: str) -> bool:
        """Whether the credential has that right in the caller's tenant, at this moment."""
        return self.authority.allows(self.core.loop.state, resource, permission)

    def demand(self, resource: str, permission: str) -> None:
        """Raises `Rejected("permission_denied")`."""
        if not self.may(resource, permission):
            raise Rejected(
                "permission_denied", f"use a credential that has '{permission}' of {resource}; this one does not"
            )

    async def submit(self, command: Command) -> Any:
        reply = await self.core.loop.submit(
            Submission(command, self.authority, self.idempotency, correlation_id=self.request_id)
        )
        if isinstance(reply, Repeated):
            stored = await self.stored_event(reply.event_id)
            if stored is None or stored.type in IN_PLACE_OF_LOST:
                raise no_longer_known("was lost in a repair of the log")
        return reply

    async def stored_event(self, event_id: int) -> StoredEvent | None:
        """The event of that id, which is the system's or of the caller's tenant; None if it is not at hand any more."""
        found = await self.core.journal.read(EventQuery(after=event_id - 1, limit=1))
        if not found or found[0].id != event_id:
            return None
        mine = self.authority.is_system or found[0].incarnation in (None, self.incarnation)
        return found[0] if mine else None


def no_longer_known(why: str) -> Rejected:
    """For a request that is repeated."""
    return Rejected(
        "idempotency_conflict",
        f"what a request with this Idempotency-Key was answered with {why}: look at what is there now, and ask for what is"
        " missing with a new key",
    )


def authenticate(system: System, token: str | None, certificate: Certificate | None = None) -> Authority:
    """The authority that `token`, or a client certificate, or both stand for.

    Raises `Rejected`: "unauthenticated", never saying which part was wrong; "tenant_mismatch" if they are of different tenants.
    """
    if certificate is not None:
        core = system.core
        by_certificate = certified(core.loop.state, core.loop.now().at_us, certificate)
        if by_certificate is not None:
            return by_certificate if token is None else narrowed(by_certificate, authenticate(system, token))
    if token is None:
        raise Rejected("unauthenticated", "send a token in the header 'Authorization: Bearer TOKEN'")
    authority = authority_of(system, token)
    if authority is None:
        raise Rejected("unauthenticated", "the token is not valid here; ask for a new one")
    return authority


def authority_of(system: System, token: str) -> Authority | None:
    """What a token stands for, now; None for one that is not valid, whatever is wrong with it."""
    try:
        parsed = system.keyring.read(token)
    except SoloError:
        return None
    state = system.core.loop.state
    capability = None if parsed is None else state.capabilities.get(parsed.capability_id)
    if parsed is None or capability is None or capability.key_id != parsed.key_id:
        return None
    caveats = read_caveats(parsed.words, parsed.capability_id)
    if caveats is None:
        return None
    authority = Authority(capability.capability_id, capability.tenant_id, capability.incarnation, caveats)
    return authority if authority.holds(state, system.core.loop.now().at_us) else None


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


def left_s(system: System, authority: Authority) -> float:
    """For how many seconds that credential is still good; 0 if it no longer is."""
    state, at_us = system.core.loop.state, system.core.loop.now().at_us
    if not authority.holds(state, at_us):
        return 0.0
    expires_at_us = authority.expires_at_us(state)
    return math.inf if expires_at_us is None else (expires_at_us - at_us) / 1_000_000


def check_right(operation: Operation, caller: Caller, given: Any) -> None:
    """Raises `Rejected("permission_denied")` unless the credential has the right that the operation demands."""
    if operation.right == "holder":
        return
    if operation.right is None:
        whole = "system" if operation.scope == "system" else "tenant"
        caller.demand(whole, "read" if operation.method == "GET" else "write")
        return
    kind, permission = operation.right
    resource = _NAMED.sub(lambda match: str(getattr(given, match[1])), kind)
    if kind in SCOPED:
        if not caller.authority.touches(caller.core.loop.state, kind, permission):
            raise Rejected("permission_denied", f"use a credential that has '{permission}' of some {kind}")
        return
    caller.demand(resource, permission)


def check_scope(operation: Operation, authority: Authority) -> None:
    if operation.scope == "system" and not authority.is_system:
        raise Rejected("permission_denied", "use a system credential for this")


def idempotency_of(operation: Operation, key: str, incarnation: str | None, parts: Any) -> Idempotency:
    """The record of a request with an `Idempotency-Key`; `parts` is everything that makes it the same request."""
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise Rejected("invalid_header", "Idempotency-Key must be 1 to 255 printable ASCII characters")
    fingerprint = hashlib.sha256(orjson.dumps([operation.name, parts], option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Idempotency(incarnation or SYSTEM_SCOPE, key, fingerprint)
