"""Changing a frozen record. Owns: `evolve`, what `attrs.evolve` does, sooner. Never: knows which record.

Most of the time of a long replay goes into copying records with one field changed. What `attrs.evolve` looks up at each call
is looked up once for each class here.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, TypeVar

import attrs

T = TypeVar("T")

_plans: Final[dict[type[Any], tuple[Callable[[Any], tuple[Any, ...]], dict[str, int]]]] = {}


def evolve(record: T, **changes: Any) -> T:
    """A copy of `record` with `changes`. Raises TypeError for a field that there is not."""
    cls = record.__class__
    plan = _plans.get(cls)
    if plan is None:
        plan = _plans[cls] = _plan(cls)
    values, places = list(plan[0](record)), plan[1]
    try:
        for name, value in changes.items():
            values[places[name]] = value
    except KeyError as error:
        raise TypeError(f"{cls.__name__} has no field {error}") from None
    return cls(*values)


def _plan(cls: type[Any]) -> tuple[Callable[[Any], tuple[Any, ...]], dict[str, int]]:
    """How to read all fields of `cls` in the order that its constructor takes them, and the place of each."""
    fields = attrs.fields(cls)
    if any(field.kw_only or not field.init or field.alias != field.name for field in fields):
        raise TypeError(f"{cls.__name__} has a field that its constructor does not take in its place")
    names = [field.name for field in fields]
    if len(names) == 1:  # attrgetter gives a bare value for one name
        read = attrgetter(names[0])
        return lambda record: (read(record),), {names[0]: 0}
    return attrgetter(*names), {name: place for place, name in enumerate(names)}
