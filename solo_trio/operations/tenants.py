"""Operations on tenants. Owns: create, change, list, show. Never: what a tenant's services may do."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from solo_trio.errors import Rejected, SoloError
from solo_trio.kernel.staging import Repeated
from solo_trio.model.ids import check_id
from solo_trio.model.limits import Limits
from solo_trio.model.record import EventQuery
from solo_trio.model.service import count_services
from solo_trio.model.tenant import CreateTenant, Hardening, TenantLimits, TenantState, UpdateTenant, tenant_of
from solo_trio.operations.caller import Caller
from solo_trio.operations.paging import PAGE_DEFAULT, check_cursor, check_page
from solo_trio.operations.table import Answer, body, operation, path, query
from solo_trio.operations.views import counts_view, tenant_view

SERVICES_LIMIT_MAX: Final = 1_000_000


@frozen
class CreateTenantInput:
    tenant_id: str = body()
    limits: TenantLimits = body(factory=TenantLimits)
    service_limits: Limits = body(factory=Limits)
    hardening: Hardening | None = body(None)


async def create(
    caller: Caller,
    tenant_id: str,
    limits: TenantLimits,
    service_limits: Limits | None = None,
    hardening: Hardening | None = None,
    *,
    get: bool,
) -> TenantState:
    """Create a tenant, or with `get` answer with the one that is there."""
    keyring = caller.system.keyring
    check_id("tenant_id", tenant_id)
    service_limits = _checked(limits, Limits() if service_limits is None else service_limits)
    incarnation = keyring.new_id()
    key = keyring.new_key(incarnation)
    command = CreateTenant(
        tenant_id,
        incarnation,
        key,
        keyring.new_id(),
        limits,
        service_limits,
        hardening,
        tenants_max=caller.system.settings.max_tenants,
        get=get,
    )
    try:
        reply = await caller.submit(command)
    except SoloError:
        keyring.forget(key.key_id)
        raise
    if reply != incarnation:
        keyring.forget(key.key_id)
    if isinstance(reply, Repeated):
        [stored] = await caller.core.journal.read(EventQuery(after=reply.event_id - 1, limit=1))
        reply = stored.incarnation
    return tenant_of(caller.core.loop.state, tenant_id, reply)


def _checked(limits: TenantLimits, service_limits: Limits) -> Limits:
    if limits.max_services is not None and not 0 <= limits.max_services <= SERVICES_LIMIT_MAX:
        raise Rejected("invalid_field", f"limits.max_services must be between 0 and {SERVICES_LIMIT_MAX}")
    return service_limits.check()


@operation("POST", "/tenants", scope="system", input=CreateTenantInput, mutates=True)
async def create_tenant(caller: Caller, given: CreateTenantInput) -> Answer:
    """Create a tenant; the answer holds its token, which is not shown again."""
    tenant = await create(caller, given.tenant_id, given.limits, given.service_limits, given.hardening, get=False)
    token = caller.system.keyring.mint(tenant.key_id, tenant.capability_id)
    return Answer({"tenant_id": tenant.tenant_id, "token": token.reveal_text()}, 201)


@frozen
class ListTenantsInput:
    limit: int = query(PAGE_DEFAULT)
    cursor: str | None = query(None)


@operation("GET", "/tenants", scope="system", input=ListTenantsInput)
async def list_tenants(caller: Caller, given: ListTenantsInput) -> Answer:
    """List the tenants, sorted by id."""
    limit = check_page(given.limit)
    check_cursor(given.cursor)
    tenants = caller.core.loop.state.tenants
    ids = [each for each in sorted(tenants) if given.cursor is None or each > given.cursor]
    page = [tenant_view(tenants[each]) for each in ids[:limit]]
    return Answer({"tenants": page, "next": ids[limit - 1] if len(ids) > limit else None})


@frozen
class TenantInput:
    tenant_id: str = path()


@operation("GET", "/tenants/{tenant_id}", scope="system", input=TenantInput)
async def show_tenant(caller: Caller, given: TenantInput) -> Answer:
    """Show one tenant and how many services it has in each state."""
    tenant = tenant_of(caller.core.loop.state, check_id("tenant_id", given.tenant_id))
    return Answer(tenant_view(tenant) | {"counts": counts_view(count_services(tenant.services.values()))})


@frozen
class UpdateTenantInput:
    tenant_id: str = path()
    limits: TenantLimits = body(factory=TenantLimits)
    service_limits: Limits = body(factory=Limits)
    hardening: Hardening | None = body(None)


@operation("PATCH", "/tenants/{tenant_id}", scope="system", input=UpdateTenantInput, mutates=True)
async def update_tenant(caller: Caller, given: UpdateTenantInput) -> Answer:
    """Change what a tenant may have, at once also for what runs; what is not named, or null, stays as it is."""
    tenant_id = check_id("tenant_id", given.tenant_id)
    service_limits = _checked(given.limits, given.service_limits)
    await caller.submit(UpdateTenant(tenant_id, given.limits, service_limits, given.hardening))
    return Answer(tenant_view(tenant_of(caller.core.loop.state, tenant_id)))
