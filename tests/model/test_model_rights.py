"""Rights: covering is a partial order, and a chain of ever narrower ones never allows what its beginning did not."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.errors import Rejected
from solo_trio.model.rights import (
    ALL,
    PERMISSIONS,
    PLAIN,
    SCOPED,
    SYSTEM,
    TENANT,
    Right,
    check_resource,
    check_right,
    is_within,
    permissions_of,
)

RESOURCES = (
    SYSTEM,
    TENANT,
    *PLAIN,
    *(f"{kind}:{name}" for kind in SCOPED for name in (ALL, "calc", "tick")),
)
"""One of each kind, and two names of each that has names."""
ASKED = tuple((resource, permission) for resource in RESOURCES for permission in (*sorted(PERMISSIONS), ALL))
resources = st.sampled_from(RESOURCES)


@st.composite
def rights(draw: st.DrawFn) -> Right:
    resource = draw(resources)
    return check_right(
        resource, draw(st.sets(st.sampled_from([*sorted(permissions_of(resource)), ALL]), min_size=1, max_size=4))
    )


def covers(one: Right, other: Right) -> bool:
    return all(one.covers(other.resource, each) for each in other.permissions)


def allowed(right: Right) -> set[tuple[str, str]]:
    return {each for each in ASKED if right.covers(*each)}


@given(rights())
def test_a_right_covers_itself(right: Right) -> None:
    assert covers(right, right)


@given(rights(), rights(), rights())
def test_covering_is_transitive(one: Right, two: Right, three: Right) -> None:
    if covers(one, two) and covers(two, three):
        assert covers(one, three)


@given(rights(), rights())
def test_what_covers_a_right_covers_all_that_it_covers(one: Right, two: Right) -> None:
    if covers(one, two):
        assert allowed(one) >= allowed(two)


def test_being_within_is_a_partial_order() -> None:
    for one, two, three in product(RESOURCES, repeat=3):
        assert is_within(one, one)
        if is_within(one, two) and is_within(two, three):
            assert is_within(one, three)
        if one != two:
            assert not (is_within(one, two) and is_within(two, one))


def test_who_has_what() -> None:
    assert allowed(check_right(SYSTEM, [ALL])) == set(ASKED)
    assert allowed(check_right(TENANT, [ALL])) == {each for each in ASKED if each[0] != SYSTEM}
    assert allowed(check_right("service:calc", ["call"])) == {("service:calc", "call")}
    services = {"service:*", "service:calc", "service:tick"}
    assert allowed(check_right("service:*", ["call", "read"])) == set(product(services, ("call", "read")))
    everything = check_right("service:calc", [ALL])
    assert everything.covers("service:calc", ALL) and everything.covers("service:calc", "permission-of-a-later-version")
    each_one = check_right("service:calc", SCOPED["service"])
    assert not each_one.covers("service:calc", ALL), "all of today is not all for ever"
    assert not check_right("service:calc", [ALL]).covers("service:*", "call")
    assert not check_right("secret:*", [ALL]).covers("service:calc", "read"), "of another kind"
    assert not check_right("service:a", [ALL]).covers("service:ab", "call")


@pytest.mark.parametrize("whole", [TENANT, SYSTEM])
def test_to_read_secrets_is_not_meant_by_the_way(whole: str) -> None:
    every_one = check_right(whole, PERMISSIONS)
    secrets = [each for each in RESOURCES if each.startswith("secret:")]
    for right in (every_one, check_right(whole, ["read"]), check_right(whole, [ALL]).narrowed(frozenset({"read"}))):
        assert not any(right.covers(each, "read") for each in secrets) and not right.touches("secret", "read")
        assert right.covers("service:calc", "read") and right.covers("logs", "read") and right.covers(TENANT, "read")
    assert every_one.covers("secret:calc", "write")
    for enough in (check_right(whole, [ALL]), check_right("secret:*", ["read"]), check_right("secret:calc", [ALL])):
        assert enough.covers("secret:calc", "read") and enough.touches("secret", "read")
        assert enough.narrowed(None) == enough.narrowed(frozenset({"read", ALL})) == enough
    assert check_right("secret:calc", [ALL]).narrowed(frozenset({"read"})).covers("secret:calc", "read")


@given(
    rights(),
    st.frozensets(st.sampled_from([*sorted(PERMISSIONS), ALL])),
    st.frozensets(st.sampled_from(sorted(PERMISSIONS))),
)
def test_narrowing_never_adds(right: Right, one: frozenset[str], two: frozenset[str]) -> None:
    assert allowed(right.narrowed(one)) <= allowed(right)
    assert allowed(right.narrowed(one).narrowed(two)) <= allowed(right.narrowed(one)) & allowed(right.narrowed(two))


@given(rights(), st.sampled_from(sorted(SCOPED)), st.sampled_from(sorted(PERMISSIONS)))
def test_a_kind_is_touched_by_who_has_the_permission_for_some_of_it(right: Right, kind: str, permission: str) -> None:
    some = any(right.covers(f"{kind}:{name}", permission) for name in (ALL, "calc", "tick"))
    assert right.touches(kind, permission) == some


@given(resources, st.sets(st.sampled_from([*sorted(PERMISSIONS), ALL])))
def test_a_right_is_what_its_resource_can_have(resource: str, permissions: set[str]) -> None:
    if permissions and permissions <= permissions_of(resource) | {ALL}:
        assert check_right(resource, permissions) == Right(resource, frozenset(permissions))
    else:
        with pytest.raises(Rejected) as caught:
            check_right(resource, permissions)
        assert caught.value.code == "invalid_field"


@pytest.mark.parametrize(
    "resource",
    [
        "",
        "*",
        "services",
        "service",
        "service:",
        "service:Calc",
        "service:*x",
        "service:**",
        "service:a:b",
        "service:../a",
        "service:a\n",
        "service: a",
        "secret:",
        "secret:a b",
        "secret:\u00fc",
        "events:",
        "events:*",
        "tenant:a",
        "system:*",
        "Tenant",
        " tenant",
        "tenant\0",
        "service:" + "a" * 64,
        "secret:" + "a" * 129,
    ],
)
def test_not_a_resource(resource: str) -> None:
    for check in (check_resource, lambda text: check_right(text, [ALL])):
        with pytest.raises(Rejected) as caught:
            check(resource)
        assert caught.value.code in ("invalid_field", "invalid_id")


@given(st.text(max_size=40))
def test_any_text_is_a_resource_or_refused(text: str) -> None:
    try:
        assert check_resource(text) == text
    except Rejected as refusal:
        assert refusal.code in ("invalid_field", "invalid_id")
    else:
        assert text in (SYSTEM, TENANT, *PLAIN) or text.partition(":")[0] in SCOPED


def test_a_message_does_not_repeat_a_long_permission() -> None:
    with pytest.raises(Rejected) as caught:
        check_right(TENANT, ["x" * 100_000])
    assert len(caught.value.detail) < 500
