"""The keyring. Owns: root keys, unwrapped on first use; making and reading tokens with them. Never: stores or logs a key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from solo_trio.model.record import KeyRow
from solo_trio.ports import Entropy
from solo_trio.vault.keys import MasterKey, associated
from solo_trio.vault.macaroon import MalformedToken
from solo_trio.vault.secret import Secret
from solo_trio.vault.tokens import ParsedToken, mint_token, read_token

PURPOSE: Final = "token"
ROOT_KEY_BYTES: Final = 32
ID_BYTES: Final = 16


class Keyring:
    """Wrapped keys of every incarnation. A key that was never committed does no harm here: nothing names it."""

    def __init__(self, master: MasterKey, entropy: Entropy, rows: Iterable[KeyRow] = ()) -> None:
        self._master = master
        self._entropy = entropy
        self._rows = {row.key_id: row for row in rows if row.purpose == PURPOSE}
        self._roots: dict[str, Secret] = {}

    def new_id(self) -> str:
        """128 random bits in hex: an incarnation, a capability, a key."""
        return self._entropy.token(ID_BYTES).hex()

    def new_key(self, incarnation: str) -> KeyRow:
        """A fresh root key for tokens, wrapped; known here at once, so that no commit can be ahead of the keyring."""
        key_id = self.new_id()
        root = Secret(self._entropy.token(ROOT_KEY_BYTES))
        row = KeyRow(key_id, incarnation, PURPOSE, self._master.wrap(root, _aad(key_id, incarnation)))
        self._rows[key_id] = row
        self._roots[key_id] = root
        return row

    def forget(self, key_id: str) -> None:
        self._rows.pop(key_id, None)
        self._roots.pop(key_id, None)

    def forget_incarnation(self, incarnation: str) -> None:
        """Its rows are deleted: nothing that was made with them is known any more."""
        for row in [each for each in self._rows.values() if each.incarnation == incarnation]:
            self.forget(row.key_id)

    def _root(self, key_id: str) -> Secret | None:
        root = self._roots.get(key_id)
        if root is None and (row := self._rows.get(key_id)) is not None:
            root = self._master.unwrap(row.wrapped, _aad(key_id, row.incarnation))
            self._roots[key_id] = root
        return root

    def check(self) -> None:
        """Raise `Faulted("data_damaged")` unless the master key fits the wrapped keys: better at start than at a request."""
        for key_id in list(self._rows)[:1]:
            self._root(key_id)

    def mint(self, key_id: str, capability_id: str) -> Secret:
        root = self._root(key_id)
        if root is None:
            raise KeyError(key_id)
        return mint_token(key_id, capability_id, root)

    def read(self, token: str) -> ParsedToken | None:
        """The token if its signature holds; None otherwise, whatever is wrong with it."""
        try:
            parsed = read_token(token)
        except MalformedToken:
            return None
        root = self._root(parsed.key_id)
        return parsed if root is not None and parsed.verify(root) else None


def _aad(key_id: str, incarnation: str) -> bytes:
    return associated(PURPOSE, incarnation, key_id)
