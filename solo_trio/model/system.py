"""The kernel's own life. Owns: its slice, its events, its decisions. Never: what a service does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from attrs import frozen

from solo_trio.model.event import UPCASTERS, Decision, Event, Now, Proposed, event
from solo_trio.model.evolving import evolve
from solo_trio.model.record import StoredEvent
from solo_trio.model.repair import Loss
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.service_events import held, released, restored
from solo_trio.model.use import Shed

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


BOOT_LOOP_STARTS: Final = 3
BOOT_LOOP_S: Final = 30.0
"""So many starts in a row that lived shorter than this are a boot loop."""

Hold = Literal["asked", "boot_loop"]


@frozen
class SystemState:
    """`starts`: how often a kernel started on this log. `clean`: the last one that ended shut down in order."""

    starts: int = 0
    started_at_us: int = 0
    clean: bool = True
    proven: bool = False
    """This life lasted, or did something that was asked for."""
    short_lives: int = 0
    """How many lives in a row, before this one, ended without having been proven and not in order."""
    hold: Hold | None = None
    """Why services are held back."""
    capability_id: str | None = None
    """The system's own, once there is one."""
    clock_held: bool = False
    """The wall clock leapt ahead and is not believed."""
    shed: Shed | None = None
    """Requests of system credentials are being refused."""
    log_id: str | None = None
    """Of a log that came out of a backup: what tells it from the one that was backed up, and from others out of the same."""
    restored_id: int = 0
    """The event that says so, 0: none. What has an id from there on is something else than in the log that was backed up."""
    losses: tuple[Loss, ...] = ()
    """What repairs could not save, until somebody accepts it."""
    lost_sources: tuple[tuple[str, int], ...] = ()
    """Digests that a repair did not find, and the event that says so: a later deployment has brought its own."""

    def is_lost(self, digest: str, deployment: int) -> bool:
        """Whether the source that a service was deployed with was not found by a repair."""
        return any(digest == lost and deployment < event_id for lost, event_id in self.lost_sources)

    @property
    def short_lives_now(self) -> int:
        """As the next start has to count them."""
        failed = self.starts > 0 and not self.clean and not self.proven
        return self.short_lives + 1 if failed else 0


@event("system_started", schema=2)
@frozen
class SystemStarted(Event):
    """A kernel began to run on this log. Whatever was observed of services is unknown now: they are `starting`.

    `clean`: the kernel before it had shut down in order. `hold`: its services are held back, because it was asked for or
    because it was a boot loop.
    """

    version: str
    python: str
    clean: bool
    hold: Hold | None

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        started = state
        for tenant, found in state.services():
            if not (found.wants_to_run or found.held):
                continue
            service = _survivor(found, stamp, on_hold=self.hold is not None)
            if service is None:
                started = started.drop(tenant.tenant_id, found.service_id)
                continue
            if not (service.wants_to_run or service.held):
                started = started.put(tenant.tenant_id, service)
                continue
            if self.hold is not None:
                started = started.put(tenant.tenant_id, held(service))
                continue
            unknown = evolve(
                service,
                status=Status.STARTING,
                held=False,
                next_cause="recovery",
                begun=False,
                attempt=0,
                ready_at_us=None,
                ready_kernel_time=None,
            )
            started = started.put(tenant.tenant_id, unknown)
        system = SystemState(
            state.system.starts + 1,
            stamp.at_us,
            clean=False,
            short_lives=state.system.short_lives_now,
            hold=self.hold,
            capability_id=state.system.capability_id,
            clock_held=state.system.clock_held,
            shed=state.system.shed,
            log_id=state.system.log_id,
            restored_id=state.system.restored_id,
            losses=state.system.losses,
            lost_sources=state.system.lost_sources,
        )
        return evolve(started, system=system)


def _survivor(service: ServiceState, stamp: StoredEvent, *, on_hold: bool) -> ServiceState | None:
    """What a restart of the kernel leaves of a service: an ephemeral one cannot be found again, what it was to replace can."""
    previous = service.previous
    if previous is not None and previous.spec.ephemeral:
        service = evolve(service, previous=None)
    return restored(service, stamp, on_hold=on_hold) if service.spec.ephemeral else service


def _held_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "hold": None}


UPCASTERS["system_started", 1] = _held_nothing


@event("system_settled")
@frozen
class SystemSettled(Event):
    """The kernel has lived long enough for its start not to be part of a boot loop."""

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return evolve(state, system=evolve(state.system, proven=True))


@event("system_paused")
@frozen
class SystemPaused(Event):
    """Somebody paused the kernel: every service that runs is ended and held back. New deployments are still accepted."""

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        paused = state
        for tenant, service in state.services():
            if service.wants_to_run and service.confirmed:
                paused = paused.put(tenant.tenant_id, held(service))
        return evolve(paused, system=evolve(state.system, hold="asked"))


@event("system_resumed")
@frozen
class SystemResumed(Event):
    """Somebody resumed the kernel: every service that was held back is started. One that was paused by itself is not."""

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        resumed = state
        for tenant, service in state.services():
            if service.held:
                resumed = resumed.put(tenant.tenant_id, released(service, stamp))
        return evolve(resumed, system=evolve(state.system, hold=None))


@event("system_shutdown_started")
@frozen
class SystemShutdownStarted(Event):
    """An orderly shutdown began; services stay wanted."""

    reason: str

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@event("system_shutdown_complete")
@frozen
class SystemShutdownComplete(Event):
    """Every service was stopped or killed. `killed`: how many had to be."""

    killed: int

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return evolve(state, system=evolve(state.system, clean=True))


@frozen
class StartSystem:
    """`hold`: start with every service held back. `boot_loop_starts`: from so many short lives on it is; 0: never."""

    RESERVED: ClassVar[bool] = True

    version: str
    python: str
    hold: bool = False
    boot_loop_starts: int = BOOT_LOOP_STARTS

    def decide(self, state: KernelState, now: Now) -> Decision:
        hold: Hold | None = None
        if 0 < self.boot_loop_starts <= state.system.short_lives_now:
            hold = "boot_loop"
        if self.hold:
            hold = "asked"
        return Decision((Proposed(SystemStarted(self.version, self.python, state.system.clean, hold)),))


@event("clock_jump")
@frozen
class ClockJump(Event):
    """The wall clock leapt ahead by `ahead_s`, further than a clock does that is right: the kernel goes on with its own time.

    `accepted`: the operator said that the wall clock is right; from here on it counts. 0 seconds: it was set right again.
    """

    ahead_s: float
    accepted: bool

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return evolve(state, system=evolve(state.system, clock_held=self.ahead_s > 0 and not self.accepted))


@frozen
class RecordClockJump:
    RESERVED: ClassVar[bool] = False

    ahead_s: float
    accepted: bool = False

    def decide(self, state: KernelState, now: Now) -> Decision:
        return Decision((Proposed(ClockJump(round(self.ahead_s, 3), self.accepted)),))


@frozen
class SettleSystem:
    RESERVED: ClassVar[bool] = False

    def decide(self, state: KernelState, now: Now) -> Decision:
        return Decision(() if state.system.proven else (Proposed(SystemSettled()),))


@frozen
class PauseSystem:
    """Hold every service back; the reply is whether that changed anything."""

    RESERVED: ClassVar[bool] = False

    def decide(self, state: KernelState, now: Now) -> Decision:
        runs = any(service.wants_to_run and service.confirmed for _, service in state.services())
        if state.system.hold is not None and not runs:
            return Decision(reply=False)
        return Decision((Proposed(SystemPaused()),), reply=True)


@frozen
class ResumeSystem:
    """Let every service run that is held back; the reply is whether that changed anything."""

    RESERVED: ClassVar[bool] = False

    def decide(self, state: KernelState, now: Now) -> Decision:
        waits = any(service.held for _, service in state.services())
        if state.system.hold is None and not waits:
            return Decision(reply=False)
        return Decision((Proposed(SystemResumed()),), reply=True)


@frozen
class BeginShutdown:
    RESERVED: ClassVar[bool] = True

    reason: str

    def decide(self, state: KernelState, now: Now) -> Decision:
        return Decision((Proposed(SystemShutdownStarted(self.reason)),))


@frozen
class CompleteShutdown:
    RESERVED: ClassVar[bool] = True

    killed: int

    def decide(self, state: KernelState, now: Now) -> Decision:
        return Decision((Proposed(SystemShutdownComplete(self.killed)),))
