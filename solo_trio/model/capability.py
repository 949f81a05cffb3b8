"""Capabilities. Owns: their slice, their events, who a caller is. Never: keys or tokens (the log must not rebuild one)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.evolving import evolve
from solo_trio.model.record import KeyRow, StoredEvent

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@frozen
class Capability:
    """A right that somebody holds a token for. `resource`: "system" or "tenant"; `incarnation`: the tenant's, if one's."""

    capability_id: str
    key_id: str
    resource: str
    permissions: tuple[str, ...]
    tenant_id: str | None
    incarnation: str | None


@frozen
class Authority:
    """Who asks: the capability that authenticated the caller, checked again at the moment of the decision.

    `capability_id` None: the embedding application itself. `tenant_id` None: the system.
    """

    capability_id: str | None = None
    tenant_id: str | None = None
    incarnation: str | None = None

    @property
    def is_system(self) -> bool:
        return self.tenant_id is None

    def check(self, state: KernelState) -> None:
        """Raise `Rejected("unauthenticated")` if the capability is gone in `state`."""
        if self.capability_id is None:
            return
        held = state.capabilities.get(self.capability_id)
        if held is None or held.incarnation != self.incarnation:
            raise Rejected("unauthenticated", "the token is no longer valid; ask for a new one")


EMBEDDER = Authority()


@event("capability_granted")
@frozen
class CapabilityGranted(Event):
    """A capability exists; whoever holds its token may use it."""

    capability_id: str
    key_id: str
    resource: str
    permissions: tuple[str, ...]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        if self.capability_id in state.capabilities:
            raise LookupError(f"capability {self.capability_id} exists")
        capability = Capability(
            self.capability_id, self.key_id, self.resource, self.permissions, stamp.tenant_id, stamp.incarnation
        )
        return evolve(state, capabilities=state.capabilities.insert(self.capability_id, capability))


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
            events=(Proposed(CapabilityGranted(self.capability_id, self.key.key_id, "system", ("*",))),),
            attachments=(self.key,),
        )


def system_capability(state: KernelState) -> Capability | None:
    """The system's own capability (the one that `admin.token` holds a token for)."""
    for capability in state.capabilities.values():
        if capability.resource == "system":
            return capability
    return None
