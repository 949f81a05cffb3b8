"""Bugs to be found. Owns: the table of them, putting one in and taking it out again. Never: any of them stays.

Each one is a change to the kernel's own code, or to the simulated disk, that somebody could make by mistake. That it is
found within some seeds shows that it looks (`test_simulation_planted.py`); a bug that it does not find is a rule it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from attrs import frozen

Undo = Callable[[], None]


@frozen
class Bug:
    """`says`: what somebody did. It is found within `seeds` seeds from `first` on."""

    says: str
    plant: Callable[[], Undo]
    first: int
    seeds: int


PLANTED: Final[dict[str, Bug]] = {}


def bug(*, first: int = 0, seeds: int = 25) -> Callable[[Callable[[], Undo]], Callable[[], Undo]]:
    """Register a function that plants one and answers how to undo it; its docstring says what it is."""

    def register(plant: Callable[[], Undo]) -> Callable[[], Undo]:
        PLANTED[plant.__name__] = Bug((plant.__doc__ or "").strip(), plant, first, seeds)
        return plant

    return register


def replace(where: Any, name: str, other: Any) -> Undo:
    """Put `other` in the place of what `where` has under `name`."""
    was = where.__dict__[name]
    setattr(where, name, other)
    return lambda: setattr(where, name, was)


def both(*undo: Undo) -> Undo:
    """Undo all of them."""

    def all_of_them() -> None:
        for each in undo:
            each()

    return all_of_them


@contextmanager
def planted(name: str) -> Iterator[None]:
    undo = PLANTED[name].plant()
    try:
        yield
    finally:
        undo()


from simulation import planted_disk as planted_disk  # noqa: E402 - they register themselves here
from simulation import planted_kernel as planted_kernel  # noqa: E402
from simulation import planted_model as planted_model  # noqa: E402
