"""Checks of a log. Owns: whether a journal holds what it must: chain, fold, checkpoints, artifacts. Never: writes, mends.

The same checks serve a running kernel and `solo verify` on a directory that no kernel uses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Literal, Protocol

import trio
from attrs import frozen

from solo_trio.errors import SoloError
from solo_trio.kernel.checkpoints import INLINE_BYTES_MAX, encoded, is_small, maybe_in_thread
from solo_trio.model import codec, snapshot
from solo_trio.model.record import ERASED_TYPE, Artifact, Checkpoint, Inventory, StoredEvent
from solo_trio.model.state import KernelState, apply

Status = Literal["ok", "warning", "failed"]
ARTIFACTS_QUICK_MAX: Final = 200
"""So many sources are read after a recovery; all of them when the verification is asked for."""
NAMED_MAX: Final = 5
"""So many findings are named in a sentence; the rest is counted."""
INLINE_RECORDS_MAX: Final = 500
"""A page with more is folded in a thread: tens of milliseconds are too long for the kernel's own."""

Progress = Callable[[int], None]
"""Told how many events were checked so far."""


class Log(Protocol):
    """What is read of a journal here."""

    def replay(self, after: int = 0) -> AsyncIterator[Sequence[StoredEvent]]: ...

    async def checkpoint_ids(self) -> list[int]: ...

    async def checkpoint(self, event_id: int) -> Checkpoint: ...

    async def artifact(self, digest: str) -> Artifact: ...

    async def inventory(self) -> Inventory: ...


@frozen
class Check:
    """One question and its answer."""

    name: str
    status: Status
    detail: str


def nothing_told(done: int) -> None:
    """For whoever waits without watching."""


@frozen
class LogChecks:
    """What reading all of a log came to. `checkpoints`: what those that are no good should have held, by their events."""

    checks: Sequence[Check]
    state: KernelState
    checkpoints: Mapping[int, KernelState]


async def check_log(
    log: Log, reducer: str, believed: KernelState | None = None, progress: Progress = nothing_told
) -> LogChecks:
    """Read all of the log once: `chain`, `fold`, `checkpoints`; and what it folds to.

    `believed`: what the kernel holds for the fold of the events up to `believed.last_id`.
    """
    kept, useless, checks = await _kept(log, reducer)
    marks = frozenset(kept) | frozenset(useless) | (frozenset() if believed is None else {believed.last_id})
    found: dict[int, KernelState] = {0: KernelState()} if 0 in marks else {}
    state, fault = KernelState(), ""
    events = erased = 0
    try:
        async for page in log.replay():
            erased = max([erased, *(stored.id for stored in page if stored.type == ERASED_TYPE)])
            if not fault:
                try:
                    state = await _folded(state, page, marks, found)
                except SoloError as error:
                    fault = error.detail
            events += len(page)
            progress(events)
    except SoloError as error:
        chain = Check("chain", "failed", error.detail)
        fault = fault or "the log could not be read to its end"
    else:
        chain = Check(
            "chain", "ok", f"all {events} events follow from each other, each with the payload it was written with"
        )
    # What was believed before a tenant was erased cannot be compared: its events no longer come to anything.
    comparable = believed if believed is not None and believed.last_id >= erased else None
    fold = await _fold_check(fault, state, comparable, found)
    compared = {event_id: await _compared(event_id, each, found, fault, erased) for event_id, each in kept.items()}
    wrong = [*useless, *(event_id for event_id, check in compared.items() if check.status == "failed")]
    mendable = {} if fault else {event_id: found[event_id] for event_id in wrong if event_id in found}
    return LogChecks([chain, fold, *compared.values(), *checks], state, mendable)


async def _folded(
    state: KernelState, page: Sequence[StoredEvent], marks: frozenset[int], found: dict[int, KernelState]
) -> KernelState:
    work = partial(_fold_page, state, page, marks, found)
    if len(page) <= INLINE_RECORDS_MAX and sum(len(stored.payload or b"") for stored in page) <= INLINE_BYTES_MAX:
        return work()
    return await trio.to_thread.run_sync(work)


def _fold_page(
    state: KernelState, page: Sequence[StoredEvent], marks: frozenset[int], found: dict[int, KernelState]
) -> KernelState:
    for stored in page:
        state = apply(state, codec.to_record(stored))
        if stored.id in marks:
            found[stored.id] = state
    return state


async def _kept(log: Log, reducer: str) -> tuple[dict[int, Checkpoint], list[int], list[Check]]:
    """The checkpoints that can be compared, those that are damaged, and what is to be said of the others."""
    kept: dict[int, Checkpoint] = {}
    useless, checks = [], []
    for event_id in await log.checkpoint_ids():
        try:
            each = await log.checkpoint(event_id)
        except SoloError as error:
            checks.append(Check("checkpoints", "warning", error.detail))
            useless.append(event_id)
            continue
        if (each.reducer, each.format) == (reducer, snapshot.FORMAT):
            kept[event_id] = each
        else:
            what = f"the checkpoint after event {event_id} is of another version of this program: it is not used"
            checks.append(Check("checkpoints", "ok", what))
    return kept, useless, checks


async def _fold_check(
    fault: str, state: KernelState, believed: KernelState | None, found: dict[int, KernelState]
) -> Check:
    if believed is not None and not fault and not await _are_equal(found.get(believed.last_id), believed):
        fault = f"the state that the kernel holds is not what the events up to {believed.last_id} come to"
    if fault:
        return Check("fold", "failed", fault)
    services = sum(len(tenant.services) for tenant in state.tenants.values())
    return Check("fold", "ok", f"the events come to {len(state.tenants)} tenants and {services} services")


async def _are_equal(found: KernelState | None, believed: KernelState) -> bool:
    return await maybe_in_thread(lambda: found == believed, not is_small(believed))


async def _compared(event_id: int, kept: Checkpoint, found: dict[int, KernelState], fault: str, erased: int) -> Check:
    if event_id not in found:
        status: Status = "warning" if fault else "failed"
        return Check("checkpoints", status, f"the checkpoint after event {event_id} could not be compared")
    if await encoded(found[event_id]) != kept.body:
        if event_id < erased:
            what = (
                f"the checkpoint after event {event_id} is from before a tenant was erased: it goes with what is erased"
            )
            return Check("checkpoints", "ok", what)
        what = f"the checkpoint after event {event_id} is not what the events up to it come to"
        return Check("checkpoints", "failed", what)
    return Check("checkpoints", "ok", f"the checkpoint after event {event_id} is what the events come to")


async def check_artifacts(
    log: Log,
    digests: Iterable[str],
    needed: Callable[[str], bool] = lambda digest: True,
    lost: Collection[str] = (),
) -> Check:
    """Read each source; `needed` is asked again of one that is not right, as it may have been dropped meanwhile.

    `lost`: those that a repair did not find, and has told.
    """
    wrong, told, count = [], 0, 0
    for digest in digests:
        count += 1
        try:
            await log.artifact(digest)
        except SoloError as error:
            if digest in lost:
                told += 1
            elif needed(digest):
                wrong.append(error.detail)
    if wrong:
        return Check("artifacts", "failed", named(wrong))
    if told:
        return Check("artifacts", "warning", f"{told} sources were lost before a repair: deploy those services again")
    return Check("artifacts", "ok", f"{count} sources are there, each with its digest")


def named(findings: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(findings) - NAMED_MAX
    return "; ".join(findings[:NAMED_MAX]) + (f"; and {more} more" if more > 0 else "")


def worst(checks: Iterable[Check]) -> Status:
    statuses = {check.status for check in checks}
    return "failed" if "failed" in statuses else "warning" if "warning" in statuses else "ok"
