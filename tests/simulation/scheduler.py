"""The scheduler, seeded. Owns: Trio's private switches, counting steps. Never: anything of the kernel's.

Trio runs what is runnable in an order of chance. Two of its private names make that chance ours; `check_trio` says whether they
are still what they were, so that another version of Trio fails here and not in some run that cannot be repeated.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio
import trio.testing
from trio._core import _run

TRIO_TRIED: Final = ("0.35.0",)
"""Versions of which `test_simulation_replay.py` has shown that a run repeats."""
_SORTED_AND_SHUFFLED: Final = (
    "if _ALLOW_DETERMINISTIC_SCHEDULING:",
    "batch.sort(key=lambda t: t._counter)",
    "_r.shuffle(batch)",
)


def check_trio() -> None:
    """Raise RuntimeError unless Trio schedules as it did when this was written."""
    if not isinstance(getattr(_run, "_r", None), random.Random) or not hasattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        raise RuntimeError(f"Trio {trio.__version__} has no seeded scheduler where {TRIO_TRIED} had one")
    source = inspect.getsource(_run.unrolled_run)
    missing = [line for line in _SORTED_AND_SHUFFLED if line not in source]
    if missing:
        raise RuntimeError(f"Trio {trio.__version__} schedules in another way than {TRIO_TRIED}: {missing}")


class Ticks(trio.abc.Instrument):
    """Counts the steps of all tasks; rings once, before the step of that number is made."""

    def __init__(self) -> None:
        self.count = 0
        self._at: int | None = None
        self._ring: Callable[[], None] = lambda: None

    def alarm(self, steps: int, ring: Callable[[], None]) -> None:
        """Call `ring` so many steps from now, instead of whatever was set before."""
        self._at, self._ring = self.count + steps, ring

    def quiet(self) -> None:
        self._at = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count == self._at:
            self._at = None
            self._ring()


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    state, allowed = _run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING
    _run._r.seed(seed)
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc]
        _run._r.setstate(state)


def run(seed: str, main: Callable[[Ticks], Awaitable[Any]]) -> Any:
    """Run `main` on a clock that jumps to whatever comes next, with every turn in the order that `seed` gives."""
    ticks = Ticks()
    with _seeded(seed):
        return trio.run(main, ticks, clock=trio.testing.MockClock(autojump_threshold=0.0), instruments=[ticks])
