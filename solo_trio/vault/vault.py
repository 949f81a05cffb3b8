"""The vault. Owns: the tenants' data keys, unwrapped on first use; sealing and opening with them. Never: stores or shows."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from attrs import evolve

from solo_trio.errors import Faulted, Rejected
from solo_trio.model.record import KeyRow, SecretRow
from solo_trio.ports import Entropy
from solo_trio.vault.keys import KEY_BYTES, MasterKey, associated
from solo_trio.vault.sealing import Place, Value, seal, unseal
from solo_trio.vault.secret import Secret

PURPOSE: Final = "secret"
SYSTEM: Final = "system"
"""In the place of an incarnation."""
ID_BYTES: Final = 16


class NoKey(LookupError):
    """There is none for that purpose yet."""


def system_key(master: MasterKey, rows: Iterable[KeyRow], purpose: str) -> Secret:
    """A key of the kernel's own, which outlives the master key that wraps it. Raises `NoKey`."""
    for row in rows:
        if row.purpose == purpose and row.incarnation == SYSTEM:
            return master.unwrap(row.wrapped, associated(purpose, SYSTEM, row.key_id))
    raise NoKey(purpose)


def new_system_key(master: MasterKey, entropy: Entropy, purpose: str) -> KeyRow:
    key_id = entropy.token(ID_BYTES).hex()
    wrapped = master.wrap(Secret(entropy.token(KEY_BYTES)), associated(purpose, SYSTEM, key_id))
    return KeyRow(key_id, SYSTEM, purpose, wrapped)


def rewrapped(row: KeyRow, old: MasterKey, new: MasterKey) -> KeyRow:
    """The same key under another master key. Raises `Faulted("data_damaged")`."""
    bound = associated(row.purpose, row.incarnation, row.key_id)
    return evolve(row, wrapped=new.wrap(old.unwrap(row.wrapped, bound), bound))


class Vault:
    """Data keys of every incarnation, made with its first secret.

    A new key goes into each transaction that uses it until one of them is known to have been committed.
    """

    def __init__(self, master: MasterKey, entropy: Entropy, rows: Iterable[KeyRow] = ()) -> None:
        self._master = master
        self._entropy = entropy
        self._rows = {row.incarnation: row for row in rows if row.purpose == PURPOSE}
        self._kept = set(self._rows)
        """Incarnations whose key is in the journal."""
        self._keys: dict[str, Secret] = {}
        self._codes = Secret(master.derive("code"))

    def seal(self, incarnation: str, name: str, value: Value, agent_key: Secret | None) -> SecretRow:
        """Sealed, as a row that has no number yet. With a passphrase this takes long: in a thread."""
        place = Place(incarnation, name, self._entropy.token(ID_BYTES).hex())
        row = self._rows.get(incarnation)
        if row is None:
            raise Rejected("tenant_not_found", "the tenant was removed meanwhile")
        sealed = seal(value, self._key(incarnation), agent_key, place, self._entropy)
        return SecretRow(incarnation, name, 0, place.version_id, row.key_id, sealed)

    def unseal(self, row: SecretRow, agent_key: Secret | None) -> Value:
        """Raises `WrongKey`, `Faulted("data_damaged")`. With a passphrase this takes long: in a thread."""
        known = self._rows.get(row.incarnation)
        if known is None or known.key_id != row.key_id:
            raise Faulted(
                "data_damaged", "the key of a stored secret is missing; restore the data directory from a backup"
            )
        return unseal(
            row.sealed, self._key(row.incarnation), agent_key, Place(row.incarnation, row.name, row.version_id)
        )

    def prepare(self, incarnation: str) -> KeyRow | None:
        """Make sure that there is a key; the row that is to be written with whatever is sealed now, if it is to be."""
        if incarnation not in self._rows:
            key_id = self._entropy.token(ID_BYTES).hex()
            key = Secret(self._entropy.token(KEY_BYTES))
            wrapped = self._master.wrap(key, _aad(key_id, incarnation))
            self._rows[incarnation] = KeyRow(key_id, incarnation, PURPOSE, wrapped)
            self._keys[incarnation] = key
        return None if incarnation in self._kept else self._rows[incarnation]

    def committed(self, incarnation: str) -> None:
        """What `prepare` gave is in the journal."""
        if incarnation in self._rows:
            self._kept.add(incarnation)

    def forget(self, incarnation: str) -> None:
        """The tenant was removed: its rows are gone."""
        self._rows.pop(incarnation, None)
        self._keys.pop(incarnation, None)
        self._kept.discard(incarnation)

    def code_of(self, data: bytes) -> str:
        """What tells `data` from other data, and tells nobody else anything about it."""
        return hmac.digest(self._codes.reveal(), data, hashlib.sha256).hex()

    def _key(self, incarnation: str) -> Secret:
        key = self._keys.get(incarnation)
        if key is None:
            row = self._rows[incarnation]
            key = self._keys[incarnation] = self._master.unwrap(row.wrapped, _aad(row.key_id, incarnation))
        return key


def _aad(key_id: str, incarnation: str) -> bytes:
    return associated(PURPOSE, incarnation, key_id)
