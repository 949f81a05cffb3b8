"""Drives the pure core by hand. Owns: commands in, events out, a time that a test sets. Never: asserts, decides, waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from attrs import define, evolve, field, frozen

from solo_trio.kernel.staging import Command, Draft, Submission, stage
from solo_trio.model import codec
from solo_trio.model import service_reports as reports
from solo_trio.model import service_requests as requests
from solo_trio.model.ending import Ending, EndKind
from solo_trio.model.event import Event, Now, Record
from solo_trio.model.record import KeyRow, StoredEvent
from solo_trio.model.service import ServiceState
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.model.state import KernelState, fold
from solo_trio.model.system import StartSystem
from solo_trio.model.tenant import CreateTenant, TenantLimits

TENANT: Final = "acme"
SERVICE: Final = "calc"
ENDINGS: Final[tuple[EndKind, ...]] = ("completed", "crashed", "load_failed", "stopped", "killed", "lost")
FIRST_US: Final = 1_700_000_000_000_000


@frozen
class Identity:
    """What an observation says it is about."""

    tenant_id: str
    incarnation: str
    service_id: str
    deployment: int
    generation: int
    epoch: int

    def begin(self) -> reports.BeginStart:
        return reports.BeginStart(self.tenant_id, self.incarnation, self.service_id, self.deployment, self.epoch)

    def ready(self) -> reports.ReportReady:
        return reports.ReportReady(self.tenant_id, self.incarnation, self.service_id, self.deployment, self.generation)

    def ended(self, ending: Ending, *, timed_out: bool = False) -> reports.ReportEnded:
        return reports.ReportEnded(
            self.tenant_id, self.incarnation, self.service_id, self.deployment, self.generation, ending, timed_out
        )

    def stopped(self, reason: str = "not_running") -> reports.ReportStopped:
        return reports.ReportStopped(self.tenant_id, self.incarnation, self.service_id, self.deployment, reason)


def identities(state: KernelState) -> list[Identity]:
    return [identity_in(state, tenant.tenant_id, service.service_id) for tenant, service in state.services()]


def identity_in(state: KernelState, tenant_id: str, service_id: str) -> Identity:
    tenant = state.tenants[tenant_id]
    service = tenant.services[service_id]
    return Identity(tenant_id, tenant.incarnation, service_id, service.deployment, service.generation, service.epoch)


@define
class Driver:
    """One kernel's life in the pure core. Each verb gives the events it came to; `reply` is what the caller got."""

    draft: Draft = field(factory=lambda: Draft(KernelState()))
    at_us: int = FIRST_US
    kernel_time: float = 0.0
    reply: Any = None
    tenants_made: int = 0

    # -- state and time

    @property
    def state(self) -> KernelState:
        return self.draft.state

    @property
    def records(self) -> tuple[Record, ...]:
        return self.draft.records

    def service(self, service_id: str = SERVICE, tenant_id: str = TENANT) -> ServiceState:
        service = self.state.service(tenant_id, service_id)
        if service is None:
            raise LookupError(service_id)
        return service

    def identity(self, service_id: str = SERVICE, tenant_id: str = TENANT) -> Identity:
        return identity_in(self.state, tenant_id, service_id)

    def pass_time(self, seconds: float) -> None:
        self.kernel_time += seconds
        self.at_us += round(seconds * 1_000_000)

    def now(self) -> Now:
        return Now(self.at_us, self.kernel_time)

    # -- commands

    def submit(self, submission: Submission) -> tuple[Event, ...]:
        """Stage it; the events it came to. Raises what `stage` raises, and nothing has changed then."""
        known = len(self.records)
        self.draft, self.reply = stage(self.draft, submission, self.now())
        return tuple(record.event for record in self.records[known:] if record.event is not None)

    def do(self, command: Command) -> tuple[Event, ...]:
        return self.submit(Submission(command))

    def types(self, command: Command) -> list[str]:
        """The types of the events that the command came to."""
        return type_names(self.do(command))

    def create_tenant(
        self, tenant_id: str = TENANT, *, max_services: int | None = None, get: bool = False
    ) -> CreateTenant:
        """A command that creates a tenant; incarnation, key and capability are unlike any made before."""
        self.tenants_made += 1
        nth = self.tenants_made
        key = KeyRow(f"key_{nth}", f"inc_{nth}", "token", b"wrapped")
        return CreateTenant(tenant_id, f"inc_{nth}", key, f"cap_{nth}", TenantLimits(max_services), get=get)

    def start_system(self) -> tuple[Event, ...]:
        return self.do(StartSystem("0.1.0", "3.11.0", boot_loop_starts=0))

    def deploy(self, spec: ServiceSpec | None = None, service_id: str = SERVICE) -> tuple[Event, ...]:
        return self.do(requests.Deploy(TENANT, service_id, ServiceSpec() if spec is None else spec))

    def begin(self, service_id: str = SERVICE) -> tuple[Event, ...]:
        return self.do(self.identity(service_id).begin())

    def ready(self, service_id: str = SERVICE) -> tuple[Event, ...]:
        return self.do(self.identity(service_id).ready())

    def ended(self, kind: EndKind, service_id: str = SERVICE, *, timed_out: bool = False) -> tuple[Event, ...]:
        return self.do(self.identity(service_id).ended(Ending(kind, f"it {kind}"), timed_out=timed_out))

    def stopped(self, service_id: str = SERVICE) -> tuple[Event, ...]:
        return self.do(self.identity(service_id).stopped())

    def kill(self, service_id: str = SERVICE) -> tuple[Event, ...]:
        return self.do(requests.Kill(TENANT, service_id, grace_ms=5_000))

    def restart(self, service_id: str = SERVICE) -> tuple[Event, ...]:
        return self.do(requests.Restart(TENANT, service_id))

    def crash_loop(self, *, becomes_ready: bool, at_most: int) -> int:
        """Start and crash at once, again and again, until it is no longer wanted; how many crashes that took."""
        for crashes in range(1, at_most + 1):
            self.begin()
            if becomes_ready:
                self.ready()
            self.ended("crashed")
            if not self.service().wants_to_run:
                return crashes
        raise LookupError(f"still wanted after {at_most} crashes")


def with_tenant() -> Driver:
    driver = Driver()
    driver.start_system()
    driver.do(driver.create_tenant())
    return driver


def with_service(
    restart: Any = "permanent", *, max_restarts: int = 5, max_seconds: float = 60.0, ready: bool = True
) -> Driver:
    """A kernel, a tenant and one service: deployed and ready, or (`ready` False) at its first start."""
    driver = with_tenant()
    driver.deploy(ServiceSpec(restart=restart, restart_limits=RestartLimits(max_restarts, max_seconds)))
    driver.begin()
    if ready:
        driver.ready()
    return driver


def type_names(events: Iterable[Event]) -> list[str]:
    return [event.TYPE for event in events]


def replay(stored: Iterable[StoredEvent]) -> KernelState:
    """What recovery makes of the stored bytes."""
    return fold(codec.to_record(each) for each in stored)


def erased(stored: Iterable[StoredEvent], incarnation: str) -> list[StoredEvent]:
    """The log after all of an incarnation was erased."""
    return [evolve(each, payload=None) if each.incarnation == incarnation else each for each in stored]
