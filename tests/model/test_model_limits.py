"""Limits: their ranges, the lowest of several, what is in force."""

from __future__ import annotations

import math
from typing import Any, get_args, get_type_hints

import pytest
from attrs import asdict, evolve, fields
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.errors import Rejected
from solo_trio.model.limits import CEILING, DEFAULT_LIMITS, RANGES, WHOLE, Limits, effective

SETTINGS = settings(deadline=None, print_blob=True)
NAMES = sorted(RANGES)
every_limit = pytest.mark.parametrize("name", NAMES)


def _values(name: str) -> st.SearchStrategy[Any]:
    low, high = RANGES[name]
    return st.none() | (st.integers(int(low), int(high)) if name in WHOLE else st.floats(low, high))


limits = st.builds(Limits, **{name: _values(name) for name in NAMES})


def refusal(asked: Limits) -> Rejected:
    with pytest.raises(Rejected) as caught:
        asked.check()
    assert caught.value.code == "invalid_field"
    return caught.value


def test_the_tables_name_the_same_limits() -> None:
    assert set(RANGES) == {field.name for field in fields(Limits)}
    hints = get_type_hints(Limits)
    assert {name for name in NAMES if int in get_args(hints[name])} == WHOLE
    assert all(low < high for low, high in RANGES.values())


def test_the_defaults_are_in_their_ranges() -> None:
    assert DEFAULT_LIMITS.check() is DEFAULT_LIMITS
    assert Limits().check() == CEILING == Limits()


@every_limit
def test_the_edges_are_inside(name: str) -> None:
    for edge in RANGES[name]:
        value = int(edge) if name in WHOLE else edge
        assert getattr(Limits(**{name: value}).check(), name) == value


@every_limit
def test_beyond_the_edges_is_refused_by_name(name: str) -> None:
    low, high = RANGES[name]
    step = 1 if name in WHOLE else 0.001
    for value in (low - step, high + step, -1, 10**400, -(10**400)):
        assert f"limits.{name} " in refusal(Limits(**{name: value})).detail


@every_limit
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, False, "64", "", [64], {}, 64j])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    assert f"limits.{name} " in refusal(Limits(**{name: value})).detail


@pytest.mark.parametrize("name", sorted(WHOLE))
@pytest.mark.parametrize("value", [32.5, 2_048.0])
def test_a_fraction_of_what_is_counted_is_refused(name: str, value: float) -> None:
    assert "whole" in refusal(Limits(**{name: value})).detail


@SETTINGS
@given(limits)
def test_whatever_is_in_its_range_is_good(asked: Limits) -> None:
    assert asked.check() is asked


@SETTINGS
@given(limits, limits)
def test_the_lowest_of_two_is_each_ones_lower_value(one: Limits, other: Limits) -> None:
    lowest = one.lowest(other)
    assert lowest == other.lowest(one)
    for name in NAMES:
        mine, theirs, result = (getattr(each, name) for each in (one, other, lowest))
        assert result in (mine, theirs)
        for bound in (mine, theirs):
            assert bound is None or (result is not None and result <= bound), "never above either"


@SETTINGS
@given(limits, limits, limits)
def test_the_lowest_of_three_in_any_order(one: Limits, two: Limits, three: Limits) -> None:
    assert one.lowest(two).lowest(three) == one.lowest(two.lowest(three)) == three.lowest(one).lowest(two)
    assert one.lowest(one) == one == one.lowest(Limits()) == Limits().lowest(one)


@SETTINGS
@given(limits, st.lists(limits, max_size=3))
def test_in_force_is_what_was_asked_else_the_default_under_every_ceiling(asked: Limits, ceilings: list[Limits]) -> None:
    force = effective(asked, *ceilings)
    for name in NAMES:
        wanted = getattr(asked, name) if getattr(asked, name) is not None else getattr(DEFAULT_LIMITS, name)
        candidates = [wanted, *(getattr(each, name) for each in ceilings)]
        given_values = [value for value in candidates if value is not None]
        assert getattr(force, name) == (min(given_values) if given_values else None)
    assert force.check() is force


def test_in_force_without_asking_is_the_default() -> None:
    assert effective(Limits()) == effective(Limits(), CEILING) == DEFAULT_LIMITS


def test_a_ceiling_binds_where_nothing_was_asked_and_no_default_is() -> None:
    assert effective(Limits(), Limits(cpu_percent=50.0)) == evolve(DEFAULT_LIMITS, cpu_percent=50.0)


def test_more_than_the_default_may_be_asked_for() -> None:
    assert effective(Limits(memory_mb=4_096)).memory_mb == 4_096
    assert effective(Limits(memory_mb=4_096), Limits(memory_mb=1_024)).memory_mb == 1_024
    assert effective(Limits(stop_timeout_s=0)).stop_timeout_s == 0, "zero is asked for, not nothing"


@SETTINGS
@given(limits)
def test_given_is_what_is_set(asked: Limits) -> None:
    assert asked.given() == {name: value for name, value in asdict(asked).items() if value is not None}
    assert Limits(**asked.given()) == asked
