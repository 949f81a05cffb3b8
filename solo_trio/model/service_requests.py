"""What somebody asks of services. Owns: command + state -> events, or a refusal. Never: performs anything.

What supervisors observe comes in by `service_reports`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from attrs import frozen

from solo_trio.errors import Faulted, Rejected
from solo_trio.hardening.finding import Finding
from solo_trio.model import service_events as ev
from solo_trio.model.capability import EMBEDDER, Authority, grantor_of
from solo_trio.model.dependencies import check_dependencies, dependents, down_below, hopeless
from solo_trio.model.event import Decision, Event, Now, Proposed
from solo_trio.model.evolving import evolve
from solo_trio.model.ids import check_id
from solo_trio.model.limits import Limits
from solo_trio.model.record import Artifact
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.service_lookup import about, find_service
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.model.tenant import SERVICES_PER_TENANT_MAX, TenantState, tenant_of
from solo_trio.policy.restart import RestartType

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

SERVICES_MAX: Final = 1_000


@frozen
class Accepted:
    """The reply to a verb that is answered by a later outcome: `event_id` is the intent's."""

    event_id: int
    deployment: int
    changed: bool = True
    """False: nothing was written, because it already is as asked."""


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
    hardening: str = "warn"
    """The configuration's, for a tenant that has nothing of its own."""
    findings: tuple[Finding, ...] = ()
    """What the analyser said about the source."""
    authority: Authority = EMBEDDER
    """What it is deployed with."""
    no_room: Faulted | None = None
    """Why the kernel has no room for one more; what is there already is still the answer."""

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = tenant_of(state, self.tenant_id)
        check_id("service_id", self.service_id)
        self.spec.check()
        existing = tenant.services.get(self.service_id)
        if existing is not None:
            if existing.status is Status.STOPPING:
                raise Rejected("service_stopping", "wait until it has stopped, then deploy again")
            equal = self.idempotent and existing.spec == self.spec
            lost = equal and state.system.is_lost(self.spec.digest, existing.deployment)  # then it brings it back
            if equal and not lost:
                return Decision(reply=Accepted(existing.deployment, existing.deployment, changed=False))
            if not self.replace and not lost:
                raise Rejected(
                    "service_exists",
                    f"replace '{self.service_id}' with replace=true, delete it first, or take another service_id",
                )
        if self.revision is not None and self.revision != (0 if existing is None else existing.revision):
            raise _mismatch(existing)
        if self.no_room is not None:
            raise self.no_room
        if (tenant.hardening or self.hardening) == "refuse":
            self._check_findings()
        if existing is None:
            self._check_quotas(state, tenant)
        elif not existing.confirmed:
            raise Rejected("service_exists", "its own deployment is still under way: wait for it, then replace it")
        check_dependencies(tenant.services, self.service_id, self.spec.depends_on)
        version = 1 if existing is None else existing.versions_made + 1
        replaces = None if existing is None else existing.deployment
        intent = ev.ServiceDeploymentStarted(
            self.spec, self.spec.digest, version, replaces, grantor_of(state, self.authority)
        )
        attachments = (Artifact(self.spec.digest, self.source),) if self.spec.entry == "source" else ()
        event_id = state.last_id + 1
        return Decision(
            (Proposed(intent, tenant.tenant_id, tenant.incarnation, self.service_id),),
            attachments,
            Accepted(event_id, event_id),
        )

    def _check_findings(self) -> None:
        errors = [each for each in self.findings if each.level == "error"]
        if not errors:
            return
        first = errors[0]
        where = "" if first.line is None else f" in line {first.line}"
        raise Rejected(
            "code_refused",
            f"mend what was found and deploy again; the first of {len(errors)}{where}: {first.what} ({first.rule})",
            findings=[each.document() for each in self.findings],
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
            return about(state, self.tenant_id, service, sooner, reply=accepted)
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
        return about(state, self.tenant_id, service, *events, reply=Accepted(state.last_id + 1, service.deployment))


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
        return about(state, self.tenant_id, service, requested, reply=Accepted(state.last_id + 1, service.deployment))


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
        return about(state, self.tenant_id, service, paused, reply=Accepted(state.last_id + 1, service.deployment))


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
            return Decision(reply=Accepted(service.revision, service.deployment, changed=False))
        _check_startable(state, self.tenant_id, service)
        resumed = ev.ServiceResumed(service.deployment, service.generation)
        return about(state, self.tenant_id, service, resumed, reply=Accepted(state.last_id + 1, service.deployment))


@frozen
class Update:
    """Change policy, limits, network access, secrets of a service; what is None, and each limit that is, stays as it is."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    service_id: str
    restart: RestartType | None = None
    max_restarts: int | None = None
    max_seconds: float | None = None
    limits: Limits | None = None
    revision: int | None = None
    egress: tuple[str, ...] | None = None
    secrets: tuple[str, ...] | None = None

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
            egress=was.egress if self.egress is None else self.egress,
            secrets=was.secrets if self.secrets is None else self.secrets,
        ).check()
        if spec == was:
            return Decision(reply=Accepted(service.revision, service.deployment, changed=False))
        updated = ev.ServiceUpdated(
            service.deployment,
            service.generation,
            spec.restart,
            spec.restart_limits,
            spec.limits,
            spec.egress,
            spec.secrets,
        )
        return about(state, self.tenant_id, service, updated, reply=Accepted(state.last_id + 1, service.deployment))


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
    services = state.tenants[tenant_id].services
    if lost := hopeless(services, service):
        down = down_below(services, lost[0])
        raise Rejected("dependency_not_running", f"see that {down} runs first, which it depends on")


def _mismatch(service: ServiceState | None) -> Rejected:
    if service is None:
        return Rejected("revision_mismatch", "there is no such service: send the request without If-Match")
    return Rejected("revision_mismatch", f"read the service again; its revision is {service.revision}")
