"""Limits on use, as recorded. Owns: events of circuits and load shedding, the reports they come from. Never: refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.evolving import evolve
from solo_trio.model.record import StoredEvent
from solo_trio.policy.shedding import Phase, Refused

if TYPE_CHECKING:
    from solo_trio.model.service import ServiceState
    from solo_trio.model.state import KernelState


@event("circuit_opened")
@frozen
class CircuitOpened(Event):
    """Calls of a service failed so often in a row that for `open_s` seconds no more are let through.

    `reason`: the last failure. After a time in which it was tried again (half open) one failure is enough. A restart by hand
    closes it, too.
    """

    deployment: int
    generation: int
    failures: int
    reason: str
    open_s: float

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        service = state.expect(stamp)
        return state.put(stamp.tenant_id or "", evolve(service, broken=service.epoch))


@event("circuit_closed")
@frozen
class CircuitClosed(Event):
    """The service answers again; its calls are let through."""

    deployment: int
    generation: int

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state.put(stamp.tenant_id or "", evolve(state.expect(stamp), broken=0))


@frozen
class Shed:
    """Requests are being refused, as far as was recorded: how many by then, and why the last one."""

    refused: int
    reason: Refused


@event("load_shed")
@frozen
class LoadShed(Event):
    """Requests of a tenant (without one: of system credentials) were refused because too many were in flight; or that is over.

    `phase`: began or ended. `refused`: how many since it began, until then. `reason` of the last one: tenant (it had as many as
    it may have), or total (too few places were left for all).
    """

    phase: Phase
    refused: int
    reason: Refused

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        shed = Shed(self.refused, self.reason) if self.phase == "began" else None
        if stamp.tenant_id is None:
            return evolve(state, system=evolve(state.system, shed=shed))
        tenant = state.tenants.get(stamp.tenant_id)
        if tenant is None or tenant.incarnation != stamp.incarnation:
            raise LookupError(f"tenant {stamp.tenant_id} is not there")
        return evolve(state, tenants=state.tenants.insert(stamp.tenant_id, evolve(tenant, shed=shed)))


@frozen
class ReportCircuit:
    """What became of a circuit; of a service that is gone or was started afresh since (another `epoch`) it is dropped.

    A circuit that closes is news only if the log says that it was open: after a start of the kernel all are half open.
    """

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    incarnation: str
    service_id: str
    deployment: int
    epoch: int
    failures: int = 0
    reason: str = ""
    """Of an opened one; otherwise it closed."""
    open_s: float = 0.0

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = state.tenants.get(self.tenant_id)
        service: ServiceState | None = None if tenant is None else tenant.services.get(self.service_id)
        if tenant is None or service is None or tenant.incarnation != self.incarnation:
            return Decision()
        if (service.deployment, service.epoch) != (self.deployment, self.epoch):
            return Decision()
        which = (service.deployment, service.generation)
        happened: Event
        if self.reason:
            happened = CircuitOpened(*which, self.failures, self.reason, self.open_s)
        elif service.broken == service.epoch:
            happened = CircuitClosed(*which)
        else:
            return Decision()
        return Decision((Proposed(happened, self.tenant_id, self.incarnation, self.service_id),))


@frozen
class ReportShedding:
    """What there is to tell of one tenant, or of the system (None); of a tenant that is gone it is dropped."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str | None
    incarnation: str | None
    shed: tuple[LoadShed, ...]

    def decide(self, state: KernelState, now: Now) -> Decision:
        if self.incarnation is not None:
            tenant = state.tenants.get(self.tenant_id or "")
            if tenant is None or tenant.incarnation != self.incarnation:
                return Decision()
        return Decision(tuple(Proposed(each, self.tenant_id, self.incarnation) for each in self.shed))


@frozen
class EndShedding:
    """A kernel that starts refuses nothing: what was going on when the last one ended is over.

    How many were refused after its beginning was recorded, nobody knows any more.
    """

    RESERVED: ClassVar[bool] = False

    def decide(self, state: KernelState, now: Now) -> Decision:
        found = [
            Proposed(LoadShed("ended", tenant.shed.refused, tenant.shed.reason), tenant.tenant_id, tenant.incarnation)
            for _, tenant in sorted(state.tenants.items())
            if tenant.shed is not None
        ]
        if state.system.shed is not None:
            found.append(Proposed(LoadShed("ended", state.system.shed.refused, state.system.shed.reason)))
        return Decision(tuple(found))
