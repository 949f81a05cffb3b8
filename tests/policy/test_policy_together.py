"""What the services of a tenant use together: told once near the limit, and somebody ends as long as it is reached."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.policy.pressure import GIVEN_BACK, TOLD_PER_MINUTE_MAX
from solo_trio.policy.together import RESOURCE, Together
from solo_trio.policy.violations import SOFT, Crossing

SETTINGS = settings(deadline=None, print_blob=True)
LIMIT = 100.0
histories = st.lists(st.tuples(st.floats(0, 200), st.floats(0, 5)), max_size=50)


def play(history: list[tuple[float, float]]) -> list[tuple[float, float, Crossing | None]]:
    at, together, found = 0.0, Together.since(0.0), []
    for used, passed in history:
        at += passed
        together, crossing = together.step(used, LIMIT, at)
        found.append((at, used, crossing))
    return found


def test_near_at_and_above_the_limit() -> None:
    used = [79, 80, 81, 99, 100, 120, 99, 71, 85]
    found = [each and each.action for _, _, each in play([(value, 1) for value in used])]
    assert found == [None, "warn", None, None, "kill", "kill", None, None, "warn"]


@SETTINGS
@given(histories)
def test_somebody_ends_exactly_as_long_as_the_limit_is_reached(history: list[tuple[float, float]]) -> None:
    for _, used, crossing in play(history):
        assert (crossing is not None and crossing.action == "kill") == (used >= LIMIT)
        if crossing is not None:
            assert (crossing.resource, crossing.value, crossing.limit) == (RESOURCE, round(used, 3), LIMIT)


@SETTINGS
@given(histories)
def test_a_warning_is_of_a_crossing_and_there_are_few(history: list[tuple[float, float]]) -> None:
    below, warned = True, []
    for at, used, crossing in play(history):
        below = below or used < LIMIT * (SOFT - GIVEN_BACK)
        if crossing is not None and crossing.action == "warn":
            assert used >= LIMIT * (SOFT - GIVEN_BACK) and below
            below = False
            warned.append(at)
        elif used >= LIMIT:
            below = False
    for number, at in enumerate(warned):
        assert sum(at - 60 < each <= at for each in warned[: number + 1]) <= 2 * TOLD_PER_MINUTE_MAX
