"""The end of a tenant. Owns: its two events, asking for it, finishing it. Never: stops a service, deletes a file.

From `tenant_removal_started` on nothing of the tenant is served or recovered; with `tenant_removed` its keys are gone. An
incarnation is named throughout: a tenant that is made anew under the id is another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from solo_trio.errors import KernelBug
from solo_trio.model.capability import of_tenant, without
from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.evolving import evolve
from solo_trio.model.record import (
    ERASED_TYPE,
    DropIdempotency,
    DropKeys,
    DropSecrets,
    EraseEvents,
    StoredEvent,
)
from solo_trio.model.service import ServiceState, Status, StopRequest
from solo_trio.model.tenant import Removal, TenantState, listed_tenant

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@frozen
class Removing:
    """The reply to `RemoveTenant`: `event_id` of the intent, `incarnation` of what is removed."""

    event_id: int
    incarnation: str


@event("tenant_removal_started")
@frozen
class TenantRemovalStarted(Event):
    """Somebody asked to remove the tenant: every service of it is stopped, and its tokens are good for nothing.

    A second one, while the first is under way, has less patience.
    """

    grace_ms: int

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        tenant = _expected(state, stamp)
        for service_id in sorted(tenant.services):
            state = state.put(tenant.tenant_id, self._stopping(tenant.services[service_id], stamp))
        first = stamp.id if tenant.removal is None else tenant.removal.event_id
        tenant = evolve(state.tenants[tenant.tenant_id], removal=Removal(first, self.grace_ms))
        state = evolve(state, tenants=state.tenants.insert(tenant.tenant_id, tenant))
        return _without_rights(state, tenant.incarnation)

    def _stopping(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        asked = service.stop
        if asked is not None and (asked.force or asked.grace_ms <= self.grace_ms):
            return service
        stop = StopRequest(stamp.id, self.grace_ms, force=False)
        return evolve(service, status=Status.STOPPING, held=False, stop=stop, revision=stamp.id)


@event("tenant_removed")
@frozen
class TenantRemoved(Event):
    """Nothing of the tenant runs, its keys are destroyed; what is left is only that it was. Its id is free again."""

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        tenant = _expected(state, stamp)
        for service_id in sorted(tenant.services):
            state = state.drop(tenant.tenant_id, service_id)
        state = _without_rights(state, tenant.incarnation)
        removed = state.removed.add(tenant.tenant_id, stamp.at_us)
        return evolve(state, tenants=state.tenants.remove(tenant.tenant_id), removed=removed)


@event(ERASED_TYPE)
@frozen
class TenantErased(Event):
    """What the events of that incarnation before this one held is erased, or is being erased: from here on they mean nothing.

    So it says once more what stays of the tenant: when it was removed.
    """

    removed_at_us: int

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        tenant = state.tenants.get(stamp.tenant_id or "")
        if tenant is not None and tenant.incarnation == stamp.incarnation:
            # From a state that was kept before, by way of events that were erased since.
            for service_id in sorted(tenant.services):
                state = state.drop(tenant.tenant_id, service_id)
            state = evolve(state, tenants=state.tenants.remove(tenant.tenant_id))
        state = _without_rights(state, stamp.incarnation or "")
        tenant_id = stamp.tenant_id or ""
        if state.removed.since_us(tenant_id) < self.removed_at_us:
            state = evolve(state, removed=state.removed.add(tenant_id, self.removed_at_us))
        return state


@frozen
class RemoveTenant:
    """Stop everything of a tenant and destroy it. Asking again joins the removal that runs, or shortens its grace."""

    RESERVED: ClassVar[bool] = True
    """It frees space."""

    tenant_id: str
    grace_ms: int

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = listed_tenant(state, self.tenant_id)
        removal = tenant.removal
        if removal is not None and self.grace_ms >= removal.grace_ms:
            return Decision(reply=Removing(removal.event_id, tenant.incarnation))
        started = Proposed(TenantRemovalStarted(self.grace_ms), tenant.tenant_id, tenant.incarnation)
        return Decision((started,), reply=Removing(state.last_id + 1, tenant.incarnation))


@frozen
class FinishRemoval:
    """Nothing of the tenant runs any more. The reply is False if that is too early, or has been said."""

    RESERVED: ClassVar[bool] = True

    tenant_id: str
    incarnation: str

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = state.tenants.get(self.tenant_id)
        if tenant is None or tenant.incarnation != self.incarnation or tenant.removal is None or len(tenant.services):
            return Decision(reply=False)
        about = (tenant.tenant_id, tenant.incarnation)
        return Decision(
            (Proposed(TenantRemoved(), *about), Proposed(TenantErased(now.at_us), *about)),
            (
                DropKeys(tenant.incarnation),
                DropSecrets(tenant.incarnation),
                DropIdempotency(tenant.incarnation),
                EraseEvents(*about, state.last_id + 2, now.at_us),
            ),
            True,
        )


@frozen
class EraseTenant:
    """A tenant was removed by a program that did not erase its events: they are now. The reply is the id of the event."""

    RESERVED: ClassVar[bool] = True

    tenant_id: str
    incarnation: str
    removed_at_us: int

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = state.tenants.get(self.tenant_id)
        if tenant is not None and tenant.incarnation == self.incarnation:
            raise KernelBug(f"the tenant {self.tenant_id} was to be erased and is there")
        event_id = state.last_id + 1
        return Decision(
            (Proposed(TenantErased(self.removed_at_us), self.tenant_id, self.incarnation),),
            (EraseEvents(self.tenant_id, self.incarnation, event_id, self.removed_at_us),),
            event_id,
        )


def _expected(state: KernelState, stamp: StoredEvent) -> TenantState:
    """The tenant that an event is about; LookupError if it is not there."""
    tenant = state.tenants.get(stamp.tenant_id or "")
    if tenant is None or tenant.incarnation != stamp.incarnation:
        raise LookupError(f"no tenant {stamp.tenant_id}")
    return tenant


def _without_rights(state: KernelState, incarnation: str) -> KernelState:
    """With no capability of the incarnation left."""
    return without(state, [each.capability_id for each in of_tenant(state, incarnation)])
