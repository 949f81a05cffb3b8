"""The restart window and the delays, as arithmetic. Rows 1, 2 and 16 of the conformance table; through the model: see
`tests/model/test_model_supervision.py`."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from solo_trio.policy.backoff import FIRST_DELAY_S, LONGEST_DELAY_S, longest_delay, restart_delay
from solo_trio.policy.restart import Window, count_crash, wants_restart

SETTINGS = settings(deadline=None, print_blob=True)

max_restarts = st.integers(0, 1_000)
max_seconds = st.floats(0, 86_400, exclude_min=True)
kernel_times = st.floats(0, 1e9)
chances = st.floats(0, 1, exclude_max=True)


def crashes_at(*times: float, max_restarts: int, max_seconds: float) -> list[bool]:
    """For each crash, whether it gives up."""
    window: Window = ()
    verdicts = []
    for now in times:
        window, give_up = count_crash(window, now, max_restarts=max_restarts, max_seconds=max_seconds)
        verdicts.append(give_up)
    return verdicts


@pytest.mark.parametrize("n", [0, 1, 2, 5, 1_000])
def test_row_1_crash_n_plus_1_inside_the_window_gives_up(n: int) -> None:
    verdicts = crashes_at(*[i / 1_000 for i in range(n + 1)], max_restarts=n, max_seconds=60)
    assert verdicts == [False] * n + [True]


def test_row_1_at_0_the_first_crash_gives_up() -> None:
    assert crashes_at(0.0, max_restarts=0, max_seconds=1e-9) == [True]


@pytest.mark.parametrize(
    ("second", "gives_up"), [(9.999, True), (10.0, True), (math.nextafter(10, 11), False), (10.001, False)]
)
def test_row_2_the_edge_of_the_window_is_inside_it(second: float, gives_up: bool) -> None:
    assert crashes_at(0.0, second, max_restarts=1, max_seconds=10) == [False, gives_up]


@pytest.mark.parametrize(("third", "gives_up"), [(10.499, True), (10.5, True), (10.501, False)])
def test_row_2_the_window_slides(third: float, gives_up: bool) -> None:
    """With three in it, only the two newest restarts and the new crash matter."""
    assert crashes_at(0.25, 0.5, third, max_restarts=2, max_seconds=10) == [False, False, False]
    assert crashes_at(0.5, 0.5, third, max_restarts=2, max_seconds=10) == [False, False, gives_up]


def test_row_2_fractions_of_a_second_count() -> None:
    """Where Erlang cuts seconds off: 0.9 and 2.0 are 1.1 s apart, not 2."""
    assert crashes_at(0.9, 2.0, max_restarts=1, max_seconds=1.05) == [False, False]
    assert crashes_at(0.9, 2.0, max_restarts=1, max_seconds=1.15) == [False, True]


@SETTINGS
@given(st.lists(kernel_times, max_size=40).map(sorted), st.integers(0, 8), max_seconds)
def test_the_window_is_the_crashes_not_older_than_max_seconds(times: list[float], n: int, seconds: float) -> None:
    window: Window = ()
    for i, now in enumerate(times):
        inside = [t for t in times[: i + 1] if t >= now - seconds]
        window, give_up = count_crash(window, now, max_restarts=n, max_seconds=seconds)
        assert give_up == (len(inside) > n)
        assert list(window) == inside[-(n + 1) :]


@SETTINGS
@given(st.lists(kernel_times, min_size=1, max_size=20).map(sorted), st.integers(0, 4), max_seconds, st.floats(0, 1e6))
def test_counting_changes_no_window_in_place(times: list[float], n: int, seconds: float, later: float) -> None:
    window = tuple(times)
    count_crash(window, times[-1] + later, max_restarts=n, max_seconds=seconds)
    assert window == tuple(times)


def given_up_after(n: int, seconds: float, start: float, drawn: list[float]) -> int:
    """Start and crash at once, with the delays between, until it gives up: at which crash."""
    window: Window = ()
    now = start
    for crash in range(1, n + 3):
        window, give_up = count_crash(window, now, max_restarts=n, max_seconds=seconds)
        if give_up:
            return crash
        chance = drawn[crash % len(drawn)]
        now += restart_delay(crash, chance, max_restarts=n, max_seconds=seconds)
    return 0


@SETTINGS
@given(max_restarts, max_seconds, kernel_times, st.lists(chances, min_size=1, max_size=8))
@example(0, 60.0, 0.0, [0.0])
@example(1_000, 86_400.0, 1e9, [math.nextafter(1, 0)])
@example(1_000, 0.001, 1e9, [math.nextafter(1, 0)])
@example(5, 5e-324, 0.0, [math.nextafter(1, 0)])
@example(1, 3e-7, 1e9, [math.nextafter(1, 0)])
def test_row_16_a_crash_loop_always_trips_the_window(n: int, seconds: float, start: float, drawn: list[float]) -> None:
    """Whatever the delays, and at the very crash that row 1 says."""
    assert given_up_after(n, seconds, start, drawn) == n + 1


@SETTINGS
@given(max_restarts, max_seconds, st.integers(0, 10_000), chances)
@example(1, 5e-324, 1, 0.0)
@example(2, 1.5e-323, 1, 0.5)
def test_row_16_a_delay_is_between_half_and_the_whole_of_the_exponential(
    n: int, seconds: float, attempt: int, chance: float
) -> None:
    window_cap = longest_delay(n, seconds)
    too_short = window_cap < FIRST_DELAY_S and attempt > n + 1
    cap = LONGEST_DELAY_S if too_short else window_cap
    whole = min(FIRST_DELAY_S * 2.0 ** min(max(attempt - 1, 0), 64), cap)
    delay = restart_delay(attempt, chance, max_restarts=n, max_seconds=seconds)
    assert whole / 2 <= delay <= whole <= cap <= LONGEST_DELAY_S
    assert window_cap * (n + 1) <= seconds / 2 * (1 + 1e-12) + 1e-300, "n + 1 crashes fit in half of the window"


@SETTINGS
@given(st.integers(0, 60), max_seconds, chances)
def test_row_16_a_delay_never_shrinks_with_the_attempts(n: int, seconds: float, chance: float) -> None:
    delays = [restart_delay(attempt, chance, max_restarts=n, max_seconds=seconds) for attempt in range(1, n + 50)]
    assert all(earlier <= later for earlier, later in pairwise(delays))
    assert delays[-1] == restart_delay(10**9, chance, max_restarts=n, max_seconds=seconds), "no overflow"


def test_row_16_in_numbers() -> None:
    delays = [restart_delay(attempt, 0.0, max_restarts=9, max_seconds=60) for attempt in range(1, 13)]
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5]
    assert longest_delay(5, 60) == 5.0
    assert longest_delay(0, 86_400) == LONGEST_DELAY_S == 30.0
    assert longest_delay(4, 1) == 0.1


def test_row_16_a_loop_that_the_window_cannot_catch_gets_slow() -> None:
    """Its cap is below the first delay, and there were more crashes in a row than it would have borne: no cap any more."""
    assert restart_delay(2, 0.0, max_restarts=1, max_seconds=0.01) == 0.00125
    assert restart_delay(3, 0.0, max_restarts=1, max_seconds=0.01) == 0.2
    assert restart_delay(30, 0.0, max_restarts=1, max_seconds=0.01) == LONGEST_DELAY_S / 2


@pytest.mark.parametrize(
    ("restart", "normal", "abnormal"),
    [("permanent", True, True), ("transient", False, True), ("temporary", False, False)],
)
def test_row_9_who_is_restarted(restart: str, normal: bool, abnormal: bool) -> None:
    assert wants_restart(restart, abnormal=False) is normal  # type: ignore[arg-type]
    assert wants_restart(restart, abnormal=True) is abnormal  # type: ignore[arg-type]
