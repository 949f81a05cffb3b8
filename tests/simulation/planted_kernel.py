"""Bugs of supervision and recovery. Owns: those planted in the kernel room. Never: imported but by `planted`."""

from __future__ import annotations

from typing import Any

import trio

from simulation.planted import Undo, both, bug, replace
from solo_trio.kernel import hub
from solo_trio.kernel.supervisor import ServiceSupervisor
from solo_trio.kernel.tenant import TenantSupervisor
from solo_trio.model import service_reports
from solo_trio.model.tenant_removal import FinishRemoval
from solo_trio.ports import Ending


@bug()
def watcher_is_told_twice() -> Undo:
    """A watcher that resumes gets the event that it has seen last once more."""
    was = hub.Hub.watch

    def watch(self: hub.Hub, query: Any, **more: Any) -> hub.Watch:
        found = was(self, query, **more)
        found.cursor = max(0, found.cursor - 1)
        return found

    return replace(hub.Hub, "watch", watch)


@bug()
def stop_is_not_finished_at_recovery() -> Undo:
    """A service that was being stopped when the kernel died is left as it is."""

    def converge(self: TenantSupervisor, service_ids: Any = None) -> None:
        tenant = self._core.loop.state.tenants.get(self.tenant_id)
        services = {} if tenant is None else tenant.services
        ids = sorted({*services, *self.supervisors}) if service_ids is None else list(service_ids)
        half_done = [
            each
            for each in ids
            if each not in self.supervisors and (found := services.get(each)) is not None and found.stop is not None
        ]
        was(self, [each for each in ids if each not in half_done])

    was = TenantSupervisor.converge
    return replace(TenantSupervisor, "converge", converge)


@bug()
def start_is_not_recorded() -> Undo:
    """A service is started, and the log does not say so."""
    was = ServiceSupervisor._report

    async def report(self: ServiceSupervisor, command: Any) -> Any:
        service = self._state()
        if not isinstance(command, service_reports.BeginStart) or service is None:
            return await was(self, command)
        await trio.lowlevel.checkpoint()
        return service.generation + 1

    return replace(ServiceSupervisor, "_report", report)


@bug()
def stop_does_not_wait() -> Undo:
    """A deletion is answered when the service was asked to stop, not when it has ended."""

    async def end(self: ServiceSupervisor, grace_s: float, *, force: bool) -> Ending | None:
        await trio.lowlevel.checkpoint()
        if self.running is not None:
            self.running.request_stop()
        self.running = self.ending_until = None
        return Ending("stopped", "as good as")

    return replace(ServiceSupervisor, "_end", end)


@bug()
def removal_leaves_services() -> Undo:
    """A removed tenant is said to be gone while services of it are left."""
    was = FinishRemoval.decide

    def decide(self: Any, state: Any, now: Any) -> Any:
        tenant = state.tenants.get(self.tenant_id)
        if tenant is not None and tenant.incarnation == self.incarnation and tenant.removal is not None:
            for service_id in list(tenant.services):
                state = state.drop(self.tenant_id, service_id)
        return was(self, state, now)

    async def wait_idle(self: Any) -> None:
        await trio.lowlevel.checkpoint()

    return both(replace(FinishRemoval, "decide", decide), replace(TenantSupervisor, "wait_idle", wait_idle))
