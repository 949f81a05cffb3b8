"""Headers and queries, strictly. Owns: what may be given once, how a token is written. Never: what they decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from solo_trio.errors import Rejected
from solo_trio.model.certificate import Certificate

ONCE: Final = ("Authorization", "X-Tenant-ID", "Idempotency-Key", "If-Match", "Last-Event-ID")
"""Headers that decide who may do what to what: given twice, a proxy may have looked at the other one."""


PEER_CHARACTERS_MAX: Final = 64

CERTIFICATE: Final = "solo.certificate"
"""Where a scope's `extensions` hold the client's `Certificate`, or None."""


def check_once(values_of: Callable[[str], Sequence[str]]) -> None:
    for name in ONCE:
        if len(values_of(name)) > 1:
            raise Rejected("invalid_header", f"give the header {name} once")


def single(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The query parameters; one given twice is refused, because its meaning would be anybody's guess."""
    given = [(str(name), str(value)) for name, value in fields]
    repeated = [name for name, count in Counter(name for name, _ in given).items() if count > 1]
    if repeated:
        raise Rejected("invalid_field", f"give the query parameter '{repeated[0][:60]}' once")
    return dict(given)


def peer_of(scope: Mapping[str, Any]) -> str | None:
    """The address that the connection came from; what a proxy says of its own is not asked."""
    client = scope.get("client")
    return str(client[0])[:PEER_CHARACTERS_MAX] if client else None


def certificate_of(scope: Mapping[str, Any]) -> Certificate | None:
    """The client's certificate, from the connection itself: headers in which a proxy would forward one mean nothing."""
    found = scope.get("extensions", {}).get(CERTIFICATE)
    return found if isinstance(found, Certificate) else None


def bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
