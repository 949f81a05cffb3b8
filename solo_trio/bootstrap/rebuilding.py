"""The log that a repair writes. Owns: what is in it, in which order, with which ids. Never: chooses what is kept, or puts
it in place.

Every id stays taken: in the place of an event that is not kept stands `event_lost`, so that nobody who knows an id meets
another event under it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attrs import evolve, frozen

from solo_trio.journal.chain import COLUMNS
from solo_trio.journal.damage import Way
from solo_trio.journal.erasing import Mask, masked
from solo_trio.journal.repair import Rebuilding
from solo_trio.journal.salvage import Salvage
from solo_trio.kernel.repairing import Beside, RepairPlan, Span, checked
from solo_trio.model import codec
from solo_trio.model.event import Event, Proposed
from solo_trio.model.record import ERASED_TYPE, EraseEvents, Erasure, StoredEvent
from solo_trio.model.repair import ITEMS_MAX, EventLost, LogRepaired
from solo_trio.model.state import KernelState
from solo_trio.model.tenant_removal import TenantErased
from solo_trio.telemetry.sources import SystemEntropy
from solo_trio.vault.keyring import ROOT_KEY_BYTES
from solo_trio.vault.keys import MasterKey, associated
from solo_trio.vault.secret import Secret

TEXT_CHARACTERS_MAX: Final = 300
EVENT_LOST_MAX: Final = 1_000
"""Made at once."""
_TYPE: Final = COLUMNS.index("type")
_TENANT: Final = COLUMNS.index("tenant_id")
_INCARNATION: Final = COLUMNS.index("incarnation")
_AT_US: Final = COLUMNS.index("at_us")


@frozen
class Erased:
    """Tenants whose events are erased. `kept`: by events that are kept; `again`: those of which it is to be said once
    more."""

    kept: Mapping[str, Erasure]
    again: Sequence[Erasure]

    def mask(self, last_id: int) -> Mask:
        """Before which event those of each incarnation mean nothing; `last_id`: after it, it is said once more."""
        said = {each.incarnation: each.event_id or 0 for each in self.kept.values()}
        return {**said, **{each.incarnation: last_id + 1 for each in self.again}}

    def said_again(self, state: KernelState, after: int) -> list[StoredEvent]:
        return [
            _event(
                Proposed(TenantErased(each.removed_at_us), each.tenant_id, each.incarnation),
                after + number,
                state.last_at_us,
                state.kernel_time,
            )
            for number, each in enumerate(self.again, start=1)
        ]


@frozen
class Saved:
    """One way, looked at to its end. `prefix`: the history from the beginning that is kept besides a checkpoint's state;
    `restoring`: what says what that was."""

    way: Way
    prefix: Way | None
    restoring: Sequence[Proposed]
    restored_at_us: int
    state: KernelState
    beside: Beside
    erased: Erased
    lost: Span | None
    unread: Span | None


def erased_by(salvage: Salvage, ways: Sequence[Way]) -> Erased:
    """What the events that are kept say of erasures, and what only the table beside them does."""
    kept: dict[str, Erasure] = {}
    for way in ways:
        for page in salvage.follow(way.base, way.head[0]):
            for row, event in page:
                if row[_TYPE] == ERASED_TYPE and event.incarnation is not None:
                    kept[event.incarnation] = Erasure(event.tenant_id or "", event.incarnation, event.id, event.at_us)
    table = salvage.erasures()
    again = [each for each in table.values() if each.event_id is not None and each.incarnation not in kept]
    return Erased(kept, sorted(again, key=lambda each: each.incarnation))


def written(
    rebuilding: Rebuilding, salvage: Salvage, master: MasterKey, saved: Saved, plan: RepairPlan, *, last_at_us: int
) -> KernelState:
    """The new log: what is kept, what stands for the rest, what is said about it; and what stands beside it. What it comes
    to."""
    way, erased = saved.way, saved.erased
    mask = erased.mask(salvage.last_id)
    last: StoredEvent | None = None
    kept = saved.prefix if way.kept is not None else way
    if kept is not None:
        for page in salvage.follow(kept.base, kept.head[0]):
            rebuilding.keep([row for row, _ in page], mask)
            last = page[-1][1]
    if way.kept is not None:
        first = way.base[0] - len(saved.restoring) + 1
        for missing in _missing(rebuilding.head[0] + 1, first - 1, last):
            rebuilding.add(missing)
        for number, each in enumerate(saved.restoring):
            last = _event(each, first + number, saved.restored_at_us, 0.0)
            rebuilding.add([last])
        for page in salvage.follow(way.base, way.head[0]):
            rebuilding.add(masked(event, mask) for _, event in page)
            last = page[-1][1]
    for missing in _missing(rebuilding.head[0] + 1, salvage.last_id, last):
        rebuilding.add(missing)
    rebuilding.add(erased.said_again(saved.state, salvage.last_id))
    state_ = saved.state
    repaired = LogRepaired(
        way.name,
        saved.lost,
        saved.unread,
        plan.damaged,
        tuple(each[:TEXT_CHARACTERS_MAX] for each in plan.found[:ITEMS_MAX]),
        saved.beside.lost_secrets,
        saved.beside.lost_sources,
        tuple(plan.lost_tokens),
    )
    said = _event(Proposed(repaired), rebuilding.head[0] + 1, max(state_.last_at_us, last_at_us), state_.kernel_time)
    rebuilding.add([said])
    _attach(rebuilding, master, saved)
    rebuilding.attach(
        [
            EraseEvents(each.tenant_id, each.incarnation, each.event_id or 0, each.removed_at_us)
            for each in erased.kept.values()
        ]
    )
    rebuilding.attach(
        [
            EraseEvents(each.tenant_id, each.incarnation, salvage.last_id + number, each.removed_at_us)
            for number, each in enumerate(erased.again, start=1)
        ]
    )
    rebuilding.close(master.derive("witness"))
    return checked(state_, [said])


def _missing(first: int, last: int, before: StoredEvent | None) -> Iterator[list[StoredEvent]]:
    """In the place of events that could not be saved; they say the time of the event before them."""
    at_us, kernel_time = (0, 0.0) if before is None else (before.at_us, before.kernel_time)
    for begin in range(first, last + 1, EVENT_LOST_MAX):
        end = min(last, begin + EVENT_LOST_MAX - 1)
        yield [_event(Proposed(EventLost()), id_, at_us, kernel_time) for id_ in range(begin, end + 1)]


def _event(proposed: Proposed, id_: int, at_us: int, kernel_time: float) -> StoredEvent:
    event: Event = proposed.event
    return StoredEvent(
        id_,
        at_us,
        kernel_time,
        proposed.tenant_id,
        proposed.incarnation,
        proposed.subject,
        event.TYPE,
        event.SCHEMA,
        codec.encode(event),
    )


def _attach(rebuilding: Rebuilding, master: MasterKey, saved: Saved) -> None:
    beside, entropy = saved.beside, SystemEntropy()
    rebuilding.attach(beside.artifacts)
    rebuilding.attach(beside.keys)
    fresh = [
        evolve(
            row,
            wrapped=master.wrap(
                Secret(entropy.token(ROOT_KEY_BYTES)), associated(row.purpose, row.incarnation, row.key_id)
            ),
        )
        for row in beside.lost_keys
    ]
    rebuilding.attach(
        fresh
    )  # under the ids that the state names: tokens that were made with the lost ones open nothing
    rebuilding.attach(beside.secrets)
    rebuilding.attach(beside.idempotency)
