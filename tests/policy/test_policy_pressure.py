"""Marks and hysteresis: told once per crossing, never in the wrong direction, and a share means what it says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.policy.pressure import (
    CRITICAL,
    GIVEN_BACK,
    HIGH,
    KERNEL_MARKS,
    TOLD_PER_MINUTE_MAX,
    Gauge,
    Pressure,
    Reading,
)

SETTINGS = settings(deadline=None, print_blob=True)
shares = st.floats(0, 2) | st.sampled_from(
    (HIGH, CRITICAL, HIGH - GIVEN_BACK, CRITICAL - GIVEN_BACK, 1.0, float("inf"))
)


def read_all(values: list[float]) -> list[Gauge]:
    """The gauge after each reading; news are told at once."""
    gauges, gauge = [], Gauge()
    for value in values:
        gauge = gauge.read(value, KERNEL_MARKS)
        gauges.append(gauge)
        gauge = gauge.tell()
    return gauges


@pytest.mark.parametrize(
    ("values", "levels", "news"),
    [
        ([0.79, 0.80, 0.79, 0.73], [0, 1, 1, 1], [False, True, False, False]),
        ([0.80, 0.71, 0.80], [1, 0, 1], [True, False, True]),
        ([0.80, 0.90, 0.83, 0.90], [1, 2, 2, 2], [True, True, False, False]),
        ([0.90, 0.81, 0.90], [2, 1, 2], [True, False, True]),
        ([0.95, 0.0, 0.95], [2, 0, 2], [True, False, True]),
    ],
)
def test_a_mark_is_passed_at_once_and_left_a_little_below(
    values: list[float], levels: list[int], news: list[bool]
) -> None:
    gauges = read_all(values)
    assert [gauge.level for gauge in gauges] == levels
    assert [gauge.news for gauge in gauges] == news


@SETTINGS
@given(st.lists(shares, max_size=40))
def test_the_level_is_what_the_share_says_but_for_the_hysteresis(values: list[float]) -> None:
    for value, gauge in zip(values, read_all(values), strict=True):
        assert gauge.level >= sum(value >= mark for mark in KERNEL_MARKS)
        assert gauge.level <= sum(value >= mark - GIVEN_BACK for mark in KERNEL_MARKS)


@SETTINGS
@given(st.lists(shares, max_size=40))
def test_news_are_rises_and_nothing_else(values: list[float]) -> None:
    gauges = read_all(values)
    for before, after in itertools.pairwise([Gauge(), *gauges]):
        assert after.news == (after.level > before.level)


@SETTINGS
@given(st.lists(st.tuples(shares, st.floats(0, 30)), max_size=60))
def test_it_tells_no_more_often_than_it_may_and_never_of_nothing(steps: list[tuple[float, float]]) -> None:
    pressure, at, told = Pressure(), 0.0, 0
    for share, passed in steps:
        at += passed
        pressure, news = pressure.read({"fds": Reading(share * 100, 100)}, at)
        told += len(news)
        assert not news or pressure.level != "ok"
    assert told <= TOLD_PER_MINUTE_MAX * (1 + at / 60) + 1e-6


def test_what_was_held_back_is_told_when_it_may_be_if_it_still_holds() -> None:
    pressure, told = Pressure(), []
    for second in range(2 * TOLD_PER_MINUTE_MAX):
        pressure, news = pressure.read({"fds": Reading(100.0 * (second % 2), 100)}, second / 100)
        told.append(len(news))
    assert sum(told) == TOLD_PER_MINUTE_MAX
    pressure, news = pressure.read({"fds": Reading(0, 100)}, 1)
    pressure, news = pressure.read({"fds": Reading(99, 100)}, 2)
    assert not news and pressure.level == "critical", "that it is not told does not mean that it is not so"
    pressure, news = pressure.read({"fds": Reading(99, 100)}, 30)
    assert news == ("fds",)


def test_quiet_readings_are_told_by_the_next_one() -> None:
    pressure, news = Pressure().read({"fds": Reading(95, 100)}, 0, quiet=True)
    assert not news and pressure.refusing == ("fds",)
    assert pressure.read({"fds": Reading(95, 100)}, 1)[1] == ("fds",)


@pytest.mark.parametrize(
    ("reading", "percent"),
    [
        (Reading(50, 100), 50.0),
        (Reading(50, 0), 0.0),
        (Reading(100, 100, floor=True), 100.0),
        (Reading(200, 100, floor=True), 50.0),
        (Reading(0, 100, floor=True), 1_000_000.0),
        (Reading(0, 0, floor=True), 0.0),
        (Reading(50, float("inf")), 0.0),
    ],
)
def test_percent(reading: Reading, percent: float) -> None:
    assert reading.percent == percent


def test_only_what_a_deployment_needs_refuses_one() -> None:
    full = {name: Reading(99, 100) for name in ("queue", "loop_lag", "tasks", "threads")}
    pressure, _ = Pressure().read(full, 0)
    assert pressure.level == "critical" and pressure.refusing == ()
    pressure, _ = pressure.read(full | {"memory": Reading(91, 100), "fds": Reading(85, 100)}, 1)
    assert pressure.refusing == ("memory",)
