"""Text for people. Owns: making foreign text safe to print, durations. Never: prints."""

from __future__ import annotations

import re
from typing import Final

_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_UNPRINTABLE_IN_LINES: Final = re.compile(_UNPRINTABLE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
"""As above, but line breaks and tabulators stand."""


def printable(text: str, *, lines: bool = False) -> str:
    """`text` with what steers a terminal, or turns the direction of writing, shown as an escape; `lines` keeps \\n and \\t."""
    pattern = _UNPRINTABLE_IN_LINES if lines else _UNPRINTABLE
    return pattern.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
