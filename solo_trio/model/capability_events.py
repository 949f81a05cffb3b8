"""What happened to capabilities. Owns: their events and what each means. Never: decides, knows a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen
from rpds import HashTrieMap

from solo_trio.model.capability import Capability, descendants, with_one_more, without
from solo_trio.model.caveat import Rate, links
from solo_trio.model.event import UPCASTERS, Event, event
from solo_trio.model.evolving import evolve
from solo_trio.model.record import StoredEvent

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@event("capability_granted", schema=2)
@frozen
class CapabilityGranted(Event):
    """A capability exists; whoever holds its token may use it. The fields are `Capability`'s."""

    capability_id: str
    key_id: str
    resource: str
    permissions: tuple[str, ...]
    parent: str | None
    through: tuple[str, ...]
    expires_at_us: int | None
    rates: tuple[Rate, ...]
    metadata: dict[str, Any]

    @classmethod
    def of_its_own(cls, capability_id: str, key_id: str, resource: str) -> CapabilityGranted:
        """All of the system, or of a tenant, which nobody granted."""
        return cls(capability_id, key_id, resource, ("*",), None, (), None, (), {})

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        if self.capability_id in state.capabilities:
            raise LookupError(f"capability {self.capability_id} exists")
        capability = Capability(
            self.capability_id,
            self.key_id,
            self.resource,
            self.permissions,
            stamp.tenant_id,
            stamp.incarnation,
            self.parent,
            self.through,
            stamp.at_us,
            self.expires_at_us,
            self.rates,
            self.metadata,
        )
        state = with_one_more(state, capability)
        if self.resource == "system" and self.parent is None:
            state = evolve(state, system=evolve(state.system, capability_id=self.capability_id))
        return state


def _granted_before_rights(fields: dict[str, Any]) -> dict[str, Any]:
    """The first version had the system's and the tenants' own only."""
    return {**fields, "parent": None, "through": [], "expires_at_us": None, "rates": [], "metadata": {}}


UPCASTERS["capability_granted", 1] = _granted_before_rights


@event("capability_revoked")
@frozen
class CapabilityRevoked(Event):
    """A capability and all that descend from it are gone, `count` in all.

    With an `attenuation_id` it is not the capability that is revoked, but that attenuation of its tokens, and what was granted
    through it. `expires_at_us`: when no token with it can be valid any more.
    """

    capability_id: str
    attenuation_id: str | None
    expires_at_us: int | None
    count: int

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        state = without(state, revoked_with(state, self.capability_id, self.attenuation_id))
        if self.attenuation_id is None:
            return state
        capability = state.capabilities[self.capability_id]
        revoked = capability.revoked.insert(self.attenuation_id, self.expires_at_us or 0)
        changed = evolve(capability, revoked=revoked)
        return evolve(state, capabilities=state.capabilities.insert(self.capability_id, changed))


def revoked_with(state: KernelState, capability_id: str, attenuation_id: str | None) -> frozenset[str]:
    """What goes when a capability, or an attenuation of its tokens, is revoked."""
    below = descendants(state, [capability_id])
    if attenuation_id is None:
        return below
    return frozenset(each for each in below if attenuation_id in state.capabilities[each].through)


@event("capability_expired")
@frozen
class CapabilityExpired(Event):
    """These capabilities are forgotten, and that some of `attenuations` (pairs of a capability and one of them) were revoked:
    their time is over.
    """

    capability_ids: tuple[str, ...]
    attenuations: tuple[tuple[str, str], ...]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        state = without(state, self.capability_ids)
        capabilities = state.capabilities
        for capability_id, attenuation_id in self.attenuations:
            capability = capabilities.get(capability_id)
            if capability is not None:
                changed = evolve(capability, revoked=capability.revoked.discard(attenuation_id))
                capabilities = capabilities.insert(capability_id, changed)
        return evolve(state, capabilities=capabilities)


@event("token_rotated")
@frozen
class TokenRotated(Event):
    """A tenant, or the system, has another token, made with another key; the old one is good for nothing.

    `kept`: what had been granted with the old one stays, as if granted with the new one; otherwise it is gone too.
    """

    capability_id: str
    key_id: str
    replaced: str
    kept: bool

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        old = state.capabilities[self.replaced]
        new = evolve(
            old,
            capability_id=self.capability_id,
            key_id=self.key_id,
            granted_at_us=stamp.at_us,
            revoked=HashTrieMap(),
        )
        if self.kept:
            for name in sorted(descendants(state, [self.replaced])):
                each = state.capabilities[name]
                if each.parent == self.replaced:
                    state = with_one_more(state, evolve(each, parent=self.capability_id))
            state = without(_regranted(state, old, self.capability_id), [self.replaced])
        else:
            state = without(state, descendants(state, [self.replaced]))
        state = with_one_more(state, new)
        if stamp.tenant_id is None:
            return evolve(state, system=evolve(state.system, capability_id=self.capability_id))
        tenant = evolve(state.tenants[stamp.tenant_id], key_id=self.key_id, capability_id=self.capability_id)
        return evolve(state, tenants=state.tenants.insert(tenant.tenant_id, tenant))


def _regranted(state: KernelState, old: Capability, capability_id: str) -> KernelState:
    """Services that were deployed with a narrowed token of `old` go on with that of `capability_id`, narrowed the same way."""
    for tenant, service in state.services():
        grantor = service.grantor
        if grantor is None or grantor.capability_id != old.capability_id:
            continue
        if not any(each in old.revoked for each in links(grantor.words, old.capability_id)):
            changed = evolve(service, grantor=evolve(grantor, capability_id=capability_id))
            state = state.put(tenant.tenant_id, changed)
    return state
