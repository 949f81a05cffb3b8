"""When a service uses more than it may: what is told, what is killed, and that nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.policy.pressure import GIVEN_BACK, TOLD_PER_MINUTE_MAX
from solo_trio.policy.violations import (
    ACTIONS,
    CPU_WINDOW_S,
    CPU_WINDOW_SAMPLES_MAX,
    MEBIBYTE,
    SOFT,
    CpuWindow,
    Crossing,
    Watched,
)

SETTINGS = settings(deadline=None, print_blob=True)
LIMITS = {"memory_mb": 100.0, "cpu_seconds": 50.0, "cpu_percent": 50.0, "threads": 10.0, "fds": 100.0}

usages = st.fixed_dictionaries(
    {},
    optional={
        "memory_bytes": st.floats(0, 200 * MEBIBYTE),
        "cpu_s": st.floats(0, 100),
        "threads": st.integers(0, 20).map(float),
        "fds": st.integers(0, 200).map(float),
        "throttled_s": st.floats(0, 100),
    },
)
histories = st.lists(st.tuples(usages, st.floats(0, 5)), max_size=50)


def play(history: list[tuple[dict[str, float], float]], limits: dict[str, float]) -> list[tuple[float, Crossing]]:
    at, watched, found = 0.0, Watched.since(0.0), []
    for usage, passed in history:
        at += passed
        watched, crossings = watched.step(usage, limits, at)
        found += [(at, crossing) for crossing in crossings]
    return found


def test_soft_then_hard() -> None:
    history = [({"memory_bytes": mebibytes * MEBIBYTE}, 1.0) for mebibytes in (79, 80, 81, 99, 100, 101)]
    assert [each for _, each in play(history, LIMITS)] == [
        Crossing("memory_mb", 80, 100, "warn"),
        Crossing("memory_mb", 100, 100, "kill"),
    ]


@SETTINGS
@given(histories)
def test_whatever_is_told_is_so(history: list[tuple[dict[str, float], float]]) -> None:
    for _, crossing in play(history, LIMITS):
        assert crossing.limit == LIMITS[crossing.resource]
        assert crossing.value >= (SOFT - GIVEN_BACK) * crossing.limit - 0.001
        if crossing.action == "kill":
            assert crossing.resource in ACTIONS and crossing.value >= crossing.limit - 0.001
        if crossing.action == "throttle":
            assert crossing.resource == "cpu_percent"


@SETTINGS
@given(histories)
def test_memory_above_its_limit_always_kills(history: list[tuple[dict[str, float], float]]) -> None:
    """However much was told before: only the first sample above the limit counts, the service is gone then."""
    above = next(
        (number for number, (usage, _) in enumerate(history) if usage.get("memory_bytes", 0) >= 100 * MEBIBYTE), None
    )
    kills = [each for _, each in play(history if above is None else history[: above + 1], LIMITS)]
    kills = [each for each in kills if each.action == "kill" and each.resource == "memory_mb"]
    assert len(kills) == (above is not None)


@SETTINGS
@given(histories)
def test_warnings_are_bounded(history: list[tuple[dict[str, float], float]]) -> None:
    found = [at for at, crossing in play(history, LIMITS) if crossing.action != "kill"]
    if found:
        assert len(found) <= TOLD_PER_MINUTE_MAX * (1 + found[-1] / 60) + 1e-6


@SETTINGS
@given(histories)
def test_without_limits_nothing_is_said(history: list[tuple[dict[str, float], float]]) -> None:
    assert play(history, {}) == []
    assert play(history, dict.fromkeys(LIMITS, 0.0)) == []


@SETTINGS
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), max_size=60))
def test_a_window_is_bounded_and_never_negative(steps: list[tuple[float, float]]) -> None:
    window, at, cpu_s = CpuWindow(), 0.0, 0.0
    for passed, used in steps:
        at, cpu_s = at + passed, cpu_s + used
        window = window.add(at, cpu_s)
        assert len(window.samples) <= CPU_WINDOW_SAMPLES_MAX
        assert window.percent >= 0
        assert window.samples[-1] == (at, cpu_s)
        assert window.samples[-1][0] - window.samples[0][0] <= CPU_WINDOW_S


@pytest.mark.parametrize(("cores", "seconds"), [(0.0, 20), (0.5, 20), (2.0, 5)])
def test_percent_is_of_one_processor(cores: float, seconds: int) -> None:
    window = CpuWindow()
    for second in range(seconds):
        window = window.add(second, cores * second)
    assert window.percent == pytest.approx(100 * cores)
    assert window.full == (seconds > CPU_WINDOW_S)


def test_a_busy_moment_is_forgotten() -> None:
    window = CpuWindow()
    for second in range(30):
        window = window.add(second, min(second, 5))
    assert window.percent == 0


def test_what_is_held_to_its_share_is_told_as_throttled_not_as_a_warning_for_ever() -> None:
    history: list[tuple[dict[str, Any], float]] = [
        ({"cpu_s": 0.49 * second, "throttled_s": 0.5 * second}, 1.0) for second in range(30)
    ]
    assert [(each.resource, each.action) for _, each in play(history, LIMITS)] == [("cpu_percent", "throttle")]


def test_the_kill_comes_first() -> None:
    [kill, *_] = Watched.since(0).step({"threads": 10, "fds": 100, "memory_bytes": 1e12}, LIMITS, 1)[1]
    assert kill.action == "kill"
