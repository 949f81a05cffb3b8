"""The kernel as a whole. Owns: wiring loop, hub and tenants; calls; the order of start and shutdown. Never: parses, routes.

Everything that lives hangs in the nursery that `run` opens: leaving it is a shutdown, cancelling it is a crash.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio
from attrs import field, frozen

from solo_trio.errors import SoloError
from solo_trio.kernel import expiry
from solo_trio.kernel.calls import Calls
from solo_trio.kernel.checkpoints import CheckpointRules, Checkpoints, reducer_version
from solo_trio.kernel.denials import AlertRules, Denials
from solo_trio.kernel.erasing import Erasures
from solo_trio.kernel.hub import Hub
from solo_trio.kernel.log_checks import Check
from solo_trio.kernel.loop import Loop, shutting_down
from solo_trio.kernel.monitor import Monitor
from solo_trio.kernel.past import PastStates
from solo_trio.kernel.pressure import NoMachine, PressureLimits, PressureMonitor
from solo_trio.kernel.recovery import Recovery, RecoveryReport
from solo_trio.kernel.removal import Removals
from solo_trio.kernel.retention import Compaction
from solo_trio.kernel.secrets import Secrets
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.supervisor import START_LIMIT_ALL
from solo_trio.kernel.tenant import TenantSupervisor
from solo_trio.kernel.verification import Verification
from solo_trio.model.capability_events import CapabilityExpired, CapabilityRevoked, TokenRotated
from solo_trio.model.event import Record
from solo_trio.model.limits import CEILING, Limits
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.service_events import ServiceDeployed, ServiceStarted, ServiceStopped
from solo_trio.model.system import (
    BOOT_LOOP_S,
    BeginShutdown,
    ClockJump,
    CompleteShutdown,
    SettleSystem,
    SystemPaused,
    SystemResumed,
)
from solo_trio.model.tenant import TenantUpdated
from solo_trio.model.tenant_removal import TenantRemovalStarted, TenantRemoved
from solo_trio.policy.egress import operator_list
from solo_trio.policy.redaction import Redactor
from solo_trio.policy.retention import Retention
from solo_trio.ports import (
    CallOut,
    Clock,
    Entropy,
    Environments,
    Journal,
    Machine,
    MayOut,
    Running,
    Runtime,
    SecretOut,
    ServiceLogs,
    Telemetry,
    TenantFiles,
)
from solo_trio.vault.vault import Vault

CLOSE_SHARE: Final = 0.7
"""The part of the shutdown's time-out that services may use to stop by themselves; the rest is for killing them."""

CRASH_CLOSE_S: Final = 5.0
"""How long a cancelled kernel waits, shielded, for the processes it leaves to be gone."""
CREDENTIALS_ENDED: Final = (CapabilityRevoked, CapabilityExpired, TokenRotated, TenantRemovalStarted, ClockJump)
"""After one of these, credentials that were good may no longer be."""


class NoFiles:
    """Implements `ports.TenantFiles` where there are none."""

    def leftovers(self, incarnations: frozenset[str]) -> list[str]:
        return []

    async def sweep(self, incarnations: frozenset[str]) -> None:
        await trio.lowlevel.checkpoint()

    async def remove(self, names: Sequence[str], incarnations: frozenset[str]) -> list[str]:
        await trio.lowlevel.checkpoint()
        return []

    async def erase(self, incarnation: str) -> None:
        await trio.lowlevel.checkpoint()


@frozen
class Parts:
    """What the kernel is made of; `bootstrap` names the concrete classes."""

    journal: Journal
    clock: Clock
    entropy: Entropy
    telemetry: Telemetry
    runtimes: Mapping[str, Runtime]
    logs: ServiceLogs
    ceiling: Limits = CEILING
    version: str = ""
    checkpoints: CheckpointRules = field(factory=CheckpointRules)
    retention: Retention = field(factory=Retention)
    files: TenantFiles = field(factory=NoFiles)
    environments: Environments | None = None
    machine: Machine = field(factory=NoMachine)
    pressure: PressureLimits = field(factory=PressureLimits)
    alerts: AlertRules = field(factory=AlertRules)
    checks: Sequence[Callable[[], Awaitable[Check]]] = ()
    """What a verification asks for besides."""
    egress_allowed: tuple[str, ...] = ("public",)
    vault: Vault | None = None


class Core:
    def __init__(self, parts: Parts, recovery: Recovery, *, settled_after_s: float = BOOT_LOOP_S) -> None:
        self.journal = parts.journal
        self.entropy = parts.entropy
        self.telemetry = parts.telemetry
        self.runtimes = parts.runtimes
        self.logs = parts.logs
        self.ceiling = parts.ceiling
        self.egress_allowed = operator_list(parts.egress_allowed)
        self.recovery = recovery
        self._settled_after_s = settled_after_s
        self._useful = trio.Event()
        self.calls = Calls(self)
        self.hub = Hub(parts.journal, recovery.state.last_id)
        self.loop = Loop(parts.journal, parts.clock, self.hub, parts.telemetry, recovery.state)
        self.loop.remember(recovery.idempotency)
        self.loop.touched = self._touched
        self.verification = Verification(self, parts.files, parts.checks)
        self.removals = Removals(self, parts.files)
        self.checkpoints = Checkpoints(self, parts.checkpoints, reducer_version(), uncovered=recovery.replayed)
        self.erasures = Erasures(self)
        self.compaction = Compaction(self, parts.retention, reducer_version())
        self.past = PastStates(self, reducer_version())
        self.monitor = Monitor(self)
        self.denials = Denials(self, parts.alerts)
        self.calls.denied = self.denials.note
        self.secrets = Secrets(self, parts.vault)
        self.removals.forgetting.append(self.secrets.forget)
        self.pressure = PressureMonitor(self, parts.machine, parts.pressure)
        self.on_revoked: list[Callable[[], None]] = []
        """Told when a credential may have become worthless before its time."""
        self.starts = trio.CapacityLimiter(START_LIMIT_ALL)
        self.tenants: dict[str, TenantSupervisor] = {}
        self._tenants_nursery: trio.Nursery | None = None
        self.closing = False
        self.closed = trio.Event()
        self.stop_deadline = self.close_deadline = float("inf")
        self.killed_at_close = 0

    @property
    def report(self) -> RecoveryReport | None:
        """How the recovery of this start went, once it is over."""
        return self.recovery.report

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `shutdown` is over. `started` once `system_started` is durable and recovery is under way."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.loop.run)
                async with trio.open_nursery() as tenants:
                    self._tenants_nursery = tenants
                    await self.removals.sweep()
                    await self.recovery.begin(self)
                    await self.pressure.look()
                    for tenant_id in sorted(self.loop.state.tenants):
                        self._converge(tenant_id, None)
                    task_status.started()
                    nursery.start_soon(self.removals.run)
                    nursery.start_soon(self.recovery.watch, self)
                    nursery.start_soon(self._settle)
                    nursery.start_soon(self.checkpoints.run, self.recovery.done)
                    nursery.start_soon(self.verification.run, self.recovery.done)
                    nursery.start_soon(self.erasures.run, self.recovery.done)
                    nursery.start_soon(self.compaction.run, self.recovery.done)
                    nursery.start_soon(self.monitor.run)
                    nursery.start_soon(self.denials.run)
                    nursery.start_soon(self.secrets.run)
                    nursery.start_soon(self.pressure.run)
                    nursery.start_soon(expiry.run, self)
                    await self.closed.wait()
                    tenants.cancel_scope.deadline = self.close_deadline  # whatever a supervisor may be waiting for
                # every tenant's nursery is empty now
                await self._complete_shutdown()
                nursery.cancel_scope.cancel()
        finally:
            self.closing = True
            self.closed.set()  # after a crash too: who waits for an outcome may live outside this nursery
            self._tenants_nursery = None
            self.hub.close()
            with trio.move_on_after(CRASH_CLOSE_S, shield=True):
                deadline = min(self.close_deadline, trio.current_time() + CRASH_CLOSE_S)
                for runtime in self.runtimes.values():
                    await runtime.close(deadline)

    async def _settle(self) -> None:
        """Record that this life lasted, or did something that was asked for: its start then counts in no boot loop."""
        with trio.move_on_after(self._settled_after_s):
            await self._useful.wait()
        try:
            await self.loop.report(Submission(SettleSystem()))
        except SoloError as error:
            self.telemetry.note("that the kernel lives could not be recorded", error=str(error))

    # -- done: converging on the state

    def _touched(self, records: Sequence[Record]) -> None:
        self.checkpoints.appended(records)
        by_tenant: dict[str, set[str]] = {}
        if any(isinstance(record.event, CREDENTIALS_ENDED) for record in records):
            for told in self.on_revoked:
                told()
        if any(isinstance(record.event, SystemPaused | SystemResumed) for record in records):
            for tenant_id in sorted(self.tenants):
                self._converge(tenant_id, None)
        for record in records:
            if isinstance(record.event, ServiceStarted):
                self.monitor.started()
            if isinstance(record.event, ServiceDeployed | ServiceStopped):
                self._useful.set()
            if isinstance(
                record.event, TenantUpdated | TenantRemovalStarted
            ):  # other limits, or the end, for each service
                self._converge(record.stored.tenant_id or "", None)
            if isinstance(record.event, TenantRemovalStarted):
                self.removals.notify()
            if isinstance(record.event, TenantRemoved):
                self._forget_tenant(record.stored.tenant_id or "", record.stored.incarnation)
            if record.stored.tenant_id is not None and record.stored.subject is not None:
                by_tenant.setdefault(record.stored.tenant_id, set()).add(record.stored.subject)
        for tenant_id, service_ids in by_tenant.items():
            self._converge(tenant_id, service_ids)

    def converge(self, tenant_id: str, service_ids: set[str] | None) -> None:
        """Compare what is wanted of these services (None: all) with what runs, once more."""
        self._converge(tenant_id, service_ids)

    def _converge(self, tenant_id: str, service_ids: set[str] | None) -> None:
        tenant = self.loop.state.tenants.get(tenant_id)
        supervisor = self.tenants.get(tenant_id)
        if supervisor is None and tenant is not None and self._tenants_nursery is not None and not self.closing:
            supervisor = TenantSupervisor(self, tenant)
            self.tenants[tenant_id] = supervisor
            self._tenants_nursery.start_soon(self._run_tenant, supervisor)
        elif supervisor is not None:
            supervisor.converge(service_ids)

    def _forget_tenant(self, tenant_id: str, incarnation: str | None) -> None:
        self.hub.forget(incarnation or "")
        supervisor = self.tenants.get(tenant_id)
        if supervisor is not None and supervisor.incarnation == incarnation:
            del self.tenants[tenant_id]
            supervisor.remove()

    async def _run_tenant(self, supervisor: TenantSupervisor) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            supervisor.converge()

    # -- shutdown

    async def shutdown(self, timeout_s: float, reason: str) -> None:
        """Refuse new work, stop every service, all within `timeout_s`; `run` returns then. A second call changes nothing."""
        if self.closing or self.loop.refusing:
            return
        began = trio.current_time()
        self.loop.refuse_outside()
        try:
            await self.loop.report(Submission(BeginShutdown(reason)))
        except SoloError as error:
            self.telemetry.note("shutdown could not be recorded", error=str(error))
        finally:  # also when cancelled in the middle: nobody would close otherwise
            self.closing = True
            self.stop_deadline = began + timeout_s * CLOSE_SHARE
            self.close_deadline = began + timeout_s
            for tenant in self.tenants.values():
                tenant.close()
            self.closed.set()
            self.hub.close()

    async def _complete_shutdown(self) -> None:
        await self.checkpoints.write_last(self.close_deadline)
        try:
            await self.loop.report(Submission(CompleteShutdown(self.killed_at_close)))
        except SoloError as error:
            self.telemetry.note("the end of the shutdown could not be recorded", error=str(error))

    # -- what runs

    async def wait_paused(self, tenant_id: str, service_id: str, deployment: int) -> None:
        """Until nothing of a paused service runs any more, or it is no longer paused.

        Raises `Faulted("shutting_down")` if the kernel ends before that.
        """
        tenant = self.tenants.get(tenant_id)
        if tenant is None:
            return
        supervisor = tenant.supervisors.get(service_id)
        with self.hub.follow(tenant_id, service_id) as follow:
            async with trio.open_nursery() as nursery:

                async def until_ended() -> None:
                    await tenant.wait_ended(service_id)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_ended)
                while True:
                    service = self.loop.state.service(tenant_id, service_id)
                    if service is None or service.deployment != deployment or service.status is not Status.PAUSED:
                        break
                    await follow.next()
                nursery.cancel_scope.cancel()
        running = None if supervisor is None else supervisor.running
        service = self.loop.state.service(tenant_id, service_id)
        paused = service is not None and service.deployment == deployment and service.status is Status.PAUSED
        if (
            paused and running is not None and not running.ended.is_set()
        ):  # its supervising task was cut off with the kernel
            raise shutting_down()

    def adjust(self, tenant_id: str, service: ServiceState, changed: Limits) -> frozenset[str]:
        """Make the limits that were `changed` count for what runs; the names of those that only the next start can bring."""
        tenant = self.tenants.get(tenant_id)
        supervisor = None if tenant is None else tenant.supervisors.get(service.service_id)
        if supervisor is None or supervisor.deployment != service.deployment:
            return frozenset()
        return supervisor.apply_limits() & frozenset(changed.given())

    def ceiling_of(self, tenant_id: str) -> Limits:
        """What no service of the tenant may exceed: the lowest of what the tenant may have and the configuration says."""
        tenant = self.loop.state.tenants.get(tenant_id)
        if tenant is None:
            return self.ceiling
        ceiling, together = self.ceiling.lowest(tenant.service_limits), tenant.limits.max_memory_mb
        return ceiling if together is None else ceiling.lowest(Limits(memory_mb=together))

    def running(self, tenant_id: str, service: ServiceState) -> Running | None:
        tenant = self.tenants.get(tenant_id)
        supervisor = None if tenant is None else tenant.supervisors.get(service.service_id)
        if supervisor is None or supervisor.deployment != service.deployment:
            return None
        return supervisor.running

    def secrets_of(
        self, tenant_id: str, incarnation: str, service_id: str, deployment: int, generation: int, redactor: Redactor
    ) -> SecretOut:
        """What a generation of a service gets its secrets with."""
        return self.secrets.of_service(tenant_id, incarnation, service_id, deployment, generation, redactor)

    def outgoing(self, tenant_id: str, incarnation: str, service_id: str, deployment: int) -> CallOut:
        """What a service of this tenant calls its siblings with."""
        return self.calls.outgoing(tenant_id, incarnation, service_id, deployment)

    def rights(self, tenant_id: str, incarnation: str) -> MayOut:
        """What a service of this tenant asks about its callers."""
        return self.calls.rights(tenant_id, incarnation)
