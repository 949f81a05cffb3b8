"""The wall clock is believed as far as it can be: never back, a leap only on demand."""

from __future__ import annotations

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.kernel.kernel_time import KernelTime
from solo_trio.policy.time_jumps import DOWNTIME_S_MAX, JUMP_S_MAX, Seen

T0_US = 1_700_000_000_000_000
HOUR_US = 3_600_000_000
DAY_S = 86_400.0

steps = st.lists(
    st.tuples(
        st.floats(0, 10_000),  # of monotonic time that pass
        st.integers(-(10**14), 10**14) | st.integers(-(10**7), 10**7) | st.just(0),  # by how much the wall clock is set
        st.booleans(),  # whether the operator accepts
    ),
    max_size=20,
)


def us(seconds: float) -> int:
    return round(seconds * 1_000_000)


@given(st.just(0) | st.integers(1, 2 * T0_US), st.integers(0, 2 * T0_US), steps)
def test_what_is_believed_never_decreases(at_us: int, wall_us: int, history: list[tuple[float, int, bool]]) -> None:
    seen, monotonic = Seen(at_us, 0.0), 0.0
    for seconds, jump_us, accepts in history:
        monotonic += seconds
        wall_us = max(0, wall_us + us(seconds) + jump_us)
        after = seen.read(wall_us, monotonic)
        assert after.at_us >= seen.at_us
        assert after.held_s == 0 or after.held_s > JUMP_S_MAX
        should_us = seen.at_us + us(monotonic - seen.monotonic)
        assert after.at_us <= max(wall_us, should_us), "nothing is later than what a clock has shown"
        if not after.held_s:
            assert after.at_us == (wall_us if wall_us >= seen.at_us else should_us), "believed, save that it goes back"
        seen = after.accept(wall_us, monotonic) if accepts else after
        assert seen.at_us >= after.at_us and (not accepts or not seen.held_s)


@given(st.lists(st.floats(0, 10_000), max_size=20), st.integers(1, 2 * T0_US), st.floats(0, JUMP_S_MAX - 1))
def test_a_clock_that_only_goes_on_is_always_believed(ticks: list[float], at_us: int, drift_s: float) -> None:
    seen, monotonic, wall_us = Seen(at_us, 0.0), 0.0, at_us + us(drift_s)
    for seconds in ticks:
        monotonic += seconds
        wall_us += us(seconds)
        seen = seen.read(wall_us, monotonic)
        assert (seen.at_us, seen.held_s) == (wall_us, 0.0)


@given(st.integers(2 * HOUR_US, 10**15), st.lists(st.floats(0, 3_600), min_size=1, max_size=8))
def test_a_clock_that_is_set_back_makes_nothing_valid_again(back_us: int, ticks: list[float]) -> None:
    """Whatever had expired when it was set back is expired at every reading after that."""
    seen = Seen(T0_US, 0.0).read(T0_US + HOUR_US, 3_600.0)
    latest, monotonic = seen.at_us, 3_600.0
    for seconds in ticks:
        monotonic += seconds
        seen = seen.read(max(0, T0_US + us(monotonic) - back_us), monotonic)
        assert seen.at_us >= latest and not seen.held_s
    assert abs(seen.at_us - latest - us(monotonic - 3_600.0)) <= len(ticks), "and what had not ends in its time"


def test_a_clock_that_is_set_back_and_right_again_has_not_leapt() -> None:
    """What passed meanwhile is known from the other clock."""
    seen = Seen(T0_US, 0.0).read(T0_US, 0.0)
    for minutes in range(1, 31):
        seen = seen.read(T0_US - HOUR_US + us(60.0 * minutes), 60.0 * minutes)
        assert seen.at_us == T0_US + us(60.0 * minutes)
    seen = seen.read(T0_US + us(31 * 60.0), 31 * 60.0)
    assert (seen.at_us, seen.held_s) == (T0_US + us(31 * 60.0), 0.0)


class TestLeap:
    def test_it_is_held_and_time_goes_on_by_the_other_clock(self) -> None:
        seen = Seen(T0_US, 0.0).read(T0_US, 0.0)
        for seconds in (1.0, 2.0, 500.0, 10_000.0):
            seen = seen.read(T0_US + us(seconds + DAY_S), seconds)
            assert seen.at_us == T0_US + us(seconds)
            assert seen.held_s == DAY_S

    def test_it_is_over_when_the_clock_is_right_again(self) -> None:
        seen = Seen(T0_US, 0.0).read(T0_US, 0.0).read(T0_US + us(10 + DAY_S), 10.0)
        assert seen.held_s
        seen = seen.read(T0_US + us(20), 20.0)
        assert (seen.at_us, seen.held_s) == (T0_US + us(20), 0.0)

    def test_once_accepted_it_is_believed_for_good(self) -> None:
        seen = Seen(T0_US, 0.0).read(T0_US, 0.0).read(T0_US + us(10 + DAY_S), 10.0)
        seen = seen.accept(T0_US + us(10 + DAY_S), 10.0)
        assert (seen.at_us, seen.held_s) == (T0_US + us(10 + DAY_S), 0.0)
        seen = seen.read(T0_US + us(11 + DAY_S), 11.0)
        assert (seen.at_us, seen.held_s) == (T0_US + us(11 + DAY_S), 0.0)
        assert seen.read(T0_US, 12.0).at_us == seen.at_us + us(1), "nor does it go back then"

    def test_accepting_an_earlier_time_changes_nothing(self) -> None:
        seen = Seen(T0_US, 0.0).read(T0_US, 0.0)
        assert seen.accept(T0_US - HOUR_US, 0.0).at_us == T0_US

    @given(st.floats(0, 100_000), st.floats(-10, 10))
    def test_the_bound_is_where_it_says(self, elapsed_s: float, off_s: float) -> None:
        seen = Seen(T0_US, 0.0).read(T0_US, 0.0)
        ahead_us = us(JUMP_S_MAX) + us(off_s)
        assert bool(seen.read(T0_US + us(elapsed_s) + ahead_us, elapsed_s).held_s) == (ahead_us > us(JUMP_S_MAX))

    def test_many_small_ones_are_no_leap(self) -> None:
        """Each was believed: it is a leap that is held, not a clock that is fast."""
        seen, wall_us = Seen(T0_US, 0.0).read(T0_US, 0.0), T0_US
        for second in range(1, 20):
            wall_us += us(1 + JUMP_S_MAX)
            seen = seen.read(wall_us, float(second))
            assert (seen.at_us, seen.held_s) == (wall_us, 0.0)


class TestStart:
    """The first reading of a life: nothing tells how long the kernel was off."""

    def test_a_downtime_is_believed(self) -> None:
        for days in (0, 1, 365):
            at_us = T0_US + us(days * DAY_S)
            assert Seen(T0_US, 5.0).read(at_us, 5.0) == Seen(at_us, 5.0, first=False)

    def test_longer_than_a_year_is_not(self) -> None:
        seen = Seen(T0_US, 5.0).read(T0_US + us(DOWNTIME_S_MAX + 1), 5.0)
        assert (seen.at_us, seen.held_s, seen.first) == (T0_US, DOWNTIME_S_MAX + 1, True)
        seen = seen.read(T0_US + us(DAY_S + 1), 6.0)
        assert (seen.at_us, seen.held_s) == (T0_US + us(DAY_S + 1), 0.0), "it is set right, and was off for a day"

    def test_another_start_does_not_accept_what_was_held(self) -> None:
        seen = Seen(T0_US, 5.0, suspect=True).read(T0_US + us(30 * DAY_S), 5.0)
        assert (seen.at_us, seen.held_s) == (T0_US, 30 * DAY_S)
        seen = seen.read(T0_US + us(30 * DAY_S + 60), 65.0)
        assert (seen.at_us, seen.held_s) == (T0_US + us(60), 30 * DAY_S)
        assert not Seen(T0_US, 5.0, suspect=True).read(T0_US + us(DAY_S / 2), 5.0).held_s, "it was set right meanwhile"

    def test_only_the_first_reading_is_so_patient(self) -> None:
        seen = Seen(T0_US, 5.0).read(T0_US + us(DAY_S), 5.0)
        assert seen.read(T0_US + us(2 * DAY_S), 6.0).held_s

    def test_a_clock_that_is_behind_the_log_says_nothing_about_the_downtime(self) -> None:
        seen = Seen(T0_US, 5.0).read(T0_US - HOUR_US, 5.0)
        assert seen.at_us == T0_US
        assert seen.read(T0_US + us(DAY_S), 6.0).at_us == T0_US + us(DAY_S)

    def test_an_empty_log_believes_anything(self) -> None:
        assert Seen(0, 5.0).read(T0_US, 5.0).at_us == T0_US


@define
class HandClock:
    """`ports.Clock`, set by hand."""

    us: int = T0_US
    seconds: float = field(default=100.0)

    def wall_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.seconds


class TestKernelTime:
    def test_neither_goes_back_across_restarts(self) -> None:
        clock = HandClock()
        first = KernelTime(clock, 0, 0.0)
        clock.seconds += 10
        clock.us += us(10)
        before = first.now(0, 0.0)
        assert (before.at_us, before.kernel_time) == (T0_US + us(10), 10.0)
        clock.us -= HOUR_US
        clock.seconds = 3.0  # another process
        second = KernelTime(clock, before.at_us, before.kernel_time)
        now = second.now(before.at_us, before.kernel_time)
        assert (now.at_us, now.kernel_time) == (before.at_us, before.kernel_time)
        clock.seconds += 5
        assert second.now(before.at_us, before.kernel_time).kernel_time == 15.0

    def test_not_before_the_newest_event(self) -> None:
        time = KernelTime(HandClock(), T0_US, 7.0)
        now = time.now(T0_US + HOUR_US, 9.0)
        assert (now.at_us, now.kernel_time) == (T0_US + HOUR_US, 9.0)

    def test_a_leap_is_held_until_it_is_accepted(self) -> None:
        clock = HandClock()
        time = KernelTime(clock, T0_US, 0.0)
        assert time.now(T0_US, 0.0).at_us == T0_US and not time.held_s
        clock.us += 10 * HOUR_US
        clock.seconds += 1
        now = time.now(T0_US, 0.0)
        assert now.at_us == T0_US + us(1) and time.held_s == 36_000 - 1
        assert now.kernel_time == 1.0, "a leap of the wall clock is none of the other"
        time.accept()
        assert time.now(T0_US, 0.0).at_us == clock.us and not time.held_s
