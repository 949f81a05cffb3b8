"""What a start of the kernel does about services, as data. Owns: the rules that recovery and a rehearsal share. Never: does it.

`aims_of`, `has_work`, `stop_reason`, `lacking` and `failure_of` are what the running kernel asks. `rehearse` asks them in the
same order of a draft that nobody appends: each start is taken for one that becomes ready, unless something is known to be in
its way. So a plan is the log that a start would write, as far as it can be known without starting anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from attrs import define, field, frozen

from solo_trio.errors import Faulted, Rejected
from solo_trio.kernel.staging import Command, Draft, Submission, stage
from solo_trio.model import service_reports as reports
from solo_trio.model.dependencies import find_stuck, hopeless, waiting_for
from solo_trio.model.ending import Ending, EndKind
from solo_trio.model.event import Now
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.state import KernelState
from solo_trio.model.system import StartSystem
from solo_trio.model.tenant import TenantState
from solo_trio.model.tenant_removal import FinishRemoval

if TYPE_CHECKING:
    from solo_trio.model.dependencies import Services

ROUNDS_MAX: Final = 10_000
"""Of a rehearsal: no chain of dependencies is longer, so that one that would not end is a defect."""

Key: TypeAlias = "tuple[str, str]"
"""A tenant's id and a service's."""
Which: TypeAlias = "tuple[str, str, int]"
"""The same, and the deployment."""
Outcome = Literal["ready", "given_up", "failed", "retried", "stopped"]


# -- what the running kernel asks, too


def has_work(service: ServiceState) -> bool:
    """Whether a supervising task is needed for it."""
    return service.wants_to_run or service.stop is not None


@frozen
class Aims:
    """What a recovery is about: `wanted` are to run, `pending` have yet to become settled, `dependent` may wait for others."""

    pending: frozenset[Key]
    wanted: frozenset[Key]
    dependent: frozenset[Key]


def aims_of(state: KernelState) -> Aims:
    """Of the state right after `system_started`."""
    found = [((tenant.tenant_id, service.service_id), service) for tenant, service in state.services()]
    return Aims(
        pending=frozenset(key for key, service in found if has_work(service)),
        wanted=frozenset(key for key, service in found if service.wants_to_run),
        dependent=frozenset(key for key, service in found if service.wants_to_run and service.spec.depends_on),
    )


def stop_reason(service: ServiceState, *, started_here: bool) -> str:
    """Why nothing runs of a service that is to be stopped."""
    return "kernel_restarted" if not started_here and service.begun else "not_running"


@frozen
class Lacking:
    """`missing`: dependencies that are not ready; `lost`: those of them that nobody is about to make ready; `fails`: why its
    first start cannot even begin, if it cannot."""

    missing: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    fails: str | None = None


def lacking(services: Services, service: ServiceState, stuck: Collection[str]) -> Lacking:
    """`stuck`: see `model.dependencies.hopeless`."""
    missing = waiting_for(services, service)
    lost = hopeless(services, service, stuck) if missing else ()
    if (
        lost and not service.confirmed and (lost := hopeless(services, service))
    ):  # for good: what is stuck may be no more
        return Lacking(missing, lost, f"it depends on {', '.join(lost)}, which does not run")
    return Lacking(missing, lost)


def failure_of(error: Faulted | Rejected) -> Ending:
    """How a generation ended that could not be started: the world's fault, unless its source is gone or it was refused."""
    kind: EndKind = "lost" if isinstance(error, Faulted) and error.code != "data_damaged" else "load_failed"
    return Ending(kind, error.detail)


# -- the rehearsal


@frozen
class Start:
    """A service would be started, when those of the rounds before its own are ready. `obstacle`: what is in its way."""

    tenant_id: str
    service_id: str
    round: int
    cause: str
    outcome: Outcome
    obstacle: str | None = None
    after: tuple[str, ...] = ()


@frozen
class Waiting:
    """A service would be wanted, and not started: `missing` are not ready, and nothing in the plan makes them."""

    tenant_id: str
    service_id: str
    missing: tuple[str, ...]


@define
class Rehearsal:
    """What a start would do, step by step, on a draft."""

    draft: Draft
    now: Now
    obstacles: Mapping[Which, Ending]
    started: KernelState = field(init=False)
    """Right after `system_started`."""
    starts: list[Start] = field(factory=list)
    finished: list[Key] = field(factory=list)
    """Stops that were asked for before, and would be brought to their end."""
    failed: list[tuple[Key, str]] = field(factory=list)
    """Deployments that would be forgotten without having been tried."""
    waiting: list[Waiting] = field(factory=list)
    removed: list[str] = field(factory=list)
    """Tenants whose removal would be brought to its end."""
    _settled: set[tuple[Key, int, int]] = field(factory=set)

    def events_of(self, tenant_id: str, service_id: str) -> list[str]:
        """The kinds of events that it would write about a service, in their order."""
        of = (record.stored for record in self.draft.records)
        return [each.type for each in of if (each.tenant_id, each.subject) == (tenant_id, service_id)]

    @property
    def state(self) -> KernelState:
        return self.draft.state

    def run(self, start: StartSystem) -> None:
        self._do(start)
        self.started = self.state
        for number in range(1, ROUNDS_MAX):
            if not self._round(number):
                break
        else:
            raise AssertionError("a rehearsal that does not end")
        self._remove()
        for tenant, service in self.state.services():
            missing = waiting_for(tenant.services, service)
            if service.wants_to_run and missing:
                self.waiting.append(Waiting(tenant.tenant_id, service.service_id, missing))

    def _do(self, command: Command) -> Any:
        self.draft, reply = stage(self.draft, Submission(command), self.now)
        return reply

    def _round(self, number: int) -> bool:
        """One look at every service, as if all supervising tasks looked at the same moment; False: nothing was to be done."""
        found = False
        tenants = self.state.tenants
        stuck = {name: find_stuck(tenants[name].services, tenants[name].services) for name in tenants}
        for tenant, service in list(self.state.services()):
            which = (tenant.incarnation, service.service_id, service.deployment)
            if service.stop is not None:
                reason = stop_reason(service, started_here=False)
                self._do(reports.ReportStopped(tenant.tenant_id, *which, reason))
                self.finished.append((tenant.tenant_id, service.service_id))
                found = True
                continue
            if not service.wants_to_run or service.status is Status.READY or self._is_settled(tenant, service):
                continue
            lacks = lacking(tenant.services, service, stuck[tenant.tenant_id])
            if lacks.fails is not None:
                self._do(reports.GiveUpDeployment(tenant.tenant_id, *which, lacks.fails))
                self.failed.append(((tenant.tenant_id, service.service_id), lacks.fails))
                found = True
            elif not lacks.missing:
                self._start(number, tenant, service)
                found = True
        return found

    def _is_settled(self, tenant: TenantState, service: ServiceState) -> bool:
        """Whether it was started already, and could not be: it would be tried again, which is not rehearsed."""
        return ((tenant.tenant_id, service.service_id), service.deployment, service.epoch) in self._settled

    def _start(self, number: int, tenant: TenantState, service: ServiceState) -> None:
        key = (tenant.tenant_id, service.service_id)
        which = (tenant.tenant_id, tenant.incarnation, service.service_id, service.deployment)
        obstacle = self.obstacles.get((*key, service.deployment))
        generation = self._do(reports.BeginStart(*which, service.epoch))
        assert generation is not None, "what is wanted and has not begun is begun"
        if obstacle is None:
            assert self._do(reports.ReportReady(*which, generation)), "what was begun becomes ready"
        else:
            self._do(reports.ReportEnded(*which, generation, obstacle))
        after = self.state.service(*key)
        if obstacle is not None and after is not None and after.confirmed and after.deployment == service.deployment:
            self._settled.add((key, after.deployment, after.epoch))
        outcome = _outcome(service, after)
        why = None if obstacle is None else obstacle.reason
        self.starts.append(Start(*key, number, service.next_cause, outcome, why, service.spec.depends_on))

    def _remove(self) -> None:
        for tenant_id in sorted(self.state.tenants):
            tenant = self.state.tenants[tenant_id]
            if tenant.removal is not None and self._do(FinishRemoval(tenant_id, tenant.incarnation)):
                self.removed.append(tenant_id)


def _outcome(before: ServiceState, after: ServiceState | None) -> Outcome:
    if after is None or after.deployment != before.deployment:
        return "failed"
    known: dict[Status, Outcome] = {
        Status.READY: "ready",
        Status.GIVEN_UP: "given_up",
        Status.STOPPED: "stopped",
    }
    return known.get(after.status, "retried")


def rehearse(state: KernelState, start: StartSystem, now: Now, obstacles: Mapping[Which, Ending]) -> Rehearsal:
    """What a start on a log that comes to `state` would do; `obstacles`: what is known to be in the way of which service."""
    found = Rehearsal(Draft(state), now, obstacles)
    found.run(start)
    return found
