"""What can happen to a service. Owns: the events and what each means to the state. Never: when one is recorded.

Every outcome names its `deployment` and `generation`, and the row carries the tenant's incarnation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from solo_trio.model.capability import Grantor
from solo_trio.model.event import UPCASTERS, Event, event
from solo_trio.model.evolving import evolve
from solo_trio.model.limits import Limits
from solo_trio.model.record import StoredEvent
from solo_trio.model.service import (
    VERSIONS_MAX,
    Cause,
    Crash,
    ServiceState,
    Status,
    StopRequest,
    Version,
)
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.policy.restart import RestartType, count_crash

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

STABLE_UPTIME_MIN_S: Final = 1.0
"""A shorter uptime resets no backoff, however short the window is."""


@event("service_deployment_started", schema=6)
@frozen
class ServiceDeploymentStarted(Event):
    """The intent to run a service: it is retried by recovery until it is deployed, failed or killed.

    `replaces`: the deployment that is stopped for it, and is put back if this one fails. `grantor`: what it was deployed with,
    where that was not the whole tenant.
    """

    spec: ServiceSpec
    digest: str
    version: int
    replaces: int | None
    grantor: Grantor | None

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        assert stamp.tenant_id is not None and stamp.subject is not None
        previous = state.service(stamp.tenant_id, stamp.subject)
        if (None if previous is None else previous.deployment) != self.replaces:
            raise LookupError(f"service {stamp.tenant_id}/{stamp.subject} is not what deployment {stamp.id} replaces")
        made = Version(self.version, self.digest, stamp.at_us, self.spec.format)
        service = ServiceState(
            stamp.subject,
            stamp.id,
            stamp.id,
            stamp.id,
            self.version,
            self.spec,
            versions=(*(previous.versions if previous else ()), made),
            versions_made=self.version,
            previous=previous,
            grantor=self.grantor,
        )
        return state.put(stamp.tenant_id, service)


def _replaces_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "replaces": None}


UPCASTERS["service_deployment_started", 1] = _replaces_nothing


def _reaches_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "spec": {**fields["spec"], "egress": []}}


UPCASTERS["service_deployment_started", 2] = _reaches_nothing


def _has_no_environment(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "spec": {**fields["spec"], "environment": None}}


UPCASTERS["service_deployment_started", 3] = _has_no_environment


def _has_no_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "spec": {**fields["spec"], "secrets": []}}


UPCASTERS["service_deployment_started", 4] = _has_no_secrets


def _has_the_whole_tenant(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "grantor": None}


UPCASTERS["service_deployment_started", 5] = _has_the_whole_tenant


@frozen
class _Outcome(Event):
    deployment: int
    generation: int

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState | None:
        """The service after it, or None if it is forgotten."""
        raise NotImplementedError

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        service = self.current(state, stamp)
        return self.put(state, stamp, service, self.change(service, stamp))

    def current(self, state: KernelState, stamp: StoredEvent) -> ServiceState:
        """The service it is about; LookupError if it is about another deployment."""
        service = state.expect(stamp)
        if service.deployment != self.deployment:
            raise LookupError(f"deployment {self.deployment} of {stamp.subject} is not the current one")
        return service

    def put(
        self, state: KernelState, stamp: StoredEvent, service: ServiceState, changed: ServiceState | None
    ) -> KernelState:
        assert stamp.tenant_id is not None
        if changed is None:
            return state.drop(stamp.tenant_id, service.service_id)
        return state.put(stamp.tenant_id, changed)


@event("service_started")
@frozen
class ServiceStarted(_Outcome):
    """A new generation is being started. `cause`: deploy, restart (after a crash), recovery, manual, or resume."""

    cause: Cause

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        return evolve(
            service,
            status=Status.STARTING if service.status is Status.STARTING else Status.RESTARTING,
            generation=self.generation,
            begun=True,
            restarts=service.restarts + (self.cause == "restart"),
        )


@event("service_ready")
@frozen
class ServiceReady(_Outcome):
    """The generation loaded and said that it is ready."""

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        return evolve(service, status=Status.READY, ready_at_us=stamp.at_us, ready_kernel_time=stamp.kernel_time)


@event("service_deployed")
@frozen
class ServiceDeployed(_Outcome):
    """The deployment is a fact: its first generation became ready. What it replaced is gone."""

    version: int
    digest: str

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        return evolve(service, confirmed=True, previous=None, versions=service.versions[-VERSIONS_MAX:])


@event("service_deployment_failed")
@frozen
class ServiceDeploymentFailed(_Outcome):
    """The first start failed: the intent is forgotten, nothing is left to recover.

    What it was to replace is put back as it was wanted, and if it ran, it is started again.
    """

    reason: str
    traceback: str

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        service = self.current(state, stamp)
        return self.put(state, stamp, service, restored(service, stamp, on_hold=state.system.hold is not None))


@event("service_recovered")
@frozen
class ServiceRecovered(_Outcome):
    """The service runs again after a restart of the kernel."""

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        return service


@event("service_recovery_failed")
@frozen
class ServiceRecoveryFailed(_Outcome):
    """The source no longer compiles or loads: the service is given up until somebody restarts or deletes it."""

    reason: str
    traceback: str

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        crash = Crash(stamp.at_us, self.reason, self.traceback)
        return evolve(_ended(service), status=Status.GIVEN_UP, last_crash=crash)


@event("service_crashed")
@frozen
class ServiceCrashed(_Outcome):
    """A generation ended that should not have. `counted`: in the restart window; `restart`: it will be started again."""

    reason: str
    traceback: str
    exit_code: int | None
    signal: str | None
    counted: bool
    restart: bool

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        limits = service.spec.restart_limits
        window = service.window
        if self.counted:
            window, _ = count_crash(
                window, stamp.kernel_time, max_restarts=limits.max_restarts, max_seconds=limits.max_seconds
            )
        stable = service.ready_kernel_time is not None and (
            stamp.kernel_time - service.ready_kernel_time >= max(limits.max_seconds, STABLE_UPTIME_MIN_S)
        )
        status = service.status
        if service.stop is None:
            status = Status.RESTARTING if self.restart else Status.STOPPED
        return evolve(
            _ended(service),
            status=status,
            next_cause="restart" if service.confirmed else "deploy",
            window=window,
            attempt=1 if stable else service.attempt + 1,
            last_crash=Crash(stamp.at_us, self.reason, self.traceback),
        )


@event("service_given_up")
@frozen
class ServiceGivenUp(_Outcome):
    """Too many crashes: `crashes` counted in `max_seconds`, the last for `reason`. A restart by hand re-arms it."""

    reason: str
    crashes: int
    max_restarts: int
    max_seconds: float

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        return evolve(service, status=Status.GIVEN_UP)


@event("service_restart_requested")
@frozen
class ServiceRestartRequested(_Outcome):
    """Somebody asked for a fresh start: the running generation is stopped, the window and backoff are emptied."""

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        return evolve(
            _ended(service),
            status=Status.RESTARTING,
            next_cause="manual",
            epoch=stamp.id,
            revision=stamp.id,
            window=(),
            attempt=0,
        )


@event("service_updated", schema=3)
@frozen
class ServiceUpdated(_Outcome):
    """Somebody changed the policy, the limits, the network access or the secrets of the service; from here they count.

    Nothing is restarted for it. Connections that `egress` no longer admits are cut.
    """

    restart: RestartType
    restart_limits: RestartLimits
    limits: Limits
    egress: tuple[str, ...]
    secrets: tuple[str, ...]

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        spec = evolve(
            service.spec,
            restart=self.restart,
            restart_limits=self.restart_limits,
            limits=self.limits,
            egress=self.egress,
            secrets=self.secrets,
        )
        newest = service.window[-self.restart_limits.max_restarts :] if self.restart_limits.max_restarts else ()
        return evolve(service, spec=spec, revision=stamp.id, window=newest)


def _egress_of_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "egress": []}


UPCASTERS["service_updated", 1] = _egress_of_none


def _secrets_of_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "secrets": []}


UPCASTERS["service_updated", 2] = _secrets_of_none


@event("service_paused")
@frozen
class ServicePaused(_Outcome):
    """Somebody paused the service: its process is ended, it stays listed, and nothing but resuming it starts it again."""

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        return evolve(_ended(service), status=Status.PAUSED, held=False, revision=stamp.id)


@event("service_resumed")
@frozen
class ServiceResumed(_Outcome):
    """Somebody resumed a paused service: it is started again. The restart window stays as it was."""

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        return evolve(released(service, stamp), revision=stamp.id)


@event("service_killed")
@frozen
class ServiceKilled(_Outcome):
    """Somebody asked to stop and forget the service; from here it is never recovered."""

    grace_ms: int
    force: bool

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState:
        return evolve(
            service,
            status=Status.STOPPING,
            held=False,
            stop=StopRequest(stamp.id, self.grace_ms, self.force),
            revision=stamp.id,
        )


@event("service_stopped")
@frozen
class ServiceStopped(_Outcome):
    """It no longer runs. `reason`: stopped, killed, crashed (while stopping), completed, lost, not_running,
    kernel_restarted.

    After a `service_killed` the service is forgotten; otherwise it ended by itself and stays listed as stopped.
    """

    reason: str

    def change(self, service: ServiceState, stamp: StoredEvent) -> ServiceState | None:
        return None if service.stop is not None else evolve(_ended(service), status=Status.STOPPED)


def restored(service: ServiceState, stamp: StoredEvent, *, on_hold: bool) -> ServiceState | None:
    """What a deployment that came to nothing was to replace, as it was wanted; None if there is no such thing.

    `on_hold`: the kernel is paused as a whole, which may have begun or ended meanwhile.
    """
    previous = service.previous
    if previous is None:
        return None
    previous = evolve(previous, versions_made=service.versions_made, revision=stamp.id)
    if on_hold and (previous.wants_to_run or previous.held):
        return held(previous)
    if previous.held:
        return released(previous, stamp)
    if not previous.wants_to_run:
        return previous
    return evolve(_ended(previous), status=Status.RESTARTING, next_cause="manual", epoch=stamp.id, attempt=0)


def released(service: ServiceState, stamp: StoredEvent) -> ServiceState:
    """A paused service that may run again."""
    return evolve(_ended(service), status=Status.STARTING, held=False, next_cause="resume", epoch=stamp.id, attempt=0)


def held(service: ServiceState) -> ServiceState:
    """A service that waits until the kernel as a whole is resumed, or it by itself."""
    return evolve(_ended(service), status=Status.PAUSED, held=True)


def _ended(service: ServiceState) -> ServiceState:
    return evolve(service, begun=False, ready_at_us=None, ready_kernel_time=None)
