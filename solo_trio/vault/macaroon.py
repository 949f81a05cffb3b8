"""Macaroons. Owns: the binary format v2 of libmacaroons, and the chain of HMACs. Never: reads a clock, a key store or a caveat.

Birgisson et al., "Macaroons: Cookies with Contextual Caveats" (NDSS 2014), first-party caveats only. The location is a
hint that the signature does not cover: whoever cares compares it. One macaroon has one text: what `deserialize`
accepts, `serialize` gives back to the byte.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from attrs import evolve, field, frozen

TEXT_CHARACTERS_MAX: Final = 8_192
FIELD_BYTES_MAX: Final = 1_024
CAVEATS_MAX: Final = 32
SIGNATURE_BYTES: Final = 32
_KEY_GENERATOR: Final = b"macaroons-key-generator"
_VERSION: Final = 2
_END: Final = 0
_LOCATION: Final = 1
_IDENTIFIER: Final = 2
_SIGNATURE: Final = 6
_VARINT_BYTES_MAX: Final = 2
"""Enough for `FIELD_BYTES_MAX`."""


class MalformedToken(ValueError):
    """Not the one text of a macaroon within our bounds. Says what, never shows the text."""


@frozen
class Macaroon:
    """Whoever knows the signature holds the right, and can narrow it: it is never shown."""

    location: bytes
    identifier: bytes
    caveats: tuple[bytes, ...]
    signature: bytes = field(repr=False)

    def attenuate(self, predicate: bytes) -> Macaroon:
        """With one more condition. Raises ValueError beyond the bounds."""
        _check_field(predicate, least=1)
        if len(self.caveats) >= CAVEATS_MAX:
            raise ValueError(f"a macaroon has at most {CAVEATS_MAX} caveats")
        return evolve(self, caveats=(*self.caveats, predicate), signature=_hmac(self.signature, predicate))

    def serialize(self) -> str:
        """Unpadded base64url of the binary format v2."""
        out = bytearray([_VERSION])
        if self.location:
            out += _field(_LOCATION, self.location)
        out += _field(_IDENTIFIER, self.identifier)
        out.append(_END)
        for predicate in self.caveats:
            out += _field(_IDENTIFIER, predicate)
            out.append(_END)
        out.append(_END)
        out += _field(_SIGNATURE, self.signature)
        return base64.urlsafe_b64encode(out).rstrip(b"=").decode("ascii")


def mint(location: bytes, identifier: bytes, root_key: bytes) -> Macaroon:
    """Raises ValueError beyond the bounds. An empty location is left out."""
    _check_field(location, least=0)
    _check_field(identifier, least=1)
    return Macaroon(location, identifier, (), _hmac(_hmac(_KEY_GENERATOR, root_key), identifier))


def verify(macaroon: Macaroon, root_key: bytes, satisfied: Callable[[bytes], bool]) -> bool:
    """Whether `root_key` made it and every caveat is satisfied. Every caveat is asked, in order, whatever the others say.

    The time taken tells nothing about the signature.
    """
    signature = _hmac(_hmac(_KEY_GENERATOR, root_key), macaroon.identifier)
    for predicate in macaroon.caveats:
        signature = _hmac(signature, predicate)
    answers = [satisfied(predicate) for predicate in macaroon.caveats]
    return hmac.compare_digest(signature, macaroon.signature) and all(answers)


def deserialize(text: str) -> Macaroon:
    """The macaroon of a text, unverified. Raises `MalformedToken`."""
    if len(text) > TEXT_CHARACTERS_MAX:
        raise MalformedToken(f"a token has at most {TEXT_CHARACTERS_MAX} characters")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MalformedToken("a token is base64url without padding") from None
    reader = _Reader(data)
    if reader.byte() != _VERSION:
        raise MalformedToken("a token is a macaroon of version 2")
    location = reader.field(_LOCATION) if reader.peek() == _LOCATION else b""
    identifier = reader.field(_IDENTIFIER)
    reader.end()
    caveats: list[bytes] = []
    while reader.peek() != _END:
        if len(caveats) >= CAVEATS_MAX:
            raise MalformedToken(f"a token has at most {CAVEATS_MAX} caveats")
        caveats.append(reader.field(_IDENTIFIER))
        reader.end()
    reader.end()
    signature = reader.field(_SIGNATURE)
    macaroon = Macaroon(location, identifier, tuple(caveats), signature)
    if len(signature) != SIGNATURE_BYTES or macaroon.serialize() != text:
        raise MalformedToken("a token has nothing after its signature, no padding and no spare bits")
    return macaroon


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def peek(self) -> int:
        if self._at >= len(self._data):
            raise MalformedToken("a token is cut short")
        return self._data[self._at]

    def byte(self) -> int:
        value = self.peek()
        self._at += 1
        return value

    def end(self) -> None:
        if self.byte() != _END:
            raise MalformedToken("a token has a field that is unknown or out of order")

    def field(self, kind: int) -> bytes:
        if self.byte() != kind:
            raise MalformedToken("a token has a field that is unknown or out of order")
        length = self._varint()
        if not 1 <= length <= FIELD_BYTES_MAX:
            raise MalformedToken(f"a field of a token has 1 to {FIELD_BYTES_MAX} bytes")
        value = self._data[self._at : self._at + length]
        if len(value) != length:
            raise MalformedToken("a token is cut short")
        self._at += length
        return value

    def _varint(self) -> int:
        value = 0
        for place in range(_VARINT_BYTES_MAX):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value
        raise MalformedToken(f"a field of a token has 1 to {FIELD_BYTES_MAX} bytes")


def _field(kind: int, value: bytes) -> bytes:
    length = len(value)
    varint = bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7])
    return bytes([kind]) + varint + value


def _check_field(value: bytes, *, least: int) -> None:
    if not least <= len(value) <= FIELD_BYTES_MAX:
        raise ValueError(f"a field of a macaroon has {least} to {FIELD_BYTES_MAX} bytes")


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)
