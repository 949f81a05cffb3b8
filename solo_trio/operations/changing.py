"""Changing services that are there. Owns: delete, restart, pause, resume, update. Never: how a service stops or starts."""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import trio
from attrs import evolve, frozen

from solo_trio.errors import Rejected, SoloError
from solo_trio.kernel.staging import Repeated
from solo_trio.model import service_events as ev
from solo_trio.model.dependencies import hopeless
from solo_trio.model.ids import check_id
from solo_trio.model.limits import Limits, effective
from solo_trio.model.service import Status
from solo_trio.model.service_requests import Accepted, Kill, Pause, Restart, Resume, Update
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.system import SystemPaused
from solo_trio.operations.caller import Caller, no_longer_known
from solo_trio.operations.granting import check_secrets, granted
from solo_trio.operations.outcomes import (
    RESTART_OUTCOMES,
    STOP_OUTCOMES,
    deployment_of,
    event_of,
    outcome,
    version_view,
)
from solo_trio.operations.services import ServiceInput
from solo_trio.operations.table import Answer, body, operation, path, query
from solo_trio.operations.views import spec_view

GRACE_MS_MAX: Final = 600_000
KILL_MARGIN_S: Final = 10.0
"""After the grace a process is killed; gone within this, or the answer says `unresponsive`."""
TASK_MARGIN_S: Final = 0.1
"""A task can only be cancelled, which it was when the grace began."""


@frozen
class DeleteInput:
    service_id: str = path()
    grace_ms: int | None = query(None)
    force: bool = query(False)


@operation(
    "DELETE",
    "/services/{service_id}",
    scope="tenant",
    input=DeleteInput,
    mutates=True,
    right=("service:{service_id}", "kill"),
)
async def delete_service(caller: Caller, given: DeleteInput) -> Answer:
    """Stop a service and forget it; answered when it no longer runs."""
    tenant = caller.tenant()
    state = caller.core.loop.state
    grace_ms = given.grace_ms
    if grace_ms is None:
        service = state.service(tenant.tenant_id, given.service_id)
        limits = effective(service.spec.limits if service else Limits(), caller.core.ceiling_of(tenant.tenant_id))
        grace_ms = int((limits.stop_timeout_s or 0) * 1_000)
    if not 0 <= grace_ms <= GRACE_MS_MAX:
        raise Rejected("invalid_field", f"grace_ms must be between 0 and {GRACE_MS_MAX}")
    command = Kill(tenant.tenant_id, check_id("service_id", given.service_id), grace_ms, given.force, caller.revision)
    with caller.core.hub.follow(tenant.tenant_id, given.service_id) as follow:
        reply = await caller.submit(command)
        deployment = await _deployment_of(caller, reply)
        asked = caller.core.loop.state.service(tenant.tenant_id, given.service_id)
        is_task = asked is not None and asked.spec.isolation == "task"
        patience_s = (0 if given.force else grace_ms / 1_000) + (TASK_MARGIN_S if is_task else KILL_MARGIN_S)
        with trio.move_on_after(patience_s):
            record = await outcome(
                caller,
                follow,
                given.service_id,
                STOP_OUTCOMES,
                deployment=deployment,
                after=reply.event_id,
                look_back=isinstance(reply, Repeated) or not reply.changed,
            )
            assert isinstance(record.event, ev.ServiceStopped)
            return Answer({"service_id": given.service_id, "status": "stopped", "reason": record.event.reason})
    return Answer({"service_id": given.service_id, "status": "stopping", "unresponsive": True})


async def _deployment_of(caller: Caller, reply: Accepted | Repeated) -> int:
    """The deployment that was asked about, even if there is another one of that id by now."""
    if isinstance(reply, Accepted):
        return reply.deployment
    event = await event_of(caller, reply.event_id)
    if isinstance(event, ev.ServiceDeploymentStarted):  # it was as asked, since then
        return reply.event_id
    if isinstance(event, ev.ServiceDeploymentFailed):  # it was as asked, since that one failed to replace it
        failed = await event_of(caller, event.deployment)
        if not isinstance(failed, ev.ServiceDeploymentStarted) or failed.replaces is None:
            raise no_longer_known("is not at hand any more")
        return failed.replaces
    deployment = getattr(event, "deployment", None)
    if not isinstance(deployment, int):
        raise no_longer_known("is not at hand any more")
    return deployment


@operation(
    "POST",
    "/services/{service_id}/restart",
    scope="tenant",
    input=ServiceInput,
    mutates=True,
    right=("service:{service_id}", "deploy"),
)
async def restart_service(caller: Caller, given: ServiceInput) -> Answer:
    """Restart a service by hand; answered when it is ready. Never counts in the restart window, and re-arms it."""
    tenant = caller.tenant()
    command = Restart(tenant.tenant_id, check_id("service_id", given.service_id), caller.revision)
    return await _start_again(caller, given.service_id, command)


@operation(
    "POST",
    "/services/{service_id}/pause",
    scope="tenant",
    input=ServiceInput,
    mutates=True,
    right=("service:{service_id}", "kill"),
)
async def pause_service(caller: Caller, given: ServiceInput) -> Answer:
    """Pause a service: its process is ended, its memory lost, the service kept; answered when nothing of it runs."""
    tenant = caller.tenant()
    command = Pause(tenant.tenant_id, check_id("service_id", given.service_id), caller.revision)
    reply = await caller.submit(command)
    deployment = await _deployment_of(caller, reply)
    intent = await deployment_of(caller, given.service_id, deployment)
    view = version_view(caller, given.service_id, intent, reply.event_id, status="paused")
    service = caller.core.loop.state.service(tenant.tenant_id, given.service_id)
    limits = effective((service or intent).spec.limits, caller.core.ceiling_of(tenant.tenant_id))
    margin_s = TASK_MARGIN_S if intent.spec.isolation == "task" else KILL_MARGIN_S
    with trio.move_on_after((limits.stop_timeout_s or 0) + margin_s) as patience:
        await caller.core.wait_paused(tenant.tenant_id, given.service_id, deployment)
    if patience.cancelled_caught:
        view["unresponsive"] = True
    return Answer(view, revision=reply.event_id)


@operation(
    "POST",
    "/services/{service_id}/resume",
    scope="tenant",
    input=ServiceInput,
    mutates=True,
    right=("service:{service_id}", "deploy"),
)
async def resume_service(caller: Caller, given: ServiceInput) -> Answer:
    """Resume a paused service; answered when it is ready."""
    tenant = caller.tenant()
    command = Resume(tenant.tenant_id, check_id("service_id", given.service_id), caller.revision)
    return await _start_again(caller, given.service_id, command)


async def _start_again(caller: Caller, service_id: str, command: Restart | Resume) -> Answer:
    """Submit it and answer when the service is ready, or is known not to be."""
    with caller.core.hub.follow(command.tenant_id, service_id) as follow:
        reply = await caller.submit(command)
        deployment = await _deployment_of(caller, reply)
        intent = await deployment_of(caller, service_id, deployment)
        ready = Answer(version_view(caller, service_id, intent, reply.event_id), revision=reply.event_id)
        if isinstance(reply, Accepted):
            unchanged = not reply.changed
        else:
            asked = await event_of(caller, reply.event_id)
            unchanged = not isinstance(asked, ev.ServiceRestartRequested | ev.ServiceResumed)
        service = caller.core.loop.state.service(command.tenant_id, service_id)
        if unchanged and (isinstance(reply, Repeated) or (service is not None and service.status is Status.READY)):
            return ready
        record = await outcome(
            caller,
            follow,
            service_id,
            RESTART_OUTCOMES,
            deployment=deployment,
            after=reply.event_id,
            look_back=isinstance(reply, Repeated),
            hopeless=partial(_never_ready, caller, command.tenant_id, service_id, deployment),
        )
    if isinstance(record.event, ev.ServiceReady):
        return ready
    if isinstance(record.event, ev.ServiceCrashed | ev.ServiceGivenUp | ev.ServiceDeploymentFailed):
        raise Rejected("service_start_failed", f"look at its logs; it ended: {record.event.reason}")
    if isinstance(record.event, ev.ServicePaused | SystemPaused):
        raise Rejected("wrong_status", "it was paused while it started")
    if isinstance(record.event, ev.ServiceDeploymentStarted):
        raise Rejected("wrong_status", "it was replaced while it started")
    raise Rejected("service_deleted", "it was stopped while it started")


def _never_ready(caller: Caller, tenant_id: str, service_id: str, deployment: int) -> SoloError | None:
    """Why a service that somebody waits for will not become ready, as things are."""
    service = caller.core.loop.state.service(tenant_id, service_id)
    if service is None or service.deployment != deployment:
        return Rejected("service_deleted", "it was deleted or replaced while it started")
    if not service.wants_to_run:
        return Rejected("wrong_status", f"it is {service.status}")
    services, supervisor = caller.tenant().services, caller.core.tenants.get(tenant_id)
    if service.begun or supervisor is None or not hopeless(services, service, supervisor.stuck):
        return None
    if lost := hopeless(services, service):
        return Rejected("dependency_not_running", f"see that {', '.join(lost)} runs, which it depends on and waits for")
    return None


@frozen
class RestartLimitsChange:
    """What is None stays as it is."""

    max_restarts: int | None = None
    max_seconds: float | None = None


@frozen
class UpdateInput:
    service_id: str = path()
    restart: Literal["permanent", "transient", "temporary"] | None = body(None)
    restart_limits: RestartLimitsChange = body(factory=RestartLimitsChange)
    limits: Limits = body(factory=Limits)
    egress: list[str] | None = body(None)
    secrets: list[str] | None = body(None)


@operation(
    "PATCH",
    "/services/{service_id}",
    scope="tenant",
    input=UpdateInput,
    mutates=True,
    right=("service:{service_id}", "deploy"),
)
async def update_service(caller: Caller, given: UpdateInput) -> Answer:
    """Change policy, limits, network access, secrets of a running service; what is not named, or null, stays as it is."""
    tenant = caller.tenant()
    command = Update(
        tenant.tenant_id,
        check_id("service_id", given.service_id),
        given.restart,
        given.restart_limits.max_restarts,
        given.restart_limits.max_seconds,
        given.limits,
        caller.revision,
        None if given.egress is None else granted(caller, given.egress),
        None if given.secrets is None else tuple(given.secrets),
    )
    check_secrets(caller, given.secrets or ())
    reply = await caller.submit(command)
    deployment = await _deployment_of(caller, reply)
    service = caller.core.loop.state.service(tenant.tenant_id, given.service_id)
    later: frozenset[str] = frozenset()
    if service is not None and service.deployment == deployment:
        later = caller.core.adjust(tenant.tenant_id, service, given.limits)
    view = {
        "tenant_id": tenant.tenant_id,
        "service_id": given.service_id,
        "revision": reply.event_id,
        "spec": spec_view(await _spec_at(caller, given.service_id, deployment, reply.event_id)),
        "applies_at_next_start": sorted(later),
    }
    return Answer(view, revision=reply.event_id)


async def _spec_at(caller: Caller, service_id: str, deployment: int, revision: int) -> ServiceSpec:
    """What the service was to be from event `revision` on, read from the log: the same whenever it is asked for."""
    intent = await deployment_of(caller, service_id, deployment)
    changed = await event_of(caller, revision)
    if not isinstance(changed, ev.ServiceUpdated):  # it was so already: what is now, unless that is another deployment
        service = caller.core.loop.state.service(caller.tenant_id or "", service_id)
        return service.spec if service is not None and service.deployment == deployment else intent.spec
    return evolve(
        intent.spec,
        restart=changed.restart,
        restart_limits=changed.restart_limits,
        limits=changed.limits,
        egress=changed.egress,
        secrets=changed.secrets,
    )
