"""Points in time as text. Owns: RFC 3339 in UTC with microseconds, both ways. Never: reads a clock."""

from __future__ import annotations

import datetime
import re
from typing import Final

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_TEXT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)
LATEST_US: Final = (datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC) - _EPOCH) // _MICROSECOND
"""Later than this nothing is written as text."""


def rfc3339(at_us: int) -> str:
    """UTC with microseconds, e.g. 2026-01-01T00:00:00.000000Z."""
    return (_EPOCH + datetime.timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_rfc3339(text: str) -> int:
    """Microseconds since 1970 of a time in UTC (with "Z"). Raises ValueError."""
    if _TEXT.fullmatch(text) is None:
        raise ValueError("a time is written as 2026-01-01T00:00:00Z")
    return (datetime.datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
