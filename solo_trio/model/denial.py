"""What was refused. Owns: its events, the reports that they come from. Never: refuses, counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.record import StoredEvent

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@event("capability_denied")
@frozen
class CapabilityDenied(Event):
    """Calls were refused for want of authority: `count` of them with `code`, the last one of `operation`.

    Those of one tenant with one code within a second are one event, and in haste of longer than that; each of them is in the
    audit.
    """

    code: str
    count: int
    operation: str

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@event("access_alert")
@frozen
class AccessAlert(Event):
    """So many calls were refused within `window_s` that somebody may be trying doors.

    `credential`: whose they were, if they were one's. None of a tenant's event: of all its credentials together. None of the
    system's: they came without any that is valid.
    """

    credential: str | None
    denials: int
    window_s: float

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@frozen
class ReportDenials:
    """Of nobody, if `tenant_id` is None; of a tenant that is gone meanwhile it is dropped."""

    RESERVED: ClassVar[bool] = False

    seen: CapabilityDenied | AccessAlert
    tenant_id: str | None = None
    incarnation: str | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        if self.tenant_id is not None:
            tenant = state.tenants.get(self.tenant_id)
            if tenant is None or tenant.incarnation != self.incarnation:
                return Decision()
        return Decision((Proposed(self.seen, self.tenant_id, self.incarnation),))
