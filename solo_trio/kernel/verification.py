"""Verification. Owns: the comparison of what is wanted with what runs, as a report, and the newest one. Never: mends.

It is the comparison that converging acts on, reported instead. What runs lags behind what is wanted by the time that a step
takes, so a difference counts only if it is still there after some looks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import trio
from attrs import asdict, frozen

from solo_trio.errors import SoloError
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.log_checks import (
    ARTIFACTS_QUICK_MAX,
    Check,
    Log,
    Progress,
    Status,
    check_artifacts,
    check_log,
    named,
    nothing_told,
    worst,
)
from solo_trio.kernel.loop import Loop
from solo_trio.kernel.recovery import Recovery
from solo_trio.kernel.supervisor import ServiceSupervisor
from solo_trio.kernel.tenant import TenantSupervisor
from solo_trio.model.codec import rfc3339
from solo_trio.model.service import Status as ServiceStatus
from solo_trio.model.service import count_services
from solo_trio.model.state import KernelState
from solo_trio.ports import Journal, Telemetry

LOOKS: Final = 5
LOOK_EVERY_S: Final = 0.3
ENDING_MARGIN_S: Final = 5.0
"""What is being ended may take so much longer than its patience, to be killed and collected; then it counts as a difference."""
INCONSISTENCIES_MAX: Final = 1_000
"""So many are reported one by one; beyond it they are counted only."""

Leftovers = Callable[[frozenset[str]], list[str]]
"""What is in the data directory of tenants that are not among these incarnations."""


class Verifiable(Protocol):
    """What a running kernel is compared by."""

    loop: Loop
    journal: Journal
    telemetry: Telemetry
    recovery: Recovery
    tenants: dict[str, TenantSupervisor]
    closing: bool


@frozen
class Inconsistency:
    """Something that is not as it is wanted. `kind`: not_supervised, not_running, not_wanted, wrong_deployment,
    wrong_generation."""

    kind: str
    tenant_id: str
    service_id: str
    detail: str


@frozen
class VerificationReport:
    """What was compared and what came of it. `full`: the log and all sources were read too."""

    status: Status
    full: bool
    at_us: int
    duration_s: float
    checks: Sequence[Check]
    counts: Mapping[str, int]
    inconsistencies: Sequence[Inconsistency]
    recommendations: Sequence[str]

    def view(self) -> dict[str, Any]:
        """As gateways and commands show it."""
        return {
            "status": self.status,
            "full": self.full,
            "at": rfc3339(self.at_us),
            "duration_s": self.duration_s,
            "checks": [asdict(check) for check in self.checks],
            "counts": dict(self.counts),
            "inconsistencies": [asdict(each) for each in self.inconsistencies],
            "recommendations": list(self.recommendations),
        }


class Verification:
    """That of one running kernel; `report` is the newest."""

    def __init__(
        self, core: Verifiable, leftovers: Leftovers, others: Sequence[Callable[[], Awaitable[Check]]] = ()
    ) -> None:
        self._core = core
        self._leftovers = leftovers
        self._others = others
        self._turn = trio.Lock()
        self.report: VerificationReport | None = None

    async def run(self, after: trio.Event) -> None:
        """The quick part, once, when recovery is over."""
        await after.wait()
        try:
            report = await self.verify(full=False)
        except Exception as error:  # noqa: BLE001 - contained: what looks for defects must not be one
            self._core.telemetry.bug("verifying", error)
            return
        for check in report.checks:
            if check.status == "failed" and not self._core.closing:
                self._core.telemetry.note("verification failed", check=check.name, detail=check.detail)

    async def verify(self, *, full: bool) -> VerificationReport:
        """Compare now; one at a time."""
        async with self._turn:
            began = trio.current_time()
            found = await self._lasting()
            checks = [*_service_checks(found), *self._state_checks()]
            state = self._core.loop.state
            if full:
                log_checks, _ = await check_log(self._core.journal, reducer_version(), state)
                checks += log_checks
            else:
                checks.append(self._chain_at_start())
            digests = sorted(state.sources)
            checks.append(
                await check_artifacts(
                    self._core.journal,
                    digests if full else digests[:ARTIFACTS_QUICK_MAX],
                    lambda digest: digest in self._core.loop.state.sources,
                )
            )
            checks.append(self._leftover_check())
            if full:
                checks += [await other() for other in self._others]
            self.report = report_of(
                checks, self._core.loop.state, found, full, self._core.loop.now().at_us, trio.current_time() - began
            )
            return self.report

    async def _lasting(self) -> list[Inconsistency]:
        """The differences that are there at every look."""
        found = compare(self._core)
        for _ in range(LOOKS):
            if not found or self._core.closing:
                break
            await trio.sleep(LOOK_EVERY_S)
            again = set(compare(self._core))
            found = [each for each in found if each in again]
        await trio.lowlevel.checkpoint()
        return found

    def _state_checks(self) -> list[Check]:
        given_up = [
            f"{tenant.tenant_id}/{service.service_id}"
            for tenant, service in self._core.loop.state.services()
            if service.status is ServiceStatus.GIVEN_UP
        ]
        checks = [
            Check("given_up", "warning", f"given up after crashes: {named(given_up)}")
            if given_up
            else Check("given_up", "ok", "no service was given up")
        ]
        report = self._core.recovery.report
        if report is None:
            return [*checks, Check("recovery", "warning", "recovery is not over yet")]
        counts = f"{report.wanted} wanted, {report.ready} ready, {report.failed} failed, {report.pending} not settled in time"
        return [*checks, Check("recovery", "warning" if report.failed or report.pending else "ok", counts)]

    def _chain_at_start(self) -> Check:
        start = self._core.recovery.checkpoint
        if start is None:
            return Check("chain", "ok", "every event was checked when the kernel started")
        what = f"the events after {start} were checked when the kernel started from the checkpoint there; ask for all"
        return Check("chain", "ok", f"{what} with: solo verify")

    def _leftover_check(self) -> Check:
        known = frozenset(tenant.incarnation for tenant in self._core.loop.state.tenants.values())
        return leftover_check(self._leftovers(known))


def _is_ending(supervising: ServiceSupervisor) -> bool:
    """Whether it is busy with ending what it runs, as a pause or a replacement asks for: that may take a whole patience."""
    until = supervising.ending_until
    return until is not None and trio.current_time() < until + ENDING_MARGIN_S


def compare(core: Verifiable) -> list[Inconsistency]:
    """What differs at this moment; a step that is under way shows as a difference too."""
    state, found = core.loop.state, []
    for tenant, service in state.services():
        supervisor = core.tenants.get(tenant.tenant_id)
        supervising = None if supervisor is None else supervisor.supervisors.get(service.service_id)
        if not service.wants_to_run:
            continue
        about = (tenant.tenant_id, service.service_id)
        if supervising is None:
            found.append(Inconsistency("not_supervised", *about, f"it is {service.status}, and nobody sees to it"))
        elif supervising.deployment != service.deployment:
            if _is_ending(supervising):
                continue
            what = f"deployment {supervising.deployment} is supervised, {service.deployment} is wanted"
            found.append(Inconsistency("wrong_deployment", *about, what))
        elif service.status is ServiceStatus.READY and (
            supervising.running is None or supervising.running.ended.is_set()
        ):
            what = f"generation {service.generation} is said to be ready and does not run"
            found.append(Inconsistency("not_running", *about, what))
        elif service.status is ServiceStatus.READY and supervising.generation != service.generation:
            what = f"generation {supervising.generation} runs, {service.generation} is said to be ready"
            found.append(Inconsistency("wrong_generation", *about, what))
    for tenant_id, supervisor in sorted(core.tenants.items()):
        for service_id, supervising in sorted(supervisor.supervisors.items()):
            now = state.tenants.get(tenant_id)
            wanted = None
            if now is not None and now.incarnation == supervisor.incarnation:
                wanted = now.services.get(service_id)
            if supervising.running is None or supervising.running.ended.is_set() or _is_ending(supervising):
                continue
            if wanted is None or not (wanted.wants_to_run or wanted.stop is not None):
                found.append(Inconsistency("not_wanted", tenant_id, service_id, "it runs and is not wanted"))
    return found


_KINDS: Final = {
    "wanted_run": (("not_supervised", "not_running"), "what is wanted runs, or somebody sees to it"),
    "unwanted_run": (("not_wanted",), "nothing runs that is not wanted"),
    "generations": (
        ("wrong_deployment", "wrong_generation"),
        "what runs is the deployment and the generation that are wanted",
    ),
}


def _service_checks(found: Sequence[Inconsistency]) -> list[Check]:
    checks = []
    for name, (kinds, fine) in _KINDS.items():
        wrong = [f"{each.tenant_id}/{each.service_id}: {each.detail}" for each in found if each.kind in kinds]
        checks.append(Check(name, "failed", named(wrong)) if wrong else Check(name, "ok", fine))
    return checks


def leftover_check(names: Sequence[str]) -> Check:
    if names:
        return Check("leftovers", "warning", f"of tenants that are gone: {named(names)}")
    return Check("leftovers", "ok", "nothing is left of tenants that are gone")


ADVICE: Final = {
    "wanted_run": "restart the kernel: it starts whatever is wanted; if it happens again, report it with this page",
    "unwanted_run": "restart the kernel: it ends whatever is not wanted; if it happens again, report it with this page",
    "generations": "restart the kernel; if it happens again, report it with this page",
    "given_up": "see why with: solo status ID; correct it, then: solo restart ID",
    "recovery": "see which with: solo list --all",
    "chain": "restore the whole data directory from a backup; do not edit it",
    "fold": "restore the whole data directory from a backup, or use the version of this program that wrote it",
    "checkpoints": "nothing is lost: a start that cannot use one reads more of the log; write a new one with:"
    " POST /system/checkpoint",
    "artifacts": "deploy the services whose source is missing again, or restore the data directory from a backup",
    "keys": "restore the master key that this data directory was made with",
    "audit": "keep the file apart as it is, and find out who could write to it; a start of the kernel begins a new one",
    "leftovers": "start the kernel, which removes them; what has no tenant's name is not its own: remove it by hand",
}
"""What to do about a check that is not ok."""


def report_of(
    checks: Sequence[Check],
    state: KernelState,
    found: Sequence[Inconsistency],
    full: bool,
    at_us: int,
    duration_s: float,
) -> VerificationReport:
    wrong = dict.fromkeys(check.name for check in checks if check.status != "ok")
    counts = asdict(count_services(service for _, service in state.services()))
    return VerificationReport(
        status=worst(checks),
        full=full,
        at_us=at_us,
        duration_s=duration_s,
        checks=tuple(checks),
        counts={"events": state.last_id, "tenants": len(state.tenants), **counts, "inconsistencies": len(found)},
        inconsistencies=tuple(found[:INCONSISTENCIES_MAX]),
        recommendations=tuple(ADVICE[name] for name in wrong if name in ADVICE),
    )


async def verify_log(
    log: Log, at_us: int, leftovers: Leftovers, before: Sequence[Check] = (), progress: Progress = nothing_told
) -> VerificationReport:
    """All that can be said of a log that no kernel runs on. `before`: what was found while it was opened."""
    began = trio.current_time()
    log_checks, state = await check_log(log, reducer_version(), progress=progress)
    checks = [*before, *log_checks]
    if worst(checks) != "failed":
        checks.append(await check_artifacts(log, sorted(state.sources)))
        known = frozenset(tenant.incarnation for tenant in state.tenants.values())
        checks.append(leftover_check(leftovers(known)))
    return report_of(checks, state, (), True, at_us, trio.current_time() - began)


def refused_report(error: SoloError, at_us: int) -> VerificationReport:
    """Of a directory that cannot even be opened."""
    return report_of([Check("chain", "failed", error.detail)], KernelState(), (), True, at_us, 0.0)
