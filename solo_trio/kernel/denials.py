"""Refusals become events. Owns: coalescing them, the alert, who writes both and how often. Never: makes the refused wait.

Nothing of a refused request is durable when it is answered: here it is counted, and a task of the kernel writes the counts.
What an attacker can cause is bounded: `EVENTS_PER_MINUTE_MAX` events, `GROUPS_MAX` counts in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

import trio
from attrs import frozen

from solo_trio.errors import SoloError
from solo_trio.kernel.loop import Loop
from solo_trio.kernel.staging import Submission
from solo_trio.model.denial import AccessAlert, CapabilityDenied, ReportDenials
from solo_trio.policy.bucket import Bucket
from solo_trio.policy.denials import DenialWindow
from solo_trio.ports import Telemetry

STATUSES: Final = frozenset((401, 403, 429))
PERIOD_S: Final = 1.0
EVENTS_PER_MINUTE_MAX: Final = 60
"""Of `capability_denied`, for all tenants. Beyond it, counts go on and wait for their turn."""
EVENTS_BURST: Final = 10
GROUPS_MAX: Final = 1_000
"""Pairs of tenant and code that wait to be written. One more is only in the audit, and in `uncounted`."""
WINDOWS_MAX: Final = 2_000
"""Credentials and tenants whose refusals are counted; the one that was silent for longest makes room."""
ALERTS_MAX: Final = 100
"""Waiting to be written."""
ALERT_DENIALS: Final = 100
ALERT_WINDOW_S: Final = 60.0


@frozen
class AlertRules:
    """An alert is for so many refusals within so long; 0: never."""

    denials: int = ALERT_DENIALS
    window_s: float = ALERT_WINDOW_S


@frozen
class Denied:
    """One refusal. Nobody's: all three ids are None."""

    code: str
    operation: str
    tenant_id: str | None = None
    incarnation: str | None = None
    credential: str | None = None


class Refused(Protocol):
    """What is seen of the kernel here."""

    loop: Loop
    telemetry: Telemetry


Group = tuple[str | None, str | None, str]
"""Tenant, incarnation, code."""


class Denials:
    def __init__(self, core: Refused, rules: AlertRules) -> None:
        self._core = core
        self._rules = rules
        self._groups: OrderedDict[Group, CapabilityDenied] = OrderedDict()
        self._windows: OrderedDict[tuple[str | None, str | None], DenialWindow] = OrderedDict()
        self._alerts: list[ReportDenials] = []
        self._some = trio.Event()
        self.total = 0
        self.uncounted = 0
        """Refusals that no event tells of."""

    def note(self, denied: Denied) -> None:
        """Count it; never blocks."""
        self.total += 1
        group = denied.tenant_id, denied.incarnation, denied.code
        before = self._groups.get(group)
        if before is None and len(self._groups) >= GROUPS_MAX:
            self.uncounted += 1
        else:
            count = 1 if before is None else before.count + 1
            self._groups[group] = CapabilityDenied(denied.code, count, denied.operation)
        if self._rules.denials:
            self._watch(denied)
        self._some.set()

    def _watch(self, denied: Denied) -> None:
        """One alert at the most: of the credential, or else of the tenant."""
        alert = None if denied.credential is None else self._passes(denied.incarnation, denied.credential)
        credential = None if alert is None else denied.credential
        if denied.credential is None or denied.incarnation is not None:
            whole = self._passes(denied.incarnation, None)  # counted all the same
            alert = whole if alert is None else alert
        if alert is None or len(self._alerts) >= ALERTS_MAX:
            return
        seen = AccessAlert(credential, alert, self._rules.window_s)
        self._alerts.append(ReportDenials(seen, denied.tenant_id, denied.incarnation))
        self._core.telemetry.note(
            "many calls are refused",
            tenant=denied.tenant_id,
            credential=credential,
            denials=alert,
            window_s=self._rules.window_s,
        )

    def _passes(self, incarnation: str | None, credential: str | None) -> int | None:
        key = incarnation, credential
        window = self._windows.pop(key, None)
        if window is None:
            window = DenialWindow(self._rules.denials, self._rules.window_s)
            if len(self._windows) >= WINDOWS_MAX:
                self._windows.popitem(last=False)
        self._windows[key], passed = window.add(trio.current_time())
        return passed

    async def run(self) -> None:
        """Write what was counted, until cancelled."""
        bucket = Bucket(EVENTS_PER_MINUTE_MAX / 60, EVENTS_BURST, EVENTS_BURST, trio.current_time())
        while True:
            await self._some.wait()
            await trio.sleep(PERIOD_S)
            while self._alerts:
                await self._report(self._alerts.pop(0))
            while self._groups:
                bucket, allowed = bucket.take(1.0, trio.current_time())
                if not allowed:
                    break
                (tenant_id, incarnation, _), denied = self._groups.popitem(last=False)
                await self._report(ReportDenials(denied, tenant_id, incarnation))
            if not self._groups and not self._alerts:
                self._some = trio.Event()

    async def _report(self, command: ReportDenials) -> None:
        try:
            await self._core.loop.report(Submission(command))
        except SoloError as error:  # a full disk: the audit has what it could keep
            self.uncounted += command.seen.count if isinstance(command.seen, CapabilityDenied) else 0
            self._core.telemetry.note("refusals could not be recorded", error=str(error))
