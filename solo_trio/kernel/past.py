"""States of the past. Owns: folding the log up to an event, from the nearest kept state. Never: appends, or changes the state.

A running kernel does it beside everything else: it reads pages as watchers do, folds each in a thread, one state at a time, and
keeps the newest one that it was asked for, because who looks at one page of it will look at the next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final, Protocol

import trio
from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.kernel.checkpoints import INLINE_BYTES_MAX, Kept, maybe_in_thread, newest_usable
from solo_trio.kernel.log_checks import INLINE_RECORDS_MAX
from solo_trio.kernel.surroundings import Surroundings
from solo_trio.model import codec
from solo_trio.model.evolving import evolve
from solo_trio.model.record import EventQuery, StoredEvent
from solo_trio.model.state import KernelState, apply
from solo_trio.ports import Journal, Telemetry

PAGE_EVENTS: Final = 2_000
"""Read and folded at a time by a running kernel: some tens of milliseconds of a thread."""
FOLD_EVENTS_MAX: Final = 1_000_000
"""A running kernel folds so many for one answer: some tens of seconds of a thread."""
KEPT_S: Final = 60.0
"""For how long the newest state that was asked for is kept."""


class History(Kept, Protocol):
    """What is read of a log here."""

    @property
    def oldest_id(self) -> int: ...

    def replay(self, after: int = 0) -> AsyncIterator[Sequence[StoredEvent]]: ...


@frozen
class Past:
    """The state after event `state.last_id`; `checkpoint`: the event of the kept state that it was folded from."""

    state: KernelState
    checkpoint: int | None = None
    replayed: int = 0
    """How many events were read and folded for it."""


def check_event(event_id: int, oldest_id: int, last_id: int) -> None:
    """Raise `Rejected("event_not_found")` if there is no such event; 0 is before the first."""
    if event_id > last_id:
        raise Rejected("event_not_found", f"name an earlier event: the newest is {last_id}")
    if event_id < oldest_id - 1:
        raise _pruned(oldest_id)


def _pruned(oldest_id: int) -> Rejected:
    return Rejected(
        "event_not_found",
        f"name event {oldest_id} or a later one: what came before it is in the archive, which solo state reads where no kernel "
        "runs, or in a backup",
        oldest_id=oldest_id,
    )


async def past_state(log: History, telemetry: Telemetry, reducer: str, event_id: int, last_id: int) -> Past:
    """The state after event `event_id` of a log that nobody writes, every event read being checked.

    Raises `Rejected("event_not_found")`, and `Faulted` (data_damaged, data_newer) or `KernelBug` for what cannot be folded.
    """
    check_event(event_id, log.oldest_id, last_id)
    begun = await _begin(log, telemetry, reducer, event_id, log.oldest_id)
    state = begun.state
    if state.last_id < event_id:
        async for page in log.replay(state.last_id):
            state = await _folded(state, page, event_id)
            if state.last_id >= event_id:
                break
    return Past(state, begun.checkpoint, state.last_id - begun.state.last_id)


async def _begin(log: Kept, telemetry: Telemetry, reducer: str, event_id: int, oldest_id: int) -> Past:
    kept = await newest_usable(log, telemetry, reducer, up_to=event_id)
    if kept is not None:
        return Past(kept, kept.last_id)
    if oldest_id > 1:
        raise _pruned(oldest_id)
    return Past(KernelState())


async def _folded(state: KernelState, page: Sequence[StoredEvent], event_id: int) -> KernelState:
    size_bytes = sum(len(stored.payload or b"") for stored in page)
    large = len(page) > INLINE_RECORDS_MAX or size_bytes > INLINE_BYTES_MAX
    return await maybe_in_thread(partial(_fold, state, page, event_id), large)


def _fold(state: KernelState, page: Sequence[StoredEvent], event_id: int) -> KernelState:
    for stored in page:
        if stored.id > event_id:
            break
        state = apply(state, codec.to_record(stored))
    return state


def _removed(state: KernelState, now: KernelState) -> frozenset[str]:
    """The incarnations in `state` that are not there any more."""
    return frozenset(each.incarnation for each in state.tenants.values()) - frozenset(
        each.incarnation for each in now.tenants.values()
    )


def without_removed(state: KernelState, now: KernelState) -> KernelState:
    """`state` without the tenants that were removed since: a checkpoint may have them until all of theirs is erased."""
    gone = _removed(state, now)
    if not gone:
        return state
    tenants, capabilities = state.tenants, state.capabilities
    for tenant_id, tenant in state.tenants.items():
        if tenant.incarnation in gone:
            tenants = tenants.remove(tenant_id)
    for capability_id, capability in state.capabilities.items():
        if capability.incarnation in gone:
            capabilities = capabilities.remove(capability_id)
    return evolve(state, tenants=tenants, capabilities=capabilities)


class PastStates:
    """Those of one running kernel."""

    def __init__(self, core: Surroundings, reducer: str) -> None:
        self._core = core
        self._journal: Journal = core.journal
        self._reducer = reducer
        self._turn = trio.Lock()
        self._kept: tuple[float, Past] | None = None

    async def at(self, event_id: int) -> Past:
        """The state after event `event_id`. Raises `Rejected`: event_not_found, or too far from what is kept."""
        now = self._core.loop.state
        check_event(event_id, self._journal.oldest_id, now.last_id)
        if event_id == now.last_id:
            return Past(now)
        async with self._turn:
            began = await self._nearest(event_id)
            if event_id - began.state.last_id > FOLD_EVENTS_MAX:
                raise Rejected(
                    "event_not_found",
                    f"a running kernel reads {FOLD_EVENTS_MAX} events for this at the most, and the nearest state that is kept "
                    f"is {event_id - began.state.last_id} events before: make a backup, and ask solo state --data for it",
                )
            past = await self._fold_on(began, event_id)
            self._kept = (trio.current_time() + KEPT_S, past)
        return evolve(past, state=without_removed(past.state, self._core.loop.state))

    def forget(self) -> None:
        """What was folded before events were erased has them."""
        self._kept = None

    async def _nearest(self, event_id: int) -> Past:
        """The newest state that there is, not after `event_id`."""
        kept = self._kept
        if kept is not None and _removed(kept[1].state, self._core.loop.state):
            kept = self._kept = None
        if kept is not None and (trio.current_time() >= kept[0] or kept[1].state.last_id < self._journal.oldest_id - 1):
            kept = self._kept = None
        if kept is not None and kept[1].state.last_id <= event_id:
            nearer = range(kept[1].state.last_id + 1, event_id + 1)
            if not any(each in nearer for each in await self._journal.checkpoint_ids()):
                return kept[1]
        return await _begin(self._journal, self._core.telemetry, self._reducer, event_id, self._journal.oldest_id)

    async def _fold_on(self, began: Past, event_id: int) -> Past:
        state = began.state
        while state.last_id < event_id:
            scan = await self._journal.scan(EventQuery(after=state.last_id, limit=PAGE_EVENTS))
            if not scan.events or scan.events[0].id != state.last_id + 1:
                raise _pruned(self._journal.oldest_id)  # meanwhile
            state = await _folded(state, scan.events, event_id)
        return Past(state, began.checkpoint, began.replayed + state.last_id - began.state.last_id)
