"""Parts of sentences. Owns: how a reason, a duration, a digest, a list is written. Never: knows an event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from solo_trio.model.instant import rfc3339

REASON_CHARACTERS_MAX: Final = 200
DIGEST_CHARACTERS: Final = 12
LISTED_MAX: Final = 5
SECOND_CHARACTERS: Final = len("2026-01-31T12:00:00")

_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600


def plain(text: str) -> str:
    """`text` in one line without anything that steers a terminal or turns the direction of writing: that becomes an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def reason(text: str) -> str:
    """Why something ended, as its service or its runtime said it: the first line, and not too much of it."""
    first = text.strip().partition("\n")[0].rstrip()
    if len(first) > REASON_CHARACTERS_MAX:
        first = first[:REASON_CHARACTERS_MAX] + "..."
    return plain(first) or "no reason was given"


def seconds(value: float) -> str:
    """A duration: `34 ms`, `1.5 s`, `12 min`, `3.2 h`."""
    if value < 1:
        return f"{max(0.0, value) * 1_000:.0f} ms"
    if value < 2 * _MINUTE_S:
        return f"{value:.3g} s"
    if value < 2 * _HOUR_S:
        return f"{value / _MINUTE_S:.3g} min"
    return f"{value / _HOUR_S:.3g} h"


def moment(at_us: int) -> str:
    """A time, to the second: `2026-01-31 12:00:00`."""
    return rfc3339(at_us)[:SECOND_CHARACTERS].replace("T", " ")


def sha(digest: str) -> str:
    return f"sha {digest[:DIGEST_CHARACTERS]}" if digest else "no source"


def counted(number: int, one: str, more: str | None = None) -> str:
    """`1 call`, `2 calls`; `more` where an s does not do."""
    return f"{number} {one if number == 1 else more or one + 's'}"


def times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def ordinal(number: int) -> str:
    known = ("", "first", "second", "third", "fourth", "fifth", "sixth")
    return known[number] if number < len(known) else f"{number}th"


def listed(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    found = [plain(name) for name in names]
    more = len(found) - LISTED_MAX
    return ", ".join(found[:LISTED_MAX]) + (f" and {more} more" if more > 0 else "")
