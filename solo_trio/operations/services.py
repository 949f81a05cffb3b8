"""Looking at services. Owns: list, status, versions. Never: changes one (`deploying` and `changing` do)."""

from __future__ import annotations

from typing import Any, Final, Literal

from attrs import frozen

from solo_trio.errors import Faulted
from solo_trio.kernel.core import Core
from solo_trio.model import codec
from solo_trio.model.codec import rfc3339
from solo_trio.model.dependencies import waiting_for
from solo_trio.model.limits import effective
from solo_trio.model.record import EventQuery
from solo_trio.model.service import ServiceState
from solo_trio.model.service_lookup import find_service
from solo_trio.model.tenant import TenantState
from solo_trio.operations.archives import source_view
from solo_trio.operations.caller import Caller
from solo_trio.operations.paging import PAGE_DEFAULT, check_cursor, check_page
from solo_trio.operations.table import Answer, operation, path, query
from solo_trio.operations.views import crash_view, service_view, spec_view

RECENT_EVENTS: Final = 10


@frozen
class ListInput:
    status: Literal["starting", "ready", "restarting", "paused", "stopping", "stopped", "given_up"] | None = query(None)
    limit: int = query(PAGE_DEFAULT)
    cursor: str | None = query(None)


@operation("GET", "/services", scope="tenant", input=ListInput, right=("service", "read"))
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
        and caller.may(f"service:{each}", "read")
        and (given.status is None or services[each].status == given.status)
    ]
    page = [service_view(caller.tenant_id or "", services[each]) for each in ids[:limit]]
    following = ids[limit - 1] if len(ids) > limit else None
    return Answer({"services": page, "revision": last_id, "next": following})


@frozen
class ServiceInput:
    service_id: str = path()


@operation("GET", "/services/{service_id}", scope="tenant", input=ServiceInput, right=("service:{service_id}", "read"))
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
    uptime_us = 0 if service.ready_at_us is None else core.loop.now().at_us - service.ready_at_us
    view = service_view(tenant.tenant_id, service) | {
        "spec": spec_view(service.spec),
        "generation": service.generation,
        "held": service.held,
        "circuit": caller.system.admission.circuits.state_of(tenant.incarnation, service),
        "waiting_for": list(waiting_for(tenant.services, service)) if service.wants_to_run else [],
        "uptime_s": max(0, uptime_us) / 1_000_000,
        "usage": _usage(core, tenant, service),
        "limits": effective(service.spec.limits, core.ceiling_of(tenant.tenant_id)).given(),
        "events": [codec.public(stored) for stored in newest],
        "last_crash": crash_view(service),
    }
    return Answer(view, revision=service.revision)


def _usage(core: Core, tenant: TenantState, service: ServiceState) -> dict[str, float]:
    running = core.running(tenant.tenant_id, service)
    usage = {} if running is None else running.usage()
    if not usage:
        return {}
    which = (tenant.incarnation, service.service_id, service.deployment, service.generation)
    return usage | {"cpu_percent": core.monitor.cpu_percent(*which)}


@operation(
    "GET", "/services/{service_id}/versions", scope="tenant", input=ServiceInput, right=("service:{service_id}", "read")
)
async def service_versions(caller: Caller, given: ServiceInput) -> Answer:
    """List the newest versions of a service, with their source; the current one is marked."""
    tenant = caller.tenant()
    service = find_service(caller.core.loop.state, tenant.tenant_id, given.service_id)
    versions: list[dict[str, Any]] = []
    for each in service.versions:
        source = None
        if each.digest:
            try:
                source = (await caller.core.journal.artifact(each.digest)).content
            except Faulted:
                now = find_service(caller.core.loop.state, tenant.tenant_id, given.service_id)
                if each.digest in now.digests:
                    raise
                continue  # dropped while this list was made
        versions.append(
            {
                "version": each.version,
                "digest": each.digest,
                "at": rfc3339(each.at_us),
                "current": each.version == service.version,
                **source_view(each.format, source),
            }
        )
    return Answer({"versions": versions}, revision=service.revision)
