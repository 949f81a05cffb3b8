"""Places for requests in flight: bounds, fairness, what is told of refusals."""

from __future__ import annotations

import itertools
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.policy.shedding import PAIR_S, QUIET_S, SHARE, Load, Places, Shedding, Told

SETTINGS = settings(deadline=None, print_blob=True)
TENANTS = [f"t{number}" for number in range(30)]
places_ = st.builds(Places, total=st.integers(2, 1_000), per_tenant=st.integers(1, 200))
steps = st.lists(st.tuples(st.booleans(), st.sampled_from([None, *TENANTS])), max_size=400)
"""(one more, or one is done; of whom)"""


def fill(load: Load, who: str | None, places: Places, own: int | None = None) -> Load:
    """As many as it gets."""
    while True:
        load, refused = load.enter(who, places, own)
        if refused is not None:
            return load


def test_one_tenant_alone_gets_all_it_may_have() -> None:
    load = fill(Load(), "a", Places())
    assert load.of("a") == 100
    assert load.enter("a", Places())[1] == "tenant"
    assert load.enter("b", Places())[1] is None


def test_a_bound_of_its_own_counts_instead() -> None:
    assert fill(Load(), "a", Places(), own=7).of("a") == 7
    assert fill(Load(), "a", Places(), own=250).of("a") == 250


def test_nine_busy_tenants_leave_room_for_more() -> None:
    load = Load()
    for who in TENANTS[:9]:
        load = fill(load, who, Places())
    assert [load.of(who) for who in TENANTS[:9]] == [100] * 9
    load = fill(load, TENANTS[9], Places())
    assert 50 < load.of(TENANTS[9]) < 100
    for who in TENANTS[10:20]:
        load, refused = load.enter(who, Places())
        assert refused is None, "whoever has none finds a place"


def test_who_has_the_most_is_refused_first() -> None:
    places = Places(total=110, per_tenant=1_000)
    load = fill(Load(), "greedy", places)
    assert SHARE * (load.free(places) - 1) <= load.of("greedy") <= SHARE * load.free(places)
    assert load.enter("greedy", places)[1] == "total"
    load, refused = load.enter("modest", places)
    assert refused is None


def test_the_greedy_one_shrinks_as_its_requests_end() -> None:
    places = Places(total=110, per_tenant=1_000)
    load = fill(Load(), "greedy", places)
    most = load.of("greedy")
    for _ in range(2 * most):  # of each two that end, one tenant each tries to get the place
        load = load.leave("greedy")
        load, _ = load.enter("greedy", places)
        load = fill(load, "other", places)
    assert abs(load.of("greedy") - load.of("other")) <= SHARE + 1


def test_places_are_kept_for_the_system() -> None:
    places = Places(total=20, per_tenant=100)
    load = Load()
    for who in TENANTS:
        load = fill(load, who, places)
    assert load.total == 18 and load.free(places) == 0
    assert load.enter("late", places)[1] == "total"
    load = fill(load, None, places)
    assert load.system == 2 and load.total == 20


def test_even_the_smallest_keeps_one() -> None:
    load, refused = Load().enter("a", Places(total=2))
    assert refused is None
    assert load.enter("b", Places(total=2))[1] == "total"
    assert load.enter(None, Places(total=2))[1] is None


@SETTINGS
@given(places_, steps)
def test_any_history(places: Places, steps: list[tuple[bool, str | None]]) -> None:
    load, counts = Load(), dict.fromkeys([None, *TENANTS], 0)
    for enters, who in steps:
        if not enters:
            if counts[who]:
                load = load.leave(who)
                counts[who] -= 1
        else:
            load, refused = load.enter(who, places)
            counts[who] += refused is None
            if who is None:
                assert (refused is None) == (sum(counts.values()) <= places.total if refused is None else True)
            elif refused == "total" and counts[who] == 0:
                assert load.free(places) < 1, "who has none is refused only if there is no place"
        assert load.total == sum(counts.values()) <= places.total
        assert all(load.of(each) == count for each, count in counts.items())
        assert all(count <= places.per_tenant for each, count in counts.items() if each is not None)
        if load.system == 0:
            assert load.total <= places.total - places.kept
        assert len(load.counts) == sum(1 for each, count in counts.items() if each is not None and count)
        assert load.total == places.total or load.enter(None, places)[1] is None


@SETTINGS
@given(places_, steps, st.sampled_from(TENANTS), st.sampled_from(TENANTS))
def test_who_has_less_is_never_refused_before_who_has_more(
    places: Places, steps: list[tuple[bool, str | None]], one: str, other: str
) -> None:
    load = Load()
    for enters, who in steps:
        if enters:
            load, _ = load.enter(who, places)
        elif load.of(who):
            load = load.leave(who)
    less, more = sorted((one, other), key=load.of)
    if load.enter(more, places)[1] is None:
        assert load.enter(less, places)[1] is None


# -- what is told


def test_a_beginning_and_an_end() -> None:
    shedding: Shedding | None = Shedding.first("tenant", 0.0)
    assert shedding is not None
    shedding, news = shedding.look(0.0)
    assert news == (Told("began", 1, "tenant"),) and shedding is not None
    for now in range(1, 4):
        shedding = shedding.again("total", float(now))
        shedding, news = shedding.look(float(now))
        assert not news and shedding is not None
    assert not shedding.look(3 + QUIET_S - 0.1)[1]
    shedding, news = shedding.look(3 + QUIET_S)
    assert news == (Told("ended", 4, "total"),) and shedding is not None
    assert shedding.look(PAIR_S - 0.1) == (shedding, ())
    assert shedding.look(PAIR_S) == (None, ())


def test_soon_after_its_end_nothing_is_told_until_later() -> None:
    shedding: Shedding | None = Shedding.first("tenant", 0.0).look(0.0)[0]
    assert shedding is not None
    shedding, _ = shedding.look(QUIET_S)
    assert shedding is not None
    shedding = shedding.again("tenant", QUIET_S + 1)
    assert shedding.look(PAIR_S - 1)[1] == ()
    _, news = shedding.look(PAIR_S)
    assert news == (Told("began", 1, "tenant"), Told("ended", 1, "tenant")), "nothing is kept secret"


Step = tuple[Literal["refuse", "look"], float]


@SETTINGS
@given(st.lists(st.tuples(st.sampled_from(["refuse", "look"]), st.floats(0, 12)), max_size=100))
def test_told_in_pairs_not_too_often_and_counted_right(steps: list[Step]) -> None:
    shedding: Shedding | None = None
    now, told, refused = 0.0, [], 0
    for step, passed in [*steps, ("look", PAIR_S), ("look", PAIR_S), ("look", PAIR_S)]:
        now += passed
        if step == "refuse":
            refused += 1
            shedding = Shedding.first("total", now) if shedding is None else shedding.again("total", now)
        elif shedding is not None:
            shedding, news = shedding.look(now)
            told += [(now, each) for each in news]
    assert shedding is None, "nothing is remembered for ever"
    assert [each.phase for _, each in told] == ["began", "ended"] * (len(told) // 2)
    began = [at for at, each in told if each.phase == "began"]
    assert all(later >= earlier + PAIR_S for earlier, later in itertools.pairwise(began))
    assert sum(each.refused for _, each in told if each.phase == "ended") == refused
