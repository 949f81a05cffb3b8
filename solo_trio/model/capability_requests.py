"""What is asked about capabilities. Owns: grant, revoke, sweep, rotate, as decisions. Never: makes a token, reads a clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from attrs import field, frozen

from solo_trio.errors import Rejected
from solo_trio.model.capability import (
    CAPABILITIES_PER_TENANT_MAX,
    REVOKED_PER_TENANT_MAX,
    Authority,
    Capability,
    descendants,
    may_handle,
    system_capability,
)
from solo_trio.model.capability_events import (
    CapabilityExpired,
    CapabilityGranted,
    CapabilityRevoked,
    TokenRotated,
)
from solo_trio.model.caveat import Rate
from solo_trio.model.event import Decision, Now, Proposed
from solo_trio.model.record import DropKey, KeyRow
from solo_trio.model.rights import SYSTEM, check_right

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

SWEEP_IDS_MAX: Final = 1_000
"""Forgotten in one event; what is left is forgotten by the next."""
DEPTH_MAX: Final = 32
"""Of capabilities granted with each other."""


@frozen
class GrantSystem:
    """The first start: a root key and a capability for the whole system, unless there is one."""

    RESERVED: ClassVar[bool] = False

    capability_id: str
    key: KeyRow

    def decide(self, state: KernelState, now: Now) -> Decision:
        if system_capability(state) is not None:
            return Decision()
        return Decision(
            events=(Proposed(CapabilityGranted.of_its_own(self.capability_id, self.key.key_id, "system")),),
            attachments=(self.key,),
        )


@frozen
class Grant:
    """Grant a right that `grantor` has. The reply is the capability.

    `ttl_us`: how long, None: as long as the grantor's own. `rate`: its id is the new capability's.
    """

    RESERVED: ClassVar[bool] = False

    grantor: Authority
    tenant_id: str | None
    incarnation: str | None
    capability_id: str
    resource: str
    permissions: tuple[str, ...]
    ttl_us: int | None = None
    rate: Rate | None = None
    metadata: dict[str, Any] = field(factory=dict)

    def decide(self, state: KernelState, now: Now) -> Decision:
        grantor, right = self.grantor, check_right(self.resource, self.permissions)
        if self.resource == SYSTEM and self.tenant_id is not None:
            raise Rejected("permission_denied", "a tenant cannot grant anything of the system")
        if self.resource != SYSTEM and self.tenant_id is None:
            raise Rejected("tenant_required", "name the tenant in the header X-Tenant-ID, or grant 'system'")
        beyond = [each for each in sorted(right.permissions) if not grantor.allows(state, self.resource, each)]
        if beyond:
            raise Rejected(
                "permission_denied",
                f"the credential does not have {', '.join(beyond)} of {self.resource}: it cannot grant that",
            )
        if state.held.get(self.incarnation or "", 0) >= CAPABILITIES_PER_TENANT_MAX:
            raise Rejected("quota_exceeded", f"revoke some capabilities: there are {CAPABILITIES_PER_TENANT_MAX}")
        parent = state.capabilities.get(grantor.capability_id or "")
        if _depth(state, parent) >= DEPTH_MAX:
            raise Rejected("quota_exceeded", f"a capability is at most {DEPTH_MAX} grants away from the tenant's own")
        granted = CapabilityGranted(
            self.capability_id,
            self._key_id(state),
            self.resource,
            tuple(sorted(right.permissions)),
            None if parent is None else parent.capability_id,
            _through(parent, grantor),
            self._expires(state, now),
            grantor.rates(state) + (() if self.rate is None else (self.rate,)),
            self.metadata,
        )
        return Decision(
            (Proposed(granted, self.tenant_id, self.incarnation, self.capability_id),),
            reply=self.capability_id,
        )

    def _expires(self, state: KernelState, now: Now) -> int | None:
        latest = self.grantor.expires_at_us(state)
        if self.ttl_us is None:
            return latest
        expires = now.at_us + self.ttl_us
        if latest is not None and expires > latest:
            raise Rejected(
                "permission_denied",
                f"the credential expires in {max(0, latest - now.at_us) // 1_000_000} s: it cannot grant more than that",
            )
        return expires

    def _key_id(self, state: KernelState) -> str:
        if self.tenant_id is None:
            own = system_capability(state)
            if own is None:
                raise Rejected("permission_denied", "the system has no token of its own yet")
            return own.key_id
        tenant = state.tenants.get(self.tenant_id)
        if tenant is None or tenant.incarnation != self.incarnation:
            raise Rejected("tenant_not_found", f"create the tenant '{self.tenant_id}' first")
        return tenant.key_id


@frozen
class Revoke:
    """Revoke a capability with all that descend from it, or an attenuation. The reply is how many capabilities went.

    Raises `Rejected("capability_not_found")` for what `by` does not see.
    """

    RESERVED: ClassVar[bool] = True

    incarnation: str | None
    tenant_id: str | None
    by: Authority
    capability_id: str | None
    attenuation_id: str | None = None
    expires_at_us: int | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        if self.attenuation_id is not None:
            return self._attenuation(state, self.attenuation_id)
        capability = find_capability(state, self.incarnation, self.capability_id or "")
        if not may_handle(state, self.by, capability):
            raise _not_found()
        if capability.parent is None:
            raise Rejected(
                "permission_denied", "this is the tenant's own: rotate its token instead, or remove the tenant"
            )
        gone = tuple(sorted(descendants(state, [capability.capability_id])))
        return self._revoked(state, CapabilityRevoked(gone, None, None), capability.capability_id)

    def _attenuation(self, state: KernelState, attenuation_id: str) -> Decision:
        if attenuation_id in state.revoked:
            return Decision(reply=0)
        known = sum(1 for each in state.revoked.values() if each.incarnation == self.incarnation)
        if known >= REVOKED_PER_TENANT_MAX:
            raise Rejected("quota_exceeded", "revoke the capability itself: too many of its attenuations are revoked")
        through = [
            each.capability_id
            for each in state.capabilities.values()
            if attenuation_id in each.through and each.incarnation == self.incarnation
        ]
        gone = tuple(sorted(descendants(state, through)))
        return self._revoked(state, CapabilityRevoked(gone, attenuation_id, self.expires_at_us), attenuation_id)

    def _revoked(self, state: KernelState, event: CapabilityRevoked, subject: str) -> Decision:
        return Decision(
            (Proposed(event, self.tenant_id, self.incarnation, subject),),
            _unused_keys(state, event.capability_ids),
            reply=len(event.capability_ids),
        )


@frozen
class SweepExpired:
    """Forget what has expired, and keys that no capability is made with any more. The reply is whether there was any."""

    RESERVED: ClassVar[bool] = False

    def decide(self, state: KernelState, now: Now) -> Decision:
        expired = [
            each.capability_id
            for each in state.capabilities.values()
            if each.expires_at_us is not None and each.expires_at_us <= now.at_us
        ]
        over = [
            each
            for each, revoked in state.revoked.items()
            if revoked.expires_at_us is not None and revoked.expires_at_us <= now.at_us
        ]
        if not (expired or over):
            return Decision(reply=False)
        # What descends from it has expired too, for nobody grants for longer; the order of a map must not reach the log.
        groups: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        swept = sorted(expired)[:SWEEP_IDS_MAX]
        for each in swept:
            capability = state.capabilities[each]
            key = (capability.tenant_id or "", capability.incarnation or "")
            groups.setdefault(key, ([], []))[0].append(each)
        names = {tenant.incarnation: tenant.tenant_id for tenant in state.tenants.values()}
        for each in sorted(over)[:SWEEP_IDS_MAX]:
            incarnation = state.revoked[each].incarnation or ""
            groups.setdefault((names.get(incarnation, ""), incarnation), ([], []))[1].append(each)
        return Decision(
            tuple(
                Proposed(CapabilityExpired(tuple(ids), tuple(attenuations)), tenant_id or None, incarnation or None)
                for (tenant_id, incarnation), (ids, attenuations) in sorted(groups.items())
            ),
            _unused_keys(state, swept),
            reply=True,
        )


@frozen
class RotateToken:
    """Another token for a tenant or the system, made with `key`. `keep`: what was granted with the old one stays.

    The reply is the new capability's id. The old key goes when nothing is made with it any more.
    """

    RESERVED: ClassVar[bool] = True

    tenant_id: str | None
    incarnation: str | None
    capability_id: str
    key: KeyRow
    keep: bool

    def decide(self, state: KernelState, now: Now) -> Decision:
        old = self._old(state)
        rotated = TokenRotated(self.capability_id, self.key.key_id, old.capability_id, self.keep)
        gone = {old.capability_id} if self.keep else descendants(state, [old.capability_id])
        return Decision(
            (Proposed(rotated, self.tenant_id, self.incarnation),),
            (self.key, *_unused_keys(state, gone)),
            reply=self.capability_id,
        )

    def _old(self, state: KernelState) -> Capability:
        if self.tenant_id is None:
            own = system_capability(state)
            if own is None:
                raise Rejected("permission_denied", "the system has no token yet: start a server, which makes one")
            return own
        tenant = state.tenants.get(self.tenant_id)
        if tenant is None or tenant.incarnation != self.incarnation:
            raise Rejected("tenant_not_found", f"create the tenant '{self.tenant_id}' first")
        return state.capabilities[tenant.capability_id]


def find_capability(state: KernelState, incarnation: str | None, capability_id: str) -> Capability:
    """The capability, if it is of that tenant (None: the system's). Raises `Rejected("capability_not_found")`."""
    found = state.capabilities.get(capability_id)
    if found is None or found.incarnation != incarnation:
        raise _not_found()
    return found


def _not_found() -> Rejected:
    return Rejected("capability_not_found", "look at the list of capabilities; it may have expired or been revoked")


def _unused_keys(state: KernelState, gone: Iterable[str]) -> tuple[DropKey, ...]:
    """The keys that no capability is made with once these are gone."""
    without = frozenset(gone)
    left = {each.key_id for each in state.capabilities.values() if each.capability_id not in without}
    return tuple(DropKey(each) for each in sorted({state.capabilities[each].key_id for each in without} - left))


def _through(parent: Capability | None, grantor: Authority) -> tuple[str, ...]:
    return (() if parent is None else parent.through) + grantor.caveats.ids


def _depth(state: KernelState, capability: Capability | None) -> int:
    depth = 0
    while capability is not None and depth <= DEPTH_MAX:
        capability, depth = state.capabilities.get(capability.parent or ""), depth + 1
    return depth
