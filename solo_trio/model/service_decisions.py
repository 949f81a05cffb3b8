"""Decisions about services. Owns: command + state -> events. Never: performs anything.

Commands of two kinds: what somebody asks for (deploy, restart, kill), and what was observed (ready, ended), which names the
generation it is about; an observation of an older one is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.model import service_events as ev
from solo_trio.model.dependencies import check_dependencies, dependents, hopeless
from solo_trio.model.ending import Ending
from solo_trio.model.event import Decision, Event, Now, Proposed
from solo_trio.model.evolving import evolve
from solo_trio.model.ids import check_id
from solo_trio.model.limits import Limits
from solo_trio.model.record import Artifact
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.model.tenant import SERVICES_PER_TENANT_MAX, TenantState, tenant_of
from solo_trio.policy.restart import RestartType, count_crash, wants_restart

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

SERVICES_MAX: Final = 1_000
LOST_STARTS_MAX: Final = 3
"""A first start whose sandbox was lost is tried again this often before the deployment fails."""


@frozen
class Accepted:
    """The reply to a verb that is answered by a later outcome: `event_id` is the intent's."""

    event_id: int
    deployment: int
    changed: bool = True
    """False: nothing was written, because it already is as asked."""


# -- what somebody asks for


@frozen
class Deploy:
    """Record the intent to run a service. `idempotent`: an equal specification that is there already is a no-op.

    `replace`: one that is there is stopped for it, and put back if this one fails.
    """

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    service_id: str
    spec: ServiceSpec
    source: bytes = b""
    idempotent: bool = False
    replace: bool = False
    revision: int | None = None
    services_max: int = SERVICES_MAX
    services_per_tenant_max: int = SERVICES_PER_TENANT_MAX

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = tenant_of(state, self.tenant_id)
        check_id("service_id", self.service_id)
        self.spec.check()
        existing = tenant.services.get(self.service_id)
        if existing is not None:
            if existing.status is Status.STOPPING:
                raise Rejected("service_stopping", "wait until it has stopped, then deploy again")
            if self.idempotent and existing.spec == self.spec:
                return Decision(reply=Accepted(existing.deployment, existing.deployment, changed=False))
            if not self.replace:
                raise Rejected(
                    "service_exists",
                    f"replace '{self.service_id}' with replace=true, delete it first, or take another service_id",
                )
        if self.revision is not None and self.revision != (0 if existing is None else existing.revision):
            raise _mismatch(existing)
        if existing is None:
            self._check_quotas(state, tenant)
        elif not existing.confirmed:
            raise Rejected("service_exists", "its own deployment is still under way: wait for it, then replace it")
        check_dependencies(tenant.services, self.service_id, self.spec.depends_on)
        version = 1 if existing is None else existing.versions_made + 1
        replaces = None if existing is None else existing.deployment
        intent = ev.ServiceDeploymentStarted(self.spec, self.spec.digest, version, replaces)
        attachments = (Artifact(self.spec.digest, self.source),) if self.spec.entry == "source" else ()
        event_id = state.last_id + 1
        return Decision(
            (Proposed(intent, tenant.tenant_id, tenant.incarnation, self.service_id),),
            attachments,
            Accepted(event_id, event_id),
        )

    def _check_quotas(self, state: KernelState, tenant: TenantState) -> None:
        per_tenant = self.services_per_tenant_max
        if tenant.limits.max_services is not None:
            per_tenant = min(per_tenant, tenant.limits.max_services)
        if len(tenant.services) >= per_tenant:
            raise Rejected("quota_exceeded", f"delete a service first; the tenant may have {per_tenant}")
        if sum(len(each.services) for each in state.tenants.values()) >= self.services_max:
            raise Rejected("quota_exceeded", f"the system may have {self.services_max} services; delete one first")


@frozen
class Kill:
    """Stop a service and forget it. Asking again while it stops joins the stop that runs, or shortens its grace."""

    RESERVED: ClassVar[bool] = True

    tenant_id: str
    service_id: str
    grace_ms: int
    force: bool = False
    revision: int | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _wanted(state, self.tenant_id, self.service_id, self.revision)
        stop = service.stop
        if stop is not None and not (self.force > stop.force or self.grace_ms < stop.grace_ms):
            return Decision(reply=Accepted(stop.event_id, service.deployment, changed=False))
        if stop is not None:  # less patience than before: this request's counts from now on
            grace_ms, force = min(self.grace_ms, stop.grace_ms), self.force or stop.force
            sooner = ev.ServiceKilled(service.deployment, service.generation, grace_ms, force)
            accepted = Accepted(state.last_id + 1, service.deployment)
            return _about(state, self.tenant_id, service, sooner, reply=accepted)
        tenant = tenant_of(state, self.tenant_id)
        needed_by = dependents(tenant.services, self.service_id) if self.service_id in tenant.needed else ()
        if needed_by and not self.force:
            raise Rejected(
                "service_required",
                f"delete {', '.join(needed_by)} first, which depends on it; or delete this one with force",
            )
        killed = ev.ServiceKilled(service.deployment, service.generation, self.grace_ms, self.force)
        events: tuple[Event, ...] = (killed,)
        if service.status in (Status.STOPPED, Status.GIVEN_UP):  # nothing runs: both facts at once
            events = (killed, ev.ServiceStopped(service.deployment, service.generation, "not_running"))
        return _about(state, self.tenant_id, service, *events, reply=Accepted(state.last_id + 1, service.deployment))


@frozen
class Restart:
    """Ask for a fresh start; never counts in the window, and re-arms a service that was given up."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    service_id: str
    revision: int | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _settled(state, self.tenant_id, self.service_id, self.revision)
        if service.status is Status.PAUSED:
            raise Rejected("wrong_status", f"'{self.service_id}' is paused: resume it")
        _check_startable(state, self.tenant_id, service)
        requested = ev.ServiceRestartRequested(service.deployment, service.generation)
        return _about(state, self.tenant_id, service, requested, reply=Accepted(state.last_id + 1, service.deployment))


@frozen
class Pause:
    """End the service's process and keep the service. Pausing a paused one changes nothing."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    service_id: str
    revision: int | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _settled(state, self.tenant_id, self.service_id, self.revision)
        if service.status is Status.PAUSED and not service.held:
            return Decision(reply=Accepted(service.revision, service.deployment, changed=False))
        if service.status in (Status.STOPPED, Status.GIVEN_UP):
            raise Rejected("wrong_status", f"'{self.service_id}' is {service.status}: there is nothing to pause")
        paused = ev.ServicePaused(service.deployment, service.generation)
        return _about(state, self.tenant_id, service, paused, reply=Accepted(state.last_id + 1, service.deployment))


@frozen
class Resume:
    """Start a paused service again. Resuming one that runs changes nothing."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    service_id: str
    revision: int | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _settled(state, self.tenant_id, self.service_id, self.revision)
        if service.status in (Status.STOPPED, Status.GIVEN_UP):
            raise Rejected("wrong_status", f"'{self.service_id}' is {service.status}: restart it")
        if service.status is not Status.PAUSED:
            return Decision(reply=Accepted(service.epoch, service.deployment, changed=False))
        _check_startable(state, self.tenant_id, service)
        resumed = ev.ServiceResumed(service.deployment, service.generation)
        return _about(state, self.tenant_id, service, resumed, reply=Accepted(state.last_id + 1, service.deployment))


@frozen
class Update:
    """Change the policy and the limits of a service; None leaves a value, and each limit that is None, as it is."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    service_id: str
    restart: RestartType | None = None
    max_restarts: int | None = None
    max_seconds: float | None = None
    limits: Limits | None = None
    revision: int | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        service = _settled(state, self.tenant_id, self.service_id, self.revision)
        was = service.spec
        counts = was.restart_limits
        spec = evolve(
            was,
            restart=was.restart if self.restart is None else self.restart,
            restart_limits=RestartLimits(
                counts.max_restarts if self.max_restarts is None else self.max_restarts,
                counts.max_seconds if self.max_seconds is None else self.max_seconds,
            ),
            limits=was.limits if self.limits is None else evolve(was.limits, **self.limits.given()),
        ).check()
        if spec == was:
            return Decision(reply=Accepted(service.revision, service.deployment, changed=False))
        updated = ev.ServiceUpdated(
            service.deployment, service.generation, spec.restart, spec.restart_limits, spec.limits
        )
        return _about(state, self.tenant_id, service, updated, reply=Accepted(state.last_id + 1, service.deployment))


# -- what the supervisor reports


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
        return _about(state, self.tenant_id, service, started, reply=generation)


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
        return _about(state, self.tenant_id, service, *events, reply=True)


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
        return _about(state, self.tenant_id, service, *self._consequences(service, now))

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
        failed = ev.ServiceDeploymentFailed(service.deployment, service.generation, self.reason, traceback="")
        return _about(state, self.tenant_id, service, failed)


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
        return _about(state, self.tenant_id, service, stopped)


def _wanted(state: KernelState, tenant_id: str, service_id: str, revision: int | None) -> ServiceState:
    service = find_service(state, tenant_id, service_id)
    if revision is not None and revision != service.revision:
        raise _mismatch(service)
    return service


def _settled(state: KernelState, tenant_id: str, service_id: str, revision: int | None) -> ServiceState:
    """The service, if it is neither being stopped nor in the middle of its deployment."""
    service = _wanted(state, tenant_id, service_id, revision)
    if service.stop is not None:
        raise Rejected("service_stopping", "it is being stopped; deploy it again once it is gone")
    if not service.confirmed and service.status is not Status.PAUSED:
        raise Rejected("service_not_running", "its first start is still under way; wait for it")
    return service


def _check_startable(state: KernelState, tenant_id: str, service: ServiceState) -> None:
    """Raise `Rejected("dependency_not_running")` if it would wait for something that nobody is about to start."""
    lost = hopeless(state.tenants[tenant_id].services, service)
    if lost:
        raise Rejected("dependency_not_running", f"see that {', '.join(lost)} runs first, which it depends on")


def _mismatch(service: ServiceState | None) -> Rejected:
    if service is None:
        return Rejected("revision_mismatch", "there is no such service: send the request without If-Match")
    return Rejected("revision_mismatch", f"read the service again; its revision is {service.revision}")


def find_service(state: KernelState, tenant_id: str, service_id: str) -> ServiceState:
    """The service, or `Rejected`: tenant_not_found, invalid_id, service_not_found."""
    service = tenant_of(state, tenant_id).services.get(check_id("service_id", service_id))
    if service is None:
        raise Rejected("service_not_found", f"deploy '{service_id}' first, or list the services to see their ids")
    return service


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


def _about(state: KernelState, tenant_id: str, service: ServiceState, *events: Event, reply: object = None) -> Decision:
    incarnation = state.tenants[tenant_id].incarnation
    return Decision(tuple(Proposed(each, tenant_id, incarnation, service.service_id) for each in events), reply=reply)
