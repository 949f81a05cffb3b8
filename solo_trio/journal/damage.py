"""What a damaged journal can still say. Owns: which events are proven, the ways in which a log can be gone on with. Never:
writes, or chooses between ways that lose different things.

An event is proven by the chain from the beginning, if no sealed hash (the witness's, a checkpoint's) says otherwise of an
event at or behind it. Where the chain breaks, a checkpoint behind the break still proves the state and whatever follows it.
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import frozen

from solo_trio.journal.salvage import Kept, Salvage
from solo_trio.journal.witness import NO_EVENTS, WITNESS_FILE, Head

WayName = Literal["log", "checkpoint", "unproven"]
BEGINNING: Final = NO_EVENTS


@frozen
class Way:
    """One way to go on. log: what is proven from the beginning of the log. checkpoint: the state of `kept`, and what
    follows it; what is before it is no longer in the log. unproven: whatever follows from the beginning, although
    something sealed says otherwise."""

    name: WayName
    base: Head
    head: Head
    """The last event that is kept."""
    why: str
    """Why the next one is not; "" if there is none."""
    kept: Kept | None = None


def ways(salvage: Salvage, reducer: str, form: str, beginning: Head = BEGINNING) -> list[Way]:
    """The best first: it keeps the latest state, and of the same state the most history. A way that keeps nothing is none.

    `reducer` and `form`: of the checkpoints that this program can go on from. `beginning`: what the oldest event follows.
    """
    proven, whole = _run(salvage, beginning)
    found = [] if proven.head == beginning else [proven]
    best: Way | None = None
    for kept in salvage.checkpoints:
        if kept.checkpoint.event_id <= proven.head[0] or (kept.checkpoint.reducer, kept.checkpoint.format) != (
            reducer,
            form,
        ):
            continue
        behind, _ = _run(salvage, kept.head)
        way = Way("checkpoint", kept.head, behind.head, behind.why, kept)
        if best is None or way.head[0] >= best.head[0]:  # newest first: of two that come equally far, the older one
            best = way
    if best is not None:
        found.insert(0, best)
    if whole is not None:
        found.append(whole)
    return found


def foreign_checkpoint(salvage: Salvage, after: int, reducer: str, form: str) -> int | None:
    """The newest authentic checkpoint behind `after` that only another version of this program can go on from."""
    for kept in salvage.checkpoints:
        if kept.checkpoint.event_id > after and (kept.checkpoint.reducer, kept.checkpoint.format) != (reducer, form):
            return kept.checkpoint.event_id
    return None


def _run(salvage: Salvage, base: Head) -> tuple[Way, Way | None]:
    """How far the chain goes from `base` with everything sealed; and how far without, where that is further."""
    sealed = {
        kept.checkpoint.event_id: (kept.chain, f"the checkpoint after event {kept.head[0]}")
        for kept in salvage.checkpoints
    }
    if salvage.witness is not None:
        sealed[salvage.witness[0]] = (salvage.witness[1], WITNESS_FILE)
    head = proven = base
    denied = ""
    for page in salvage.follow(base, salvage.last_id):
        for row, event in page:
            head = (event.id, row[-1])
            known = sealed.get(event.id)
            if known is None:
                continue
            if known[0] != head[1]:
                denied = (
                    denied or f"event {event.id} is not the one that {known[1]} knows: what is before it was replaced"
                )
            elif not denied:
                proven = head
    why = salvage.why_not(head) if head[0] < salvage.last_id else ""
    if denied:
        return Way("log", base, proven, denied), Way("unproven", base, head, why)
    return Way("log", base, head, why), None
