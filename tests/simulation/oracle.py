"""What a log must mean, read without the kernel's reducer. Owns: the rules of the order of events. Never: the kernel's code.

It reads payloads as JSON and keeps its own books: which services there are, which generation runs, how many crashes count. The
rules are those of the design's pages on lifecycles and supervision. What it finds is raised as `Impossible`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson
from attrs import define, evolve, field

from solo_trio.model.record import StoredEvent

KERNEL_TIME_GAP_S: Final = 60.0
"""Downtime counts zero: from the last event of a life to the next start, no more than that."""


class Impossible(Exception):
    """The log says what cannot have happened."""


@define
class Service:
    deployment: int
    spec: dict[str, Any]
    version: int
    generation: int = 0
    begun: bool = False
    confirmed: bool = False
    state: str = "wanted"
    """wanted, paused, held, stopping, ended, given_up."""
    window: list[float] = field(factory=list)
    previous: Service | None = None


@define
class Tenant:
    incarnation: str
    services: dict[str, Service] = field(factory=dict)
    secrets: dict[str, int] = field(factory=dict)
    removing: bool = False


class Oracle:
    def __init__(self, chain_of: Callable[[str], tuple[str, ...]]) -> None:
        """`chain_of`: request id -> the capabilities and attenuations that it was made with."""
        self.tenants: dict[str, Tenant] = {}
        self.dead: dict[str, int] = {}
        """Revoked or expired capabilities and attenuations -> by which event."""
        self.parents: dict[str, tuple[str, ...]] = {}
        self.last: StoredEvent | None = None
        self._chain_of = chain_of
        self._pending: Service | None = None
        """Its limit was passed: the next event is its giving up."""
        self._on_hold = False

    def take(self, stored: StoredEvent) -> None:
        """The next event of the log. Raises `Impossible`."""
        last = self.last
        if stored.id != (0 if last is None else last.id) + 1:
            raise Impossible(f"event {stored.id} comes after {0 if last is None else last.id}")
        if last is not None and (stored.at_us < last.at_us or stored.kernel_time < last.kernel_time):
            raise Impossible(f"event {stored.id} is earlier than the one before")
        if self._pending is not None and stored.type != "service_given_up":
            raise Impossible(f"event {stored.id} where a service was to be given up")
        self._check_rights(stored)
        work = getattr(self, f"_{stored.type}", None)
        if work is not None:
            work(stored, orjson.loads(stored.payload or b"{}"))
        self.last = stored

    def _require(self, holds: bool, stored: StoredEvent, what: str) -> None:
        if not holds:
            raise Impossible(f"event {stored.id} ({stored.type} of {stored.tenant_id}/{stored.subject}): {what}")

    def _check_rights(self, stored: StoredEvent) -> None:
        if stored.correlation_id is None:
            return
        for each in self._chain_of(stored.correlation_id):
            by = self.dead.get(each)
            self._require(by is None, stored, f"was asked for with {each}, which event {by} revoked")

    # -- tenants

    def _tenant(self, stored: StoredEvent) -> Tenant:
        tenant = self.tenants.get(stored.tenant_id or "")
        if tenant is None or tenant.incarnation != stored.incarnation:
            raise Impossible(f"event {stored.id} ({stored.type}) is about a tenant that is not there")
        return tenant

    def _tenant_created(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        self._require(stored.tenant_id not in self.tenants, stored, "the tenant is there already")
        self.tenants[stored.tenant_id or ""] = Tenant(stored.incarnation or "")

    def _tenant_removal_started(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        tenant = self._tenant(stored)
        tenant.removing = True
        for service in tenant.services.values():
            service.state = "stopping"

    def _tenant_removed(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        tenant = self._tenant(stored)
        self._require(tenant.removing and not tenant.services, stored, f"services are left: {sorted(tenant.services)}")
        del self.tenants[stored.tenant_id or ""]

    # -- services

    def _service(self, stored: StoredEvent, told: dict[str, Any]) -> Service:
        service = self._tenant(stored).services.get(stored.subject or "")
        if service is None or service.deployment != told["deployment"]:
            raise Impossible(
                f"event {stored.id} ({stored.type}) is about a deployment of {stored.subject} that is not there"
            )
        return service

    def _running(self, stored: StoredEvent, told: dict[str, Any]) -> Service:
        """The generation that it is about is the one that was started last, and has not ended."""
        service = self._service(stored, told)
        self._require(service.begun, stored, "nothing was begun")
        self._require(
            service.generation == told["generation"], stored, f"generation {service.generation} is the current one"
        )
        return service

    def _service_deployment_started(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        tenant = self._tenant(stored)
        self._require(not tenant.removing, stored, "the tenant is being removed")
        before = tenant.services.get(stored.subject or "")
        self._require(
            (None if before is None else before.deployment) == told.get("replaces"), stored, "replaces another"
        )
        self._require(before is None or (before.confirmed and before.state != "stopping"), stored, "it is not settled")
        tenant.services[stored.subject or ""] = Service(stored.id, told["spec"], told["version"], previous=before)

    def _service_started(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._service(stored, told)
        self._require(service.state == "wanted", stored, f"it is {service.state}")
        self._require(not service.begun, stored, f"generation {service.generation} has not ended")
        self._require(told["generation"] == service.generation + 1, stored, "generations are counted one by one")
        service.generation, service.begun = told["generation"], True

    def _service_ready(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._running(stored, told)
        self._require(service.state == "wanted", stored, f"it is {service.state}")

    def _service_deployed(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._running(stored, told)
        self._require(not service.confirmed, stored, "it was deployed already")
        service.confirmed, service.previous = True, None

    def _service_deployment_failed(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._service(stored, told)
        self._require(not service.confirmed, stored, "it was deployed")
        services = self._tenant(stored).services
        if service.previous is None:
            del services[stored.subject or ""]
            return
        services[stored.subject or ""] = restored = evolve(service.previous, begun=False)
        if restored.state in ("wanted", "held"):
            restored.state = "held" if self._on_hold else "wanted"

    def _service_crashed(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._running(stored, told)
        service.begun = False
        if not told["counted"]:
            if service.state == "wanted" and not told["restart"]:
                service.state = "ended"
            return
        self._require(service.state == "wanted", stored, f"it counts, and is {service.state}")
        self._require(service.confirmed, stored, "it counts, and was never deployed")
        limits = service.spec["restart_limits"]
        kept = [t for t in service.window if t >= stored.kernel_time - limits["max_seconds"]]
        service.window = [*kept, stored.kernel_time]
        trips = len(service.window) > limits["max_restarts"]
        self._require(
            told["restart"] != trips, stored, f"{len(service.window)} crashes of {limits['max_restarts']} count"
        )
        if trips:
            self._pending = service

    def _service_given_up(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._service(stored, told)
        self._require(self._pending is service, stored, "its limit was not passed")
        self._pending, service.state = None, "given_up"

    def _service_recovery_failed(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._running(stored, told)
        service.begun, service.state = False, "given_up"

    def _service_restart_requested(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._service(stored, told)
        self._require(service.state in ("wanted", "ended", "given_up"), stored, f"it is {service.state}")
        service.begun, service.state, service.window = False, "wanted", []

    def _service_updated(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._service(stored, told)
        self._require(service.state != "stopping", stored, "it is being stopped")
        limits = told["restart_limits"]
        service.spec = {**service.spec, "restart": told["restart"], "restart_limits": limits}
        service.window = service.window[-limits["max_restarts"] :] if limits["max_restarts"] else []

    def _service_paused(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._service(stored, told)
        self._require(service.state in ("wanted", "held"), stored, f"it is {service.state}")
        service.begun, service.state = False, "paused"

    def _service_resumed(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._service(stored, told)
        self._require(service.state in ("paused", "held"), stored, f"it is {service.state}")
        service.begun, service.state = False, "wanted"

    def _service_killed(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        self._service(stored, told).state = "stopping"

    def _service_stopped(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        service = self._service(stored, told)
        if service.state == "stopping":
            del self._tenant(stored).services[stored.subject or ""]
            return
        self._running(stored, told)
        self._require(service.state == "wanted", stored, f"it is {service.state}")
        service.begun, service.state = False, "ended"

    # -- the system

    def _each(self) -> list[Service]:
        return [each for tenant in self.tenants.values() for each in tenant.services.values()]

    def _system_started(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        if self.last is not None:
            gap = stored.kernel_time - self.last.kernel_time
            self._require(gap <= KERNEL_TIME_GAP_S, stored, f"the kernel was down, and {gap:.0f} s were counted")
        self._on_hold = told.get("hold") is not None
        for service in self._each():
            if service.state in ("wanted", "held"):
                service.begun, service.state = False, "held" if self._on_hold else "wanted"

    def _system_paused(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        self._on_hold = True
        for service in self._each():
            if service.state == "wanted" and service.confirmed:
                service.begun, service.state = False, "held"

    def _system_resumed(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        self._on_hold = False
        for service in self._each():
            if service.state == "held":
                service.begun, service.state = False, "wanted"

    # -- rights and secrets

    def _capability_granted(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        above = (*([told.get("parent")] if told.get("parent") else ()), *told.get("through", ()))
        self.parents[told["capability_id"]] = above

    def _capability_revoked(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        self._kill(told.get("attenuation_id") or told["capability_id"], stored.id)

    def _capability_expired(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        for each in told.get("capability_ids", ()):
            self._kill(each, stored.id)

    def _kill(self, capability_id: str, event_id: int) -> None:
        self.dead[capability_id] = event_id
        for each, above in self.parents.items():
            if capability_id in above and each not in self.dead:
                self._kill(each, event_id)

    def _secret_stored(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        secrets = self._tenant(stored).secrets
        self._require(told["version"] == secrets.get(told["name"], 0) + 1, stored, "versions are counted one by one")
        secrets[told["name"]] = told["version"]

    def _secret_revoked(self, stored: StoredEvent, told: dict[str, Any]) -> None:
        self._require(told["name"] in self._tenant(stored).secrets, stored, "there is no such secret")
        del self._tenant(stored).secrets[told["name"]]
