"""Deploying. Owns: what a deployment may ask for, when it is answered. Never: how a service is started."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any, Final, Literal

import orjson
import trio
from attrs import evolve, frozen

from solo_trio.errors import Rejected, SoloError
from solo_trio.kernel.hub import Follow
from solo_trio.kernel.staging import Repeated
from solo_trio.model import service_events as ev
from solo_trio.model.ids import check_id
from solo_trio.model.limits import Limits
from solo_trio.model.service import Status
from solo_trio.model.service_lookup import find_service
from solo_trio.model.service_requests import Accepted, Deploy
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.operations.archives import check_source, source_of
from solo_trio.operations.caller import Caller
from solo_trio.operations.findings import findings_of
from solo_trio.operations.granting import check_secrets, granted
from solo_trio.operations.outcomes import DEPLOY_OUTCOMES, deployment_of, event_of, outcome, version_view
from solo_trio.operations.table import Answer, body, operation, query
from solo_trio.operations.views import service_view

CONFIG_BYTES_MAX: Final = 65_536
RESTORE_WAIT_S: Final = 30.0
"""How long the answer to a replacement that failed waits for the old version to run again."""


@frozen
class DeployInput:
    service_id: str = body()
    code: str = body()
    format: Literal["python_source", "python_zip"] = body("python_source")
    restart: Literal["permanent", "transient", "temporary"] = body("permanent")
    restart_limits: RestartLimits = body(factory=RestartLimits)
    limits: Limits = body(factory=Limits)
    config: dict[str, Any] = body(factory=dict)
    depends_on: list[str] = body(factory=list)
    isolation: Literal["process", "task"] | None = body(None)
    environment: str | None = body(None)
    egress: list[str] = body(factory=list)
    secrets: list[str] = body(factory=list)
    replace: bool = query(False)
    wait: bool = query(True)


@operation(
    "POST", "/services", scope="tenant", input=DeployInput, mutates=True, right=("service:{service_id}", "deploy")
)
async def deploy(caller: Caller, given: DeployInput) -> Answer:
    """Deploy a service, or with `replace=true` a new version of one; answered when it runs (`wait=false`: at once)."""
    check_id("service_id", given.service_id)
    if given.isolation == "task":
        raise Rejected(
            "invalid_field", "isolation 'task' runs inside the kernel: only the embedding application may ask for it"
        )
    source = source_of(given.format, given.code)
    spec = ServiceSpec(
        format=given.format,
        digest=digest_of(source),
        restart=given.restart,
        restart_limits=given.restart_limits,
        limits=given.limits,
        config=given.config,
        depends_on=tuple(given.depends_on),
        environment=given.environment,
        egress=tuple(given.egress),
        secrets=tuple(given.secrets),
    )
    return await deploy_spec(caller, given.service_id, spec, source, wait=given.wait, replace=given.replace)


def digest_of(source: bytes) -> str:
    """Lower-case hex SHA-256: what a version is called by."""
    return hashlib.sha256(source).hexdigest()


async def deploy_spec(
    caller: Caller,
    service_id: str,
    spec: ServiceSpec,
    source: bytes,
    *,
    wait: bool = True,
    idempotent: bool = False,
    replace: bool = False,
) -> Answer:
    """Deploy any specification (an embedding application's too). `idempotent`: an equal one that is there is the answer."""
    tenant = caller.tenant()
    settings = caller.system.settings
    spec = evolve(spec.check(), config=_as_json(spec.config), egress=granted(caller, spec.egress))
    check_secrets(caller, spec.secrets)
    await _check_form(caller, spec, source)
    policy = tenant.hardening or settings.hardening
    no_room = caller.core.pressure.check_room()
    looked_at = spec.entry == "source" and policy != "off" and no_room is None
    findings = await findings_of(source, spec.format) if looked_at else ()
    told = {"findings": [each.document() for each in findings]}
    command = Deploy(
        tenant.tenant_id,
        service_id,
        spec,
        source,
        idempotent=idempotent,
        replace=replace,
        revision=caller.revision,
        services_max=settings.max_total,
        services_per_tenant_max=settings.max_per_tenant,
        hardening=settings.hardening,
        findings=findings,
        authority=caller.authority,
        no_room=no_room,
    )
    with caller.core.hub.follow(tenant.tenant_id, service_id) as follow:
        reply = await caller.submit(command)
        deployment = reply.event_id
        if isinstance(reply, Accepted) and not reply.changed:
            service = find_service(caller.core.loop.state, tenant.tenant_id, service_id)
            if service.confirmed:
                return Answer(service_view(tenant.tenant_id, service) | told, revision=service.revision)
        if not wait:
            intent = await deployment_of(caller, service_id, deployment)
            view = version_view(caller, service_id, intent, deployment, status="starting")
            return Answer(view | told, 202, revision=deployment)
        record = await outcome(
            caller,
            follow,
            service_id,
            DEPLOY_OUTCOMES,
            deployment=deployment,
            after=deployment,
            look_back=isinstance(reply, Repeated) or not reply.changed,
            hopeless=partial(_never_deployed, caller, service_id, deployment),
        )
        if isinstance(record.event, ev.ServiceDeploymentFailed):
            await _wait_restored(caller, follow, service_id)
    if isinstance(record.event, ev.ServiceDeploymentFailed):
        raise _start_failed(record.event, await _restored(caller, service_id, deployment))
    if isinstance(record.event, ev.ServiceDeployed):
        view = version_view(caller, service_id, record.event, deployment)
        return Answer(view | told, 201, revision=deployment)
    raise Rejected("service_deleted", "it was deleted while it started; deploy it again if it is still wanted")


def _never_deployed(caller: Caller, service_id: str, deployment: int) -> SoloError | None:
    """Why a deployment that somebody waits for will not come to an end, as things are."""
    service = caller.core.loop.state.service(caller.tenant_id or "", service_id)
    if service is not None and service.deployment == deployment and service.status is Status.PAUSED:
        return Rejected("wrong_status", f"'{service_id}' is paused before its first start: resume it")
    return None


async def _wait_restored(caller: Caller, follow: Follow, service_id: str) -> None:
    """After a replacement failed: until what was there before runs again, or turns out not to."""
    with trio.move_on_after(RESTORE_WAIT_S):
        while not caller.core.closing:
            service = caller.core.loop.state.service(caller.tenant_id or "", service_id)
            if service is None or service.status not in (Status.STARTING, Status.RESTARTING):
                return
            await follow.next()


def _as_json(config: dict[str, Any]) -> dict[str, Any]:
    """The config as the log will give it back (tuples are lists), so that equal ones compare equal."""
    try:
        found = orjson.loads(orjson.dumps(config))
    except TypeError as error:  # only from an embedding application: a gateway's config was JSON
        raise Rejected("invalid_field", f"config must be JSON: {error}") from None
    assert isinstance(found, dict)
    return found


async def _check_form(caller: Caller, spec: ServiceSpec, source: bytes) -> None:
    """Whatever can be told of it before it is started."""
    await check_source(spec.format, source)
    config_bytes = len(orjson.dumps(spec.config))
    if config_bytes > CONFIG_BYTES_MAX:
        raise Rejected("too_large", f"config may have {CONFIG_BYTES_MAX} bytes as JSON; it has {config_bytes}")
    if spec.environment is not None:
        environments = caller.system.environments
        if environments is None:
            raise Rejected("environment_not_found", "this kernel has no environments: leave it out")
        await trio.to_thread.run_sync(environments.check, spec.environment)


async def _restored(caller: Caller, service_id: str, deployment: int) -> int | None:
    """The version that a failed deployment was to replace, and that is there again."""
    intent = await event_of(caller, deployment)
    if not isinstance(intent, ev.ServiceDeploymentStarted) or intent.replaces is None:
        return None
    before = await event_of(caller, intent.replaces)
    if isinstance(before, ev.ServiceDeploymentStarted):
        return before.version
    service = caller.core.loop.state.service(caller.tenant_id or "", service_id)
    return service.version if service is not None and service.deployment == intent.replaces else None


def _start_failed(failed: ev.ServiceDeploymentFailed, restored: int | None) -> Rejected:
    more = {} if restored is None else {"restored": {"version": restored}}
    detail = f"mend the source and deploy again: {failed.reason}"
    if restored is not None:
        detail += f" (version {restored} is back as it was)"
    return Rejected("service_start_failed", detail, reason=failed.reason, traceback=failed.traceback, **more)
