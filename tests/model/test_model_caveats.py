"""Caveats: words written are read back, what is not understood refuses, and no chain ever widens."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from model_driver import FIRST_US, TENANT, Driver, with_tenant

from solo_trio.errors import Rejected
from solo_trio.model.capability import Authority
from solo_trio.model.capability_requests import Grant
from solo_trio.model.caveat import (
    CAVEAT_CHARACTERS_MAX,
    RATE_MAX,
    Caveats,
    Rate,
    links,
    read_caveats,
    write_caveats,
)
from solo_trio.model.instant import LATEST_US, rfc3339
from solo_trio.model.rights import ALL, PERMISSIONS, PLAIN, SCOPED, permissions_of
from solo_trio.model.rights import TENANT as ALL_OF_IT

NAMES = (ALL, "calc", "tick")
RESOURCES = (ALL_OF_IT, *PLAIN, *(f"{kind}:{name}" for kind in SCOPED for name in NAMES))
ASKED = tuple(product(("system", *RESOURCES), (*sorted(PERMISSIONS), ALL)))
ID = "0123456789abcdef0123456789abcdef"

ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
permission_sets = st.frozensets(st.sampled_from([*sorted(PERMISSIONS), ALL]), min_size=1, max_size=4)
rates = st.tuples(
    st.integers(1, 10**12).map(lambda millionths: millionths / 1_000_000),
    st.integers(10**6, 10**12).map(lambda millionths: millionths / 1_000_000),
)
"""What six decimals can say."""
times = st.integers(0, LATEST_US)
given_caveats = st.fixed_dictionaries(
    {},
    optional={
        "permissions": permission_sets,
        "resource": st.sampled_from(RESOURCES),
        "service": st.sampled_from(NAMES[1:]),
        "expires_at_us": times,
        "rate": rates,
    },
).filter(bool)


def allowed(caveats: Caveats) -> set[tuple[str, str]]:
    return {each for each in ASKED if caveats.allow(*each)}


def read(words: tuple[str, ...]) -> Caveats:
    caveats = read_caveats(words, "cap")
    assert caveats is not None, words
    return caveats


@given(ids, given_caveats)
def test_what_is_written_is_read_back(attenuation_id: str, more: dict[str, Any]) -> None:
    words = write_caveats(attenuation_id, **more)
    caveats = read(words)
    assert caveats.words == words and words[0] == f"id = {attenuation_id}"
    assert len(set(caveats.ids)) == len(words)
    named = [more["resource"]] if "resource" in more else []
    assert list(caveats.resources) == named + ([f"service:{more['service']}"] if "service" in more else [])
    assert caveats.permissions == more.get("permissions")
    assert caveats.expires_at_us == more.get("expires_at_us")
    assert [(each.requests_per_second, each.burst) for each in caveats.rates] == (
        [more["rate"]] if "rate" in more else []
    )


@given(st.lists(st.tuples(ids, given_caveats), min_size=1, max_size=5), st.data())
def test_more_caveats_never_allow_more(chain: list[tuple[str, dict[str, Any]]], data: st.DataObject) -> None:
    words = tuple(word for attenuation_id, more in chain for word in write_caveats(attenuation_id, **more))
    cut = data.draw(st.integers(0, len(words)), "cut")
    less, all_of_them = read(words[:cut]), read(words)
    assert allowed(all_of_them) <= allowed(less)
    assert set(less.rates) <= set(all_of_them.rates)
    assert all_of_them.ids[:cut] == less.ids
    if less.expires_at_us is not None:
        assert all_of_them.expires_at_us is not None and all_of_them.expires_at_us <= less.expires_at_us
    for kind, permission in product(SCOPED, PERMISSIONS):
        if all_of_them.touch(kind) and all_of_them.allow_permission(permission):
            assert less.touch(kind) and less.allow_permission(permission)


@given(st.lists(st.tuples(ids, given_caveats), min_size=1, max_size=3))
def test_every_condition_counts_in_any_order(chain: list[tuple[str, dict[str, Any]]]) -> None:
    words = tuple(word for attenuation_id, more in chain for word in write_caveats(attenuation_id, **more))
    there, back = read(words), read(words[::-1])
    assert allowed(there) == allowed(back) and there.expires_at_us == back.expires_at_us
    assert allowed(there) == set.intersection(*(allowed(read((word,))) for word in words))


@pytest.mark.parametrize(
    "word",
    [
        "",
        " ",
        "id",
        "id =",
        "id = ",
        f"id = {ID[:-1]}",
        f"id = {ID}0",
        f"id = {ID.upper()}",
        f"id == {ID}",
        f"id  = {ID}",
        f" id = {ID}",
        f"id = {ID} ",
        f"id = {ID}\n",
        f"ID = {ID}",
        "resource = ",
        "resource = everything",
        "resource = service",
        "resource = service:",
        "resource = service:A",
        "resource = tenant ",
        "resource = tenant,events",
        "resource < tenant",
        "service = ",
        "service = *",
        "service = A",
        "service = service:calc",
        "permissions = ",
        "permissions = ,",
        "permissions = call,",
        "permissions = call, read",
        "permissions = fly",
        "permissions < call",
        "time < ",
        "time < tomorrow",
        "time < 2026-01-01",
        "time < 2026-01-01T00:00:00",
        "time < 2026-01-01T00:00:00+01:00",
        "time < 2026-13-01T00:00:00Z",
        "time < 2026-01-01T00:00:00Z ",
        "time < 1700000000",
        "time = 2026-01-01T00:00:00Z",
        "time > 2026-01-01T00:00:00Z",
        "time <= 2026-01-01T00:00:00Z",
        "time-before 2026-01-01T00:00:00Z",
        "rate = ",
        "rate = 5",
        "rate = 5/",
        "rate = /5",
        "rate = 5/0",
        "rate = 0/5",
        "rate = -1/5",
        "rate = 5/-1",
        "rate = 5/0.5",
        "rate = inf/5",
        "rate = nan/nan",
        "rate = 1e3/5",
        "rate = 5/5/5",
        "rate = 9999999/9999999",
        "rate = \u0665/\u0665",
        "account = 3735928559",
        "user = alice",
        "declared username bob",
        "general",
        "ip = 10.0.0.1",
        "new-in-a-later-version = 1",
        "permissions = " + ",".join(["call"] * 200),
        "\0",
    ],
)
def test_a_predicate_that_is_not_understood_refuses(word: str) -> None:
    good = write_caveats(ID, resource="service:calc", permissions=frozenset({"call"}))
    for words in ((word,), (*good, word), (word, *good), (*good, word, *good)):
        assert read_caveats(words, "cap") is None


@given(
    st.text(max_size=30)
    | st.sampled_from(("time < ", "rate = ", "id = ", "resource = ")).flatmap(
        lambda head: st.text(max_size=20).map(lambda tail: head + tail)
    )
)
def test_any_text_is_understood_or_refuses(word: str) -> None:
    caveats = read_caveats((word,), "cap")
    assert caveats is None or caveats.words == (word,)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "invalid_field"),
        ({"permissions": frozenset()}, "invalid_field"),
        ({"permissions": frozenset({"fly"})}, "invalid_field"),
        ({"resource": "everything"}, "invalid_field"),
        ({"resource": "service:A"}, "invalid_id"),
        ({"service": "*"}, "invalid_id"),
        ({"service": "a\nid = x"}, "invalid_id"),
        ({"rate": (0.0, 1.0)}, "invalid_field"),
        ({"rate": (1.0, 0.5)}, "invalid_field"),
        ({"rate": (float("nan"), 1.0)}, "invalid_field"),
        ({"rate": (1.0, float("nan"))}, "invalid_field"),
        ({"rate": (RATE_MAX * 2, 1.0)}, "invalid_field"),
    ],
)
def test_what_cannot_be_written(more: dict[str, Any], code: str) -> None:
    with pytest.raises(Rejected) as caught:
        write_caveats(ID, **more)
    assert caught.value.code == code


def test_the_longest_name_fits() -> None:
    words = write_caveats(ID, resource="secret:" + "a" * 128)
    assert max(map(len, words)) <= CAVEAT_CHARACTERS_MAX and read(words).resources == ("secret:" + "a" * 128,)


class TestNames:
    """A caveat's name is its whole past: nobody names what another narrowed by writing the same words elsewhere."""

    def test_words_elsewhere_have_another_name(self) -> None:
        words = write_caveats(ID, permissions=frozenset({"call"}), rate=(5.0, 10.0))
        names = links(words, "cap")
        assert len(set(names)) == len(names) == 3
        assert not set(names) & set(links(words, "other"))
        assert not set(names) & set(links(("service = calc", *words), "cap"))
        assert not set(names) & set(links((*words, *words), "cap")[3:]), "said again it is another"

    def test_a_rate_is_counted_under_the_name_of_what_states_it(self) -> None:
        words = write_caveats(ID, rate=(5.0, 10.0))
        assert read(words).rates == (Rate(links(words, "cap")[1], 5.0, 10.0),)
        assert read((*words, "rate = 5/10")).rates[0] == read(words).rates[0]
        assert len(set(read((*words, "rate = 5/10")).rates)) == 2

    @given(st.lists(st.text(max_size=10), max_size=6), st.lists(st.text(max_size=10), max_size=6))
    def test_the_same_name_is_the_same_past(self, one: list[str], other: list[str]) -> None:
        first, second = links(tuple(one), "cap"), links(tuple(other), "cap")
        for at in range(min(len(one), len(other))):
            assert (first[at] == second[at]) == (one[: at + 1] == other[: at + 1])


# -- the chain of what is recorded and what is written into tokens


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A grant of a right, or an attenuation, with a time and a rate now and then."""
    if draw(st.booleans()):
        resource = draw(st.sampled_from(RESOURCES))
        permissions = draw(st.sets(st.sampled_from([*sorted(permissions_of(resource)), ALL]), min_size=1, max_size=5))
        ttl_us = draw(st.none() | st.integers(1, 10**12))
        rate = draw(st.none() | st.builds(Rate, st.just("bucket"), st.just(2.0), st.just(3.0)))
        return "grant", {"resource": resource, "permissions": tuple(permissions), "ttl_us": ttl_us, "rate": rate}
    return "narrow", {"attenuation_id": draw(ids), "more": draw(given_caveats)}


def own(driver: Driver) -> Authority:
    return Authority("cap_1", TENANT, "inc_1")


def what(driver: Driver, authority: Authority) -> set[tuple[str, str]]:
    return {each for each in ASKED if authority.allows(driver.state, *each)}


@settings(deadline=None, max_examples=200)
@given(st.lists(steps(), min_size=1, max_size=6))
def test_a_child_never_allows_what_its_parent_does_not(chain: list[tuple[str, dict[str, Any]]]) -> None:
    """Over every resource and permission, for any chain of grants and attenuations; nor for longer, nor more often."""
    driver, ancestors = with_tenant(), []
    authority = own(driver)
    for number, (kind, more) in enumerate(chain):
        ancestors.append(authority)
        before = driver.draft
        if kind == "narrow":
            words = authority.caveats.words + write_caveats(more["attenuation_id"], **more["more"])
            caveats = read_caveats(words, authority.capability_id or "")
            assert caveats is not None
            authority = evolve(authority, caveats=caveats)
        else:
            try:
                driver.do(Grant(authority, TENANT, "inc_1", f"cap_g{number}", **more))
            except Rejected as refusal:
                assert refusal.code == "permission_denied" and driver.draft is before
                wanted = {(more["resource"], each) for each in more["permissions"]}
                until = authority.expires_at_us(driver.state)
                late = until is not None and more["ttl_us"] is not None and driver.at_us + more["ttl_us"] > until
                assert late or not wanted <= what(driver, authority), "refused although the grantor has it"
                continue
            authority = Authority(f"cap_g{number}", TENANT, "inc_1")
        for above in ancestors:
            assert what(driver, authority) <= what(driver, above)
            assert set(above.rates(driver.state)) <= set(authority.rates(driver.state))
            until = above.expires_at_us(driver.state)
            mine = authority.expires_at_us(driver.state)
            assert until is None or (mine is not None and mine <= until)
            for kind_, permission in product(SCOPED, PERMISSIONS):
                if authority.touches(driver.state, kind_, permission):
                    assert above.touches(driver.state, kind_, permission)
        assert ("system", "read") not in what(driver, authority)


@pytest.mark.parametrize(
    "words, reads",
    [
        (("resource = secret:calc", "permissions = read"), True),
        (("resource = secret:*", "permissions = read,write", "resource = secret:calc", "permissions = read"), True),
        (("permissions = *", "resource = secret:calc"), True),
        (("permissions = read",), False),
        (("permissions = read", "resource = secret:calc"), False),
        (("permissions = read", "resource = secret:calc", "permissions = read"), False),
        (("resource = tenant", "permissions = read"), False),
    ],
)
def test_who_narrows_to_reading_means_secrets_only_if_he_names_them(words: tuple[str, ...], reads: bool) -> None:
    driver = with_tenant()
    whole = own(driver)
    assert whole.allows(driver.state, "secret:calc", "read")
    token = evolve(whole, caveats=read(words))
    assert token.allows(driver.state, "secret:calc", "read") == reads
    assert token.touches(driver.state, "secret", "read") == reads
    driver.do(Grant(whole, TENANT, "inc_1", "cap_s", "secret:calc", ("read", "write")))
    of_one = Authority("cap_s", TENANT, "inc_1", read(("permissions = read",)))
    assert of_one.allows(driver.state, "secret:calc", "read") and not of_one.allows(
        driver.state, "secret:calc", "write"
    )


@given(st.lists(st.tuples(ids, given_caveats), min_size=1, max_size=3))
def test_an_expired_token_does_not_hold_whatever_the_order(chain: list[tuple[str, dict[str, Any]]]) -> None:
    driver = with_tenant()
    words = tuple(word for attenuation_id, more in chain for word in write_caveats(attenuation_id, **more))
    authority = evolve(own(driver), caveats=read_caveats(words, "cap_1") or Caveats())
    ends = [more["expires_at_us"] for _, more in chain if "expires_at_us" in more]
    if not ends:
        assert authority.holds(driver.state, FIRST_US)
        return
    assert authority.holds(driver.state, min(ends) - 1)
    for late in (min(ends), min(ends) + 1, max(ends)):
        assert not authority.holds(driver.state, late)
        with pytest.raises(Rejected) as caught:
            authority.check(driver.state, late)
        assert caught.value.code == "unauthenticated"


def test_a_time_is_written_as_the_docs_say() -> None:
    [_, word] = write_caveats(ID, expires_at_us=FIRST_US)
    assert word == f"time < {rfc3339(FIRST_US)}" == "time < 2023-11-14T22:13:20.000000Z"
    assert read(("time < 2023-11-14T22:13:20Z",)).expires_at_us == FIRST_US, "as other libraries write it"
