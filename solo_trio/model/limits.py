"""Limits of a service. Owns: their names, units, ranges and defaults. Never: enforces one."""

from __future__ import annotations

from typing import Any, Final

from attrs import fields, frozen

from solo_trio.errors import Rejected
from solo_trio.model.evolving import evolve


@frozen
class Limits:
    """What a deployment may ask for; None: not asked. The lowest of deployment, tenant and configuration counts."""

    memory_mb: float | None = None
    cpu_percent: float | None = None
    cpu_seconds: float | None = None
    threads: int | None = None
    fds: int | None = None
    disk_mb: float | None = None
    log_bytes_per_s: int | None = None
    calls_in_flight: int | None = None
    start_timeout_s: float | None = None
    stop_timeout_s: float | None = None

    def check(self) -> Limits:
        """Return self, or raise `Rejected("invalid_field")` naming the first value out of its range."""
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            kind = "a whole number" if name in WHOLE else "a number"
            if value is not None and not (is_number(value, whole=name in WHOLE) and low <= value <= high):
                raise Rejected("invalid_field", f"limits.{name} must be {kind} between {low} and {high}")
        return self

    def lowest(self, other: Limits) -> Limits:
        """Field by field the lower of the two; None counts as no limit."""
        changes: dict[str, Any] = {}
        for name in NAMES:
            mine, theirs = getattr(self, name), getattr(other, name)
            if theirs is not None and (mine is None or theirs < mine):
                changes[name] = theirs
        return evolve(self, **changes) if changes else self

    def given(self) -> dict[str, Any]:
        """Only what is set."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}


NAMES: Final = tuple(attribute.name for attribute in fields(Limits))

RANGES: Final[dict[str, tuple[float, float]]] = {
    "memory_mb": (16, 1_048_576),
    "cpu_percent": (1, 102_400),
    "cpu_seconds": (1, 31_536_000),
    "threads": (1, 4_096),
    "fds": (16, 65_536),
    "disk_mb": (0, 1_048_576),
    "log_bytes_per_s": (1_024, 1_073_741_824),
    "calls_in_flight": (1, 4_096),
    "start_timeout_s": (0.05, 600),
    "stop_timeout_s": (0, 600),
}

WHOLE: Final = frozenset({"threads", "fds", "log_bytes_per_s", "calls_in_flight"})
"""The limits that count things: a fraction of one is refused rather than cut off when it is read back."""

DEFAULT_LIMITS: Final = Limits(
    memory_mb=512,
    threads=64,
    fds=256,
    disk_mb=64,
    log_bytes_per_s=1_048_576,
    calls_in_flight=64,
    start_timeout_s=5,
    stop_timeout_s=5,
)
"""What counts where a deployment says nothing."""

CEILING: Final = Limits()
"""The configuration's ceiling where the operator says nothing: none beyond the ranges."""


def is_number(value: object, *, whole: bool = False) -> bool:
    """Whether `value` is an int, or a float unless `whole`; a bool is neither. A range refuses NaN and infinities."""
    return type(value) is int or (type(value) is float and not whole)


def effective(asked: Limits, *ceilings: Limits) -> Limits:
    """The limits in force: what was asked (else the default), lowered by each ceiling."""
    result = evolve(DEFAULT_LIMITS, **asked.given())
    for ceiling in ceilings:
        result = result.lowest(ceiling)
    return result
