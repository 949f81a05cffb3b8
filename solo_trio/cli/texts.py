"""Text to and from people. Owns: making foreign text safe to print; durations, arguments and JSON as typed. Never: prints."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_UNPRINTABLE_IN_LINES: Final = re.compile(_UNPRINTABLE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
"""As above, but line breaks and tabulators stand."""
SHOWN_CHARACTERS_MAX: Final = 1_000
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)", re.ASCII)
_RATE: Final = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,6})?)(?:/([0-9]{1,7}(?:\.[0-9]{1,6})?))?", re.ASCII)
_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


def printable(text: str, *, lines: bool = False) -> str:
    """`text` with what steers a terminal, or turns the direction of writing, shown as an escape; `lines` keeps \\n and \\t."""
    pattern = _UNPRINTABLE_IN_LINES if lines else _UNPRINTABLE
    return pattern.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def shortened(text: str, characters: int = SHOWN_CHARACTERS_MAX) -> str:
    """`text`, or its beginning and its end where it is longer than a person reads."""
    if len(text) <= characters:
        return text
    return f"{text[: characters // 2]} ... {text[-characters // 2 :]}"


def duration_ms(text: str) -> int:
    """Milliseconds of 500ms, 5s, 1.5m, 1h; a bare 0 is 0. Raises ValueError that says how to write it."""
    if text == "0":
        return 0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{printable(text)!r} is not a duration: write it like 500ms, 5s or 1m")
    return round(float(match[1]) * _UNITS_MS[match[2]])


def rate(text: str) -> tuple[float, float]:
    """Requests a second, and how many at once, of 5/10; of 5 alone as many at once. Raises ValueError."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{printable(text)!r} is not a rate: write it like 5/10, or 5")
    per_second = float(match[1])
    return per_second, float(match[2]) if match[2] else max(1.0, per_second)


def argument(text: str) -> Any:
    """An argument of a call: the JSON value it is, or else the text itself."""
    try:
        return strict_value(text)
    except ValueError:
        return text


def named(text: str) -> str:
    """A name that is not empty: a variable of a shell that is, must not mean another tenant. Raises ValueError."""
    if not text:
        raise ValueError("name a tenant: it is empty")
    return text


def keyword(text: str) -> tuple[str, Any]:
    """`NAME=VALUE` with a value as in `argument`. Raises ValueError."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{printable(text)!r} is not NAME=VALUE")
    return name, argument(value)


def limit(text: str) -> tuple[str, int | float]:
    """`NAME=NUMBER`. Raises ValueError."""
    try:
        name, number = keyword(text)
    except ValueError:
        number = None
    if type(number) not in (int, float):
        raise ValueError(f"{printable(text)!r} is not NAME=NUMBER: write it like memory_mb=256")
    return name, number


def json_object(text: str) -> dict[str, Any]:
    """A JSON object as typed. Raises ValueError that says what is wrong."""
    try:
        value = strict_value(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError('not a JSON object: write it like {"name": "value"}')
    return value


def strict_value(text: str) -> Any:
    """The value of a JSON text; NaN, infinities and numbers beyond a float are none. Raises ValueError."""

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"{digits} is not a JSON number")
        return value

    try:
        return json.loads(text, parse_float=number, parse_constant=number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as plain lines of columns, two blanks between them."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def time_utc(text: str) -> str:
    """A day, or a time in UTC, as the server takes it. Raises ValueError."""
    from solo_trio.model.instant import read_rfc3339

    whole = text if "T" in text else f"{text}T00:00:00Z"
    try:
        read_rfc3339(whole)
    except ValueError:
        raise ValueError(f"{printable(text)!r} is no time: write 2026-01-31 or 2026-01-31T12:00:00Z, in UTC") from None
    return whole
