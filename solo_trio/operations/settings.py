"""Settings. Owns: the operator's numbers that operations and the kernel go by. Never: where they were written down."""

from __future__ import annotations

from attrs import field, frozen

from solo_trio.model.limits import CEILING, Limits
from solo_trio.model.service_decisions import SERVICES_MAX
from solo_trio.model.tenant import SERVICES_PER_TENANT_MAX, TENANTS_MAX


@frozen
class Settings:
    """Names and defaults follow the configuration keys; times in the unit of the name."""

    max_tenants: int = TENANTS_MAX
    max_per_tenant: int = SERVICES_PER_TENANT_MAX
    max_total: int = SERVICES_MAX
    call_timeout_s: float = 30.0
    recovery_timeout_ms: int = 30_000
    shutdown_timeout_ms: int = 5_000
    limits: Limits = field(default=CEILING)
    """A ceiling for every service's limits."""
    allowed_imports: tuple[str, ...] = ()
    """Import paths (and what is below them) that the embedding application may deploy as tasks."""
