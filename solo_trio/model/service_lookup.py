"""Finding a service, and saying something about it. Owns: those two. Never: decides what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from solo_trio.errors import Rejected
from solo_trio.model.event import Decision, Event, Now, Proposed
from solo_trio.model.ids import check_id
from solo_trio.model.service import ServiceState
from solo_trio.model.tenant import TenantState, tenant_of

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


def find_service(state: KernelState, tenant_id: str, service_id: str) -> ServiceState:
    """The service, or `Rejected`: tenant_not_found, invalid_id, service_not_found."""
    service = tenant_of(state, tenant_id).services.get(check_id("service_id", service_id))
    if service is None:
        raise Rejected("service_not_found", f"deploy '{service_id}' first, or list the services to see their ids")
    return service


def demand_of_service(
    state: KernelState, tenant: TenantState, service_id: str, deployment: int, resource: str, permission: str, now: Now
) -> None:
    """Raise `Rejected("permission_denied")` unless that deployment of a service has the right by what it was deployed with."""
    service = tenant.services.get(service_id)
    while service is not None and service.deployment != deployment:
        service = service.previous
    if service is None:
        raise Rejected("permission_denied", f"'{service_id}' is no longer what it was: it may do nothing any more")
    if service.grantor is None:
        return
    authority = service.grantor.authority(state)
    if authority is None or not (authority.holds(state, now.at_us) and authority.allows(state, resource, permission)):
        raise Rejected(
            "permission_denied",
            f"'{service_id}' was deployed with a credential that does not have '{permission}' of {resource}, or no longer",
        )


def about(state: KernelState, tenant_id: str, service: ServiceState, *events: Event, reply: object = None) -> Decision:
    incarnation = state.tenants[tenant_id].incarnation
    return Decision(tuple(Proposed(each, tenant_id, incarnation, service.service_id) for each in events), reply=reply)
