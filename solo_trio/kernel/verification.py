"""Verification. Owns: the comparison of what is wanted with what runs, as a report, and the newest one. Never: mends unasked.

It is the comparison that converging acts on, reported instead. What runs lags behind what is wanted by the time that a step
takes, so a difference counts only if it is still there after some looks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import trio
from attrs import asdict, evolve, field, frozen

from solo_trio.errors import SoloError
from solo_trio.kernel import mending
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
from solo_trio.kernel.row_checks import compare_rows, lasting_rows, loss_checks, lost_sources, row_checks
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.supervisor import ServiceSupervisor
from solo_trio.kernel.tenant import TenantSupervisor
from solo_trio.model.codec import rfc3339
from solo_trio.model.repair import Removable
from solo_trio.model.service import Status as ServiceStatus
from solo_trio.model.service import count_services
from solo_trio.model.state import KernelState
from solo_trio.ports import Journal, Telemetry, TenantFiles

LOOKS: Final = 5
LOOK_EVERY_S: Final = 0.3
ENDING_MARGIN_S: Final = 10.0
"""What is being ended may take so much longer than its patience, to be killed and collected, which is how long a runtime waits
for a death; then it counts as a difference."""
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

    def converge(self, tenant_id: str, service_ids: set[str] | None) -> None:
        """Make the tenant's supervisors look again."""
        ...


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
    fixed: Sequence[str] = ()
    """What was mended before this; what is left, the rest says."""

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
            "fixed": list(self.fixed),
        }


@frozen
class Looked:
    """What a comparison found: the checks, and what of it can be mended."""

    checks: Sequence[Check]
    services: Sequence[Inconsistency]
    unnamed: Sequence[Removable] = ()
    checkpoints: Mapping[int, KernelState] = field(factory=dict)
    files: Sequence[str] = ()


class Verification:
    """That of one running kernel; `report` is the newest."""

    def __init__(
        self, core: Verifiable, files: TenantFiles, others: Sequence[Callable[[], Awaitable[Check]]] = ()
    ) -> None:
        self._core = core
        self._files = files
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

    async def verify(self, *, full: bool, fix: bool = False) -> VerificationReport:
        """Compare now; one at a time. `fix`: mend what can be mended safely, and compare again."""
        async with self._turn:
            began = trio.current_time()
            looked = await self._look(full)
            fixed = await self._mend(looked) if fix else []
            if fixed:
                looked = await self._look(full)
            now_us, duration_s = self._core.loop.now().at_us, trio.current_time() - began
            report = report_of(looked.checks, self._core.loop.state, looked.services, full, now_us, duration_s)
            self.report = evolve(report, fixed=tuple(fixed))
            return self.report

    async def _look(self, full: bool) -> Looked:
        core = self._core
        found = await self._lasting()
        checks = [*_service_checks(found), *self._state_checks()]
        state = core.loop.state
        mendable: Mapping[int, KernelState] = {}
        unnamed: Sequence[Removable] = ()
        if full:
            log = await check_log(core.journal, reducer_version(), state)
            checks += log.checks
            mendable = log.checkpoints
            rows = await lasting_rows(lambda: core.loop.state, core.journal.inventory, _a_moment, LOOKS)
            checks += row_checks(rows)
            unnamed = rows.unnamed
        else:
            checks.append(self._chain_at_start())
        digests = sorted(state.sources)
        checks.append(
            await check_artifacts(
                core.journal,
                digests if full else digests[:ARTIFACTS_QUICK_MAX],
                lambda digest: digest in core.loop.state.sources,
                lost_sources(state),
            )
        )
        files = self._files.leftovers(self._incarnations())
        checks += [leftover_check(files), *loss_checks(state)]
        if full:
            checks += [await other() for other in self._others]
        return Looked(checks, found, unnamed, mendable, files)

    async def _mend(self, looked: Looked) -> list[str]:
        core = self._core

        async def submit(command: Any) -> Any:
            return await core.loop.submit(Submission(command))

        async def remove(names: Sequence[str]) -> Sequence[str]:
            return await self._files.remove(names, self._incarnations())

        services = [(each.tenant_id, each.service_id) for each in looked.services]
        done = await mending.converge(services, self._converge, submit)
        if mending.log_is_sound(looked.checks):
            done += await mending.rewrite_checkpoints(
                looked.checkpoints, reducer_version(), core.journal.write_checkpoint, submit
            )
            done += await mending.remove_unnamed(looked.unnamed, submit)
            done += await mending.remove_files(looked.files, remove, submit)
        return done

    def _converge(self, tenant_id: str, service_ids: set[str]) -> None:
        """What is not wanted and nobody ends is ended here."""
        supervisor = self._core.tenants.get(tenant_id)
        for each in compare(self._core):
            supervising = None if supervisor is None else supervisor.supervisors.get(each.service_id)
            asked = each.tenant_id == tenant_id and each.service_id in service_ids
            if each.kind == "not_wanted" and asked and supervising is not None and supervising.running is not None:
                supervising.running.kill()
        self._core.converge(tenant_id, service_ids)

    def _incarnations(self) -> frozenset[str]:
        return frozenset(tenant.incarnation for tenant in self._core.loop.state.tenants.values())

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


async def _a_moment() -> None:
    await trio.sleep(LOOK_EVERY_S)


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
    "chain": "restore the whole data directory from a backup, or see what can be saved with: solo repair; do not edit it",
    "fold": "restore the whole data directory from a backup, or use the version of this program that wrote it",
    "checkpoints": "nothing is lost: a start that cannot use one reads more of the log; write it anew with: solo verify --fix",
    "secrets": "see what can be saved with: solo repair, or restore the data directory from a backup;"
    " or set those secrets again",
    "key_rows": "see what can be saved with: solo repair, or restore the data directory from a backup",
    "requests": "see what can be saved with: solo repair",
    "orphans": "remove it with: solo verify --fix",
    "losses": "read what, in the recovery guide what to do; then: solo verify --accept-loss",
    "artifacts": "deploy the services whose source is missing again, or restore the data directory from a backup;"
    " solo repair goes on without",
    "keys": "restore the master key that this data directory was made with; if it is that one: solo repair",
    "audit": "keep the file apart as it is, and find out who could write to it; a start of the kernel begins a new one",
    "leftovers": "remove them with: solo verify --fix; what has no tenant's name is not its own: remove it by hand",
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
    looked, state = await look_at(log, leftovers, progress)
    return report_of([*before, *looked.checks], state, (), True, at_us, trio.current_time() - began)


async def look_at(log: Log, leftovers: Leftovers, progress: Progress = nothing_told) -> tuple[Looked, KernelState]:
    """What `verify_log` says, and what of it can be mended."""
    found = await check_log(log, reducer_version(), progress=progress)
    checks, state = [*found.checks], found.state
    if worst(checks) == "failed" and not found.checkpoints:
        return Looked(checks, ()), state
    rows = compare_rows(state, await log.inventory())
    checks += row_checks(rows)
    checks.append(await check_artifacts(log, sorted(state.sources), lost=lost_sources(state)))
    files = leftovers(frozenset(tenant.incarnation for tenant in state.tenants.values()))
    checks += [leftover_check(files), *loss_checks(state)]
    return Looked(checks, (), rows.unnamed, found.checkpoints, files), state


def refused_report(error: SoloError, at_us: int) -> VerificationReport:
    """Of a directory that cannot even be opened."""
    return report_of([Check("chain", "failed", error.detail)], KernelState(), (), True, at_us, 0.0)
