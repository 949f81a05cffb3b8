"""Pages of lists. Owns: how long one may be, what a cursor looks like. Never: what is listed."""

from __future__ import annotations

from typing import Final

from solo_trio.errors import Rejected
from solo_trio.model.ids import check_id

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000


def check_page(limit: int, name: str = "limit") -> int:
    if not 1 <= limit <= PAGE_MAX:
        raise Rejected("invalid_field", f"{name} must be between 1 and {PAGE_MAX}")
    return limit


def check_cursor(cursor: str | None) -> None:
    """Lists are sorted by id, so a cursor is one."""
    if cursor is not None:
        try:
            check_id("cursor", cursor)
        except Rejected:
            raise Rejected("invalid_field", "cursor must be the `next` of an earlier page") from None
