"""Operations on tenants. Owns: create, change, list, show, remove. Never: what a tenant's services may do."""

from __future__ import annotations

from typing import Any, Final

import trio
from attrs import frozen

from solo_trio.errors import Rejected, SoloError
from solo_trio.kernel.staging import Repeated
from solo_trio.model.ids import check_id
from solo_trio.model.limits import Limits
from solo_trio.model.service import count_services
from solo_trio.model.tenant import (
    CreateTenant,
    Hardening,
    TenantLimits,
    TenantState,
    UpdateTenant,
    listed_tenant,
    tenant_of,
)
from solo_trio.model.tenant_removal import RemoveTenant, Removing
from solo_trio.operations.caller import Caller
from solo_trio.operations.changing import GRACE_MS_MAX
from solo_trio.operations.paging import PAGE_DEFAULT, check_cursor, check_page
from solo_trio.operations.table import Answer, body, operation, path, query
from solo_trio.operations.views import counts_view, tenant_view

TENANT_RANGES: Final[dict[str, tuple[float, float]]] = {
    "max_services": (0, 1_000_000),
    "max_memory_mb": (16, 1_048_576),
    "requests_per_second": (0.001, 1_000_000),
    "burst": (1, 1_000_000),
    "in_flight": (1, 1_000_000),
}
"""What each of a tenant's own limits may be."""

REMOVAL_GRACE_MS: Final = 5_000
"""What services of a tenant that is removed have to stop by themselves, if nothing is said."""
REMOVAL_MARGIN_S: Final = 30.0
"""After the grace what lives is killed; nothing is left within this, or the answer says `unresponsive`."""


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
        stored = await caller.stored_event(reply.event_id)
        reply = None if stored is None else stored.incarnation
    return tenant_of(caller.core.loop.state, tenant_id, reply)


def _checked(limits: TenantLimits, service_limits: Limits) -> Limits:
    for name, value in limits.given().items():
        low, high = TENANT_RANGES[name]
        if not low <= value <= high:  # NaN is neither
            raise Rejected("invalid_field", f"limits.{name} must be between {low:.12g} and {high:.12g}")
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
    tenant = listed_tenant(caller.core.loop.state, check_id("tenant_id", given.tenant_id))
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


@frozen
class RemoveTenantInput:
    tenant_id: str = path()
    grace_ms: int = query(REMOVAL_GRACE_MS)


@operation("DELETE", "/tenants/{tenant_id}", scope="system", input=RemoveTenantInput, mutates=True)
async def remove_tenant(caller: Caller, given: RemoveTenantInput) -> Answer:
    """Remove a tenant: stop its services, destroy its keys and data; answered when nothing of it is left."""
    if not 0 <= given.grace_ms <= GRACE_MS_MAX:
        raise Rejected("invalid_field", f"grace_ms must be between 0 and {GRACE_MS_MAX}")
    return Answer(await remove(caller, check_id("tenant_id", given.tenant_id), given.grace_ms))


async def remove(caller: Caller, tenant_id: str, grace_ms: int) -> dict[str, Any]:
    """Begin the removal, or join the one that runs; an answer when it is over, or takes longer than it should."""
    reply: Removing | Repeated = await caller.submit(RemoveTenant(tenant_id, grace_ms))
    if isinstance(reply, Repeated):
        stored = await caller.stored_event(reply.event_id)
        incarnation = "" if stored is None else stored.incarnation or ""
    else:
        incarnation = reply.incarnation
    with trio.move_on_after(grace_ms / 1_000 + REMOVAL_MARGIN_S):
        await caller.core.removals.wait_over(incarnation)
        return {"tenant_id": tenant_id, "status": "removed"}
    return {"tenant_id": tenant_id, "status": "removing", "unresponsive": True}
