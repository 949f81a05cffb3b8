"""What is asked about capabilities. Owns: grant, revoke, sweep, rotate, as decisions. Never: makes a token, reads a clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from attrs import field, frozen

from solo_trio.errors import Rejected
from solo_trio.model.capability import (
    CAPABILITIES_PER_TENANT_MAX,
    CHAIN_MAX,
    NONE_HELD,
    REVOKED_MAX,
    Authority,
    Capability,
    descendants,
    may_handle,
    of_tenant,
    system_capability,
)
from solo_trio.model.capability_events import (
    CapabilityExpired,
    CapabilityGranted,
    CapabilityRevoked,
    TokenRotated,
    revoked_with,
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
        if len(state.held.get(self.incarnation or "", NONE_HELD)) >= CAPABILITIES_PER_TENANT_MAX:
            raise Rejected("quota_exceeded", f"revoke some capabilities: there are {CAPABILITIES_PER_TENANT_MAX}")
        parent = state.capabilities.get(grantor.capability_id or self._own(state))
        if _depth(state, parent) >= DEPTH_MAX:
            raise Rejected("quota_exceeded", f"a capability is at most {DEPTH_MAX} grants away from the tenant's own")
        through = _through(parent, grantor)
        rates = grantor.rates(state) + (() if self.rate is None else (self.rate,))
        if len(through) > CHAIN_MAX or len(rates) > CHAIN_MAX:
            raise Rejected(
                "quota_exceeded",
                f"a capability has at most {CHAIN_MAX} caveats and rates of those above it: grant sooner",
            )
        granted = CapabilityGranted(
            self.capability_id,
            self._key_id(state),
            self.resource,
            tuple(sorted(right.permissions)),
            None if parent is None else parent.capability_id,
            through,
            self._expires(state, now),
            rates,
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

    def _own(self, state: KernelState) -> str:
        """What the embedding application grants with: the tenant's own, or the system's."""
        tenant = state.tenants.get(self.tenant_id or "")
        return (state.system.capability_id or "") if tenant is None else tenant.capability_id

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
    """Revoke a capability with all that descend from it. The reply is how many went.

    Raises `Rejected("capability_not_found")` for what `by` does not see.
    """

    RESERVED: ClassVar[bool] = True

    incarnation: str | None
    tenant_id: str | None
    by: Authority
    capability_id: str

    def decide(self, state: KernelState, now: Now) -> Decision:
        capability = find_capability(state, self.incarnation, self.capability_id)
        if not may_handle(state, self.by, capability):
            raise _not_found()
        if capability.parent is None:
            raise Rejected(
                "permission_denied", "this is the tenant's own: rotate its token instead, or remove the tenant"
            )
        gone = revoked_with(state, capability.capability_id, None)
        revoked = CapabilityRevoked(capability.capability_id, None, None, len(gone))
        return Decision(
            (Proposed(revoked, self.tenant_id, self.incarnation, capability.capability_id),),
            _unused_keys(state, gone),
            reply=len(gone),
        )


@frozen
class RevokeAttenuation:
    """Revoke one attenuation of a capability's tokens, with all that was granted through it. The reply is how many that were.

    Whoever has a token of it may, so this has no claim to the space that is held back on a full disk.
    """

    RESERVED: ClassVar[bool] = False

    incarnation: str | None
    tenant_id: str | None
    capability_id: str
    attenuation_id: str
    expires_at_us: int | None

    def decide(self, state: KernelState, now: Now) -> Decision:
        capability = find_capability(state, self.incarnation, self.capability_id)
        if self.attenuation_id in capability.revoked:
            return Decision(reply=0)
        if len(capability.revoked) >= REVOKED_MAX:
            raise Rejected("quota_exceeded", "revoke the capability itself: too many of its attenuations are revoked")
        gone = revoked_with(state, self.capability_id, self.attenuation_id)
        revoked = CapabilityRevoked(self.capability_id, self.attenuation_id, self.expires_at_us, len(gone))
        return Decision(
            (Proposed(revoked, self.tenant_id, self.incarnation, self.capability_id),),
            _unused_keys(state, gone),
            reply=len(gone),
        )


@frozen
class SweepExpired:
    """Forget what has expired, and keys that no capability is made with any more. The reply is whether there was any."""

    RESERVED: ClassVar[bool] = False

    def decide(self, state: KernelState, now: Now) -> Decision:
        expired: list[str] = []
        over: list[tuple[str, str]] = []
        for each in state.capabilities.values():
            if each.expires_at_us is not None and each.expires_at_us <= now.at_us:
                expired.append(each.capability_id)
            elif len(each.revoked):
                over += [(each.capability_id, name) for name, at_us in each.revoked.items() if 0 < at_us <= now.at_us]
        if not (expired or over):
            return Decision(reply=False)
        # What descends from it has expired too, for nobody grants for longer; the order of a map must not reach the log.
        swept, forgotten = sorted(expired)[:SWEEP_IDS_MAX], sorted(over)[:SWEEP_IDS_MAX]
        groups: dict[tuple[str, str], tuple[list[str], list[tuple[str, str]]]] = {}

        def group(capability_id: str) -> tuple[list[str], list[tuple[str, str]]]:
            capability = state.capabilities[capability_id]
            return groups.setdefault((capability.tenant_id or "", capability.incarnation or ""), ([], []))

        for name in swept:
            group(name)[0].append(name)
        for pair in forgotten:
            group(pair[0])[1].append(pair)
        return Decision(
            tuple(
                Proposed(CapabilityExpired(tuple(ids), tuple(pairs)), tenant_id or None, incarnation or None)
                for (tenant_id, incarnation), (ids, pairs) in sorted(groups.items())
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
    tenants = {state.capabilities[name].incarnation for name in without}
    left = {each.key_id for whose in tenants for each in of_tenant(state, whose) if each.capability_id not in without}
    return tuple(DropKey(key) for key in sorted({state.capabilities[name].key_id for name in without} - left))


def _through(parent: Capability | None, grantor: Authority) -> tuple[str, ...]:
    return (() if parent is None else parent.through) + grantor.caveats.ids


def _depth(state: KernelState, capability: Capability | None) -> int:
    depth = 0
    while capability is not None and depth <= DEPTH_MAX:
        capability, depth = state.capabilities.get(capability.parent or ""), depth + 1
    return depth
