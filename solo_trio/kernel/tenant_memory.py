"""Who looks at what the services of a tenant use together. Owns: its sum, whom to end. Never: when (`policy.together`).

A sample of a small service counts what it has read of files too, which is too much for a sum. So where the samples come near
the limit, all of the tenant's services are read again, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio
from attrs import define, frozen

from solo_trio.kernel.supervisor import ServiceSupervisor
from solo_trio.kernel.tenant import TenantSupervisor
from solo_trio.model.ending import Breach
from solo_trio.policy.together import Together
from solo_trio.policy.violations import MEBIBYTE, SOFT, Crossing
from solo_trio.ports import Running

READ_AT_ONCE: Final = 25
"""So many are read again without a turn for others."""


@define(eq=False)
class Use:
    """What one generation of a service of such a tenant uses."""

    service_id: str
    supervisor: ServiceSupervisor
    running: Running
    generation: int
    memory_mb: float

    @property
    def holds(self) -> bool:
        """Whether that generation still runs."""
        return self.supervisor.running is self.running and not self.running.ended.is_set()


@frozen
class Told:
    """A service that is to be told of, as it uses most."""

    tenant: TenantSupervisor
    service_id: str
    deployment: int
    generation: int
    crossing: Crossing


class TenantMemory:
    """What is remembered of each tenant with a limit. `limit`: the tenant's, in MiB, or None."""

    def __init__(self, limit: Callable[[TenantSupervisor], float | None]) -> None:
        self.limit = limit
        self._together: dict[str, Together] = {}
        """By incarnation."""

    async def compare(self, sampled: Iterable[tuple[TenantSupervisor, list[Use]]]) -> list[Told]:
        """End who must end; whom to tell of."""
        kept: dict[str, Together] = {}
        told: list[Told] = []
        for tenant, uses in sampled:
            limit = self.limit(tenant)
            if limit is None:
                continue
            if sum(use.memory_mb for use in uses) >= SOFT * limit:
                await _read_again(uses)
            uses = [use for use in uses if use.holds]
            at = trio.current_time()
            before = self._together.get(tenant.incarnation) or Together.since(at)
            kept[tenant.incarnation], crossing = before.step(sum(use.memory_mb for use in uses), limit, at)
            if crossing is None:
                continue
            most = max(uses, key=lambda use: use.memory_mb)
            if crossing.action == "kill" and most.supervisor.ending_until is not None:
                most.running.kill()  # it is being stopped: its grace is over
            elif crossing.action == "kill":
                most.supervisor.end_for(Breach(crossing.resource, crossing.value, crossing.limit))
            else:
                told.append(Told(tenant, most.service_id, most.supervisor.deployment, most.generation, crossing))
        self._together = kept
        return told


async def _read_again(uses: list[Use]) -> None:
    for number, use in enumerate(uses, 1):
        try:
            found = use.running.usage(exactly=True)
        except OSError:  # no descriptor is left to look with: what the sample said counts
            continue
        use.memory_mb = found.get("memory_bytes", 0.0) / MEBIBYTE
        if number % READ_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
