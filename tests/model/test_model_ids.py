"""What an id may look like; everything else is refused before it is used."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_driver import TENANT, Driver, with_tenant

from solo_trio.errors import Rejected
from solo_trio.model import service_requests as requests
from solo_trio.model.ids import check_function, check_id
from solo_trio.model.spec import ServiceSpec

SETTINGS = settings(deadline=None, print_blob=True)
LOWER_AND_DIGITS = string.ascii_lowercase + string.digits

GOOD_IDS = ["a", "0", "a1", "a-b", "a_b", "a-", "a_", "9-_-", "a" * 63, "con", "nul", "default"]
BAD_IDS: list[Any] = [
    "",
    " ",
    "a" * 64,
    "a" * 10_000,
    "-a",
    "_a",
    "A",
    "aB",
    "a b",
    " a",
    "a ",
    "a\n",
    "a\r\n",
    "\na",
    "a\nb",
    "a\0",
    "a\0b",
    "\0",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "a.b",
    "a:b",
    "a%2fb",
    "a;b",
    "a'b",
    "a*",
    "a$",
    "\u0661",  # a digit to str.isdigit, and to \d without ASCII
    "a\u0661",
    "\u00e4",
    "a\u0131",  # dotless i: lower case, and upper-cases to ASCII
    "\u212a",  # the Kelvin sign: lower-cases to ASCII
    "\uff41",  # full-width a
    "a\u200b",
    "a\u202eb",
    "a\u0301",
    "\ud800",
    b"a",
    None,
    True,
    0,
    1.0,
    ["a"],
    ("a",),
    {"a": 1},
]
BAD_FUNCTIONS: list[Any] = [
    "",
    "1a",
    "a-b",
    "a.b",
    "a b",
    "a\n",
    "\na",
    "a\0",
    "a()",
    "a" * 129,
    "\u00e4",
    "\u0661",
    "a\u0661",
    "\u212a",
    "\ufb01",  # an identifier to Python, which folds it into another one
    b"a",
    None,
    1,
    ["a"],
]


def refused(check: Any, *arguments: Any) -> str:
    with pytest.raises(Rejected) as refusal:
        check(*arguments)
    return refusal.value.code


@pytest.mark.parametrize("good", GOOD_IDS)
def test_a_good_id(good: str) -> None:
    assert check_id("service_id", good) is good


@pytest.mark.parametrize("bad", BAD_IDS, ids=[ascii(bad)[:20] for bad in BAD_IDS])
def test_a_bad_id(bad: Any) -> None:
    with pytest.raises(Rejected) as refusal:
        check_id("tenant_id", bad)
    assert refusal.value.code == "invalid_id"
    assert "tenant_id" in refusal.value.detail, "it says which"


@SETTINGS
@given(st.text(max_size=70))
def test_an_id_is_what_the_contract_says(text: str) -> None:
    good = (
        0 < len(text) <= 63
        and text[0] in LOWER_AND_DIGITS
        and all(character in LOWER_AND_DIGITS + "_-" for character in text)
    )
    if good:
        assert check_id("id", text) == text
    else:
        assert refused(check_id, "id", text) == "invalid_id"


@SETTINGS
@given(st.from_regex(re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII), fullmatch=True))
def test_every_id_of_the_contract_is_good(text: str) -> None:
    assert check_id("id", text) == text


@pytest.mark.parametrize("good", ["a", "_", "add", "Add_2", "__a__", "a" * 128])
def test_a_good_function(good: str) -> None:
    assert check_function(good) is good


@pytest.mark.parametrize("bad", BAD_FUNCTIONS, ids=[ascii(bad)[:20] for bad in BAD_FUNCTIONS])
def test_a_bad_function(bad: Any) -> None:
    assert refused(check_function, bad) == "invalid_id"


@SETTINGS
@given(st.text(max_size=130))
def test_a_function_is_an_ascii_identifier(text: str) -> None:
    if text.isascii() and text.isidentifier() and len(text) <= 128:
        assert check_function(text) == text
    else:
        assert refused(check_function, text) == "invalid_id"


@pytest.mark.parametrize("bad", [bad for bad in BAD_IDS if isinstance(bad, str)], ids=ascii)
def test_no_command_takes_a_bad_id(bad: str) -> None:
    driver = with_tenant()
    before = driver.draft
    deploy = requests.Deploy(TENANT, bad, ServiceSpec())
    for command in (deploy, requests.Kill(TENANT, bad, 0), requests.Restart(TENANT, bad)):
        assert refused(driver.do, command) == "invalid_id"
    assert refused(driver.do, driver.create_tenant(bad)) == "invalid_id"
    assert driver.draft is before


def test_ids_that_look_alike_when_joined_are_apart() -> None:
    driver = Driver()
    for tenant_id, service_id in (("a", "b_c"), ("a_b", "c"), ("a", "b-c"), ("a-b", "c")):
        if tenant_id not in driver.state.tenants:
            driver.do(driver.create_tenant(tenant_id))
        driver.do(requests.Deploy(tenant_id, service_id, ServiceSpec(config={"of": f"{tenant_id}/{service_id}"})))
    assert {
        (tenant.tenant_id, service.service_id): service.spec.config["of"] for tenant, service in driver.state.services()
    } == {("a", "b_c"): "a/b_c", ("a_b", "c"): "a_b/c", ("a", "b-c"): "a/b-c", ("a-b", "c"): "a-b/c"}
