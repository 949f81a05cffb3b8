"""The whole state. Owns: the root record, finding and replacing a service in it, folding. Never: I/O.

State is only ever `fold(events)`; the live path and recovery run this same reducer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from attrs import field, frozen
from rpds import HashTrieMap

from solo_trio.errors import KernelBug
from solo_trio.model.capability import Capability
from solo_trio.model.event import Record
from solo_trio.model.evolving import evolve
from solo_trio.model.record import StoredEvent
from solo_trio.model.service import ServiceState
from solo_trio.model.system import SystemState
from solo_trio.model.tenant import TenantState
from solo_trio.model.tombstones import Tombstones


@frozen
class KernelState:
    """Immutable: a reader holds a consistent snapshot without a lock, a draft costs O(log n)."""

    last_id: int = 0
    last_at_us: int = 0
    kernel_time: float = 0.0
    system: SystemState = field(factory=SystemState)
    tenants: HashTrieMap[str, TenantState] = field(factory=HashTrieMap)
    capabilities: HashTrieMap[str, Capability] = field(factory=HashTrieMap)
    held: HashTrieMap[str, HashTrieMap[str, str]] = field(factory=HashTrieMap)
    """By a tenant's incarnation ("": the system): which capabilities are its, and the parent of each ("": none)."""
    removed: Tombstones = field(factory=Tombstones)
    sources: HashTrieMap[str, int] = field(factory=HashTrieMap)
    """How many services have the source of a digest: at none, it is dropped from the journal."""

    def service(self, tenant_id: str, service_id: str) -> ServiceState | None:
        tenant = self.tenants.get(tenant_id)
        return None if tenant is None else tenant.services.get(service_id)

    def services(self) -> Iterable[tuple[TenantState, ServiceState]]:
        """All services with their tenants, sorted by id."""
        for tenant_id in sorted(self.tenants):
            tenant = self.tenants[tenant_id]
            for service_id in sorted(tenant.services):
                yield tenant, tenant.services[service_id]

    def expect(self, stamp: StoredEvent) -> ServiceState:
        """The service an event is about; LookupError if it is not there (the event then cannot have happened)."""
        service = self.service(stamp.tenant_id or "", stamp.subject or "")
        if service is None:
            raise LookupError(f"no service {stamp.tenant_id}/{stamp.subject}")
        return service

    def put(self, tenant_id: str, service: ServiceState) -> KernelState:
        """With `service` in the place of the one of that id, or added."""
        tenant = self.tenants[tenant_id]
        before = tenant.services.get(service.service_id)
        services = tenant.services.insert(service.service_id, service)
        changed = evolve(tenant, services=services, needed=_needed(tenant.needed, before, service))
        return evolve(
            self, tenants=self.tenants.insert(tenant_id, changed), sources=_sources(self.sources, before, service)
        )

    def drop(self, tenant_id: str, service_id: str) -> KernelState:
        tenant = self.tenants[tenant_id]
        gone = tenant.services[service_id]
        services = tenant.services.remove(service_id)
        changed = evolve(tenant, services=services, needed=_needed(tenant.needed, gone, None))
        return evolve(self, tenants=self.tenants.insert(tenant_id, changed), sources=_sources(self.sources, gone, None))


Counted: TypeAlias = "HashTrieMap[str, int]"


def _sources(sources: Counted, before: ServiceState | None, after: ServiceState | None) -> Counted:
    """The sources in use when `after` takes the place of `before`; the same map if that changes nothing."""
    if before is not None and after is not None and before.versions is after.versions:
        return sources
    return _recounted(
        sources,
        before.digests if before is not None else frozenset(),
        after.digests if after is not None else frozenset(),
    )


def _needed(needed: Counted, before: ServiceState | None, after: ServiceState | None) -> Counted:
    """How many depend on each service when `after` takes the place of `before`."""
    was = frozenset[str]() if before is None else before.needs
    now = frozenset[str]() if after is None else after.needs
    return needed if was == now else _recounted(needed, was, now)


def _recounted(counts: Counted, before: frozenset[str], after: frozenset[str]) -> Counted:
    for name in after - before:
        counts = counts.insert(name, counts.get(name, 0) + 1)
    for name in before - after:
        left = counts[name] - 1
        counts = counts.insert(name, left) if left else counts.remove(name)
    return counts


def apply(state: KernelState, record: Record) -> KernelState:
    """One step of the fold. Raises `KernelBug` if the record does not continue `state`; an erased one changes nothing."""
    stored = record.stored
    if stored.id != state.last_id + 1:
        raise KernelBug(f"event {stored.id} does not follow event {state.last_id}")
    if record.event is not None:
        try:
            state = record.event.apply(state, stored)
        except (LookupError, AssertionError) as error:
            raise KernelBug(f"event {stored.id} ({stored.type}) cannot be applied: {error}") from error
    return evolve(
        state,
        last_id=stored.id,
        last_at_us=max(state.last_at_us, stored.at_us),
        kernel_time=max(state.kernel_time, stored.kernel_time),
    )


def fold(records: Iterable[Record], state: KernelState | None = None) -> KernelState:
    state = KernelState() if state is None else state
    for record in records:
        state = apply(state, record)
    return state
