"""The window of refusals: an alert when there are so many within it, and one for each window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from solo_trio.policy.denials import SLOTS, DenialWindow


def test_an_alert_comes_with_the_one_that_is_too_many() -> None:
    window = DenialWindow(3, 60.0)
    said = []
    for now in (0.0, 1.0, 2.0, 3.0, 4.0):
        window, alert = window.add(now)
        said.append(alert)
    assert said == [None, None, 3, None, None], "once"
    window, alert = window.add(61.9)
    assert alert is None
    window, alert = window.add(62.1)
    assert alert is None, "those of a minute ago no longer count"
    window, alert = window.add(63.0)
    assert alert == 3


def test_slow_ones_are_no_alert() -> None:
    window = DenialWindow(3, 60.0)
    for number in range(50):
        window, alert = window.add(number * 40.0)
        assert alert is None


def test_those_on_both_sides_of_a_boundary_count_together() -> None:
    window = DenialWindow(10, 60.0)
    window, alert = window.add(59.0, 5)
    assert alert is None
    _, alert = window.add(61.0, 5)
    assert alert == 10


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 8), st.floats(1, 100))
def test_against_counting_all_of_them(gaps: list[float], threshold: int, window_s: float) -> None:
    """Exact to one part in `SLOTS`: never without so many within the window, always with so many within less of it."""
    window, now, times, quiet_until = DenialWindow(threshold, window_s), 0.0, [], float("-inf")
    for gap in gaps:
        now += gap
        times.append(now)
        window, alert = window.add(now)
        surely = sum(now - each < window_s * (1 - 1 / SLOTS) - 1e-6 for each in times)
        perhaps = sum(now - each <= window_s + 1e-6 for each in times)
        if now < quiet_until:
            assert alert is None
        elif alert is None:
            assert surely < threshold
        else:
            assert alert >= threshold and surely <= alert <= perhaps
            quiet_until = now + window_s
        assert len(window.counts) <= SLOTS
