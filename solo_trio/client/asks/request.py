"""One request as data. Owns: what an ask is, how ids become parts of a path. Never: which operations there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from attrs import field, frozen

from solo_trio.errors import Rejected

T = TypeVar("T")


Document = dict[str, Any]


_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


@frozen
class Ask(Generic[T]):
    """One request. `patience_s` is added to the client's time-out: for what may take long by what was asked."""

    method: str
    path: str
    read: Callable[[Document], T]
    query: Mapping[str, Any] = field(factory=dict)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    tenant: bool = True
    """Whether it is about the client's tenant; otherwise no tenant is named."""
    expected: tuple[int, ...] = ()
    """Statuses of 400 and above that are answers, not errors."""
    idempotency_key: str | None = None
    if_match: int | None = None
    """The revision that the thing must still have, or `revision_mismatch`."""
    patience_s: float = 0.0


def whole(document: Document) -> Document:
    return document


def present(**values: Any) -> dict[str, Any]:
    """What was given: None means that the server's default holds."""
    return {name: value for name, value in values.items() if value is not None}


def segment(name: str) -> str:
    """An id as part of a path: the server says what an id is, this only that it cannot lead to another route."""
    if _SEGMENT.fullmatch(name) is None:
        raise Rejected("invalid_id", f"{name[:60]!a} cannot be an id: use a-z, 0-9, '_' and '-'")
    return name
