"""Whose entries the audit has room for. Owns: each tenant's share once the file is half full, what was left out. Never: I/O.

The file is bounded and forgets its oldest entries, whosever they are: without shares, one tenant that asks a thousand times
a second would push everybody's entries out within the hour. Up to half of the file everything is recorded. From there on those
who have more than an equal part of it share that half; who has his part there gets further entries only at a trickle, which
would take `SPAN_DAYS` to fill it anew. What is left out is counted, in an entry of that tenant. Detail (reads and calls, unless
refused) has three quarters of a part; the rest (what changes something, refusals) has a quarter that detail never takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field, frozen

from solo_trio.model.audit import BEGUN, DAMAGED, GAP, AuditEntry
from solo_trio.policy.bucket import Bucket

FREE_SHARE: Final = 0.5
"""Of the file: up to here nobody is held to anything, and what flood together have no more than that."""
DETAIL_SHARE: Final = 0.75
"""Of a part, for detail."""
SPAN_DAYS: Final = 30
TRICKLE_BURST: Final = 100
TOLD_US: Final = 600_000_000
"""What was left out is told when it is twice as much as was told before, or after so long."""
SYSTEM: Final = "system"
NOBODY: Final = "nobody"
"""Who is no tenant; an incarnation is never called so."""
_OWN: Final = frozenset({BEGUN, DAMAGED, GAP})

Tally = dict[tuple[str, bool], int]
"""(whose, whether it is detail) -> entries."""


@frozen
class Detail:
    """What is detail: entries of these operations, unless their outcome is one of those."""

    operations: frozenset[str]
    not_outcomes: frozenset[str]

    def has(self, operation: str, outcome: str) -> bool:
        return operation in self.operations and outcome not in self.not_outcomes


@define
class _LeftOut:
    """`tenant_id` and `incarnation` of the newest; told: in all so far."""

    like: AuditEntry
    waiting: int = 0
    told: int = 0
    told_at_us: int = 0


@define
class Shares:
    """Used in the thread that writes the audit. Time is that of the entries."""

    detail: Detail
    counts: Tally | None = None
    """What the file holds; None while nobody has counted."""
    skipped: int = 0
    """Since the kernel started."""
    _cap: float | None = None
    _buckets: dict[tuple[str, bool], Bucket] = field(factory=dict)
    _left_out: dict[str, _LeftOut] = field(factory=dict)

    def plan(self, capacity: float) -> None:
        """The file, which holds `counts`, has room for about so many."""
        totals: dict[str, int] = {}
        for (whose, _), count in (self.counts or {}).items():
            totals[whose] = totals.get(whose, 0) + count
        if len(totals) < 2:  # nobody to be pushed out
            self._cap = None
            return
        equal = capacity / len(totals)
        heavy = sum(count > equal for count in totals.values())
        self._cap = max(equal, capacity * FREE_SHARE / max(1, heavy))

    def admit(self, entries: Iterable[AuditEntry]) -> list[AuditEntry]:
        """Those that are to be written, and before them what is to be told of those that are not."""
        kept = [entry for entry in entries if self._admit(entry)]
        return [*self.told(kept[-1].at_us if kept else 0), *kept]

    def forget(self, gone: Tally) -> None:
        """So many are no longer in the file."""
        if self.counts is None:
            return
        for key, count in gone.items():
            left = self.counts.get(key, 0) - count
            if left > 0:
                self.counts[key] = left
            else:
                self.counts.pop(key, None)

    def told(self, at_us: int, *, everything: bool = False) -> list[AuditEntry]:
        """Entries that say how many were left out, of whom."""
        found = []
        for each in self._left_out.values():
            at_us = max(at_us, each.like.at_us)
            due = each.waiting >= max(1, each.told) or at_us - each.told_at_us >= TOLD_US
            if each.waiting and (due or everything):
                like = each.like
                found.append(
                    AuditEntry(at_us, GAP, str(each.waiting), tenant_id=like.tenant_id, incarnation=like.incarnation)
                )
                each.told += each.waiting
                each.waiting, each.told_at_us = 0, at_us
        return found

    def _admit(self, entry: AuditEntry) -> bool:
        assert self.counts is not None
        key = whose(entry.incarnation, entry.credential), self.detail.has(entry.operation, entry.outcome)
        if entry.operation not in _OWN and not self._has_room(key, entry.at_us):
            self._skip(key[0], entry)
            return False
        self.counts[key] = self.counts.get(key, 0) + 1
        return True

    def _has_room(self, key: tuple[str, bool], at_us: int) -> bool:
        if self._cap is None:
            return True
        assert self.counts is not None
        part = self._cap * (DETAIL_SHARE if key[1] else 1 - DETAIL_SHARE)
        if self.counts.get(key, 0) < part:
            return True
        now, rate = at_us / 1_000_000, part / (SPAN_DAYS * 86_400)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = Bucket(rate, TRICKLE_BURST, TRICKLE_BURST, now)
        self._buckets[key], allowed = Bucket(rate, TRICKLE_BURST, bucket.tokens, bucket.at).take(1.0, now)
        return allowed

    def _skip(self, who: str, entry: AuditEntry) -> None:
        self.skipped += 1
        known = self._left_out.get(who)
        if known is None:
            known = self._left_out[who] = _LeftOut(entry)
        known.like = entry
        known.waiting += 1


def whose(incarnation: str | None, credential: str | None) -> str:
    if incarnation is not None:
        return incarnation
    return NOBODY if credential is None else SYSTEM
