"""A tenant. Owns: its slice, its events, its requests. Never: its services' rules (`service_requests`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from attrs import asdict, field, frozen
from rpds import HashTrieMap

from solo_trio.errors import Rejected
from solo_trio.model.capability_events import CapabilityGranted
from solo_trio.model.event import UPCASTERS, Decision, Event, Now, Proposed, event
from solo_trio.model.evolving import evolve
from solo_trio.model.ids import check_id
from solo_trio.model.limits import Limits
from solo_trio.model.record import KeyRow, StoredEvent
from solo_trio.model.secret import SecretState
from solo_trio.model.service import ServiceState
from solo_trio.model.use import Shed

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

SERVICES_PER_TENANT_MAX: Final = 100
TENANTS_MAX: Final = 100

Hardening = Literal["off", "warn", "refuse"]
"""What becomes of the analyser's findings: nobody looks, they are told, or errors are a refusal."""


@frozen
class TenantLimits:
    """Bounds on one tenant; None: the configuration's (see `contract.md`, `POST /tenants`).

    `max_memory_mb`: of all its services together; without one each has its own limit, and no more.
    """

    max_services: int | None = None
    max_memory_mb: float | None = None
    requests_per_second: float | None = None
    burst: int | None = None
    in_flight: int | None = None

    def given(self) -> dict[str, Any]:
        """Those that have a value."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@frozen
class Removal:
    """`event_id`: of the first `tenant_removal_started`; `grace_ms`: what its services have to stop by themselves."""

    event_id: int
    grace_ms: int


@frozen
class TenantState:
    """`incarnation`: new each time the tenant is created, so that nothing of an earlier one can reach this one."""

    tenant_id: str
    incarnation: str
    created_at_us: int
    limits: TenantLimits
    key_id: str = ""
    capability_id: str = ""
    services: HashTrieMap[str, ServiceState] = field(factory=HashTrieMap)
    needed: HashTrieMap[str, int] = field(factory=HashTrieMap)
    """How many of the services depend on each one."""
    service_limits: Limits = field(factory=Limits)
    """A ceiling for each of its services."""
    hardening: Hardening | None = None
    """None: the configuration's."""
    removal: Removal | None = None
    """It is being removed: nothing of it is served or recovered any more."""
    secrets: HashTrieMap[str, SecretState] = field(factory=HashTrieMap)
    shed: Shed | None = None
    """Its requests are being refused."""


@event("tenant_created", schema=3)
@frozen
class TenantCreated(Event):
    """A tenant exists. `key_id`: the wrapped root key its tokens are made with; `capability_id`: its own capability."""

    key_id: str
    capability_id: str
    limits: TenantLimits

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        assert stamp.tenant_id is not None and stamp.incarnation is not None
        if stamp.tenant_id in state.tenants:
            raise LookupError(f"tenant {stamp.tenant_id} exists")
        tenant = TenantState(
            stamp.tenant_id, stamp.incarnation, stamp.at_us, self.limits, self.key_id, self.capability_id
        )
        return evolve(state, tenants=state.tenants.insert(stamp.tenant_id, tenant))


@event("tenant_updated", schema=3)
@frozen
class TenantUpdated(Event):
    """The operator changed what a tenant may have: `limits` of its own, `service_limits` for each of its services."""

    limits: TenantLimits
    service_limits: Limits

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        tenant = state.tenants.get(stamp.tenant_id or "")
        if tenant is None or tenant.incarnation != stamp.incarnation:
            raise LookupError(f"no tenant {stamp.tenant_id}")
        changed = evolve(tenant, limits=self.limits, service_limits=self.service_limits)
        return evolve(state, tenants=state.tenants.insert(tenant.tenant_id, changed))


def _before_limits_on_use(fields: dict[str, Any]) -> dict[str, Any]:
    more = {"requests_per_second": None, "burst": None, "in_flight": None}
    return {**fields, "limits": {**fields["limits"], **more}}


def _before_limits_on_memory(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "limits": {**fields["limits"], "max_memory_mb": None}}


for _kind in ("tenant_created", "tenant_updated"):
    UPCASTERS[_kind, 1] = _before_limits_on_use
    UPCASTERS[_kind, 2] = _before_limits_on_memory


@event("tenant_hardening_changed")
@frozen
class TenantHardeningChanged(Event):
    """The operator said what becomes of the analyser's findings in the tenant's deployments from now on."""

    hardening: Hardening

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        tenant = state.tenants.get(stamp.tenant_id or "")
        if tenant is None or tenant.incarnation != stamp.incarnation:
            raise LookupError(f"no tenant {stamp.tenant_id}")
        changed = evolve(tenant, hardening=self.hardening)
        return evolve(state, tenants=state.tenants.insert(tenant.tenant_id, changed))


@frozen
class CreateTenant:
    """Create a tenant with its root key and its own capability; what is random about it comes as arguments."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    incarnation: str
    key: KeyRow
    capability_id: str
    limits: TenantLimits = field(factory=TenantLimits)
    service_limits: Limits = field(factory=Limits)
    hardening: Hardening | None = None
    tenants_max: int = TENANTS_MAX
    get: bool = False
    """An existing tenant is the answer rather than a refusal."""

    def decide(self, state: KernelState, now: Now) -> Decision:
        check_id("tenant_id", self.tenant_id)
        existing = state.tenants.get(self.tenant_id)
        if existing is not None:
            if existing.removal is not None:
                raise Rejected(
                    "tenant_exists",
                    f"the tenant '{self.tenant_id}' is being removed: create it again when that is over",
                )
            if self.get:
                return Decision(reply=existing.incarnation)
            raise Rejected("tenant_exists", f"choose another tenant_id; '{self.tenant_id}' is taken")
        if len(state.tenants) >= self.tenants_max:
            raise Rejected("quota_exceeded", f"remove a tenant or raise max_tenants; there are {self.tenants_max}")

        events: list[Event] = [
            TenantCreated(self.key.key_id, self.capability_id, self.limits),
            CapabilityGranted.of_its_own(self.capability_id, self.key.key_id, "tenant"),
        ]
        if self.service_limits.check().given():
            events.append(TenantUpdated(self.limits, self.service_limits))
        if self.hardening is not None:
            events.append(TenantHardeningChanged(self.hardening))
        return Decision(
            events=tuple(Proposed(each, self.tenant_id, self.incarnation) for each in events),
            attachments=(self.key,),
            reply=self.incarnation,
        )


@frozen
class UpdateTenant:
    """Change what a tenant may have; what is None stays. The reply is whether that changed anything."""

    RESERVED: ClassVar[bool] = False

    tenant_id: str
    limits: TenantLimits
    service_limits: Limits
    hardening: Hardening | None = None

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenant = tenant_of(state, self.tenant_id)
        limits = evolve(tenant.limits, **self.limits.given())
        service_limits = evolve(tenant.service_limits, **self.service_limits.check().given())
        events: list[Event] = []
        if (limits, service_limits) != (tenant.limits, tenant.service_limits):
            events.append(TenantUpdated(limits, service_limits))
        if self.hardening not in (None, tenant.hardening):
            events.append(TenantHardeningChanged(self.hardening))
        proposed = tuple(Proposed(each, tenant.tenant_id, tenant.incarnation) for each in events)
        return Decision(proposed, reply=bool(events))


def listed_tenant(state: KernelState, tenant_id: str) -> TenantState:
    """The tenant, also while it is being removed, or `Rejected("tenant_not_found")`."""
    tenant: TenantState | None = state.tenants.get(tenant_id)
    if tenant is None:
        raise Rejected("tenant_not_found", f"there is no tenant '{tenant_id}'; list the tenants to see their ids")
    return tenant


def tenant_of(state: KernelState, tenant_id: str, incarnation: str | None = None) -> TenantState:
    """The tenant, or `Rejected("tenant_not_found")`; an older incarnation, or one that is removed, is not found either."""
    tenant: Any = state.tenants.get(tenant_id)
    if tenant is None or (incarnation is not None and tenant.incarnation != incarnation):
        raise Rejected("tenant_not_found", f"create the tenant '{tenant_id}' first")
    assert isinstance(tenant, TenantState)
    if tenant.removal is not None:
        raise Rejected(
            "tenant_not_found", f"the tenant '{tenant_id}' is being removed: create it again when that is over"
        )
    return tenant
