"""What happened to capabilities. Owns: their events and what each means. Never: decides, knows a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from solo_trio.model.capability import Capability, RevokedAttenuation, descendants, with_one_more, without
from solo_trio.model.caveat import Rate
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
    """A capability and all that descend from it are gone: `capability_ids`.

    `attenuation_id`: what was revoked is not a capability but one attenuation of its tokens; what was granted through it goes.
    `expires_at_us`: when no token with it can be valid any more.
    """

    capability_ids: tuple[str, ...]
    attenuation_id: str | None
    expires_at_us: int | None

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        state = without(state, self.capability_ids)
        if self.attenuation_id is not None:
            revoked = RevokedAttenuation(stamp.incarnation, self.expires_at_us)
            state = evolve(state, revoked=state.revoked.insert(self.attenuation_id, revoked))
        return state


@event("capability_expired")
@frozen
class CapabilityExpired(Event):
    """These capabilities, and the revocations of these attenuations, are forgotten: their time is over."""

    capability_ids: tuple[str, ...]
    attenuation_ids: tuple[str, ...]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        state = without(state, self.capability_ids)
        revoked = state.revoked
        for each in self.attenuation_ids:
            revoked = revoked.discard(each)
        return evolve(state, revoked=revoked)


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
        new = evolve(old, capability_id=self.capability_id, key_id=self.key_id, granted_at_us=stamp.at_us)
        capabilities = state.capabilities
        if self.kept:
            for each in capabilities.values():
                if each.parent == self.replaced:
                    capabilities = capabilities.insert(each.capability_id, evolve(each, parent=self.capability_id))
            state = without(evolve(state, capabilities=capabilities), [self.replaced])
        else:
            state = without(state, descendants(state, [self.replaced]))
        state = with_one_more(state, new)
        if stamp.tenant_id is None:
            return evolve(state, system=evolve(state.system, capability_id=self.capability_id))
        tenant = evolve(state.tenants[stamp.tenant_id], key_id=self.key_id, capability_id=self.capability_id)
        return evolve(state, tenants=state.tenants.insert(tenant.tenant_id, tenant))
