"""A journal whose old events are archived, pruned and erased while new ones come. Run under a recorder, or to be killed.

    python fault_archive_workload.py DATA MARKS SEED ROUNDS [BUG]

Events follow from their ids and the seed, so that whoever looks later knows what must be there. A mark `{"ack": {"last": id}}`
follows each append; `{"ack": {"gone": incarnation}}` each erasure that is done.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio
from attrs import evolve

from solo_trio.journal import archive, erasing, pruning, retaining
from solo_trio.journal.sqlite import SqliteJournal, open_journal
from solo_trio.model.record import ERASED_TYPE, Checkpoint, EraseEvents, StoredEvent

KEY: Final = b"a witness key of thirty-two byte"
CANARY: Final = b"canary-of-"
ERASED_EVERY: Final = 40
"""Each so manieth event says that the tenant of those before it was erased."""


def event(id_: int) -> StoredEvent:
    life = f"life-{(id_ - 1) // ERASED_EVERY}"
    last = id_ % ERASED_EVERY == 0
    whose = life if last or id_ % 3 else "for-ever"
    return StoredEvent(
        id=id_,
        at_us=1_700_000_000_000_000 + id_,
        kernel_time=id_ / 8,
        tenant_id="acme",
        incarnation=whose,
        subject=None if last else f"svc-{id_ % 4}",
        type=ERASED_TYPE if last else "x_note",
        schema=1,
        payload=b"{}" if last else b'{"note": "%s%s %d %s"}' % (CANARY, whose.encode(), id_, b"." * (id_ * 7 % 300)),
    )


def expected(last: int) -> list[StoredEvent]:
    """The log up to an event."""
    gone = {f"life-{number}" for number in range(last // ERASED_EVERY)}
    return [
        evolve(each, payload=None) if each.incarnation in gone and each.type != ERASED_TYPE else each
        for each in map(event, range(1, last + 1))
    ]


async def step(journal: SqliteJournal, chance: random.Random, last: int, say: Callable[[dict[str, Any]], None]) -> int:
    """One thing that a kernel may do, chosen by lot; the last event then."""
    what = chance.random()
    if what < 0.55:
        upto = min(last + chance.choice((1, 2, 7)), (last // ERASED_EVERY + 1) * ERASED_EVERY)
        fresh = [event(id_) for id_ in range(last + 1, upto + 1)]
        erased = [EraseEvents("acme", each.incarnation or "", each.id, each.at_us) for each in fresh if _ends(each)]
        if erased and last:  # what is kept of the state has what is to be erased
            await journal.write_checkpoint(kept(last))
        await journal.append(fresh, erased)
        say({"ack": {"last": upto}})
        return upto
    if what < 0.62:
        await journal.write_checkpoint(kept(last))
    elif what < 0.75:
        await journal.archive(last - 3, fewest=4)
    elif what < 0.9:
        await journal.prune(last - 3)
    else:
        for erasure in await journal.erasures():
            if await journal.erase(erasure) and await journal.sweep():
                say({"ack": {"gone": erasure.incarnation}})
    return last


def kept(last: int) -> Checkpoint:
    return Checkpoint(last, 5, "r", "f", b"".join(each.payload or b"" for each in expected(last)[-5:]))


def _ends(each: StoredEvent) -> bool:
    return each.type == ERASED_TYPE


async def work(data: Path, marks: Path, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    fd = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(mark: dict[str, Any]) -> None:
        os.write(fd, json.dumps(mark).encode() + b"\n")

    journal = await open_journal(data, KEY)
    last = 0
    async for page in journal.replay():
        last = page[-1].id
    for _ in range(rounds):
        last = await step(journal, chance, last, say)
    await journal.close()


def in_small_steps() -> None:
    """Much smaller ones than in life, so that there are many."""
    retaining.SEGMENT_EVENTS_MAX = 16  # type: ignore[misc]
    retaining.PRUNE_EVENTS_MAX = 9  # type: ignore[misc]
    erasing.ERASE_EVENTS_MAX = 8  # type: ignore[misc]


# -- bugs that are planted, to see that they are found


def _segment_not_forced_out() -> None:
    archive.os = _Os(fsync=lambda fd: None)  # type: ignore[attr-defined]


def _name_not_forced_out() -> None:
    archive.sync_directory = lambda directory: None


def _pruned_before_it_is_archived() -> None:
    made = archive.Archive.write
    waiting: list[tuple[Any, str, bytes]] = []

    def write(self: Any, name: str, data: bytes) -> None:
        for each in waiting:
            made(*each)
        waiting[:] = [(self, name, data)]

    archive.Archive.write = write  # type: ignore[method-assign]
    archive.Archive.rows = _unread(archive.Archive.rows, waiting)  # type: ignore[method-assign]


def _unread(read: Any, waiting: list[tuple[Any, str, bytes]]) -> Any:
    def rows(self: Any, segment: Any) -> Any:
        for _, name, data in waiting:
            if name == segment.file:
                return archive.decode(data)
        return read(self, segment)

    return rows


def _anchor_not_moved() -> None:
    pruning.prune = lambda to, key: [(pruning._DELETE, [(to[0],)])]


def _anchor_in_the_next_transaction() -> None:
    from solo_trio.journal.store import Store

    whole = pruning.prune

    def prune(self: Any, to: Any, key: bytes, count: int) -> None:
        deleting, moving = whole(to, key)
        self.change([deleting])
        self.change([moving])

    Store.prune = prune  # type: ignore[method-assign]


def _old_segments_stay() -> None:
    archive.Archive.remove = lambda self, name: None  # type: ignore[method-assign]
    archive.Archive.sweep = lambda self, known: None  # type: ignore[method-assign]


def _segments_are_not_written_anew() -> None:
    erasing.holds = lambda rows, erased: False


def _erased_without_an_event() -> None:
    erasing.Proofs.apply = lambda self, rows, events, erased: events  # type: ignore[method-assign]


def _witness_left_behind() -> None:
    from solo_trio.journal.witness import Witness

    Witness.settle = lambda self, head: None  # type: ignore[method-assign]


class _Os:
    """The module `os` with something else in the place of some of it."""

    def __init__(self, **other: Any) -> None:
        self.__dict__.update(other)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


BUGS: Final[dict[str, Callable[[], None]]] = {
    each.__name__.strip("_"): each
    for each in (
        _segment_not_forced_out,
        _name_not_forced_out,
        _pruned_before_it_is_archived,
        _anchor_not_moved,
        _anchor_in_the_next_transaction,
        _old_segments_stay,
        _segments_are_not_written_anew,
        _witness_left_behind,
        _erased_without_an_event,
    )
}

if __name__ == "__main__":
    in_small_steps()
    if len(sys.argv) > 5:
        BUGS[sys.argv[5]]()
    trio.run(work, Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
