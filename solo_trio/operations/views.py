"""Views. Owns: how a service, a tenant, counts look to the outside. Never: changes anything."""

from __future__ import annotations

from typing import Any

from attrs import asdict

from solo_trio.model.codec import rfc3339
from solo_trio.model.service import Counts, ServiceState
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.tenant import TenantState
from solo_trio.policy.pressure import Pressure


def service_view(tenant_id: str, service: ServiceState) -> dict[str, Any]:
    """A service in a list."""
    return {
        "tenant_id": tenant_id,
        "service_id": service.service_id,
        "status": str(service.status),
        "version": service.version,
        "digest": service.spec.digest,
        "restarts": service.restarts,
        "revision": service.revision,
        "ready_since": None if service.ready_at_us is None else rfc3339(service.ready_at_us),
        "isolation": service.spec.isolation,
        "environment": service.spec.environment,
    }


def spec_view(spec: ServiceSpec) -> dict[str, Any]:
    return asdict(spec) | {"limits": spec.limits.given()}


def crash_view(service: ServiceState) -> dict[str, Any] | None:
    crash = service.last_crash
    if crash is None:
        return None
    return {"at": rfc3339(crash.at_us), "reason": crash.reason, "traceback": crash.traceback}


def tenant_view(tenant: TenantState) -> dict[str, Any]:
    return {
        "tenant_id": tenant.tenant_id,
        "status": "active" if tenant.removal is None else "removing",
        "created_at": rfc3339(tenant.created_at_us),
        "limits": tenant.limits.given(),
        "service_limits": tenant.service_limits.given(),
        "hardening": tenant.hardening,
        "services": len(tenant.services),
    }


def counts_view(counts: Counts) -> dict[str, int]:
    return dict(asdict(counts))


def pressure_view(pressure: Pressure) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "value": each.reading.value,
            "limit": each.reading.limit,
            "percent": each.reading.percent,
            "level": each.level,
        }
        for name, each in sorted(pressure.pressed.items())
    }
