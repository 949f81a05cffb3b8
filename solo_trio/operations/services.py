"""Operations on services. Owns: deploy, list, status, delete, restart, call. Never: how a service runs."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal

import orjson
import trio
from attrs import evolve, frozen

from solo_trio.errors import Rejected
from solo_trio.kernel.staging import Repeated
from solo_trio.model import codec
from solo_trio.model import service_events as ev
from solo_trio.model.event import Event, Record
from solo_trio.model.ids import check_function, check_id
from solo_trio.model.limits import Limits, effective
from solo_trio.model.record import EventQuery
from solo_trio.model.service import Status
from solo_trio.model.service_decisions import Accepted, Deploy, Kill, Restart, find_service
from solo_trio.model.spec import SOURCE_BYTES_MAX, RestartLimits, ServiceSpec
from solo_trio.operations.caller import Caller
from solo_trio.operations.outcomes import DEPLOY_OUTCOMES, RESTART_OUTCOMES, STOP_OUTCOMES, outcome
from solo_trio.operations.table import Answer, body, operation, path, query
from solo_trio.operations.views import crash_view, service_view, spec_view

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000
RECENT_EVENTS: Final = 10
CONFIG_BYTES_MAX: Final = 65_536
CALL_BYTES_MAX: Final = 1_048_576
GRACE_MS_MAX: Final = 600_000
KILL_MARGIN_S: Final = 10.0
"""After the grace a process is killed; gone within this, or the answer says `unresponsive`."""
TASK_MARGIN_S: Final = 0.1
"""A task can only be cancelled, which it was when the grace began."""


@frozen
class DeployInput:
    service_id: str = body()
    code: str = body()
    format: Literal["python_source"] = body("python_source")
    restart: Literal["permanent", "transient", "temporary"] = body("permanent")
    restart_limits: RestartLimits = body(factory=RestartLimits)
    limits: Limits = body(factory=Limits)
    config: dict[str, Any] = body(factory=dict)
    isolation: Literal["process", "task"] | None = body(None)
    wait: bool = query(True)


@operation("POST", "/services", scope="tenant", input=DeployInput, mutates=True)
async def deploy(caller: Caller, given: DeployInput) -> Answer:
    """Deploy a service; answered when it runs, or with `wait=false` once the intent is durable."""
    check_id("service_id", given.service_id)
    if given.isolation == "task":
        raise Rejected(
            "invalid_field", "isolation 'task' runs inside the kernel: only the embedding application may ask for it"
        )
    source = given.code.encode()
    if not source.strip():
        raise Rejected("invalid_field", "code must be the text of a Python module")
    spec = ServiceSpec(
        format=given.format,
        digest=digest_of(source),
        restart=given.restart,
        restart_limits=given.restart_limits,
        limits=given.limits,
        config=given.config,
    )
    return await deploy_spec(caller, given.service_id, spec, source, wait=given.wait)


def digest_of(source: bytes) -> str:
    """Lower-case hex SHA-256: what a version is called by."""
    return hashlib.sha256(source).hexdigest()


async def deploy_spec(
    caller: Caller, service_id: str, spec: ServiceSpec, source: bytes, *, wait: bool = True, idempotent: bool = False
) -> Answer:
    """Deploy any specification (an embedding application's too). `idempotent`: an equal one that is there is the answer."""
    tenant = caller.tenant()
    settings = caller.system.settings
    spec = evolve(spec.check(), config=_as_json(spec.config))
    _check_sizes(spec, source)
    command = Deploy(
        tenant.tenant_id,
        service_id,
        spec,
        source,
        idempotent=idempotent,
        services_max=settings.max_total,
        services_per_tenant_max=settings.max_per_tenant,
    )
    with caller.core.hub.follow(tenant.tenant_id, service_id) as follow:
        reply = await caller.submit(command)
        deployment = reply.event_id
        if isinstance(reply, Accepted) and not reply.changed:
            service = find_service(caller.core.loop.state, tenant.tenant_id, service_id)
            if service.confirmed:
                return Answer(service_view(tenant.tenant_id, service), revision=service.revision)
        if not wait:
            view = _deployed_view(caller, service_id, 1, spec.digest, deployment, status="starting")
            return Answer(view, 202, revision=deployment)
        record = await outcome(
            caller,
            follow,
            service_id,
            DEPLOY_OUTCOMES,
            deployment=deployment,
            after=deployment,
            look_back=isinstance(reply, Repeated) or not reply.changed,
        )
    return _deploy_answer(caller, service_id, record, deployment)


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """The config as the log will give it back (tuples are lists), so that equal ones compare equal."""
    try:
        found = orjson.loads(orjson.dumps(config))
    except TypeError as error:  # only from an embedding application: a gateway's config was JSON
        raise Rejected("invalid_field", f"config must be JSON: {error}") from None
    assert isinstance(found, dict)
    return found


def _check_sizes(spec: ServiceSpec, source: bytes) -> None:
    if len(source) > SOURCE_BYTES_MAX:
        raise Rejected("too_large", f"code may have {SOURCE_BYTES_MAX} bytes; it has {len(source)}")
    config_bytes = len(orjson.dumps(spec.config))
    if config_bytes > CONFIG_BYTES_MAX:
        raise Rejected("too_large", f"config may have {CONFIG_BYTES_MAX} bytes as JSON; it has {config_bytes}")


def _deploy_answer(caller: Caller, service_id: str, record: Record, deployment: int) -> Answer:
    if isinstance(record.event, ev.ServiceDeployed):
        view = _deployed_view(caller, service_id, record.event.version, record.event.digest, deployment)
        return Answer(view, 201, revision=deployment)
    if isinstance(record.event, ev.ServiceDeploymentFailed):
        failed = record.event
        detail = f"mend the source and deploy again: {failed.reason}"
        raise Rejected("service_start_failed", detail, reason=failed.reason, traceback=failed.traceback)
    raise Rejected("service_deleted", "it was deleted while it started; deploy it again if it is still wanted")


def _deployed_view(
    caller: Caller, service_id: str, version: int, digest: str, revision: int, status: str = "ready"
) -> dict[str, Any]:
    return {
        "tenant_id": caller.tenant_id,
        "service_id": service_id,
        "version": version,
        "digest": digest,
        "status": status,
        "revision": revision,
    }


@frozen
class ListInput:
    status: Literal["starting", "ready", "restarting", "paused", "stopping", "stopped", "given_up"] | None = query(None)
    limit: int = query(PAGE_DEFAULT)
    cursor: str | None = query(None)


@operation("GET", "/services", scope="tenant", input=ListInput)
async def list_services(caller: Caller, given: ListInput) -> Answer:
    """List the services of the tenant, sorted by id."""
    limit = check_page(given.limit)
    check_cursor(given.cursor)
    services = caller.tenant().services
    last_id = caller.core.loop.state.last_id
    ids = [
        each
        for each in sorted(services)
        if (given.cursor is None or each > given.cursor)
        and (given.status is None or services[each].status == given.status)
    ]
    page = [service_view(caller.tenant_id or "", services[each]) for each in ids[:limit]]
    following = ids[limit - 1] if len(ids) > limit else None
    return Answer({"services": page, "revision": last_id, "next": following})


def check_page(limit: int, name: str = "limit") -> int:
    if not 1 <= limit <= PAGE_MAX:
        raise Rejected("invalid_field", f"{name} must be between 1 and {PAGE_MAX}")
    return limit


def check_cursor(cursor: str | None) -> None:
    """Lists are sorted by id, so a cursor is one."""
    if cursor is not None:
        try:
            check_id("cursor", cursor)
        except Rejected:
            raise Rejected("invalid_field", "cursor must be the `next` of an earlier page") from None


@frozen
class ServiceInput:
    service_id: str = path()


@operation("GET", "/services/{service_id}", scope="tenant", input=ServiceInput)
async def service_status(caller: Caller, given: ServiceInput) -> Answer:
    """Show one service: what is wanted of it, how it is, its last events."""
    tenant = caller.tenant()
    core = caller.core
    service = find_service(core.loop.state, tenant.tenant_id, given.service_id)
    newest = await core.journal.read(
        EventQuery(
            limit=RECENT_EVENTS,
            tenant_id=tenant.tenant_id,
            incarnation=tenant.incarnation,
            subject=service.service_id,
            newest=True,
        )
    )
    running = core.running(tenant.tenant_id, service)
    uptime_us = 0 if service.ready_at_us is None else core.loop.now().at_us - service.ready_at_us
    view = service_view(tenant.tenant_id, service) | {
        "spec": spec_view(service),
        "generation": service.generation,
        "uptime_s": max(0, uptime_us) / 1_000_000,
        "usage": {} if running is None else running.usage(),
        "limits": effective(service.spec.limits, core.ceiling).given(),
        "events": [codec.public(stored) for stored in newest],
        "last_crash": crash_view(service),
    }
    return Answer(view, revision=service.revision)


@frozen
class DeleteInput:
    service_id: str = path()
    grace_ms: int | None = query(None)
    force: bool = query(False)


@operation("DELETE", "/services/{service_id}", scope="tenant", input=DeleteInput, mutates=True)
async def delete_service(caller: Caller, given: DeleteInput) -> Answer:
    """Stop a service and forget it; answered when it no longer runs."""
    tenant = caller.tenant()
    state = caller.core.loop.state
    grace_ms = given.grace_ms
    if grace_ms is None:
        service = state.service(tenant.tenant_id, given.service_id)
        limits = effective(service.spec.limits if service else Limits(), caller.core.ceiling)
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
    event = await _event(caller, reply.event_id)
    assert isinstance(event, ev.ServiceKilled | ev.ServiceRestartRequested)
    return event.deployment


async def _event(caller: Caller, event_id: int) -> Event | None:
    [stored] = await caller.core.journal.read(EventQuery(after=event_id - 1, limit=1))
    return codec.to_record(stored).event


@operation("POST", "/services/{service_id}/restart", scope="tenant", input=ServiceInput, mutates=True)
async def restart_service(caller: Caller, given: ServiceInput) -> Answer:
    """Restart a service by hand; answered when it is ready. Never counts in the restart window, and re-arms it."""
    tenant = caller.tenant()
    command = Restart(tenant.tenant_id, check_id("service_id", given.service_id), caller.revision)
    with caller.core.hub.follow(tenant.tenant_id, given.service_id) as follow:
        reply = await caller.submit(command)
        deployment = await _deployment_of(caller, reply)
        record = await outcome(
            caller,
            follow,
            given.service_id,
            RESTART_OUTCOMES,
            deployment=deployment,
            after=reply.event_id,
            look_back=isinstance(reply, Repeated) or not reply.changed,
        )
    if isinstance(record.event, ev.ServiceReady):
        intent = await _event(caller, deployment)
        assert isinstance(intent, ev.ServiceDeploymentStarted)
        view = _deployed_view(caller, given.service_id, intent.version, intent.digest, reply.event_id)
        return Answer(view, revision=reply.event_id)
    if isinstance(record.event, ev.ServiceCrashed | ev.ServiceGivenUp):
        raise Rejected("service_start_failed", f"look at its logs; it ended: {record.event.reason}")
    raise Rejected("service_deleted", "it was stopped while it restarted")


@frozen
class CallInput:
    service_id: str = path()
    function: str = path()
    args: list[Any] = body(factory=list)
    kwargs: dict[str, Any] = body(factory=dict)


@operation("POST", "/services/{service_id}/call/{function}", scope="tenant", input=CallInput)
async def call(caller: Caller, given: CallInput) -> Answer:
    """Call a function that the service exports."""
    tenant = caller.tenant()
    check_id("service_id", given.service_id)
    if len(orjson.dumps([given.args, given.kwargs])) > CALL_BYTES_MAX:
        raise Rejected("too_large", f"the arguments of a call may have {CALL_BYTES_MAX} bytes as JSON")
    result = await caller.core.call(
        tenant.tenant_id,
        given.service_id,
        check_function(given.function),
        given.args,
        given.kwargs,
        caller.system.settings.call_timeout_s,
    )
    return Answer({"result": result})


__all__ = ["Status", "deploy_spec"]
