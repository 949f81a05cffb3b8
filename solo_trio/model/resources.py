"""What the kernel notices about resources. Owns: its events, the reports that they come from. Never: measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import frozen

from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.record import StoredEvent
from solo_trio.policy.violations import Action

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@event("resource_violation")
@frozen
class ResourceViolation(Event):
    """A generation came near a limit of its own, or reached it. `value` and `limit` are in the unit of the limit `resource`.

    `action`: what was done about it: warn (nothing), kill, or throttle. Of `max_memory_mb`, which is a limit of the tenant, the
    value is what all its services use together; it is told of the one that uses most.
    """

    deployment: int
    generation: int
    resource: str
    value: float
    limit: float
    action: Action

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        state.expect(stamp)
        return state


@event("runtime_pressure_high")
@frozen
class RuntimePressureHigh(Event):
    """The kernel itself is short of a resource: `level` is high from 80 % of its limit on, critical from 90 %.

    Of `disk` the value is what is free, and the limit what should be.
    """

    resource: str
    value: float
    limit: float
    percent: float
    level: Literal["high", "critical"]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@frozen
class ReportViolation:
    """A sample crossed a limit of a generation; of an older one it is dropped."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    incarnation: str
    service_id: str
    violation: ResourceViolation

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = state.tenants.get(self.tenant_id)
        service = None if tenant is None else tenant.services.get(self.service_id)
        seen = self.violation
        if tenant is None or service is None or tenant.incarnation != self.incarnation:
            return Decision()
        if not service.begun or (service.deployment, service.generation) != (seen.deployment, seen.generation):
            return Decision()
        return Decision((Proposed(seen, self.tenant_id, self.incarnation, self.service_id),))


@frozen
class ReportPressure:
    RESERVED: ClassVar[bool] = False

    pressure: RuntimePressureHigh

    def decide(self, state: KernelState, now: Now) -> Decision:
        return Decision((Proposed(self.pressure),))
