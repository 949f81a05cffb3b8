"""When tenants were removed: kept by id within a bound, and beyond it on the safe side."""

from __future__ import annotations

import pytest
from rpds import HashTrieMap

from solo_trio.errors import Rejected
from solo_trio.model import snapshot
from solo_trio.model.evolving import evolve
from solo_trio.model.state import KernelState
from solo_trio.model.tombstones import TOMBSTONES_MAX, Tombstones


def test_what_was_made_before_is_of_the_removed_one() -> None:
    found = Tombstones().add("a", 5).add("a", 9).add("b", 7)
    assert [found.since_us(each) for each in ("a", "b", "c")] == [9, 7, 0]
    state = evolve(KernelState(), removed=found)
    assert snapshot.decode(snapshot.encode(state)).removed == found


def test_beyond_the_bound_everything_from_before_is() -> None:
    found = Tombstones(HashTrieMap({f"t{number}": number for number in range(TOMBSTONES_MAX)})).add("t5", 10**9)
    assert [found.since_us(each) for each in ("t4", "t5", "new")] == [4, 10**9, 0]
    found = found.add("new", 10**9 + 1)
    assert [found.since_us(each) for each in ("t4", "t5", "new", "other")] == [10**9 + 1] * 4
    assert len(found.at_us) == 0


def test_a_certificate_made_before_the_removal_is_nobodys() -> None:
    from solo_trio.model.certificate import Certificate
    from solo_trio.operations.certified import certified

    state = evolve(KernelState(), removed=Tombstones().add("a", 5_000_000))
    for began in (0, 4_000_000):
        with pytest.raises(Rejected, match="not valid here"):
            certified(state, 6_000_000, Certificate("1", "tenant", "a", began, 9_000_000))
