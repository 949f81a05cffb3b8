"""Solo's capability tokens. Owns: what a token says. Never: knows whether what it names still exists or allows.

A macaroon with the location "solo" and, as identifier, `{"v":1,"k":KEY_ID,"c":CAPABILITY_ID}`: which root key made it,
and which recorded capability it is. Rights and expiry are in the log, not in the token.
"""

from __future__ import annotations

import json
from typing import Final

from attrs import field, frozen

from solo_trio.vault.macaroon import Macaroon, MalformedToken, deserialize, mint, verify
from solo_trio.vault.secret import Secret

LOCATION: Final = b"solo"
ID_CHARACTERS_MAX: Final = 128
_FORMAT: Final = 1


@frozen
class ParsedToken:
    """A well-formed token: worth nothing until `verify`."""

    key_id: str
    capability_id: str
    caveats: tuple[bytes, ...]
    _macaroon: Macaroon = field(repr=False)

    def verify(self, root_key: Secret) -> bool:
        """Whether this root key made it, in constant time. False for a token with caveats: none is understood yet."""
        return verify(self._macaroon, root_key.reveal(), lambda predicate: False)


def mint_token(key_id: str, capability_id: str, root_key: Secret) -> Secret:
    """The token's text: what a client sends after `Bearer`. Ids: 1 to `ID_CHARACTERS_MAX` printable ASCII characters."""
    if not (_is_id(key_id) and _is_id(capability_id)):
        raise ValueError(f"an id in a token has 1 to {ID_CHARACTERS_MAX} printable ASCII characters")
    return Secret(mint(LOCATION, _identifier(key_id, capability_id), root_key.reveal()).serialize())


def read_token(text: str) -> ParsedToken:
    """Raises `MalformedToken` for anything that `mint_token` and attenuation cannot have made."""
    macaroon = deserialize(text)
    if macaroon.location != LOCATION:
        raise MalformedToken("a token has the location solo")
    try:
        said = json.loads(macaroon.identifier)
        key_id, capability_id = said["k"], said["c"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise MalformedToken("a token names a key and a capability") from None
    if not (_is_id(key_id) and _is_id(capability_id)) or _identifier(key_id, capability_id) != macaroon.identifier:
        raise MalformedToken("a token names a key and a capability")
    return ParsedToken(key_id, capability_id, macaroon.caveats, macaroon)


def _identifier(key_id: str, capability_id: str) -> bytes:
    return json.dumps({"v": _FORMAT, "k": key_id, "c": capability_id}, separators=(",", ":")).encode("ascii")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= ID_CHARACTERS_MAX and value.isascii() and value.isprintable()
