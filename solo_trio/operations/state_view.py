"""A folded state as a document. Owns: its shape, its order, its pages. Never: a key, a secret, a source, where it came from.

One list of entries for each kind (`tenants`, `services`, `capabilities`, `secrets`), so that pages are put together by adding
their lists; every entry names its tenant. What no key of `KINDS` shows is in nobody's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

import orjson
from attrs import asdict, frozen

from solo_trio.model.capability import Capability, of_tenant
from solo_trio.model.codec import rfc3339
from solo_trio.model.secret import SecretState
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.state import KernelState
from solo_trio.model.tenant import TenantState
from solo_trio.operations.views import service_view, spec_view, tenant_view

KINDS: Final = ("tenants", "services", "capabilities", "secrets")
PAGE_BYTES: Final = 1_048_576
"""Of entries in one page; it has at least one."""

Document = dict[str, Any]
Entry = tuple[str, Callable[[], Document]]
"""What kind, and what makes it: entries of other pages are counted, not made."""


@frozen
class Page:
    """Some entries, and at which position the next page begins; None: there is no more."""

    entries: dict[str, list[Document]]
    next: int | None


def head_view(state: KernelState) -> Document:
    """What there is once in a state."""
    system = state.system
    return {
        "event_id": state.last_id,
        "at": rfc3339(state.last_at_us) if state.last_id else None,
        "kernel_time_s": state.kernel_time,
        "system": {
            "starts": system.starts,
            "started_at": rfc3339(system.started_at_us) if system.starts else None,
            "shut_down_in_order": system.clean,
            "proven": system.proven,
            "short_lives": system.short_lives,
            "hold": system.hold,
            "clock_held": system.clock_held,
            "capability_id": system.capability_id,
        },
    }


def counts_of(state: KernelState, tenant_id: str | None = None) -> Document:
    """How many entries of each kind there are."""
    tenants = _tenants(state, tenant_id)
    found = state.capabilities if tenant_id is None else [each for one in tenants for each in _held(state, one)]
    return {
        "tenants": len(tenants),
        "services": sum(len(each.services) for each in tenants),
        "capabilities": len(found),
        "secrets": sum(len(each.secrets) for each in tenants),
    }


def page_of(state: KernelState, tenant_id: str | None, position: int, limit: int) -> Page:
    """At most `limit` entries from `position` on, of one tenant or of all; may be large: build it in a thread."""
    entries: dict[str, list[Document]] = {kind: [] for kind in KINDS}
    size_bytes = 0
    for number, (kind, made) in enumerate(islice(_entries(state, tenant_id), position, None), position):
        if number - position >= limit or size_bytes >= PAGE_BYTES:
            return Page(entries, number)
        document = made()
        entries[kind].append(document)
        size_bytes += len(orjson.dumps(document))
    return Page(entries, None)


def whole_of(state: KernelState, tenant_id: str | None = None) -> Document:
    """The document of all of a state."""
    found: dict[str, list[Document]] = {kind: [] for kind in KINDS}
    for kind, made in _entries(state, tenant_id):
        found[kind].append(made())
    return found


def _tenants(state: KernelState, tenant_id: str | None) -> list[TenantState]:
    if tenant_id is None:
        return [state.tenants[each] for each in sorted(state.tenants)]
    return [state.tenants[tenant_id]] if tenant_id in state.tenants else []


def _held(state: KernelState, tenant: TenantState) -> list[Capability]:
    return sorted(of_tenant(state, tenant.incarnation), key=lambda each: each.capability_id)


def _entries(state: KernelState, tenant_id: str | None) -> Iterator[Entry]:
    tenants = _tenants(state, tenant_id)
    for tenant in tenants:
        yield "tenants", lambda one=tenant: _tenant(one)  # type: ignore[misc]
    for tenant in tenants:
        for service_id in sorted(tenant.services):
            yield "services", lambda one=tenant, each=tenant.services[service_id]: _service(one, each)  # type: ignore[misc]
    if tenant_id is None:
        for capability in sorted(of_tenant(state, None), key=lambda each: each.capability_id):
            yield "capabilities", lambda each=capability: _capability(each)  # type: ignore[misc]
    for tenant in tenants:
        for capability in _held(state, tenant):
            yield "capabilities", lambda each=capability: _capability(each)  # type: ignore[misc]
    for tenant in tenants:
        for name in sorted(tenant.secrets):
            yield "secrets", lambda one=tenant, each=tenant.secrets[name]: _secret(one, each)  # type: ignore[misc]


def _tenant(tenant: TenantState) -> Document:
    removal = tenant.removal
    return tenant_view(tenant) | {
        "capability_id": tenant.capability_id,
        "removal_event_id": None if removal is None else removal.event_id,
    }


WANTED: Final = {Status.PAUSED: "paused", Status.STOPPING: "gone"}
"""What is wanted of a service of that status; of those that the kernel has to keep running `running`, of the rest `nothing`."""


def _service(tenant: TenantState, service: ServiceState) -> Document:
    crash = service.last_crash
    return service_view(tenant.tenant_id, service) | {
        "wanted": "running" if service.wants_to_run else WANTED.get(service.status, "nothing"),
        "deployment": service.deployment,
        "deployed": service.confirmed,
        "generation": service.generation,
        "held": service.held,
        "crashes_in_window": len(service.window),
        "last_crash": None if crash is None else {"at": rfc3339(crash.at_us), "reason": crash.reason},
        "circuit": "open" if service.broken == service.epoch else "closed",
        "versions": [
            {"version": each.version, "digest": each.digest, "at": rfc3339(each.at_us)} for each in service.versions
        ],
        "replaces": None if service.previous is None else service.previous.deployment,
        "granted_by": None if service.grantor is None else service.grantor.capability_id,
        "spec": spec_view(service.spec),
    }


def _capability(capability: Capability) -> Document:
    expires = capability.expires_at_us
    return {
        "id": capability.capability_id,
        "tenant_id": capability.tenant_id,
        "resource": capability.resource,
        "permissions": list(capability.permissions),
        "parent": capability.parent,
        "granted_at": rfc3339(capability.granted_at_us),
        "expires_at": None if expires is None else rfc3339(expires),
        "rates": [asdict(each) for each in capability.rates],
        "revoked_attenuations": len(capability.revoked),
        "metadata": capability.metadata,
    }


def _secret(tenant: TenantState, secret: SecretState) -> Document:
    return {
        "tenant_id": tenant.tenant_id,
        "name": secret.name,
        "revision": secret.revision,
        "versions": [
            {"version": each.version, "at": rfc3339(each.at_us), "sealed_by": each.sealed_by}
            for each in secret.versions
        ],
    }
