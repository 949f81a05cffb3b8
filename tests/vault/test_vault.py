"""The vault: whose key seals what, keys that may not be in the journal yet, what is gone with them, another master key."""

from __future__ import annotations

import pytest
from attrs import evolve

from solo_trio.errors import Faulted, Rejected
from solo_trio.model.record import KeyRow, SecretRow
from solo_trio.telemetry.sources import SystemEntropy
from solo_trio.vault.keyring import Keyring
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.sealing import Value
from solo_trio.vault.secret import Secret
from solo_trio.vault.vault import NoKey, Vault, new_system_key, rewrapped, system_key

MASTER = MasterKey(Secret(bytes(range(32))))
OTHER = MasterKey(Secret(bytes(range(1, 33))))
HUSH = Value(Secret("hush"))


def filled(*incarnations: str) -> tuple[Vault, dict[str, KeyRow], dict[str, SecretRow]]:
    vault = Vault(MASTER, SystemEntropy())
    keys: dict[str, KeyRow] = {}
    rows: dict[str, SecretRow] = {}
    for each in incarnations:
        key = vault.prepare(each)
        assert key is not None
        keys[each] = key
        rows[each] = evolve(vault.seal(each, "api", HUSH, None), version=1)
        vault.committed(each)
    return vault, keys, rows


def test_a_tenants_key_is_made_once_and_is_written_until_it_is_known_to_be_kept() -> None:
    vault = Vault(MASTER, SystemEntropy())
    first = vault.prepare("a")
    assert first is not None and (first.purpose, first.incarnation) == ("secret", "a")
    assert vault.prepare("a") == first, "the first write may have failed"
    vault.committed("a")
    assert vault.prepare("a") is None
    again = Vault(MASTER, SystemEntropy(), [first])
    assert again.prepare("a") is None


def test_what_was_sealed_is_opened_after_a_restart() -> None:
    _, keys, rows = filled("a", "b")
    again = Vault(MASTER, SystemEntropy(), keys.values())
    assert again.unseal(rows["a"], None) == again.unseal(rows["b"], None) == HUSH


@pytest.mark.parametrize("field", ["incarnation", "name", "version_id", "key_id"])
def test_a_row_moved_to_another_place_is_damage(field: str) -> None:
    vault, keys, rows = filled("a", "b")
    moved = {"incarnation": "b", "name": "apj", "version_id": "x", "key_id": keys["b"].key_id}
    with pytest.raises(Faulted) as caught:
        vault.unseal(evolve(rows["a"], **{field: moved[field]}), None)
    assert caught.value.code == "data_damaged"


def test_a_row_and_its_key_id_moved_to_another_tenant_is_damage() -> None:
    vault, keys, rows = filled("a", "b")
    with pytest.raises(Faulted):
        vault.unseal(evolve(rows["a"], incarnation="b", key_id=keys["b"].key_id), None)


def test_keys_swapped_between_tenants_open_nothing() -> None:
    _, keys, rows = filled("a", "b")
    swapped = [evolve(keys["a"], wrapped=keys["b"].wrapped), evolve(keys["b"], wrapped=keys["a"].wrapped)]
    vault = Vault(MASTER, SystemEntropy(), swapped)
    with pytest.raises(Faulted):
        vault.unseal(rows["a"], None)


def test_without_its_key_nothing_is_opened_any_more() -> None:
    """What shredding comes to: the rows are there, in a backup say, and the key is not."""
    vault, keys, rows = filled("a", "b")
    vault.forget("a")
    with pytest.raises(Faulted):
        vault.unseal(rows["a"], None)
    with pytest.raises(Rejected, match="removed"):
        vault.seal("a", "api", HUSH, None)
    assert vault.unseal(rows["b"], None) == HUSH
    later = Vault(MASTER, SystemEntropy(), [keys["b"]])
    made = later.prepare("a")  # even for a tenant of the same incarnation
    assert made is not None and made.key_id != keys["a"].key_id
    with pytest.raises(Faulted):
        later.unseal(rows["a"], None)


def test_another_master_key_opens_nothing_until_the_keys_are_wrapped_with_it() -> None:
    _, keys, rows = filled("a")
    with pytest.raises(Faulted):
        Vault(OTHER, SystemEntropy(), keys.values()).unseal(rows["a"], None)
    anew = rewrapped(keys["a"], MASTER, OTHER)
    assert OTHER.wraps(anew.wrapped) and not MASTER.wraps(anew.wrapped)
    assert Vault(OTHER, SystemEntropy(), [anew]).unseal(rows["a"], None) == HUSH
    with pytest.raises(Faulted):
        Vault(MASTER, SystemEntropy(), [anew]).unseal(rows["a"], None)


def test_tokens_outlive_the_master_key() -> None:
    keyring = Keyring(MASTER, SystemEntropy())
    key = keyring.new_key("a")
    token = keyring.mint(key.key_id, "capability").reveal_text()
    later = Keyring(OTHER, SystemEntropy(), [rewrapped(key, MASTER, OTHER)])
    assert later.read(token) is not None


def test_keys_of_one_purpose_are_no_keys_of_another() -> None:
    _, keys, rows = filled("a")
    with pytest.raises(Faulted):
        Vault(MASTER, SystemEntropy(), [evolve(keys["a"], purpose="token")]).unseal(rows["a"], None)
    keyring = Keyring(MASTER, SystemEntropy(), keys.values())
    keyring.check()
    with pytest.raises(KeyError):
        keyring.mint(keys["a"].key_id, "capability")


def test_a_key_of_the_kernels_own() -> None:
    row = new_system_key(MASTER, SystemEntropy(), "audit")
    key = system_key(MASTER, [row], "audit")
    assert system_key(OTHER, [rewrapped(row, MASTER, OTHER)], "audit") == key
    with pytest.raises(NoKey):
        system_key(MASTER, [row], "other")
    with pytest.raises(NoKey):
        system_key(MASTER, [evolve(row, incarnation="a")], "audit")


def test_codes_tell_values_apart_and_need_the_master_key() -> None:
    here, there = Vault(MASTER, SystemEntropy()), Vault(OTHER, SystemEntropy())
    assert here.code_of(b"1234") == Vault(MASTER, SystemEntropy()).code_of(b"1234") != here.code_of(b"1235")
    assert here.code_of(b"1234") != there.code_of(b"1234")
