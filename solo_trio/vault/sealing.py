"""Sealing secrets. Owns: the form of what is sealed, and the agent's own keys. Never: keeps a key, or knows who asks.

AES-256-GCM under the tenant's data key, with a fresh 96-bit nonce, bound to the tenant's incarnation, the secret's name and a
random id of the version: what was moved to another place opens nowhere. A value under an agent's own key is sealed with that
first, and then as any other, so that shredding the tenant's key shreds it too.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import Final

from attrs import frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from solo_trio.errors import Faulted
from solo_trio.ports import Entropy
from solo_trio.vault.keys import KEY_BYTES, NONCE_BYTES, TAG_BYTES, associated
from solo_trio.vault.secret import Secret

SALT_BYTES: Final = 16
ARGON2_PASSES: Final = 3
ARGON2_MEMORY_KIB: Final = 65_536
ARGON2_LANES: Final = 1
"""RFC 9106, 4: its second choice, with the lanes that one thread of ours has."""
ARGON2_PASSES_MAX: Final = 10
ARGON2_MEMORY_KIB_MAX: Final = 262_144
ARGON2_LANES_MAX: Final = 4
"""What a row may ask for: one that was tampered with must not cost more."""
AGENT_KEY_CHARACTERS_MAX: Final = 1_024
VALUE_BYTES_MAX: Final = 65_536

_FORMAT: Final = b"\x01"
_TEXT: Final = b"\x00"
_BYTES: Final = b"\x01"
_PASSPHRASE: Final = b"\x02"
_RAW_KEY: Final = b"\x03"
_COSTS: Final = struct.Struct(">III")
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{43}=?", re.ASCII)


class WrongKey(Exception):
    """The agent's key does not open it, or is missing, or none is needed: which of them is not told."""


@frozen
class Place:
    """What a sealed value is bound to."""

    incarnation: str
    name: str
    version_id: str

    def associated(self, purpose: str) -> bytes:
        return associated(purpose, self.incarnation, self.name, self.version_id)


@frozen
class Value:
    """A secret's value. `binary`: it was given as bytes, and is no text."""

    data: Secret
    binary: bool = False


def seal(value: Value, data_key: Secret, agent_key: Secret | None, place: Place, entropy: Entropy) -> bytes:
    """With an agent's key that is a passphrase this takes a second, and memory: in a thread."""
    payload = (_BYTES if value.binary else _TEXT) + value.data.reveal()
    if agent_key is not None:
        payload = _seal_for_agent(payload, agent_key, place, entropy)
    return _FORMAT + encrypt(data_key.reveal(), payload, _FORMAT + place.associated("secret"), entropy)


def unseal(sealed: bytes, data_key: Secret, agent_key: Secret | None, place: Place) -> Value:
    """Raises `WrongKey`; `Faulted("data_damaged")` for what was changed, or belongs to another place."""
    if not sealed.startswith(_FORMAT):
        raise _damaged()
    try:
        payload = decrypt(data_key.reveal(), sealed[len(_FORMAT) :], _FORMAT + place.associated("secret"))
    except InvalidTag:
        raise _damaged() from None
    for_agent = payload[:1] in (_PASSPHRASE, _RAW_KEY)
    if for_agent != (agent_key is not None):
        raise WrongKey
    if agent_key is not None:
        payload = _unseal_for_agent(payload, agent_key, place)
    if payload[:1] not in (_TEXT, _BYTES):
        raise _damaged()
    return Value(Secret(payload[1:]), binary=payload[:1] == _BYTES)


def _seal_for_agent(payload: bytes, agent_key: Secret, place: Place, entropy: Entropy) -> bytes:
    raw = _raw_key(agent_key)
    salt = entropy.token(SALT_BYTES)
    costs = b"" if raw is not None else _COSTS.pack(ARGON2_PASSES, ARGON2_MEMORY_KIB, ARGON2_LANES)
    header = (_PASSPHRASE if raw is None else _RAW_KEY) + costs + salt
    key = _stretched(agent_key, costs, salt) if raw is None else _derived(raw, salt)
    return header + encrypt(key, payload, header + place.associated("agent"), entropy)


def _unseal_for_agent(payload: bytes, agent_key: Secret, place: Place) -> bytes:
    costs_end = 1 + (_COSTS.size if payload[:1] == _PASSPHRASE else 0)
    header = payload[: costs_end + SALT_BYTES]
    costs, salt = header[1:costs_end], header[costs_end:]
    if payload[:1] == _PASSPHRASE:
        key = _stretched(agent_key, costs, salt)
    else:
        raw = _raw_key(agent_key)
        if raw is None:
            raise WrongKey
        key = _derived(raw, salt)
    try:
        return decrypt(key, payload[len(header) :], header + place.associated("agent"))
    except InvalidTag:
        raise WrongKey from None


def _raw_key(agent_key: Secret) -> bytes | None:
    """The 32 bytes that are written as 64 hex digits or as base64; None for a passphrase."""
    try:
        text = agent_key.reveal_text()
    except UnicodeDecodeError:
        return None
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if _BASE64.fullmatch(text):
        try:
            found = base64.b64decode(text.rstrip("=").translate({45: 43, 95: 47}) + "=", validate=True)
        except binascii.Error:
            return None
        return found if len(found) == KEY_BYTES else None
    return None


def _derived(raw: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"solo/v1/agent-key").derive(raw)


def _stretched(passphrase: Secret, costs: bytes, salt: bytes) -> bytes:
    try:
        passes, memory_kib, lanes = _COSTS.unpack(costs)
    except struct.error:
        raise _damaged() from None
    bounded = passes <= ARGON2_PASSES_MAX and memory_kib <= ARGON2_MEMORY_KIB_MAX and lanes <= ARGON2_LANES_MAX
    if not bounded or len(salt) != SALT_BYTES:
        raise _damaged()
    kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    return kdf.derive(passphrase.reveal())


def encrypt(key: bytes, plain: bytes, aad: bytes, entropy: Entropy) -> bytes:
    nonce = entropy.token(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, aad)


def decrypt(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise _damaged()
    return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], aad)


def _damaged() -> Faulted:
    return Faulted(
        "data_damaged", "a stored secret was changed, or belongs to another place; set it again, or restore a backup"
    )
