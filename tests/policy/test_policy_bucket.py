"""The token bucket: what it never grants, and what it always does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.policy.bucket import Bucket, take_all

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


@SETTINGS
@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(1, 100)), max_size=6), steps)
def test_from_all_or_from_none(numbers: list[tuple[float, float]], steps: list[tuple[float, float]]) -> None:
    buckets, now = tuple(full(*each) for each in numbers), 0.0
    for cost, passed in steps:
        now += passed
        after, wait_s = take_all(buckets, cost, now)
        if wait_s == 0:
            for before, each in zip(buckets, after, strict=True):
                assert each == before.take(cost, now)[0]
        else:
            assert after == buckets, "nothing is taken from any"
            assert any(not each.take(cost, now)[1] for each in buckets)
            later, again_s = take_all(buckets, cost, now + wait_s * (1 + 1e-9) + 1e-6)
            assert again_s == 0 and later != buckets, "so long is long enough"
        buckets = after


@SETTINGS
@given(st.floats(0.001, 1_000), bursts, steps)
def test_the_time_to_wait_is_neither_too_short_nor_too_long(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now = full(rate, burst), 0.0
    for cost, passed in steps:
        now += passed
        wait_s = bucket.wait_s(cost, now)
        assert bucket.take(cost, now + wait_s * (1 + 1e-9) + 1e-6)[1]
        if wait_s > 1e-3:
            assert not bucket.take(cost, now + wait_s * 0.99 - 1e-6)[1]
        bucket, _ = bucket.take(cost, now)


@SETTINGS
@given(st.floats(0.001, 1_000), bursts, steps, st.floats(0.001, 1_000), bursts, st.floats(0, 10))
def test_other_numbers_grant_nothing_for_the_time_before(
    rate: float, burst: float, steps: list[tuple[float, float]], new_rate: float, new_burst: float, later: float
) -> None:
    bucket, now = full(rate, burst), 0.0
    for cost, passed in steps:
        now += passed
        bucket, _ = bucket.take(cost, now)
    now += later
    held = min(burst, bucket.tokens + (now - bucket.at) * rate)
    changed = bucket.changed(new_rate, new_burst, now)
    assert (changed.rate, changed.burst) == (new_rate, new_burst)
    assert changed.wait_s(0.0, now) == 0 and changed.take(0.0, now)[0].tokens <= min(held, new_burst) + 1e-6


@SETTINGS
@given(st.floats(0.001, 1_000), bursts, steps, st.floats(0, 10), st.floats(0, 1_000))
def test_one_that_was_empty_then_holds_as_much_now(
    rate: float, burst: float, steps: list[tuple[float, float]], later: float, after: float
) -> None:
    bucket, now = full(rate, burst), 0.0
    for cost, passed in steps:
        now += passed
        bucket, _ = bucket.take(cost, now)
    now += later
    emptied = bucket.empty_at(now)
    if emptied is None:
        assert bucket.take(burst, now + 1e-6)[1]
    else:
        as_if = Bucket(rate, burst, 0.0, emptied).take(0.0, now + after)[0].tokens
        assert as_if == pytest.approx(bucket.take(0.0, now + after)[0].tokens, abs=1e-6, rel=1e-6)
