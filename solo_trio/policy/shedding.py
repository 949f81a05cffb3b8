"""Load shedding. Owns: who gets a place among the requests in flight, when that is worth a word. Never: waits, reads a clock.

There are so many places in all, and so many for one tenant. In between the rule is that of dynamic thresholds (Choudhury and
Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998): a tenant may have `SHARE` times as many as
are free. One busy tenant gets all it may have while others are quiet; the fewer places are left, the fewer a tenant may have to
get one more, so that who has the most is refused first and who has none finds a place. Nobody is ever thrown out.
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import evolve, field, frozen
from rpds import HashTrieMap

SHARE: Final = 4
SYSTEM_PLACES_MAX: Final = 16
SYSTEM_SHARE: Final = 10
"""One in so many places, at least one and at most `SYSTEM_PLACES_MAX`, is for system credentials only."""
QUIET_S: Final = 5.0
"""Shedding is over when nothing was refused for so long."""
PAIR_S: Final = 30.0
"""A tenant's shedding is told of at most so often: one beginning and one end."""

Refused = Literal["tenant", "total"]
"""tenant: it has as many in flight as it may. total: too few places are left for it to have one more."""


@frozen
class Places:
    """How many requests may be in flight: `total` in all, `per_tenant` of one that has no bound of its own."""

    total: int = 1_000
    per_tenant: int = 100

    @property
    def kept(self) -> int:
        """For system credentials."""
        return min(SYSTEM_PLACES_MAX, max(1, self.total // SYSTEM_SHARE))


@frozen
class Load:
    """What is in flight: of each tenant that has any, and of the system."""

    counts: HashTrieMap[str, int] = field(factory=HashTrieMap)
    system: int = 0
    total: int = 0

    def of(self, who: str | None) -> int:
        return self.system if who is None else self.counts.get(who, 0)

    def free(self, places: Places) -> int:
        """For tenants."""
        return places.total - self.total - max(0, places.kept - self.system)

    def enter(self, who: str | None, places: Places, own: int | None = None) -> tuple[Load, Refused | None]:
        """One request more of `who` (None: the system), or why not. `own`: the tenant's bound, where it has one."""
        if who is None:
            if self.total >= places.total:
                return self, "total"
            return evolve(self, system=self.system + 1, total=self.total + 1), None
        count = self.counts.get(who, 0)
        if count >= (places.per_tenant if own is None else own):
            return self, "tenant"
        free = self.free(places)
        if free < 1 or (count > 0 and count >= SHARE * (free - 1)):  # the last place is for one who has none
            return self, "total"
        return evolve(self, counts=self.counts.insert(who, count + 1), total=self.total + 1), None

    def leave(self, who: str | None) -> Load:
        """One of them is done."""
        if who is None:
            assert self.system > 0
            return evolve(self, system=self.system - 1, total=self.total - 1)
        count = self.counts[who]
        counts = self.counts.insert(who, count - 1) if count > 1 else self.counts.remove(who)
        return evolve(self, counts=counts, total=self.total - 1)


Phase = Literal["began", "ended"]


@frozen
class Told:
    """`refused`: how many until then. `reason`: of the last one."""

    phase: Phase
    refused: int
    reason: Refused


@frozen
class Shedding:
    """One tenant's, from its first refusal until there is nothing more to say. `told`: its beginning was."""

    last_at: float
    reason: Refused
    refused: int = 0
    told: bool = False
    not_before: float = float("-inf")
    """When the next beginning may be told."""

    @classmethod
    def first(cls, reason: Refused, now: float) -> Shedding:
        return cls(now, reason).again(reason, now)

    def again(self, reason: Refused, now: float) -> Shedding:
        return evolve(self, last_at=max(now, self.last_at), reason=reason, refused=self.refused + 1)

    def look(self, now: float) -> tuple[Shedding | None, tuple[Told, ...]]:
        """What is to be told at `now`; None: nothing is left to remember."""
        shedding, news = self, []
        if shedding.refused and not shedding.told and now >= shedding.not_before:
            news.append(Told("began", shedding.refused, shedding.reason))
            shedding = evolve(shedding, told=True, not_before=now + PAIR_S)
        if shedding.told and now - shedding.last_at >= QUIET_S:
            news.append(Told("ended", shedding.refused, shedding.reason))
            shedding = evolve(shedding, told=False, refused=0)
        if not shedding.told and not shedding.refused and now >= shedding.not_before:
            return None, tuple(news)
        return shedding, tuple(news)
