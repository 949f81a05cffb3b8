"""The token bucket: what it never grants, and what it always does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.policy.bucket import Bucket

SETTINGS = settings(deadline=None, print_blob=True)

rates = st.floats(0, 1_000)
bursts = st.floats(0.5, 1_000)
steps = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 100)), max_size=40)
"""(cost, seconds since the one before)"""


def full(rate: float, burst: float, at: float = 0.0) -> Bucket:
    return Bucket(rate, burst, burst, at)


def test_a_burst_then_the_rate() -> None:
    bucket, granted = full(2.0, 3.0), []
    for now in (0.0, 0.0, 0.0, 0.0, 0.499, 0.5, 0.5, 1.0):
        bucket, took = bucket.take(1.0, now)
        granted.append(took)
    assert granted == [True, True, True, False, False, True, False, True]


def test_it_never_holds_more_than_the_burst() -> None:
    bucket, took = full(1.0, 2.0).take(1.0, 1_000_000.0)
    assert took and bucket.tokens == 1.0


def test_a_cost_above_the_burst_takes_a_full_bucket() -> None:
    bucket, took = full(1.0, 2.0).take(5.0, 0.0)
    assert took and bucket.tokens == 0.0
    bucket, took = bucket.take(5.0, 1.999)
    assert not took
    bucket, took = bucket.take(5.0, 2.0)
    assert took


def test_a_refused_cost_takes_nothing() -> None:
    bucket = Bucket(rate=0.0, burst=5.0, tokens=2.0, at=0.0)
    after, took = bucket.take(3.0, 10.0)
    assert not took and after.tokens == 2.0
    assert after.take(2.0, 10.0)[1], "a part of it is not gone either"


@pytest.mark.parametrize("back", [0.001, 5.0, 1e9])
def test_a_clock_that_goes_back_refills_nothing_twice(back: float) -> None:
    bucket, _ = full(1.0, 10.0, at=100.0).take(10.0, 100.0)
    for _ in range(5):
        bucket, took = bucket.take(0.5, 100.0 - back)
        assert not took
        bucket, took = bucket.take(0.5, 100.0)
        assert not took
    assert bucket.tokens == 0.0


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    bucket, _ = full(1.0, 10.0, at=100.0).take(1.0, 100.0)
    bucket, took = bucket.take(9.0, 50.0)
    assert took and bucket.tokens == 0.0
    assert not bucket.take(1.0, 100.9)[1] and bucket.take(1.0, 101.0)[1]


@SETTINGS
@given(rates, bursts, steps)
def test_never_more_than_the_burst_and_the_rate_over_time(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now, granted = full(rate, burst), 0.0, 0.0
    for cost, passed in steps:
        now += passed
        bucket, took = bucket.take(cost, now)
        granted += min(cost, burst) * took
        assert 0 <= bucket.tokens <= burst
        assert granted <= (burst + rate * now) * (1 + 1e-9) + 1e-9


@SETTINGS
@given(st.floats(0.001, 1_000), bursts, steps, st.floats(0, 50))
def test_waiting_long_enough_always_helps(
    rate: float, burst: float, steps: list[tuple[float, float]], cost: float
) -> None:
    bucket, now = full(rate, burst), 0.0
    for each, passed in steps:
        now += passed
        bucket, _ = bucket.take(each, now)
    assert bucket.take(cost, now + burst / rate * (1 + 1e-9) + 1e-6)[1]


@SETTINGS
@given(rates, bursts, steps)
def test_taking_changes_no_bucket_in_place(rate: float, burst: float, steps: list[tuple[float, float]]) -> None:
    bucket = full(rate, burst)
    for cost, passed in steps:
        bucket.take(cost, passed)
    assert bucket == full(rate, burst)
