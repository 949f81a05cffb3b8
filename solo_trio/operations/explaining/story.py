"""The story of a service. Owns: which steps its events make, and how many a reader gets. Never: the words for one event.

What belongs together is one step: a start and becoming ready, with how long it took. Crashes are counted as the restart window
counts them. A long story keeps how it began and how it ends; what is between is told in one step, with numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from attrs import define, evolve, field, frozen, has
from attrs import fields as fields_of

from solo_trio.model.event import KINDS, Event, Record
from solo_trio.model.instant import rfc3339
from solo_trio.model.service_events import (
    ServiceCrashed,
    ServiceDeployed,
    ServiceDeploymentFailed,
    ServiceDeploymentStarted,
    ServiceReady,
    ServiceRecovered,
    ServiceRestartRequested,
    ServiceStarted,
    ServiceUpdated,
)
from solo_trio.model.spec import RestartLimits
from solo_trio.model.system import SystemPaused, SystemResumed, SystemStarted
from solo_trio.operations.explaining.phrases import counted, moment, ordinal, reason, seconds, times
from solo_trio.operations.explaining.words import words_of
from solo_trio.policy.restart import Window, count_crash

STEPS_MAX: Final = 30
BEGINNING_STEPS: Final = 3
"""Of a story that is too long, so many are told of its beginning."""
CYCLES_TOLD: Final = 6
"""Of crashes and restarts that follow each other, so many of the newest are told one by one."""
REASONS_TOLD: Final = 3

Kind = Literal["crash", "start", "other"]


def _about_services() -> frozenset[str]:
    """Kinds of events that say what became of a service: they name its deployment."""
    named = {
        type_ for type_, cls in KINDS.items() if has(cls) and "deployment" in {each.name for each in fields_of(cls)}
    }
    return frozenset({*named, ServiceDeploymentStarted.TYPE})


SERVICE_TYPES: Final = _about_services()
SYSTEM_TYPES: Final = frozenset(each.TYPE for each in (SystemStarted, SystemPaused, SystemResumed))
"""What happens to the kernel as a whole that a service may feel."""


@frozen
class Step:
    """One step: what happened from event `first` to event `last`, when the last of them was, in words.

    `cause`: the event that caused it, if the log says so; `correlation_id`: of the request, if there was one.
    """

    first: int
    last: int
    at_us: int
    type: str
    text: str
    kind: Kind = "other"
    cause: int | None = None
    correlation_id: str | None = None
    crashes: tuple[str, ...] = ()
    """The reasons, if it is about crashes."""
    events: int = 1
    began_us: int = 0

    def view(self, number: int) -> dict[str, object]:
        return {
            "number": number,
            "id": self.last,
            "first_id": self.first,
            "at": rfc3339(self.at_us),
            "type": self.type,
            "text": self.text,
            "causation_id": self.cause,
            "correlation_id": self.correlation_id,
        }


def steps_of(records: Iterable[Record], *, waits: bool = False) -> list[Step]:
    """The steps that these events make: those of one service and of the kernel, ascending; at most `STEPS_MAX`.

    `waits`: it is to be started, so that a start of the kernel after all else is why.
    """
    teller = _Teller()
    for record in records:
        teller.take(record)
    return _shortened(teller.done(waits=waits))


@define
class _Teller:
    steps: list[Step] = field(factory=list)
    limits: RestartLimits = field(factory=RestartLimits)
    window: Window = ()
    ended: float | None = None
    """The kernel's time when it last ended by a crash."""
    starting: Record | None = None
    """Started, and not heard of since."""
    kernel_started: Record | None = None
    """Told only if the service was started with it."""

    def take(self, record: Record) -> None:
        event = record.event
        match event:
            case SystemStarted(hold=None):
                self._flush()
                self.kernel_started = record
            case ServiceStarted():
                self._flush()
                self._told_kernel(told=event.cause == "recovery")
                self.starting = record
            case ServiceReady():
                self._ready(record, event)
            case ServiceDeployed() | ServiceRecovered() if self.steps and self.steps[-1].type == ServiceReady.TYPE:
                self.steps[-1] = evolve(self.steps[-1], last=record.stored.id, events=self.steps[-1].events + 1)
            case ServiceCrashed():
                self._crashed(record, event)
            case ServiceDeploymentFailed():
                self._take_start(record, words_of(record))
            case _:
                self._flush()
                self._told_kernel(told=False)
                self._remember(event)
                self.steps.append(_step(record, words_of(record)))

    def done(self, *, waits: bool) -> list[Step]:
        self._flush()
        self._told_kernel(told=waits)
        return self.steps

    def _told_kernel(self, *, told: bool) -> None:
        if told and self.kernel_started is not None:
            self.steps.append(_step(self.kernel_started, words_of(self.kernel_started)))
        self.kernel_started = None

    def _remember(self, event: Event | None) -> None:
        match event:
            case ServiceDeploymentStarted():
                self.limits, self.window, self.ended = event.spec.restart_limits, (), None
            case ServiceUpdated():
                self.limits = event.restart_limits
                kept = event.restart_limits.max_restarts
                self.window = self.window[-kept:] if kept else ()
            case ServiceRestartRequested():
                self.window, self.ended = (), None

    def _flush(self) -> None:
        """What was started and not heard of is a step by itself."""
        if self.starting is not None:
            self.steps.append(evolve(_step(self.starting, self._said_start(self.starting)), kind="start"))
            self.starting = None

    def _ready(self, record: Record, event: ServiceReady) -> None:
        began, self.starting = self.starting, None
        if began is None or not isinstance(began.event, ServiceStarted):
            self.steps.append(evolve(_step(record, words_of(record)), kind="start"))
            return
        took = record.stored.kernel_time - began.stored.kernel_time
        said = f"{self._said_start(began)}, and became ready after {seconds(took)}"
        step = evolve(_step(record, said), first=began.stored.id, kind="start", events=2, began_us=began.stored.at_us)
        self.steps.append(evolve(step, cause=began.stored.causation_id))

    def _said_start(self, began: Record) -> str:
        cause = began.event.cause if isinstance(began.event, ServiceStarted) else None
        if cause == "restart" and self.ended is not None:
            return f"{words_of(began)} ({seconds(began.stored.kernel_time - self.ended)} later)"
        if cause == "manual" and self.steps and self.steps[-1].type == ServiceDeploymentFailed.TYPE:
            return "what was there before was put back and started again"
        return words_of(began)

    def _crashed(self, record: Record, event: ServiceCrashed) -> None:
        said = words_of(record)
        if event.counted:
            limits = self.limits
            self.window, _ = count_crash(
                self.window,
                record.stored.kernel_time,
                max_restarts=limits.max_restarts,
                max_seconds=limits.max_seconds,
            )
            which = f"{ordinal(len(self.window))} crash within {seconds(limits.max_seconds)}"
            said += f" ({which}; {limits.max_restarts} are allowed)"
        else:
            said += " (it does not count against the service)"
        self._take_start(record, said, crash=event.reason)
        self.ended = record.stored.kernel_time

    def _take_start(self, record: Record, said: str, crash: str | None = None) -> None:
        """With the start that came to nothing, if one did."""
        began, self.starting = self.starting, None
        step = _step(record, said)
        if began is not None:
            said = f"{self._said_start(began)}, did not become ready, and {said}"
            step = evolve(step, first=began.stored.id, text=said, events=2, began_us=began.stored.at_us)
        if crash is not None:
            step = evolve(step, kind="crash", crashes=(reason(crash),))
        self.steps.append(step)


def _step(record: Record, text: str) -> Step:
    stored = record.stored
    return Step(
        stored.id,
        stored.id,
        stored.at_us,
        stored.type,
        text,
        cause=stored.causation_id,
        correlation_id=stored.correlation_id,
        began_us=stored.at_us,
    )


def left_out(before: Record, after: Record) -> Step:
    """A step for what nobody read."""
    first, last = before.stored, after.stored
    said = f"what was between event {first.id} and event {last.id} is not told here, because it is long"
    return Step(first.id + 1, last.id - 1, last.at_us, "summary", said, began_us=first.at_us)


# -- a bounded number of steps


def _shortened(steps: list[Step]) -> list[Step]:
    found: list[Step] = []
    run: list[Step] = []
    for step in steps:
        if run and step.kind not in ("crash", "start"):
            found += _shorter_run(run)
            run = []
        if step.kind == "crash" or run:
            run.append(step)
        else:
            found.append(step)
    found += _shorter_run(run)
    if len(found) <= STEPS_MAX:
        return found
    newest = STEPS_MAX - BEGINNING_STEPS - 1
    return [*found[:BEGINNING_STEPS], _summary(found[BEGINNING_STEPS:-newest]), *found[-newest:]]


def _shorter_run(run: list[Step]) -> list[Step]:
    """Crashes and starts after them: all but the newest are one step."""
    crashes = [number for number, step in enumerate(run) if step.kind == "crash"]
    if len(crashes) <= CYCLES_TOLD + 1:
        return run
    first_told = crashes[-CYCLES_TOLD]
    return [_summary(run[:first_told]), *run[first_told:]]


def _summary(steps: Sequence[Step]) -> Step:
    first, last = steps[0], steps[-1]
    reasons = Counter(each for step in steps for each in step.crashes)
    starts = sum(step.kind == "start" for step in steps)
    events = sum(step.events for step in steps)
    told = []
    if reasons:
        told.append(f"it crashed {times(reasons.total())} ({_most_common(reasons)})")
    if starts:
        told.append(f"was started again {times(starts)}" if told else f"it was started {times(starts)}")
    others = Counter(step.type for step in steps if step.kind == "other")
    if others:
        told.append("; ".join(f"{name} {times(number)}" for name, number in sorted(others.items())))
    when = f"between {moment(first.began_us)} and {moment(last.at_us)}"
    said = f"{when} {' and '.join(told)}: {counted(events, 'event')} in all"
    kind: Kind = "crash" if reasons else last.kind
    return Step(
        first.first,
        last.last,
        last.at_us,
        "summary",
        said,
        kind,
        crashes=tuple(reasons.elements()),
        events=events,
        began_us=first.began_us,
    )


def _most_common(reasons: Counter[str]) -> str:
    told = [f"{each}, {times(number)}" for each, number in reasons.most_common(REASONS_TOLD)]
    more = len(reasons) - len(told)
    return "; ".join(told) + (f"; and {counted(more, 'other reason')}" if more > 0 else "")
