"""What supervisors report about services. Owns: observation + state -> events. Never: performs anything.

An observation names the generation it is about; one of an older generation is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from attrs import frozen

from solo_trio.model import service_events as ev
from solo_trio.model.dependencies import hopeless
from solo_trio.model.ending import Ending
from solo_trio.model.event import Decision, Event, Now
from solo_trio.model.resources import ResourceViolation
from solo_trio.model.service import ServiceState
from solo_trio.model.service_lookup import about
from solo_trio.policy.restart import count_crash, wants_restart

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

LOST_STARTS_MAX: Final = 3
"""A first start whose sandbox was lost is tried again this often before the deployment fails."""


@frozen
class BeginStart:
    """A supervisor is about to start the service; the reply is the new generation, or None if it is no longer wanted."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    incarnation: str
    service_id: str
    deployment: int
    epoch: int

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _current(state, self.tenant_id, self.incarnation, self.service_id, self.deployment)
        if service is None or not service.wants_to_run or service.begun or service.epoch != self.epoch:
            return Decision()
        generation = service.generation + 1
        started = ev.ServiceStarted(service.deployment, generation, service.next_cause)
        return about(state, self.tenant_id, service, started, reply=generation)


@frozen
class ReportReady:
    """The generation is ready. The reply is False if that came too late to matter."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    incarnation: str
    service_id: str
    deployment: int
    generation: int

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _current(state, self.tenant_id, self.incarnation, self.service_id, self.deployment)
        if service is None or not _is_running(service, self.generation) or not service.wants_to_run:
            return Decision(reply=False)
        if service.ready_at_us is not None:  # said before: the uptime counts from the first time
            return Decision(reply=True)
        which = (service.deployment, service.generation)
        events: list[Event] = [ev.ServiceReady(*which)]
        if not service.confirmed:
            events.append(ev.ServiceDeployed(*which, version=service.version, digest=service.spec.digest))
        if service.next_cause == "recovery":
            events.append(ev.ServiceRecovered(*which))
        return about(state, self.tenant_id, service, *events, reply=True)


@frozen
class ReportEnded:
    """The generation ended. `timed_out`: the kernel killed it because it did not become ready in time."""

    RESERVED: ClassVar[bool] = False
    """Unless it ends a stop that was asked for: the supervisor says so in its submission."""

    tenant_id: str
    incarnation: str
    service_id: str
    deployment: int
    generation: int
    ending: Ending
    timed_out: bool = False

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _current(state, self.tenant_id, self.incarnation, self.service_id, self.deployment)
        if service is None or not _is_running(service, self.generation):
            return Decision()
        return about(state, self.tenant_id, service, *self._violation(service), *self._consequences(service, now))

    def _violation(self, service: ServiceState) -> tuple[Event, ...]:
        breach = self.ending.breach
        if breach is None or breach.value is None or breach.limit is None:
            return ()
        which = (service.deployment, service.generation)
        return (ResourceViolation(*which, breach.resource, breach.value, breach.limit, "kill"),)

    def _consequences(self, service: ServiceState, now: Now) -> tuple[Event, ...]:
        ending, which = self.ending, (service.deployment, service.generation)
        if service.stop is not None:
            if ending.kind in ("crashed", "load_failed"):
                return self._crash(service, counted=False, restart=False), ev.ServiceStopped(*which, reason="crashed")
            return (ev.ServiceStopped(*which, reason=ending.kind),)
        if ending.kind == "lost":  # the world's fault: counted in no window
            again = service.attempt + 1 < LOST_STARTS_MAX
            if service.confirmed:
                again = wants_restart(service.spec.restart, abnormal=True)
            if service.confirmed or again:
                return (self._crash(service, counted=False, restart=again),)
        if not service.confirmed:
            return (ev.ServiceDeploymentFailed(*which, reason=ending.reason, traceback=ending.traceback),)
        recovering = service.next_cause == "recovery" and service.ready_at_us is None
        if recovering and ending.kind == "load_failed":
            return (ev.ServiceRecoveryFailed(*which, reason=ending.reason, traceback=ending.traceback),)
        abnormal = ending.kind != "completed"
        if not wants_restart(service.spec.restart, abnormal=abnormal):
            if abnormal:
                return (self._crash(service, counted=False, restart=False),)
            return (ev.ServiceStopped(*which, reason="completed"),)
        if recovering and self.timed_out:
            return (self._crash(service, counted=False, restart=True),)
        limits = service.spec.restart_limits
        window, give_up = count_crash(
            service.window, now.kernel_time, max_restarts=limits.max_restarts, max_seconds=limits.max_seconds
        )
        crashed = self._crash(service, counted=True, restart=not give_up)
        if not give_up:
            return (crashed,)
        given_up = ev.ServiceGivenUp(
            *which,
            reason=ending.reason,
            crashes=len(window),
            max_restarts=limits.max_restarts,
            max_seconds=limits.max_seconds,
        )
        return crashed, given_up

    def _crash(self, service: ServiceState, *, counted: bool, restart: bool) -> ev.ServiceCrashed:
        ending = self.ending
        return ev.ServiceCrashed(
            service.deployment,
            service.generation,
            reason=ending.reason,
            traceback=ending.traceback,
            exit_code=ending.exit_code,
            signal=ending.signal,
            counted=counted,
            restart=restart,
        )


@frozen
class GiveUpDeployment:
    """A first start cannot even begin: what it depends on will not be ready."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    incarnation: str
    service_id: str
    deployment: int
    reason: str

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _current(state, self.tenant_id, self.incarnation, self.service_id, self.deployment)
        if service is None or service.confirmed or service.begun or not service.wants_to_run:
            return Decision()
        if not hopeless(state.tenants[self.tenant_id].services, service):
            return Decision()  # any more: it was reported late
        failed = ev.ServiceDeploymentFailed(service.deployment, service.generation, self.reason, traceback="")
        return about(state, self.tenant_id, service, failed)


@frozen
class ReportStopped:
    """A service that was asked to stop had nothing running (any more), so there is no ending to report."""

    RESERVED: ClassVar[bool] = True

    tenant_id: str
    incarnation: str
    service_id: str
    deployment: int
    reason: str

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _current(state, self.tenant_id, self.incarnation, self.service_id, self.deployment)
        if service is None or service.stop is None:
            return Decision()
        stopped = ev.ServiceStopped(service.deployment, service.generation, self.reason)
        return about(state, self.tenant_id, service, stopped)


def _current(
    state: KernelState, tenant_id: str, incarnation: str, service_id: str, deployment: int
) -> ServiceState | None:
    """The service if incarnation and deployment are still the current ones, else None: the observation is stale."""
    tenant = state.tenants.get(tenant_id)
    if tenant is None or tenant.incarnation != incarnation:
        return None
    service = tenant.services.get(service_id)
    return service if service is not None and service.deployment == deployment else None


def _is_running(service: ServiceState, generation: int) -> bool:
    return service.begun and service.generation == generation
