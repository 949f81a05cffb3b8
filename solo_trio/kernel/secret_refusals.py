"""Refused secrets become events. Owns: counting them together, who writes them and how often. Never: makes the refused wait.

A refusal is told of with whose it was, and with one of the names that were asked for: the name is the asker's to choose, so it
must not decide how many events there are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import trio
from attrs import evolve

from solo_trio.errors import SoloError
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.surroundings import Surroundings
from solo_trio.model.secret_requests import RecordDenials
from solo_trio.policy.bucket import Bucket

PERIOD_S: Final = 1.0
EVENTS_PER_MINUTE_MAX: Final = 60
"""For all tenants. Beyond it, counts go on and wait for their turn."""
EVENTS_BURST: Final = 10
TENANT_EVENTS_PER_MINUTE_MAX: Final = 12
TENANT_EVENTS_BURST: Final = 4
TENANT_ASKERS_MAX: Final = 20
"""Of one tenant, that are counted apart from each other; what one more is refused is only in `Refusals.total`."""
TENANTS_MAX: Final = 1_000
"""With refusals that wait to be written."""

Asker = tuple[str, str | None]
"""A capability or a service in words, and the service's id."""


class Refusals:
    def __init__(self, core: Surroundings) -> None:
        self._core = core
        self._counted: OrderedDict[str, OrderedDict[Asker, RecordDenials]] = OrderedDict()
        """By incarnation; the first of the first that may is next."""
        self._buckets: dict[str, Bucket] = {}
        """Those that are not full."""
        self._some = trio.Event()
        self.total = 0
        """Since the kernel started."""

    def note(self, tenant_id: str, incarnation: str, name: str, by: str, service_id: str | None) -> None:
        """Count one; never blocks."""
        self.total += 1
        counted = self._counted.get(incarnation)
        if counted is None:
            if len(self._counted) >= TENANTS_MAX:
                return
            counted = self._counted[incarnation] = OrderedDict()
        asker = by, service_id
        before = counted.get(asker)
        if before is not None:
            counted[asker] = evolve(before, count=before.count + 1)
        elif len(counted) < TENANT_ASKERS_MAX:
            counted[asker] = RecordDenials(tenant_id, incarnation, name, by, 1, service_id)
        self._some.set()

    async def run(self) -> None:
        """Write what was counted, until cancelled."""
        bucket = Bucket(EVENTS_PER_MINUTE_MAX / 60, EVENTS_BURST, EVENTS_BURST, trio.current_time())
        while True:
            await self._some.wait()
            await trio.sleep(PERIOD_S)
            for _ in range(sum(map(len, self._counted.values()))):  # what comes meanwhile waits for a second
                now = trio.current_time()
                incarnation = next((each for each in self._counted if self._bucket(each).take(1.0, now)[1]), None)
                if incarnation is None:
                    break
                bucket, allowed = bucket.take(1.0, now)
                if not allowed:
                    break
                self._buckets[incarnation], _ = self._bucket(incarnation).take(1.0, now)
                await self._report(self._next_of(incarnation))
            self._forget_full(trio.current_time())
            if not self._counted:
                self._some = trio.Event()

    def _next_of(self, incarnation: str) -> RecordDenials:
        counted = self._counted.pop(incarnation)
        _, command = counted.popitem(last=False)
        if counted:
            self._counted[incarnation] = counted  # behind the others
        return command

    def _bucket(self, incarnation: str) -> Bucket:
        found = self._buckets.get(incarnation)
        if found is None:
            burst = TENANT_EVENTS_BURST
            found = Bucket(TENANT_EVENTS_PER_MINUTE_MAX / 60, burst, burst, trio.current_time())
        return found

    def _forget_full(self, now: float) -> None:
        self._buckets = {each: bucket for each, bucket in self._buckets.items() if bucket.empty_at(now) is not None}

    async def _report(self, command: RecordDenials) -> None:
        try:
            await self._core.loop.report(Submission(command))
        except SoloError as error:
            self._core.telemetry.note("refused secrets could not be recorded", error=str(error))
