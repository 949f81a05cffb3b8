"""Tokens in their holder's hands. Owns: narrowing one and reading what it says, offline. Never: asks a server, needs a key.

A token is a macaroon (binary format v2, base64url): whoever holds it can add conditions and hand the result on; nobody can take
one away. `docs/guides/capabilities.md` lists the conditions, for other languages' libraries.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Any, Final

from solo_trio.errors import Rejected
from solo_trio.model.caveat import links, write_caveats
from solo_trio.vault.macaroon import MalformedToken
from solo_trio.vault.tokens import narrow_token, read_token

ID_BYTES: Final = 16


def attenuate(
    token: str,
    *,
    permissions: Iterable[str] | None = None,
    resource: str | None = None,
    service: str | None = None,
    ttl_s: float | None = None,
    rate_limit: tuple[float, float] | None = None,
) -> str:
    """A token that can do less; what it can do at all is what every one of its conditions allows.

    `ttl_s`: seconds from now, by this machine's clock. `rate_limit`: requests per second, and how many at once. The new
    token has an id of its own (`inspect(token)["attenuation_ids"]`), by which it can be revoked without the one it was made of.
    Raises `Rejected`: token_invalid (not a token), invalid_field, invalid_id.
    """
    if ttl_s is not None and not 0 < ttl_s < 1e10:
        raise Rejected("invalid_field", "ttl_s must be more than 0 seconds")
    words = write_caveats(
        secrets.token_hex(ID_BYTES),
        permissions=None if permissions is None else frozenset(permissions),
        resource=resource,
        service=service,
        expires_at_us=None if ttl_s is None else time.time_ns() // 1_000 + round(ttl_s * 1_000_000),
        rate=rate_limit,
    )
    try:
        return narrow_token(token, words).reveal_text()
    except MalformedToken:
        raise _no_token() from None
    except ValueError as error:
        raise Rejected("invalid_field", f"the token cannot be narrowed further: {error}") from None


def inspect(token: str) -> dict[str, Any]:
    """What a token says of itself: `{capability_id, key_id, caveats, attenuation_ids}`.

    Whether it is valid, only its server knows. Raises `Rejected("token_invalid")`.
    """
    try:
        parsed = read_token(token)
    except MalformedToken:
        raise _no_token() from None
    return {
        "capability_id": parsed.capability_id,
        "key_id": parsed.key_id,
        "caveats": list(parsed.words),
        "attenuation_ids": list(links(parsed.words, parsed.capability_id)),
    }


def _no_token() -> Rejected:
    return Rejected("token_invalid", "this is no token: give the whole text that was handed out")
