"""Asks about tenants. Owns: making, changing, removing, listing them. Never: sends a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from solo_trio.client.asks.request import Ask, Document, present, segment, whole

Hardening = Literal["off", "warn", "refuse"]


REMOVAL_PATIENCE_S: Final = 30.0
"""Beside its grace: what a tenant has on the disk takes a while to delete."""


def create_tenant(
    tenant_id: str,
    *,
    limits: Mapping[str, Any] | None = None,
    service_limits: Mapping[str, Any] | None = None,
    hardening: Hardening | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Create a tenant; the answer holds its `token`, which is not shown again. System credentials only."""
    body = present(tenant_id=tenant_id, limits=limits, service_limits=service_limits, hardening=hardening)
    return Ask("POST", "/tenants", whole, body=body, tenant=False, idempotency_key=idempotency_key)


def update_tenant(
    tenant_id: str,
    *,
    limits: Mapping[str, Any] | None = None,
    service_limits: Mapping[str, Any] | None = None,
    hardening: Hardening | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Change what a tenant may have; `service_limits` is a ceiling for each of its services, `hardening` says what becomes of
    the analyser's findings in its deployments. System credentials only."""
    body = present(limits=limits, service_limits=service_limits, hardening=hardening)
    path = f"/tenants/{segment(tenant_id)}"
    return Ask("PATCH", path, whole, body=body, tenant=False, idempotency_key=idempotency_key)


def remove_tenant(tenant_id: str, *, grace_ms: int | None = None, idempotency_key: str | None = None) -> Ask[Document]:
    """Stop everything of a tenant, destroy its keys and data: `{tenant_id, status}`; answered when nothing of it is left (or
    says `unresponsive`). `grace_ms`: what its services have to stop by themselves. System credentials only."""
    return Ask(
        "DELETE",
        f"/tenants/{segment(tenant_id)}",
        whole,
        present(grace_ms=grace_ms),
        tenant=False,
        idempotency_key=idempotency_key,
        patience_s=REMOVAL_PATIENCE_S + (grace_ms or 0) / 1_000,
    )


def tenants(*, limit: int | None = None, cursor: str | None = None) -> Ask[Document]:
    """A page of tenants: `{tenants, next}`. System credentials only."""
    return Ask("GET", "/tenants", whole, present(limit=limit, cursor=cursor), tenant=False)


def show_tenant(tenant_id: str) -> Ask[Document]:
    """One tenant, with how many services it has in each state. System credentials only."""
    return Ask("GET", f"/tenants/{segment(tenant_id)}", whole, tenant=False)
