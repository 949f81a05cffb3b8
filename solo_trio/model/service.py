"""A service in the state. Owns: its slice and what can be read off it. Never: changes it (that is what events do)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Literal

from attrs import field, frozen

from solo_trio.model.capability import Grantor
from solo_trio.model.spec import Format, ServiceSpec
from solo_trio.policy.restart import Window


class Status(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    GIVEN_UP = "given_up"


Cause = Literal["deploy", "restart", "recovery", "manual", "resume"]

VERSIONS_MAX: Final = 10
"""Versions whose source is kept; when a newer one runs, the oldest is dropped."""


@frozen
class Crash:
    at_us: int
    reason: str
    traceback: str


@frozen
class StopRequest:
    """`event_id`: of the `service_killed` that asked for it."""

    event_id: int
    grace_ms: int
    force: bool


_NOTHING: Final[frozenset[str]] = frozenset()


@frozen
class Version:
    """One source that the service ran on, or is to run on; `at_us`: when it was asked for."""

    version: int
    digest: str
    at_us: int
    format: Format = "python_source"


@frozen
class ServiceState:
    """What is wanted of one service, and what was last observed.

    `deployment`: id of the `service_deployment_started`. `epoch`: id of the last event that asked for a fresh start (the
    deployment, or a restart by hand). `revision`: id of the last event that changed what is wanted. `generation`: counts
    the starts within the deployment. `begun`: the newest generation was started and has not ended.
    """

    service_id: str
    deployment: int
    epoch: int
    revision: int
    version: int
    spec: ServiceSpec
    status: Status = Status.STARTING
    confirmed: bool = False
    """`service_deployed` was recorded; before that the deployment is only an intent."""
    generation: int = 0
    begun: bool = False
    next_cause: Cause = "deploy"
    restarts: int = 0
    """Restarts after a crash since the deployment, across kernel restarts."""
    window: Window = ()
    attempt: int = 0
    """Crashes since the last stable uptime: the exponent of the backoff."""
    ready_at_us: int | None = None
    ready_kernel_time: float | None = None
    last_crash: Crash | None = None
    stop: StopRequest | None = field(default=None)
    held: bool = False
    """Paused because the kernel as a whole is: the next ordinary start, or resuming the kernel, lets it run."""
    versions: tuple[Version, ...] = ()
    """Ascending; the last one is the current, or the one that is being tried."""
    versions_made: int = 0
    """The newest number that was given to a version, so that one that failed is not given again."""
    broken: int = 0
    """The epoch in which its circuit was opened and not closed since: of another one it says nothing."""
    previous: ServiceState | None = None
    """What is put back if this deployment fails: it replaces that one."""
    grantor: Grantor | None = None
    """What it was deployed with: it may do no more itself. None: the whole tenant."""

    @property
    def wants_to_run(self) -> bool:
        """Whether the kernel has to see to it that it runs."""
        return self.status in (Status.STARTING, Status.READY, Status.RESTARTING)

    @property
    def needs(self) -> frozenset[str]:
        """What it depends on, or will if what it replaces is put back."""
        previous = () if self.previous is None else self.previous.spec.depends_on
        return frozenset((*self.spec.depends_on, *previous)) if self.spec.depends_on or previous else _NOTHING

    @property
    def digests(self) -> frozenset[str]:
        """Of the sources that are kept for it."""
        return frozenset(each.digest for each in self.versions if each.digest)


@frozen
class Counts:
    """How many services there are (`total`), how many should run (`wanted`), and how many are in each state."""

    total: int = 0
    wanted: int = 0
    running: int = 0
    starting: int = 0
    restarting: int = 0
    paused: int = 0
    stopping: int = 0
    stopped: int = 0
    given_up: int = 0


def count_services(services: Iterable[ServiceState]) -> Counts:
    by_status = dict.fromkeys(Status, 0)
    for service in services:
        by_status[service.status] += 1
    return Counts(
        total=sum(by_status.values()),
        wanted=by_status[Status.STARTING] + by_status[Status.READY] + by_status[Status.RESTARTING],
        running=by_status[Status.READY],
        starting=by_status[Status.STARTING],
        restarting=by_status[Status.RESTARTING],
        paused=by_status[Status.PAUSED],
        stopping=by_status[Status.STOPPING],
        stopped=by_status[Status.STOPPED],
        given_up=by_status[Status.GIVEN_UP],
    )
