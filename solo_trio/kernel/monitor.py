"""Who watches what services use. Owns: a sample of each a second, what follows. Never: when it does (`policy`).

A sample is one read of small files per service, on the loop but a few services at a time, so that it holds up nobody; with so
many services that it would take more than `SHARE_MAX` of a processor, it is made less often. A kernel whose services cannot be
measured (tasks) is not woken for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, Protocol

import trio
from attrs import frozen

from solo_trio.errors import SoloError
from solo_trio.kernel.loop import Loop
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.supervisor import ServiceSupervisor
from solo_trio.kernel.tenant import TenantSupervisor
from solo_trio.model.ending import Breach
from solo_trio.model.resources import ReportViolation, ResourceViolation
from solo_trio.policy.together import Together
from solo_trio.policy.violations import MEBIBYTE, Crossing, Watched
from solo_trio.ports import Telemetry

PERIOD_S: Final = 1.0
SLICE_SERVICES: Final = 25
"""So many are read without a turn for others: about a millisecond."""
SHARE_MAX: Final = 0.05
"""Of one processor, for sampling."""
IDLE_ROUNDS: Final = 10
"""After so many rounds in which there was nothing to measure, it sleeps until something starts."""


class Watchable(Protocol):
    """What the monitor sees of the kernel."""

    loop: Loop
    telemetry: Telemetry
    tenants: dict[str, TenantSupervisor]


@frozen
class _Use:
    """What one service of a tenant that has a limit of its own uses."""

    memory_mb: float
    service_id: str
    supervisor: ServiceSupervisor


@frozen
class _Found:
    """A crossing, and whose."""

    tenant: TenantSupervisor
    service_id: str
    deployment: int
    generation: int
    crossing: Crossing


Key = tuple[str, str, int, int]
"""Incarnation, service, deployment, generation."""


class Monitor:
    """Samples what runs, reports what crosses a limit, ends what must end for it."""

    def __init__(self, core: Watchable) -> None:
        self._core = core
        self._watched: dict[Key, Watched] = {}
        self._together: dict[str, Together] = {}
        """By incarnation, of tenants with a limit of their own."""
        self._started = trio.Event()
        self.rounds = 0

    def started(self) -> None:
        """Something was started."""
        self._started.set()

    def cpu_percent(self, incarnation: str, service_id: str, deployment: int, generation: int) -> float:
        """The mean of the last seconds; 100 is one processor."""
        watched = self._watched.get((incarnation, service_id, deployment, generation))
        return 0.0 if watched is None else round(watched.cpu.percent, 1)

    async def run(self) -> None:
        """Sample until cancelled."""
        idle = 0
        while True:
            if idle >= IDLE_ROUNDS:
                self._started = trio.Event()
                await self._started.wait()
                idle = 0
            began = time.perf_counter()
            measured = await self._round()
            idle = 0 if measured else idle + 1
            self.rounds += 1
            await trio.sleep(max(PERIOD_S, (time.perf_counter() - began) / SHARE_MAX if measured else 0))

    async def _round(self) -> int:
        """One sample of everything; how many could be measured."""
        watched: dict[Key, Watched] = {}
        found: list[_Found] = []
        shared: dict[str, list[_Use]] = {}
        for number, (tenant, service_id, supervisor) in enumerate(list(self._supervisors()), 1):
            memory_mb = self._sample(tenant, service_id, supervisor, watched, found)
            if memory_mb is not None and self._limit(tenant) is not None:
                shared.setdefault(tenant.tenant_id, []).append(_Use(memory_mb, service_id, supervisor))
            if number % SLICE_SERVICES == 0:
                await self._report(found)
                found = []
                await trio.lowlevel.checkpoint()
        self._compare(shared, found)
        await self._report(found)
        self._watched = watched
        return len(watched)

    def _limit(self, tenant: TenantSupervisor) -> float | None:
        state = self._core.loop.state.tenants.get(tenant.tenant_id)
        return None if state is None else state.limits.max_memory_mb

    def _compare(self, shared: dict[str, list[_Use]], found: list[_Found]) -> None:
        """What the services of a tenant use together with what it may."""
        kept: dict[str, Together] = {}
        at = trio.current_time()
        for tenant_id, uses in shared.items():
            tenant = self._core.tenants.get(tenant_id)
            limit = None if tenant is None else self._limit(tenant)
            if tenant is None or limit is None:
                continue
            before = self._together.get(tenant.incarnation) or Together.since(at)
            used = sum(use.memory_mb for use in uses)
            kept[tenant.incarnation], crossing = before.step(used, limit, at)
            if crossing is None:
                continue
            most = max(uses, key=lambda use: use.memory_mb)
            if crossing.action == "kill":
                most.supervisor.end_for(Breach(crossing.resource, crossing.value, crossing.limit))
            else:
                supervisor = most.supervisor
                found.append(_Found(tenant, most.service_id, supervisor.deployment, supervisor.generation, crossing))
        self._together = kept

    def _supervisors(self) -> Iterator[tuple[TenantSupervisor, str, ServiceSupervisor]]:
        for tenant in self._core.tenants.values():
            for service_id, supervisor in tenant.supervisors.items():
                yield tenant, service_id, supervisor

    def _sample(
        self,
        tenant: TenantSupervisor,
        service_id: str,
        supervisor: ServiceSupervisor,
        watched: dict[Key, Watched],
        found: list[_Found],
    ) -> float | None:
        """Its memory, if that is known and it goes on."""
        running = supervisor.running
        if running is None or running.ended.is_set():
            return None
        try:
            usage = running.usage()
        except OSError:  # no descriptor is left to look with: the next round may have one
            return None
        if not usage:
            return None
        deployment, generation = supervisor.deployment, supervisor.generation
        key = (tenant.incarnation, service_id, deployment, generation)
        at = trio.current_time()
        before = self._watched.get(key) or Watched.since(at)
        watched[key], crossings = before.step(usage, supervisor.limits.given(), at)
        for crossing in crossings:
            if crossing.action == "kill":  # it is recorded together with the crash that this is
                supervisor.end_for(Breach(crossing.resource, crossing.value, crossing.limit))
                return None
            found.append(_Found(tenant, service_id, deployment, generation, crossing))
        return usage["memory_bytes"] / MEBIBYTE if "memory_bytes" in usage else None

    async def _report(self, found: list[_Found]) -> None:
        if not found:
            return
        async with trio.open_nursery() as nursery:  # together, so that they are one transaction
            for each in found:
                nursery.start_soon(self._report_one, each)

    async def _report_one(self, found: _Found) -> None:
        crossing = found.crossing
        violation = ResourceViolation(
            found.deployment, found.generation, crossing.resource, crossing.value, crossing.limit, crossing.action
        )
        tenant = found.tenant
        command = ReportViolation(tenant.tenant_id, tenant.incarnation, found.service_id, violation)
        try:
            await self._core.loop.report(Submission(command, causation_id=found.deployment))
        except SoloError as error:  # a full disk: the next crossing is told again
            self._core.telemetry.note(
                f"{crossing.resource} of {tenant.tenant_id}/{found.service_id} could not be recorded", error=str(error)
            )
