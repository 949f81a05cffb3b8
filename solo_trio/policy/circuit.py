"""The circuit breaker. Owns: when calls of a failing service are held off, and tried again. Never: calls, reads a clock.

The usual one (Nygard, "Release It!"): `FAILURES` failures in a row open it, for `OPEN_S` seconds every call is refused, then it
is half open: a few calls are let through as trials; `SUCCESSES` answers close it, one failure opens it again.

What counts as a failure is the service's own: it ended during the call, or did not answer in time. An exception that its
function raises is an answer: the service was there, worked, and said no. With a function that refuses wrong arguments, whoever
calls it with such would otherwise shut out everybody else.
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import evolve, frozen

FAILURES: Final = 5
"""In a row."""
OPEN_S: Final = 30.0
SUCCESSES: Final = 2
TRIALS_MAX: Final = 2
"""Calls at once through a half-open circuit."""
TRIAL_WAIT_S: Final = 1.0
"""When to ask again if all trials are under way: nobody knows how long they take."""

State = Literal["closed", "open", "half_open"]
Outcome = Literal["answered", "failed", "neither"]
"""neither: the caller gave up, or somebody stopped the service on purpose; nothing is learned from that."""


@frozen
class Circuit:
    """`failures`: in a row, while closed. `successes`, `trials` (under way): while half open. `until`: when open is over."""

    state: State = "closed"
    failures: int = 0
    successes: int = 0
    trials: int = 0
    until: float = 0.0
    ticket: int = 0
    """Counts changes of state: an outcome counts only in the one in which its call was let through."""
    trials_max: int | None = TRIALS_MAX

    @classmethod
    def unproven(cls) -> Circuit:
        """Of a service of which only an earlier kernel knew more: half open, so that one failure is enough.

        Nothing is known against it: calls are not held off for trials that are under way.
        """
        return cls("half_open", trials_max=None)

    def ask(self, now: float) -> tuple[Circuit, float]:
        """Whether a call may go: after it, and how many seconds to wait first (0: it goes, as `ticket` of the value)."""
        if self.state == "closed":
            return self, 0.0
        circuit = self
        if self.state == "open":
            if now < self.until:
                return self, self.until - now
            circuit = Circuit("half_open", ticket=self.ticket + 1)
        if circuit.trials_max is not None and circuit.trials >= circuit.trials_max:
            return circuit, TRIAL_WAIT_S
        return evolve(circuit, trials=circuit.trials + 1), 0.0

    def settle(self, ticket: int, outcome: Outcome, now: float) -> tuple[Circuit, State | None]:
        """After a call that was let through with `ticket`, and the state that it brought about: open, closed, or None."""
        if ticket != self.ticket or self.state == "open":
            return self, None
        if self.state == "closed":
            if outcome != "failed":
                return (evolve(self, failures=0) if outcome == "answered" and self.failures else self), None
            if self.failures + 1 < FAILURES:
                return evolve(self, failures=self.failures + 1), None
            return self._opened(now), "open"
        if outcome == "failed":
            return self._opened(now), "open"
        successes = self.successes + (outcome == "answered")
        if successes >= SUCCESSES:
            return Circuit("closed", ticket=self.ticket + 1), "closed"
        return evolve(self, successes=successes, trials=self.trials - 1), None

    def _opened(self, now: float) -> Circuit:
        return Circuit("open", until=now + OPEN_S, ticket=self.ticket + 1)

    def seen(self, now: float) -> State:
        """The state as a call at `now` would find it."""
        return "half_open" if self.state == "open" and now >= self.until else self.state
