"""Our tokens in another library's hands: pymacaroons narrows and verifies them, and we what it makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymacaroons import MACAROON_V1, MACAROON_V2, Macaroon, Verifier
from pymacaroons.exceptions import MacaroonInvalidSignatureException

from solo_trio.model.caveat import read_caveats, write_caveats
from solo_trio.model.instant import read_rfc3339
from solo_trio.vault import macaroon as ours
from solo_trio.vault.macaroon import CAVEATS_MAX, MalformedToken
from solo_trio.vault.secret import Secret
from solo_trio.vault.tokens import LOCATION, mint_token, narrow_token, read_token

KEY = bytes(range(32))
TOKEN = mint_token("key_1", "cap_1", Secret(KEY)).reveal_text()
README_KEY = b"this is our super secret key; only we should know it"
README_SIGNATURES = {
    (): "e3d9e02908526c4c0039ae15114115d97fdd68bf2ba379b342aaf0f617d0552f",
    (b"account = 3735928559",): "1efe4763f290dbce0c1d08477367e11f4eee456a64933cf662d79772dbb82128",
    (b"test = caveat",): "197bac7a044af33332865b9266e26d493bdd668a660e44d88ce1a998c23dbd67",
}
predicates = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=60)
texts = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)


def theirs(text: str) -> Macaroon:
    return Macaroon.deserialize(text)


def approves(macaroon: Macaroon, key: bytes) -> bool:
    verifier = Verifier()
    verifier.satisfy_general(lambda predicate: True)
    try:
        return bool(verifier.verify(macaroon, key))
    except MacaroonInvalidSignatureException:
        return False


@pytest.mark.parametrize("caveats", README_SIGNATURES, ids=repr)
def test_published_signatures(caveats: tuple[bytes, ...]) -> None:
    """Of the example that libmacaroons, jmacaroons and pymacaroons share, in their READMEs and tests."""
    made = ours.mint(b"http://mybank/", b"we used our secret key", README_KEY)
    for predicate in caveats:
        made = made.attenuate(predicate)
    assert made.signature.hex() == README_SIGNATURES[caveats]


@given(texts, texts, st.lists(predicates, max_size=5), st.binary(min_size=32, max_size=32))
def test_what_one_makes_the_other_verifies(location: str, identifier: str, caveats: list[str], key: bytes) -> None:
    made = ours.mint(location.encode(), identifier.encode(), key)
    their_own = Macaroon(location=location, identifier=identifier, key=key, version=MACAROON_V2)
    for predicate in caveats:
        made = made.attenuate(predicate.encode())
        their_own.add_first_party_caveat(predicate)
    assert made.serialize() == their_own.serialize(), "to the byte"
    read = theirs(made.serialize())
    assert approves(read, key) and not approves(read, key[::-1] + b"x")
    assert [each.caveat_id_bytes.decode() for each in read.caveats] == caveats
    assert ours.verify(ours.deserialize(their_own.serialize()), key, lambda predicate: True)


def test_another_library_narrows_our_token() -> None:
    macaroon = theirs(TOKEN)
    assert macaroon.location == LOCATION.decode()
    words = ("permissions = call", "resource = service:calc", "time < 2030-01-01T00:00:00Z", "rate = 5/10")
    for word in words:
        macaroon.add_first_party_caveat(word)
    parsed = read_token(macaroon.serialize())
    assert parsed.words == words and parsed.verify(Secret(KEY))
    assert (parsed.key_id, parsed.capability_id) == ("key_1", "cap_1")
    caveats = read_caveats(parsed.words, parsed.capability_id)
    assert caveats is not None
    assert caveats.allow("service:calc", "call")
    assert not caveats.allow("service:calc", "read") and not caveats.allow("service:tick", "call")
    assert caveats.expires_at_us == read_rfc3339("2030-01-01T00:00:00Z") and len(caveats.rates) == 1


def test_what_we_narrowed_it_narrows_further_and_verifies() -> None:
    words = write_caveats("0" * 32, permissions=frozenset({"call", "read"}))
    narrowed = narrow_token(TOKEN, words).reveal_text()
    macaroon = theirs(narrowed)
    assert approves(macaroon, KEY)
    macaroon.add_first_party_caveat("service = calc")
    assert narrow_token(narrowed, ["service = calc"]).reveal_text() == macaroon.serialize()


def test_what_it_removes_or_reorders_no_longer_verifies() -> None:
    narrowed = narrow_token(TOKEN, ["permissions = call", "service = calc"]).reveal_text()
    for change in (lambda caveats: caveats[::-1], lambda caveats: caveats[:1], lambda caveats: caveats[1:]):
        macaroon = theirs(narrowed)
        macaroon.caveats = change(macaroon.caveats)
        assert not read_token(macaroon.serialize()).verify(Secret(KEY))


def test_what_only_it_can_do_is_malformed() -> None:
    """A third party's caveat, and the older format."""
    third = theirs(TOKEN)
    third.add_third_party_caveat("http://auth.example/", "caveat key", "a caveat")
    bound = Macaroon(location="http://auth.example/", identifier="a caveat", key="caveat key", version=MACAROON_V2)
    for text in (
        third.serialize(),
        third.prepare_for_request(bound).serialize(),
        Macaroon(location="solo", identifier="i", key=KEY, version=MACAROON_V1).serialize(),
    ):
        with pytest.raises(MalformedToken):
            read_token(text)


class TestNarrowing:
    """Offline, with nothing but the token."""

    @given(st.lists(predicates, min_size=1, max_size=5))
    def test_it_adds_and_still_verifies(self, words: list[str]) -> None:
        parsed = read_token(narrow_token(TOKEN, words).reveal_text())
        assert parsed.words == tuple(words) and parsed.verify(Secret(KEY))

    def test_nothing_to_add(self) -> None:
        assert narrow_token(TOKEN, []).reveal_text() == TOKEN

    @pytest.mark.parametrize("text", ["", "garbage", TOKEN[:-1], TOKEN + "A", "A" * 100_000])
    def test_of_no_token(self, text: str) -> None:
        with pytest.raises(MalformedToken):
            narrow_token(text, ["service = calc"])

    @pytest.mark.parametrize("word", ["", "\u00fc", "x" * 1025])
    def test_what_is_no_caveat(self, word: str) -> None:
        with pytest.raises(ValueError, match=r"bytes|ascii"):
            narrow_token(TOKEN, [word])

    def test_only_so_many_and_so_long(self) -> None:
        full = narrow_token(TOKEN, ["service = calc"] * CAVEATS_MAX).reveal_text()
        with pytest.raises(ValueError, match="caveats"):
            narrow_token(full, ["service = calc"])
        with pytest.raises(ValueError, match="characters"):
            narrow_token(TOKEN, ["x" * 1000] * 8)
        assert read_token(full).verify(Secret(KEY))

    def test_shows_nothing(self) -> None:
        narrowed = narrow_token(TOKEN, ["service = calc"])
        assert narrowed.reveal_text() not in repr(narrowed) + str(narrowed) + repr(read_token(narrowed.reveal_text()))
