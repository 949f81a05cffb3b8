"""Removing tenants. Owns: the order in which one ends, and seeing it through. Never: stops a service (supervisors do).

1. `tenant_removal_started` is durable: each supervising task ends its service, and nothing of the tenant is served any more.
2. When none is left, every runtime ends what it kept for the tenant. 3. `tenant_removed` is durable, and with it all keys are
gone, and its events count as erased. 4. Files of it are deleted, and what its events held.

Level-triggered: whatever was done of this, the next kernel goes on from what the state says. What step 4 did not come to is
known by belonging to no tenant, and is deleted before the next kernel serves anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import trio

from solo_trio.errors import KernelBug, StorageFull
from solo_trio.kernel.erasing import Erasures
from solo_trio.kernel.loop import Loop, shutting_down, submission_error
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.tenant import TenantSupervisor
from solo_trio.model.tenant import TenantState
from solo_trio.model.tenant_removal import FinishRemoval
from solo_trio.ports import Runtime, ServiceLogs, Telemetry, TenantFiles

STORAGE_RETRY_S: Final = 1.0
DEFECT_PAUSE_S: Final = 1.0


class Removable(Protocol):
    """What removing a tenant is about."""

    loop: Loop
    runtimes: Mapping[str, Runtime]
    logs: ServiceLogs
    telemetry: Telemetry
    tenants: dict[str, TenantSupervisor]
    erasures: Erasures
    closing: bool
    closed: trio.Event


class Removals:
    """Those of one running kernel. `forgetting`: told the incarnation of a tenant whose keys are gone."""

    def __init__(self, core: Removable, files: TenantFiles) -> None:
        self._core = core
        self._files = files
        self._under_way: set[str] = set()
        self._changed = trio.Event()
        self._over = trio.Event()
        """Set, and made anew, when one is over."""
        self.forgetting: list[Callable[[str], None]] = []

    def notify(self) -> None:
        """A removal may be wanted that was not."""
        self._changed.set()

    async def sweep(self) -> None:
        """Delete what tenants left that are gone. Only before anything is served: a tenant that is being made has files too."""
        known = frozenset(tenant.incarnation for tenant in self._core.loop.state.tenants.values())
        await self._noted(self._files.sweep(known))

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                for tenant in self._core.loop.state.tenants.values():
                    if tenant.removal is not None and tenant.incarnation not in self._under_way:
                        self._under_way.add(tenant.incarnation)
                        nursery.start_soon(self._see_through, tenant, name=f"removing {tenant.tenant_id}")
                await self._changed.wait()

    async def wait_over(self, incarnation: str) -> None:
        """Until nothing of it is left. Raises `Faulted("shutting_down")`: the next kernel goes on with it."""
        async with trio.open_nursery() as nursery:

            async def until_closed() -> None:
                await self._core.closed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_closed)
            while not self._is_over(incarnation):
                await self._over.wait()
            nursery.cancel_scope.cancel()
        if not self._is_over(incarnation):
            raise shutting_down()

    def _is_over(self, incarnation: str) -> bool:
        known = any(tenant.incarnation == incarnation for tenant in self._core.loop.state.tenants.values())
        return not known and incarnation not in self._under_way

    async def _see_through(self, tenant: TenantState) -> None:
        try:
            await self._remove(tenant)
        except Exception as error:  # noqa: BLE001 - contained to this removal, kept by telemetry, tried again
            if not submission_error(error):
                self._core.telemetry.bug(f"removing {tenant.tenant_id}", error)
            await trio.sleep(DEFECT_PAUSE_S)
        finally:
            self._under_way.discard(tenant.incarnation)
            over, self._over = self._over, trio.Event()
            over.set()
            self.notify()

    async def _remove(self, tenant: TenantState) -> None:
        supervisor = self._core.tenants.get(tenant.tenant_id)
        if supervisor is not None and supervisor.incarnation == tenant.incarnation:
            await supervisor.wait_idle()
        if self._core.closing:
            await trio.sleep_forever()  # cancelled with the kernel: the next one goes on
        for runtime in self._core.runtimes.values():
            await runtime.forget(tenant.incarnation)
        if not await self._finish(tenant):
            raise KernelBug(f"the removal of {tenant.tenant_id} cannot be finished: services of it are left")
        for told in self.forgetting:
            told(tenant.incarnation)
        await self._core.logs.forget(tenant.incarnation)
        await self._noted(self._files.erase(tenant.incarnation))
        await self._core.erasures.finish(tenant.incarnation)

    async def _finish(self, tenant: TenantState) -> bool:
        while True:
            try:
                return bool(
                    await self._core.loop.report(Submission(FinishRemoval(tenant.tenant_id, tenant.incarnation)))
                )
            except StorageFull:
                await trio.sleep(STORAGE_RETRY_S)

    async def _noted(self, erasing: Awaitable[None]) -> None:
        try:
            await erasing
        except OSError as error:
            self._core.telemetry.note("files of a tenant that is gone are left until the next start", error=error)
