"""Who watches what services use. Owns: a sample of each a second, what follows. Never: when it does (`policy.violations`), sums
(`tenant_memory`).

A sample is one read of small files per service, on the loop but a few services at a time, so that it holds up nobody; with so
many services that it would take more than `SHARE_MAX` of a processor, it is made less often. A kernel whose services cannot be
measured (tasks) is not woken for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import trio
from attrs import frozen

from solo_trio.errors import SoloError
from solo_trio.kernel.loop import Loop
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.supervisor import ServiceSupervisor
from solo_trio.kernel.tenant import TenantSupervisor
from solo_trio.kernel.tenant_memory import TenantMemory, Use
from solo_trio.model.ending import Breach
from solo_trio.model.resources import ReportViolation, ResourceViolation
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
        self._tenant_memory = TenantMemory(self._tenant_limit)
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
        limited: dict[TenantSupervisor, list[Use]] = {}
        for number, (tenant, service_id, supervisor) in enumerate(list(self._supervisors()), 1):
            usage = self._sample(tenant, service_id, supervisor, watched, found)
            if "memory_bytes" in usage and supervisor.running is not None and self._tenant_limit(tenant) is not None:
                memory_mb = usage["memory_bytes"] / MEBIBYTE
                use = Use(service_id, supervisor, supervisor.running, supervisor.generation, memory_mb)
                limited.setdefault(tenant, []).append(use)
            if number % SLICE_SERVICES == 0:
                await self._report(found)
                found = []
                await trio.lowlevel.checkpoint()
        for told in await self._tenant_memory.compare(limited.items()):
            found.append(_Found(told.tenant, told.service_id, told.deployment, told.generation, told.crossing))
        await self._report(found)
        self._watched = watched
        return len(watched)

    def _tenant_limit(self, tenant: TenantSupervisor) -> float | None:
        state = self._core.loop.state.tenants.get(tenant.tenant_id)
        return None if state is None or state.incarnation != tenant.incarnation else state.limits.max_memory_mb

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
    ) -> Mapping[str, float]:
        """What it uses; nothing, if that cannot be told."""
        running = supervisor.running
        if running is None or running.ended.is_set():
            return {}
        try:
            usage = running.usage()
        except OSError:  # no descriptor is left to look with: the next round may have one
            return {}
        if not usage:
            return {}
        deployment, generation = supervisor.deployment, supervisor.generation
        key = (tenant.incarnation, service_id, deployment, generation)
        at = trio.current_time()
        before = self._watched.get(key) or Watched.since(at)
        watched[key], crossings = before.step(usage, supervisor.limits.given(), at)
        for crossing in crossings:
            if crossing.action == "kill":  # it is recorded together with the crash that this is
                supervisor.end_for(Breach(crossing.resource, crossing.value, crossing.limit))
                return usage
            found.append(_Found(tenant, service_id, deployment, generation, crossing))
        return usage

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
