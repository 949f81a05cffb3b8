"""Buckets by name: what forgetting them never grants, and that any number of names costs a bounded amount of memory."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.operations.buckets import BUCKETS_PER_OWNER_MAX, Buckets, Named

SETTINGS = settings(deadline=None, print_blob=True)
OWNERS = ["a", "b", None]
steps = st.lists(
    st.tuples(st.sampled_from(OWNERS), st.integers(0, 5), st.floats(0, 3)),
    max_size=150,
)
"""(owner, which of its buckets, seconds since the one before)"""


def named(owner: str | None, name: object, rate: float = 1.0, burst: float = 3.0) -> Named:
    return Named(owner, (name,), rate, burst)


def test_all_begin_empty_and_fill_from_the_start() -> None:
    buckets = Buckets(100.0)
    assert buckets.take([named("a", 1)], 100.0) == 1.0
    assert buckets.take([named("a", 1)], 100.5) == 0.5
    assert buckets.take([named("a", 1)], 101.0) == 0.0
    assert [buckets.take([named("a", 2)], 1_000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_one_that_begins_full() -> None:
    buckets = Buckets(100.0, begin_full=True)
    assert [buckets.take([named("a", 1)], 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_a_chain_is_taken_from_as_a_whole() -> None:
    buckets = Buckets(0.0)
    parent, child = named("a", "parent", burst=10.0), named("a", "child", rate=0.1)
    assert [buckets.take([parent, child], 20.0) == 0.0 for _ in range(10)] == [True] * 2 + [False] * 8
    left = [buckets.take([parent], 20.0) == 0.0 for _ in range(10)]
    assert left == [True] * 8 + [False] * 2, "what the child refused was not taken from the parent"


def test_the_same_bucket_twice_in_a_chain_is_one() -> None:
    buckets = Buckets(0.0)
    assert [buckets.take([named("a", 1), named("a", 1)], 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_other_numbers_count_from_when_they_are_seen() -> None:
    buckets = Buckets(0.0)
    assert buckets.take([named("a", 1, rate=0.001)], 1_000.0) == 0.0
    assert buckets.take([named("a", 1, rate=0.001)], 1_001.0) == 999.0
    assert buckets.wait_s([named("a", 1, rate=10.0)], 1_002.0) < 0.1
    assert buckets.take([named("a", 1, rate=10.0)], 1_002.1) == 0.0


def test_asking_takes_nothing() -> None:
    buckets = Buckets(0.0)
    for _ in range(10):
        assert buckets.wait_s([named("a", 1)], 2.0) == 0.0
    assert len(buckets) == 0


@SETTINGS
@given(steps, st.integers(1, 4), st.integers(1, 6))
def test_forgetting_grants_nothing(
    steps: list[tuple[str | None, int, float]], per_owner_max: int, total_max: int
) -> None:
    """Against buckets that forget nothing: whatever the small ones grant, those would have granted too."""
    small = Buckets(0.0, per_owner_max=per_owner_max, total_max=total_max)
    now, granted = 0.0, dict[tuple[str | None, int], int]()
    for owner, name, passed in steps:
        now += passed
        if small.take([named(owner, name)], now) == 0.0:
            granted[owner, name] = granted.get((owner, name), 0) + 1
        assert len(small) <= min(total_max, per_owner_max * len(OWNERS))
        assert all(count <= now + 1e-6 for count in granted.values()), "the rate since the start, at most"


def test_an_owner_that_is_forgotten_as_a_whole_begins_where_it_was() -> None:
    buckets = Buckets(0.0, total_max=2)
    assert [buckets.take([named("quiet", 1)], 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]
    for name in range(2):
        assert buckets.take([named("busy", name)], 100.0) == 0.0
    assert len(buckets) == 2
    assert buckets.take([named("quiet", 1)], 100.0) == 1.0, "its bucket is gone, what it took is not"
    assert buckets.take([named("quiet", 1)], 101.0) == 0.0


@SETTINGS
@given(steps)
def test_an_owner_never_pays_for_what_another_does(steps: list[tuple[str | None, int, float]]) -> None:
    """Its own bucket is granted as if it were alone, however many names the other uses (within the bound of all)."""
    shared, alone, now = Buckets(0.0, per_owner_max=3, total_max=100), Buckets(0.0), 0.0
    mine = named("mine", "own")
    for owner, name, passed in steps:
        now += passed
        for each in range(name):
            shared.take([named(owner, each)], now)
        assert (shared.take([mine], now) == 0.0) == (alone.take([mine], now) == 0.0)


def test_100_000_names_cost_no_more_than_the_bound() -> None:
    buckets = Buckets(0.0)
    tracemalloc.start()
    try:
        for number in range(BUCKETS_PER_OWNER_MAX):
            buckets.take([named("a", number)], 100.0)
        full, _ = tracemalloc.get_traced_memory()
        for number in range(BUCKETS_PER_OWNER_MAX, 100_000):
            buckets.take([named("a", number)], 100.0)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(buckets) == BUCKETS_PER_OWNER_MAX
    assert after < full * 1.2 and full < 16 * 1_048_576


def test_names_that_are_refused_are_not_even_kept() -> None:
    buckets = Buckets(0.0)
    for number in range(100_000):
        assert buckets.take([named("a", number)], 0.5) == 0.5
    assert len(buckets) == 0
