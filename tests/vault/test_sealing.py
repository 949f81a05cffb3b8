"""Sealing: the cipher against Wycheproof's vectors, what is bound to its place, keys of agents, and all that is wrong."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.errors import Faulted
from solo_trio.telemetry.sources import SystemEntropy
from solo_trio.vault.keys import NONCE_BYTES
from solo_trio.vault.sealing import (
    ARGON2_MEMORY_KIB,
    ARGON2_MEMORY_KIB_MAX,
    Place,
    Value,
    WrongKey,
    decrypt,
    encrypt,
    seal,
    unseal,
)
from solo_trio.vault.secret import Secret

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "wycheproof" / "aes_gcm_test.json"
KEY = Secret(bytes(range(32)))
PLACE = Place("incarnation-1", "api-key", "version-1")
RAW = Secret("0f" * 32)


@define
class Chosen:
    """Entropy that gives what it was told to."""

    data: bytes

    def token(self, size_bytes: int) -> bytes:
        assert size_bytes == len(self.data)
        return self.data

    def uniform(self) -> float:
        raise NotImplementedError


def vectors() -> list[dict[str, Any]]:
    """Those of the only form that is used here: a key of 256 bits, a nonce of 96, a tag of 128."""
    if not VECTORS.exists():
        return []
    groups = json.loads(VECTORS.read_text())["testGroups"]
    return [
        test
        for group in groups
        if (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 96, 128)
        for test in group["tests"]
    ]


def test_vectors_are_there() -> None:
    if not VECTORS.exists():
        pytest.skip("missing: ../shared/vectors/wycheproof")
    found = vectors()
    assert len(found) == 66
    assert {each["result"] for each in found} == {"valid", "invalid"}


@pytest.mark.parametrize("vector", vectors(), ids=lambda each: f"{each['tcId']}-{each['result']}")
def test_wycheproof(vector: dict[str, Any]) -> None:
    key, iv, aad, plain, ct, tag = (bytes.fromhex(vector[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag"))
    if vector["result"] == "valid":
        assert encrypt(key, plain, aad, Chosen(iv)) == iv + ct + tag
        assert decrypt(key, iv + ct + tag, aad) == plain
    else:
        with pytest.raises(InvalidTag):
            decrypt(key, iv + ct + tag, aad)


@given(st.binary(max_size=2_000), st.booleans(), st.booleans())
def test_what_is_sealed_is_opened(data: bytes, binary: bool, for_agent: bool) -> None:
    value = Value(Secret(data), binary)
    key = RAW if for_agent else None
    sealed = seal(value, KEY, key, PLACE, SystemEntropy())
    assert unseal(sealed, KEY, key, PLACE) == value
    assert len(data) < 8 or data not in sealed


@pytest.mark.parametrize(
    "place",
    [
        evolve(PLACE, incarnation="incarnation-2"),
        evolve(PLACE, name="api-kez"),
        evolve(PLACE, version_id="version-2"),
        Place("incarnation-1api", "-key", "version-1"),
        Place("incarnation-1", "api-keyversion", "-1"),
    ],
)
@pytest.mark.parametrize("key", [None, RAW], ids=["tenant", "agent"])
def test_it_opens_in_no_other_place(place: Place, key: Secret | None) -> None:
    sealed = seal(Value(Secret(b"hush")), KEY, key, PLACE, SystemEntropy())
    with pytest.raises(Faulted) as caught:
        unseal(sealed, KEY, key, place)
    assert caught.value.code == "data_damaged"


@given(st.data())
def test_no_changed_byte_is_taken(data: st.DataObject) -> None:
    sealed = bytearray(seal(Value(Secret(b"hush")), KEY, None, PLACE, SystemEntropy()))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Faulted):
        unseal(bytes(sealed), KEY, None, PLACE)


@given(st.integers(0, 60))
def test_nothing_cut_off_is_taken(size: int) -> None:
    sealed = seal(Value(Secret(b"hush")), KEY, RAW, PLACE, SystemEntropy())
    with pytest.raises(Faulted):
        unseal(sealed[:size], KEY, RAW, PLACE)


def test_the_same_is_never_sealed_the_same_way() -> None:
    sealed = {seal(Value(Secret(b"hush")), KEY, None, PLACE, SystemEntropy()) for _ in range(100)}
    assert len({each[1 : 1 + NONCE_BYTES] for each in sealed}) == 100


def test_another_data_key_opens_nothing() -> None:
    sealed = seal(Value(Secret(b"hush")), KEY, None, PLACE, SystemEntropy())
    with pytest.raises(Faulted):
        unseal(sealed, Secret(bytes(32)), None, PLACE)


@pytest.mark.parametrize(
    ("set_with", "opened_with"),
    [
        (None, "x"),
        ("0f" * 32, None),
        ("0f" * 32, "0e" * 32),
        ("0f" * 32, "a passphrase"),
        ("a passphrase", None),
        ("a passphrase", "a passphrasf"),
        ("a passphrase", "0f" * 32),
    ],
)
def test_a_wrong_key_is_a_wrong_key(set_with: str | None, opened_with: str | None) -> None:
    """The same refusal, whichever part is wrong."""
    keys = [None if each is None else Secret(each) for each in (set_with, opened_with)]
    sealed = seal(Value(Secret(b"hush")), KEY, keys[0], PLACE, SystemEntropy())
    with pytest.raises(WrongKey) as caught:
        unseal(sealed, KEY, keys[1], PLACE)
    assert str(caught.value) == ""


def test_a_passphrase_opens_what_it_sealed() -> None:
    passphrase = Secret("correct horse battery staple \u00e4")
    sealed = seal(Value(Secret("hush")), KEY, passphrase, PLACE, SystemEntropy())
    assert unseal(sealed, KEY, passphrase, PLACE) == Value(Secret("hush"))


@pytest.mark.parametrize(
    "written",
    [
        ("0f" * 32).upper(),
        base64.b64encode(bytes([15]) * 32).decode(),
        base64.b64encode(bytes([15]) * 32).decode().rstrip("="),
        base64.urlsafe_b64encode(bytes([15]) * 32).decode(),
    ],
)
def test_a_raw_key_may_be_written_in_several_ways(written: str) -> None:
    sealed = seal(Value(Secret(b"hush")), KEY, RAW, PLACE, SystemEntropy())
    assert unseal(sealed, KEY, Secret(written), PLACE).data == Secret(b"hush")


def test_both_alphabets_of_base64_mean_the_same_key() -> None:
    key = bytes([0xFB, 0xFF] * 16)
    sealed = seal(Value(Secret(b"hush")), KEY, Secret(base64.b64encode(key).decode()), PLACE, SystemEntropy())
    assert unseal(sealed, KEY, Secret(base64.urlsafe_b64encode(key).decode()), PLACE).data == Secret(b"hush")


@pytest.mark.parametrize("costs", [(0xFFFFFFFF, ARGON2_MEMORY_KIB, 1), (3, ARGON2_MEMORY_KIB_MAX + 1, 1), (3, 8, 255)])
def test_a_row_cannot_ask_for_more_work_than_is_bounded(costs: tuple[int, int, int]) -> None:
    """Only who has the data key could make such a row, and even then it is refused."""
    payload = b"\x02" + struct.pack(">III", *costs) + bytes(16) + bytes(40)
    sealed = b"\x01" + encrypt(KEY.reveal(), payload, b"\x01" + PLACE.associated("secret"), SystemEntropy())
    with pytest.raises(Faulted):
        unseal(sealed, KEY, Secret("a passphrase"), PLACE)


def test_a_value_does_not_show_itself() -> None:
    assert "hush" not in repr(Value(Secret(b"hush")))
