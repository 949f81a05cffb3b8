"""Token buckets by name. Owns: one for each tenant and each rate of a capability, how many are kept. Never: who is asked.

Both bounds are of memory only. A bucket that is not there is one that has filled since a time that is remembered: the start
of the kernel, so that a restart grants no burst, or later, if one that was not full had to be let go of. So forgetting grants
nothing either, and what one owner does to its buckets costs no other owner anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

from solo_trio.policy.bucket import Bucket, take_all

BUCKETS_PER_OWNER_MAX: Final = 16_384
BUCKETS_MAX: Final = 65_536
"""About 20 MiB."""


@frozen
class Named:
    """Which bucket: `name` among those of `owner` (an incarnation; None: the system's).

    The numbers are part of the name where a token could bring two of one name (`Admission`).
    """

    owner: str | None
    name: tuple[object, ...]
    rate: float
    burst: float


@define
class _Owner:
    since: float
    """What is not in `buckets` is a bucket that was empty then."""
    buckets: OrderedDict[tuple[object, ...], Bucket] = field(factory=OrderedDict)


class Buckets:
    """`now`: the time of the start, at which all are empty (`begin_full`: full)."""

    def __init__(
        self,
        now: float,
        *,
        per_owner_max: int = BUCKETS_PER_OWNER_MAX,
        total_max: int = BUCKETS_MAX,
        begin_full: bool = False,
    ) -> None:
        self._since = float("-inf") if begin_full else now
        self._per_owner_max = per_owner_max
        self._total_max = total_max
        self._owners: OrderedDict[str | None, _Owner] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def wait_s(self, chain: Sequence[Named], now: float) -> float:
        """How long until one can be taken from every bucket of the chain; nothing is taken."""
        return max((self._bucket(each, now).wait_s(1.0, now) for each in chain), default=0.0)

    def take(self, chain: Sequence[Named], now: float) -> float:
        """Take one from every bucket of the chain, or from none: how long to wait first (0: it was taken)."""
        named = {(each.owner, each.name): each for each in chain}
        found = [self._bucket(each, now) for each in named.values()]
        after, wait_s = take_all(found, 1.0, now)
        if wait_s == 0.0:
            for each, bucket in zip(named.values(), after, strict=True):
                self._keep(each, bucket, now)
        return wait_s

    def _bucket(self, named: Named, now: float) -> Bucket:
        owner = self._owners.get(named.owner)
        kept = None if owner is None else owner.buckets.get(named.name)
        if owner is not None and kept is not None:
            changed = kept.changed(named.rate, named.burst, now)
            if changed is not kept:  # from now on, whether or not anything can be taken
                owner.buckets[named.name] = changed
            return changed
        since = self._since if owner is None else owner.since
        if since == float("-inf"):
            return Bucket(named.rate, named.burst, named.burst, now)
        return Bucket(named.rate, named.burst, 0.0, since)

    def _keep(self, named: Named, bucket: Bucket, now: float) -> None:
        owner = self._owners.get(named.owner)
        if owner is None:
            owner = self._owners[named.owner] = _Owner(self._since)
        self._count += named.name not in owner.buckets
        owner.buckets[named.name] = bucket
        owner.buckets.move_to_end(named.name)
        self._owners.move_to_end(named.owner)
        if len(owner.buckets) > self._per_owner_max:
            _, oldest = owner.buckets.popitem(last=False)
            self._count -= 1
            owner.since = _later(owner.since, oldest, now)
        while self._count > self._total_max:
            _, quiet = self._owners.popitem(last=False)
            self._count -= len(quiet.buckets)
            self._since = max(self._since, quiet.since)
            for each in quiet.buckets.values():
                self._since = _later(self._since, each, now)


def _later(since: float, forgotten: Bucket, now: float) -> float:
    """Since when what is not there counts as filling, once `forgotten` is not there either."""
    emptied = forgotten.empty_at(now)
    return since if emptied is None else max(since, emptied)
