"""Macaroons against libmacaroons' own vectors, and against everything that is not exactly one."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.vault.macaroon import (
    CAVEATS_MAX,
    FIELD_BYTES_MAX,
    TEXT_CHARACTERS_MAX,
    Macaroon,
    MalformedToken,
    deserialize,
    mint,
    verify,
)

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "macaroons"
FILES = sorted(VECTORS.glob("*.vtest"))
KEY = b"this is the key"


def binary(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def text_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_vectors_are_there() -> None:
    if not FILES:
        pytest.skip("missing: ../shared/vectors/macaroons")
    assert len([path for path in FILES if "_v2_" in path.name]) == 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_vector(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "version 1"
    authorized = {"authorized": True, "unauthorized": False}[lines[1]]
    key = lines[2].removeprefix("key ").encode()
    exact = {line.removeprefix("exact ").encode() for line in lines[3:-1]}
    if "_v1_" in path.name:  # the binary format v1
        with pytest.raises(MalformedToken):
            deserialize(lines[-1])
        return
    macaroon = deserialize(lines[-1])
    assert verify(macaroon, key, lambda predicate: predicate in exact) is authorized
    assert macaroon.serialize() == lines[-1]


def test_made_as_libmacaroons_makes_it() -> None:
    """The texts are libmacaroons' `root_v2_1` and `caveat_v2_5`."""
    macaroon = mint(b"http://example.org/", b"keyid", KEY)
    assert macaroon.serialize() == (
        "AgETaHR0cDovL2V4YW1wbGUub3JnLwIFa2V5aWQAAAYgfN7nklEcW8b1KEhYBd_psk54XijiqZMB-dcRxgnjjvc"
    )
    narrowed = macaroon.attenuate(b"account = 3735928559").attenuate(b"user = alice")
    assert narrowed.serialize() == (
        "AgETaHR0cDovL2V4YW1wbGUub3JnLwIFa2V5aWQAAhRhY2NvdW50ID0gMzczNTkyODU1OQACDHVzZXIgPSBhbGljZQAA"
        "BiBL6WfNHqDGsmuvakqU7psFsViG2guoXoxCqTyNDhJe_A"
    )


fields = st.binary(min_size=1, max_size=200) | st.binary(min_size=FIELD_BYTES_MAX, max_size=FIELD_BYTES_MAX)


@given(st.binary(max_size=200), fields, st.lists(fields, max_size=4), st.binary(min_size=1, max_size=64))
def test_round_trip(location: bytes, identifier: bytes, predicates: list[bytes], key: bytes) -> None:
    macaroon = mint(location, identifier, key)
    for predicate in predicates:
        macaroon = macaroon.attenuate(predicate)
    again = deserialize(macaroon.serialize())
    assert again == macaroon
    asked: list[bytes] = []
    assert verify(again, key, lambda predicate: not asked.append(predicate))
    assert asked == predicates
    assert not verify(again, key + b"x", lambda predicate: True)
    assert verify(again, key, lambda predicate: False) is (not predicates)


@given(st.data())
def test_a_changed_byte_no_longer_verifies(data: st.DataObject) -> None:
    good = binary(mint(b"", b"identifier", KEY).attenuate(b"one").attenuate(b"two").serialize())
    changed = bytearray(good)
    changed[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        macaroon = deserialize(text_of(bytes(changed)))
    except MalformedToken:
        return
    assert not verify(macaroon, KEY, lambda predicate: True)


@given(st.data())
def test_a_changed_character_is_malformed_or_does_not_verify(data: st.DataObject) -> None:
    good = mint(b"", b"identifier", KEY).serialize()
    at = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.characters().filter(lambda character: character != good[at]))
    try:
        macaroon = deserialize(good[:at] + other + good[at + 1 :])
    except MalformedToken:
        return
    assert not verify(macaroon, KEY, lambda predicate: True)


def test_every_prefix_and_any_tail_is_malformed() -> None:
    good = mint(b"solo", b"identifier", KEY).attenuate(b"one").serialize()
    for end in range(len(good)):
        with pytest.raises(MalformedToken):
            deserialize(good[:end])
    data = binary(good)
    for end in range(len(data)):
        with pytest.raises(MalformedToken):
            deserialize(text_of(data[:end]))
    for tail in ("A", "=", "AA", "AAAA", " ", "\n", good):
        with pytest.raises(MalformedToken):
            deserialize(good + tail)


def test_caveats_removed_or_reordered_do_not_verify() -> None:
    macaroon = mint(b"solo", b"identifier", KEY).attenuate(b"one").attenuate(b"two")
    for caveats in ((), (b"one",), (b"two",), (b"two", b"one"), (b"one", b"two", b"two"), (b"onetwo",)):
        forged = Macaroon(macaroon.location, macaroon.identifier, caveats, macaroon.signature)
        assert not verify(forged, KEY, lambda predicate: True)


def test_widening_needs_the_root_key() -> None:
    """The holder of a narrowed macaroon cannot make the wider one: its signature is not in there."""
    wide = mint(b"solo", b"identifier", KEY)
    narrow = wide.attenuate(b"one")
    assert wide.signature not in binary(narrow.serialize())
    assert verify(narrow.attenuate(b"two"), KEY, lambda predicate: True)


SIGNATURE = b"\x06\x20" + bytes(32)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02\x01a\x00\x00" + SIGNATURE,  # version
        b"\x02\x02\x00\x00\x00" + SIGNATURE,  # empty identifier
        b"\x02\x01\x00\x02\x01a\x00\x00" + SIGNATURE,  # empty location
        b"\x02\x02\x01a\x01\x01a\x00\x00" + SIGNATURE,  # order
        b"\x02\x02\x01a\x02\x01a\x00\x00" + SIGNATURE,  # twice
        b"\x02\x03\x01a\x00\x00" + SIGNATURE,  # unknown field
        b"\x02\x02\x81\x00a\x00\x00" + SIGNATURE,  # length not minimal
        b"\x02\x02\x81\x80\x00a\x00\x00" + SIGNATURE,
        b"\x02\x02\xff\xff\xff\xff\x0fa",  # length
        b"\x02\x02\x81\x08" + b"a" * 1025 + b"\x00\x00" + SIGNATURE,
        b"\x02\x02\x01a\x00\x02\x01c\x04\x01v\x00\x00" + SIGNATURE,  # third-party caveat
        b"\x02\x02\x01a\x00\x01\x01l\x02\x01c\x00\x00" + SIGNATURE,  # caveat with a location
        b"\x02\x02\x01a\x00\x00\x06\x1f" + bytes(31),  # signature
        b"\x02\x02\x01a\x00\x00\x06\x21" + bytes(33),
        b"\x02\x02\x01a\x00\x00",
        b"\x02\x02\x01a\x00" + b"\x02\x01c\x00" * (CAVEATS_MAX + 1) + b"\x00" + SIGNATURE,
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedToken):
        deserialize(text_of(data))


def test_spare_bits_and_the_other_alphabet_are_malformed() -> None:
    good = next(
        text
        for text in (mint(b"", b"i%d" % number, KEY).serialize() for number in range(1000))
        if "-" in text and "_" in text and len(text) % 4 == 2
    )
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(good[-1])
    spare = good[:-1] + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last + 1]
    assert binary(spare) == binary(good)
    for other in (spare, good.replace("-", "+"), good.replace("_", "/"), good + "==", "A" * (TEXT_CHARACTERS_MAX + 1)):
        with pytest.raises(MalformedToken):
            deserialize(other)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: b"\x02\x02\x01a\x00" + data))
def test_any_bytes_are_malformed_or_the_one_text(data: bytes) -> None:
    try:
        macaroon = deserialize(text_of(data))
    except MalformedToken:
        return
    assert binary(macaroon.serialize()) == data


def test_bounds_when_making() -> None:
    for location, identifier in ((b"", b""), (b"x" * (FIELD_BYTES_MAX + 1), b"i"), (b"", b"x" * (FIELD_BYTES_MAX + 1))):
        with pytest.raises(ValueError, match="bytes"):
            mint(location, identifier, KEY)
    macaroon = mint(b"", b"i", KEY)
    for predicate in (b"", b"x" * (FIELD_BYTES_MAX + 1)):
        with pytest.raises(ValueError, match="bytes"):
            macaroon.attenuate(predicate)
    for _ in range(CAVEATS_MAX):
        macaroon = macaroon.attenuate(b"c")
    with pytest.raises(ValueError, match="caveats"):
        macaroon.attenuate(b"c")


def test_repr_hides_the_signature() -> None:
    macaroon = mint(b"solo", b"identifier", KEY)
    assert repr(macaroon.signature) not in repr(macaroon)
    assert "signature" not in repr(macaroon)
