"""Solo's tokens: what was minted verifies, and nothing else does."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.vault.macaroon import MalformedToken, deserialize, mint
from solo_trio.vault.secret import Secret
from solo_trio.vault.tokens import ID_CHARACTERS_MAX, LOCATION, mint_token, read_token

KEY = Secret(bytes(range(32)))
GOOD = mint_token("key_1", "cap_1", KEY).reveal_text()
ids = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=ID_CHARACTERS_MAX)


def with_identifier(identifier: bytes, location: bytes = LOCATION) -> str:
    return mint(location, identifier, KEY.reveal()).serialize()


@given(ids, ids, st.binary(min_size=32, max_size=32))
def test_round_trip(key_id: str, capability_id: str, root_key: bytes) -> None:
    token = mint_token(key_id, capability_id, Secret(root_key))
    parsed = read_token(token.reveal_text())
    assert (parsed.key_id, parsed.capability_id, parsed.words) == (key_id, capability_id, ())
    assert parsed.verify(Secret(root_key))
    assert not parsed.verify(Secret(root_key[:-1] + bytes([root_key[-1] ^ 1])))


def test_says_exactly_this() -> None:
    """A token is for ever: this text must verify in every later version."""
    assert deserialize(GOOD).identifier == b'{"v":1,"k":"key_1","c":"cap_1"}'
    assert (
        GOOD == "AgEEc29sbwIfeyJ2IjoxLCJrIjoia2V5XzEiLCJjIjoiY2FwXzEifQAABiB_WgJC1TZ_Nj2G_zk8ge61xtEPOPnK9hJfXqqKtjJMkg"
    )


@given(st.data())
def test_any_changed_byte_no_longer_verifies(data: st.DataObject) -> None:
    """The location too: a macaroon does not sign it, so `read_token` compares it."""
    changed = bytearray(base64.urlsafe_b64decode(GOOD + "=" * (-len(GOOD) % 4)))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    text = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
    try:
        parsed = read_token(text)
    except MalformedToken as error:
        assert text not in str(error)
    else:
        assert not parsed.verify(KEY)


@given(st.data())
def test_truncated_extended_reordered(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD) - 1))
    end = data.draw(st.integers(start, len(GOOD)))
    tail = data.draw(st.text(max_size=4))
    for text in (GOOD[:end] + tail, GOOD[start:] + tail, GOOD[end:] + GOOD[start:end] + GOOD[:start]):
        if text != GOOD:
            with pytest.raises(MalformedToken):
                assert not read_token(text).verify(KEY)
                raise MalformedToken


@pytest.mark.parametrize(
    "identifier",
    [
        b"{}",
        b"[]",
        b"1",
        b"keyid",
        b"[" * 1000,
        b'{"v":2,"k":"key_1","c":"cap_1"}',
        b'{"v":1,"k":"key_1"}',
        b'{"v":1,"k":1,"c":"cap_1"}',
        b'{"v":1,"k":["key_1"],"c":"cap_1"}',
        b'{"v":1,"k":"","c":"cap_1"}',
        b'{"v":1,"c":"cap_1","k":"key_1"}',
        b'{"v":1, "k":"key_1","c":"cap_1"}',
        b'{"v":1,"k":"key_2","k":"key_1","c":"cap_1"}',
        b'{"v":1,"k":"key_1","c":"cap_1","d":1}',
        b'{"v":1,"k":"key_\\u0031","c":"cap_1"}',
        b'{"v":1,"k":"key\\n1","c":"cap_1"}',
        b'{"v":1,"k":"key_\xc3\xa9","c":"cap_1"}',
        b'{"v":1,"k":"\xff","c":"cap_1"}',
        b'{"v":true,"k":"key_1","c":"cap_1"}',
        json.dumps({"v": 1, "k": "k" * 129, "c": "c"}, separators=(",", ":")).encode(),
    ],
)
def test_an_identifier_of_ours_has_one_form(identifier: bytes) -> None:
    with pytest.raises(MalformedToken):
        read_token(with_identifier(identifier))


@pytest.mark.parametrize("location", [b"", b"Solo", b"http://example.org/"])
def test_another_location(location: bytes) -> None:
    with pytest.raises(MalformedToken):
        read_token(with_identifier(b'{"v":1,"k":"key_1","c":"cap_1"}', location))


@pytest.mark.parametrize("text", ["", "Bearer", "é", "\0", "\udc80", "A" * 100_000, GOOD.lower()])
def test_not_a_token(text: str) -> None:
    with pytest.raises(MalformedToken):
        read_token(text)


def test_a_caveat_is_read_and_signed() -> None:
    """What it demands is for `model.caveat`."""
    parsed = read_token(deserialize(GOOD).attenuate(b"until = 2100").serialize())
    assert parsed.words == ("until = 2100",)
    assert parsed.verify(KEY)
    with pytest.raises(MalformedToken):
        read_token(deserialize(GOOD).attenuate(b"until = \xff").serialize())


@pytest.mark.parametrize("wrong", ["", "x" * 129, "é", "a\n", "\x7f"])
def test_ids_when_minting(wrong: str) -> None:
    for pair in ((wrong, "cap_1"), ("key_1", wrong)):
        with pytest.raises(ValueError, match="printable ASCII"):
            mint_token(*pair, KEY)


def test_shows_nothing() -> None:
    parsed = read_token(GOOD)
    signature = deserialize(GOOD).signature
    assert GOOD not in repr(parsed) + repr(mint_token("key_1", "cap_1", KEY))
    assert repr(signature)[2:-1] not in repr(parsed)
