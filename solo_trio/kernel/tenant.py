"""A tenant's nursery. Owns: its supervising tasks, one per service. Never: reaches another tenant.

A defect in one supervising task ends that service's run, is kept by telemetry, and the service converges again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from solo_trio.kernel.planning import has_work
from solo_trio.kernel.siblings import Siblings
from solo_trio.kernel.supervisor import ServiceSupervisor
from solo_trio.kernel.surroundings import Surroundings
from solo_trio.model.tenant import TenantState

DEFECT_PAUSE_S: Final = 1.0


class TenantSupervisor:
    def __init__(self, core: Surroundings, tenant: TenantState) -> None:
        self._core = core
        self.tenant_id = tenant.tenant_id
        self.incarnation = tenant.incarnation
        self._siblings = Siblings()
        self.supervisors: dict[str, ServiceSupervisor] = {}
        self._nursery: trio.Nursery | None = None
        self._removed = False
        self._one_ended = trio.Event()
        """Set, and made anew, when a supervising task is over."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until cancelled, or removed, or until the kernel closes and every service has ended."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                if self._removed:
                    return
                await self._core.closed.wait()
            finally:
                self._nursery = None

    def converge(self, service_ids: Iterable[str] | None = None) -> None:
        """Compare what is wanted of these services (None: of all) with what is supervised, and start what is missing."""
        tenant = self._core.loop.state.tenants.get(self.tenant_id)
        if tenant is None or tenant.incarnation != self.incarnation:
            service_ids = list(self.supervisors) if service_ids is None else service_ids
        elif service_ids is None:
            service_ids = sorted({*tenant.services, *self.supervisors})
        for service_id in service_ids:
            self._siblings.touched(service_id)
            supervisor = self.supervisors.get(service_id)
            if supervisor is not None:
                supervisor.notify()
                continue
            service = tenant.services.get(service_id) if tenant is not None else None
            if service is None or self._nursery is None or self._core.closing:
                continue
            if has_work(service):
                supervisor = ServiceSupervisor(
                    self._core, self.tenant_id, self.incarnation, service_id, service.deployment, self._siblings
                )
                self.supervisors[service_id] = supervisor
                self._nursery.start_soon(self._supervise, service_id, supervisor, name=f"{self.tenant_id}/{service_id}")

    @property
    def stuck(self) -> frozenset[str]:
        """See `Siblings.stuck`."""
        return self._siblings.stuck

    def remove(self) -> None:
        """The tenant is gone, and nothing of it runs."""
        self._removed = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def wait_idle(self) -> None:
        """Until there is no supervising task and no service that is to be run or stopped."""
        while self.supervisors or self._has_work():
            await self._one_ended.wait()

    def _has_work(self) -> bool:
        tenant = self._core.loop.state.tenants.get(self.tenant_id)
        if tenant is None or tenant.incarnation != self.incarnation:
            return False
        return any(has_work(service) for service in tenant.services.values())

    async def wait_ended(self, service_id: str) -> None:
        """Until the supervising task that there is now for the service is over."""
        await self._siblings.wait_ended(service_id)

    def close(self) -> None:
        """The kernel closes: every supervising task ends its service, those that others depend on last."""
        tenant = self._core.loop.state.tenants.get(self.tenant_id)
        needed_by: dict[str, tuple[str, ...]] = {}
        if tenant is not None:
            for service in tenant.services.values():
                for name in service.spec.depends_on:
                    needed_by[name] = (*needed_by.get(name, ()), service.service_id)
        self._siblings.close(needed_by)
        self.converge()

    async def _supervise(self, service_id: str, supervisor: ServiceSupervisor) -> None:
        try:
            with self._siblings.supervised(service_id):
                await supervisor.run()
        except Exception as error:  # noqa: BLE001 - contained to this service, kept by telemetry, converged again
            self._core.telemetry.bug(f"supervising {self.tenant_id}/{service_id}", error)
            await trio.sleep(DEFECT_PAUSE_S)
        finally:
            del self.supervisors[service_id]
            ended, self._one_ended = self._one_ended, trio.Event()
            ended.set()
        self.converge((service_id,))
