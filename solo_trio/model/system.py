"""The kernel's own life. Owns: its slice, its events, its decisions. Never: what a service does."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from attrs import evolve, frozen

from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.record import DropArtifact, StoredEvent
from solo_trio.model.service import Status

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@frozen
class SystemState:
    """`starts`: how often a kernel started on this log. `clean`: the last one that ended shut down in order."""

    starts: int = 0
    started_at_us: int = 0
    clean: bool = True


@event("system_started")
@frozen
class SystemStarted(Event):
    """A kernel began to run on this log. Whatever was observed of services is unknown now: they are `starting`."""

    version: str
    python: str
    clean: bool
    """The kernel before it had shut down in order."""

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        started = state
        for tenant, service in state.services():
            if not service.wants_to_run:
                continue
            if service.spec.ephemeral:
                started = started.drop(tenant.tenant_id, service.service_id)
                continue
            unknown = evolve(
                service,
                status=Status.STARTING,
                next_cause="recovery",
                begun=False,
                attempt=0,
                ready_at_us=None,
                ready_kernel_time=None,
            )
            started = started.put(tenant.tenant_id, unknown)
        return evolve(started, system=SystemState(state.system.starts + 1, stamp.at_us, clean=False))


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
    RESERVED: ClassVar[bool] = True

    version: str
    python: str

    def decide(self, state: KernelState, now: Now) -> Decision:
        forgotten = Counter(
            service.spec.digest for _, service in state.services() if service.wants_to_run and service.spec.ephemeral
        )
        return Decision(
            (Proposed(SystemStarted(self.version, self.python, state.system.clean)),),
            tuple(DropArtifact(digest) for digest, uses in forgotten.items() if state.sources.get(digest) == uses),
        )


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
