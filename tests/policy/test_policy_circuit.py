"""The circuit breaker, as a table and for any history of calls."""

from __future__ import annotations

from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.policy.circuit import FAILURES, OPEN_S, SUCCESSES, TRIAL_WAIT_S, TRIALS_MAX, Circuit, Outcome, State

SETTINGS = settings(deadline=None, print_blob=True)
outcomes = st.sampled_from(get_args(Outcome))
histories = st.lists(st.tuples(st.sampled_from(["ask", *get_args(Outcome)]), st.floats(0, 20)), max_size=120)
"""(ask, or how the oldest call under way ends; seconds since the one before)"""


def after(circuit: Circuit, *outcomes: Outcome, now: float = 0.0) -> tuple[Circuit, list[State | None]]:
    """Calls one after the other; each must be let through."""
    became: list[State | None] = []
    for outcome in outcomes:
        circuit, wait_s = circuit.ask(now)
        assert wait_s == 0.0
        circuit, state = circuit.settle(circuit.ticket, outcome, now)
        became.append(state)
    return circuit, became


def opened(now: float = 0.0) -> Circuit:
    return after(Circuit(), *["failed"] * FAILURES, now=now)[0]


def test_failures_in_a_row_open_it() -> None:
    circuit, became = after(Circuit(), *["failed"] * FAILURES)
    assert became == [None] * (FAILURES - 1) + ["open"]
    assert circuit.state == "open"
    assert circuit.ask(0.0)[1] == OPEN_S
    assert circuit.ask(OPEN_S - 1)[1] == 1.0


def test_an_answer_in_between_begins_the_count_again() -> None:
    nearly = ["failed"] * (FAILURES - 1)
    circuit, became = after(Circuit(), *nearly, "answered", *nearly)
    assert circuit.state == "closed" and not any(became)


def test_what_says_nothing_changes_nothing() -> None:
    nearly = ["failed"] * (FAILURES - 1)
    circuit, _ = after(Circuit(), *nearly, "neither", "neither")
    assert after(circuit, "failed")[1] == ["open"]


def test_half_open_lets_a_few_try_and_two_answers_close_it() -> None:
    circuit = opened()
    assert circuit.seen(OPEN_S - 0.1) == "open" and circuit.seen(OPEN_S) == "half_open"
    for _ in range(TRIALS_MAX):
        circuit, wait_s = circuit.ask(OPEN_S)
        assert wait_s == 0.0 and circuit.state == "half_open"
    assert circuit.ask(OPEN_S)[1] == TRIAL_WAIT_S
    ticket = circuit.ticket
    circuit, became = circuit.settle(ticket, "answered", OPEN_S)
    assert became is None
    circuit, became = circuit.settle(ticket, "answered", OPEN_S)
    assert became == "closed" and circuit.state == "closed" and circuit.failures == 0


def test_half_open_one_failure_opens_it_for_another_time() -> None:
    circuit, became = after(opened(), "answered", "failed", now=OPEN_S)
    assert became == [None, "open"]
    assert circuit.ask(OPEN_S)[1] == OPEN_S


def test_a_trial_that_says_nothing_gives_its_place_back() -> None:
    circuit, became = after(opened(), *["neither"] * 10, now=OPEN_S)
    assert circuit.state == "half_open" and not any(became) and circuit.trials == 0


def test_a_call_of_an_earlier_state_says_nothing_about_this_one() -> None:
    before, _ = Circuit().ask(0.0)
    circuit = opened()
    assert circuit.settle(before.ticket, "failed", 1.0) == (circuit, None)
    half_open, _ = circuit.ask(OPEN_S)
    assert half_open.settle(before.ticket, "failed", OPEN_S) == (half_open, None)
    assert half_open.settle(before.ticket, "answered", OPEN_S) == (half_open, None)


def test_unproven_holds_nobody_off_and_one_failure_opens_it() -> None:
    circuit = Circuit.unproven()
    for _ in range(100):
        circuit, wait_s = circuit.ask(0.0)
        assert wait_s == 0.0
    assert circuit.settle(circuit.ticket, "failed", 0.0)[1] == "open"
    assert after(Circuit.unproven(), *["answered"] * SUCCESSES)[1][-1] == "closed"


@SETTINGS
@given(histories, st.booleans())
def test_any_history(history: list[tuple[str, float]], unproven: bool) -> None:
    """Against a model that only counts: what is let through, when it opens, that it never stays shut."""
    circuit = Circuit.unproven() if unproven else Circuit()
    under_way: list[tuple[int, str]] = []
    now, refused_since = 0.0, None
    for step, passed in history:
        now += passed
        before = circuit
        if step == "ask":
            circuit, wait_s = circuit.ask(now)
            assert 0 <= wait_s <= OPEN_S
            if wait_s == 0.0:
                under_way.append((circuit.ticket, circuit.state))
                refused_since = None
            elif circuit.state == "open":
                refused_since = now if refused_since is None else refused_since
                assert now - refused_since < OPEN_S, "an open circuit is not asked in vain for longer than that"
            if before.state == "closed":
                assert wait_s == 0.0 and circuit == before
        elif under_way:
            ticket, _ = under_way.pop(0)
            outcome: Outcome = step  # type: ignore[assignment]
            circuit, became = circuit.settle(ticket, outcome, now)
            if became == "open":
                assert outcome == "failed" and circuit.until == now + OPEN_S
            if became == "closed":
                assert outcome == "answered" and before.state == "half_open"
            assert (circuit.state != before.state) == (became is not None)
        current = [each for each in under_way if each[0] == circuit.ticket]
        if circuit.state == "half_open":
            assert circuit.trials == len(current)
            assert circuit.trials_max is None or circuit.trials <= circuit.trials_max
        assert 0 <= circuit.failures < FAILURES and 0 <= circuit.successes < SUCCESSES
    later = now + OPEN_S
    circuit, wait_s = circuit.ask(later)
    assert wait_s == 0.0 or circuit.trials == TRIALS_MAX
