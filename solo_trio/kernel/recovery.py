"""Recovery. Owns: reading the log at start, waiting until what is wanted runs again, its report. Never: starts a service
(converging does that, the same way as always).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

import trio
from attrs import define, field, frozen

from solo_trio.kernel.checkpoints import Kept, newest_usable
from solo_trio.kernel.loop import IDEMPOTENCY_SECONDS
from solo_trio.kernel.planning import aims_of
from solo_trio.kernel.staging import Submission
from solo_trio.kernel.surroundings import Surroundings
from solo_trio.model import codec
from solo_trio.model.dependencies import waiting_for
from solo_trio.model.record import EventQuery, IdempotencyRow, StoredEvent
from solo_trio.model.service import Status
from solo_trio.model.state import KernelState, apply
from solo_trio.model.system import StartSystem
from solo_trio.ports import Clock, Journal, Telemetry

REPLAY_YIELD_RECORDS: Final = 500
SETTLING: Final = (
    "service_ready",
    "service_crashed",
    "service_recovery_failed",
    "service_deployment_failed",
    "service_given_up",
    "service_stopped",
    "service_killed",
    "service_restart_requested",
    "service_paused",
    "system_paused",
)
"""After one of these a recovered service is ready, or has failed, or is no longer recovery's."""


@frozen
class RecoveryReport:
    """How a start went: times in seconds, services counted when it was over."""

    events: int
    replay_s: float
    duration_s: float
    wanted: int
    ready: int
    failed: int
    pending: int
    """Neither ready nor failed when the time was over."""
    held: int = 0
    """Not started, because the kernel started paused."""
    checkpoint: int | None = None
    """The event of the checkpoint that the start went on from."""
    replayed: int = 0
    """How many events were read and folded."""

    @property
    def complete(self) -> bool:
        return self.pending == 0


@define
class Recovery:
    """One start of the kernel on its log. `done` is set when each wanted service is ready or failed, or time is over."""

    state: KernelState
    idempotency: list[IdempotencyRow]
    replay_s: float
    start: StartSystem
    timeout_s: float
    checkpoint: int | None = None
    """The event of the checkpoint that the start went on from."""
    done: trio.Event = field(factory=trio.Event)
    report: RecoveryReport | None = None
    _began: float = 0.0
    _after: int = 0
    _pending: set[tuple[str, str]] = field(factory=set)
    _wanted: set[tuple[str, str]] = field(factory=set)
    _dependent: set[tuple[str, str]] = field(factory=set)

    @property
    def replayed(self) -> int:
        """How many events the start read."""
        return self.state.last_id - (self.checkpoint or 0)

    async def begin(self, core: Surroundings) -> None:
        """Record that a kernel started; what is wanted from here on is to be recovered."""
        self._began = trio.current_time()
        await core.loop.report(Submission(self.start))
        state = core.loop.state
        self._after = state.last_id
        aims = aims_of(state)
        self._pending, self._wanted, self._dependent = set(aims.pending), set(aims.wanted), set(aims.dependent)

    async def watch(self, core: Surroundings) -> None:
        """Until recovery is over; then the report stands."""
        watch = core.hub.watch(EventQuery(after=self._after, types=SETTLING))
        self._give_up_dependents(core)
        with trio.move_on_after(self.timeout_s):
            while self._pending and (page := await watch.next_page()):
                for stored in page:
                    if not (stored.type == "service_deployment_failed" and _is_wanted(core, stored)):
                        self._pending.discard((stored.tenant_id or "", stored.subject or ""))
                    if stored.type == "system_paused":
                        self._pending.clear()
                self._give_up_dependents(core)
        now_ready = {
            (tenant.tenant_id, service.service_id)
            for tenant, service in core.loop.state.services()
            if service.status is Status.READY
        }
        ready, pending = len(self._wanted & now_ready), len(self._wanted & self._pending - now_ready)
        self.report = RecoveryReport(
            events=self.state.last_id,
            replay_s=self.replay_s,
            duration_s=self.replay_s + trio.current_time() - self._began,
            wanted=len(self._wanted),
            ready=ready,
            failed=len(self._wanted) - ready - pending,
            pending=pending,
            held=sum(service.held for _, service in core.loop.state.services()),
            checkpoint=self.checkpoint,
            replayed=self.replayed,
        )
        self.done.set()

    def _give_up_dependents(self, core: Surroundings) -> None:
        """Nobody waits for a service whose dependency has settled without being ready."""
        found = True
        while found:
            found = False
            for key in self._dependent & self._pending:
                tenant = core.loop.state.tenants.get(key[0])
                service = None if tenant is None else tenant.services.get(key[1])
                if tenant is None or service is None:
                    continue
                missing = waiting_for(tenant.services, service)
                if any((key[0], name) not in self._pending for name in missing):
                    self._pending.discard(key)
                    found = True


def _is_wanted(core: Surroundings, stored: StoredEvent) -> bool:
    """Whether the service that an event is about is to run: what a failed deployment replaced is put back, for one."""
    service = core.loop.state.service(stored.tenant_id or "", stored.subject or "")
    return service is not None and service.wants_to_run


class Readable(Kept, Protocol):
    """A log, as far as a start reads it."""

    def replay(self, after: int = 0) -> AsyncIterator[Sequence[StoredEvent]]: ...


async def folded(log: Readable, telemetry: Telemetry, reducer: str) -> tuple[KernelState, int | None]:
    """What all of a log comes to, and the event of the checkpoint that it was gone on from. Raises as `replay` does."""
    kept = await newest_usable(log, telemetry, reducer)
    state = KernelState() if kept is None else kept
    async for page in log.replay(state.last_id):
        for position, stored in enumerate(page):
            state = apply(state, codec.to_record(stored))
            if position % REPLAY_YIELD_RECORDS == 0:
                await trio.lowlevel.checkpoint()
    return state, None if kept is None else kept.last_id


async def replay(
    journal: Journal, clock: Clock, telemetry: Telemetry, *, reducer: str, start: StartSystem, timeout_s: float
) -> Recovery:
    """Fold the log, from the newest checkpoint that `reducer` can go on from.

    Raises `Faulted` (data_damaged, data_newer) or `KernelBug` if it cannot be folded.
    """
    began = trio.current_time()
    state, checkpoint = await folded(journal, telemetry, reducer)
    now_us = min(clock.wall_us(), state.last_at_us)  # a wall clock that jumped ahead must not expire every key
    rows = await journal.idempotency(max(0, now_us - IDEMPOTENCY_SECONDS * 1_000_000))
    return Recovery(state, rows, trio.current_time() - began, start, timeout_s, checkpoint)
