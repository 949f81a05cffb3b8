"""Solo's capability tokens. Owns: what a token says, narrowing one. Never: knows whether what it names still exists or allows.

A macaroon with the location "solo" and, as identifier, `{"v":1,"k":KEY_ID,"c":CAPABILITY_ID}`: which root key made it,
and which recorded capability it is. Rights and expiry are in the log, not in the token; what its holder narrowed it to are
its caveats (`model.caveat`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from attrs import field, frozen

from solo_trio.vault.macaroon import TEXT_CHARACTERS_MAX, Macaroon, MalformedToken, deserialize, mint, verify
from solo_trio.vault.secret import Secret

LOCATION: Final = b"solo"
ID_CHARACTERS_MAX: Final = 128
_FORMAT: Final = 1


@frozen
class ParsedToken:
    """A well-formed token: worth nothing until `verify`."""

    key_id: str
    capability_id: str
    words: tuple[str, ...]
    """Its caveats, as they are written."""
    _macaroon: Macaroon = field(repr=False)

    def verify(self, root_key: Secret) -> bool:
        """Whether this root key made it, in constant time. What its caveats demand is for the caller to look at."""
        return verify(self._macaroon, root_key.reveal(), lambda predicate: True)


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
    try:
        words = tuple(each.decode("ascii") for each in macaroon.caveats)
    except UnicodeDecodeError:
        raise MalformedToken("a caveat is written in ASCII") from None
    return ParsedToken(key_id, capability_id, words, macaroon)


def narrow_token(text: str, words: Iterable[str]) -> Secret:
    """The token with these caveats too; needs no key and asks nobody. Raises `MalformedToken`; ValueError for too many."""
    read_token(text)
    macaroon = deserialize(text)
    for each in words:
        macaroon = macaroon.attenuate(each.encode("ascii"))
    narrowed = macaroon.serialize()
    if len(narrowed) > TEXT_CHARACTERS_MAX:
        raise ValueError(f"a token has at most {TEXT_CHARACTERS_MAX} characters")
    return Secret(narrowed)


def _identifier(key_id: str, capability_id: str) -> bytes:
    return json.dumps({"v": _FORMAT, "k": key_id, "c": capability_id}, separators=(",", ":")).encode("ascii")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= ID_CHARACTERS_MAX and value.isascii() and value.isprintable()
