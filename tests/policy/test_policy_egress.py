"""Egress lists: what an entry means, what a list admits, what an operator's list covers."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.policy.addresses import (
    all_public,
    holds_metadata,
    is_metadata,
    is_public,
    parse_address,
    plain_address,
)
from solo_trio.policy.egress import (
    NOWHERE,
    EgressList,
    Reach,
    canonical,
    host_name,
    operator_list,
    parse,
    refused,
    service_list,
)

LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join).filter(lambda name: host_name(name) == name)
PORTS = st.integers(1, 65_535)
ADDRESSES = st.ip_addresses().map(plain_address)
NETWORKS = st.builds(
    lambda address, bits: (
        ipaddress.ip_network((int(address), bits % (address.max_prefixlen + 1)), False)
        if address.version == 4
        else ipaddress.IPv6Network((int(address), bits % 129), False)
    ),
    ADDRESSES,
    st.integers(0, 128),
)


def text_of(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return f"[{network}]" if network.version == 6 else str(network)


HOSTS = st.one_of(NAMES, NAMES.map("*.{}".format), NETWORKS.map(text_of), st.just("*"))
ENTRIES = st.builds(
    lambda host, port: f"{host}{port}", HOSTS, st.one_of(st.just(""), st.just(":*"), PORTS.map(":{}".format))
)
CEILINGS = st.lists(st.one_of(ENTRIES, st.just("public")), max_size=4).map(tuple)


@given(ENTRIES)
def test_one_spelling(entry: str) -> None:
    [once] = canonical([entry])
    assert canonical([once]) == (once,) and parse(once) == parse(entry)
    assert canonical([entry, once, entry.upper()]) == (once,)


@pytest.mark.parametrize(
    ("entry", "stored"),
    [
        ("API.Example.com.:443", "api.example.com:443"),
        ("api.example.com", "api.example.com"),
        ("10.0.0.5/32:5432", "10.0.0.5:5432"),
        ("[::ffff:10.0.0.5]:1", "10.0.0.5:1"),
        ("2001:DB8::0:1", "[2001:db8::1]"),
        ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
        ("*", "*"),
        ("*:*", "*:*"),
        ("*.Example.org", "*.example.org"),
        ("_dmarc.example.org:53", "_dmarc.example.org:53"),
    ],
)
def test_spellings(entry: str, stored: str) -> None:
    assert canonical([entry]) == (stored,)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        "https://example.com",
        "example.com/path",
        "a b",
        "ex*mple.com",
        "*.*.com",
        "a.*.com",
        "*example.com",
        ".a",
        "a..b",
        "-a.com",
        "a-.com",
        "a" * 64 + ".com",
        "b\u00fccher.example",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0x7f000001",
        "010.0.0.1",
        "256.0.0.1",
        "1.2.3",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "[::1",
        "::1]:80",
        "[fe80::1%eth0]:80",
        "fe80::1%1",
        "[example.com]x:1",
        "a:0",
        "a:65536",
        "a:-1",
        "a:+1",
        "a:080",
        "a:1e3",
        "a:\u0661",
        "a:",
        "a:1:2",
        "user@host",
        "a\n",
        "a\0b",
        "*.10.0.0.1",
        "a." * 127 + "abc",
        "x" * 400,
    ],
)
def test_what_is_no_entry(entry: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(entry)


@given(st.text(max_size=40))
def test_any_text_is_an_entry_or_a_value_error(text: str) -> None:
    try:
        stored = str(parse(text))
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert stored.isascii() and parse(stored) == parse(text)


# -- names


def test_wildcards_are_for_what_is_below() -> None:
    listed = service_list(("*.example.org:443",))
    for name in ("a.example.org", "a.b.example.org"):
        assert listed.admits_name(name, 443) and not listed.admits_name(name, 80)
    for name in ("example.org", "aexample.org", "example.org.evil.test", "org", "a.example.orgx"):
        assert not listed.admits_name(name, 443)


def test_ports() -> None:
    assert [port for port in (80, 443, 8080) if service_list(("a.test",)).admits_name("a.test", port)] == [80, 443]
    assert service_list(("a.test:*",)).admits_name("a.test", 8080)
    assert not service_list(("a.test:81",)).admits_name("a.test", 80)


@given(NAMES, PORTS, st.lists(ENTRIES, max_size=4))
def test_names_are_admitted_by_names(name: str, port: int, entries: list[str]) -> None:
    listed = service_list(tuple(entries))
    literal = EgressList(tuple(rule for rule in listed.rules if rule.kind == "network"))
    assert not literal.admits_name(name, port)
    assert not NOWHERE.admits(name, ipaddress.ip_address("93.184.216.34"), port)


# -- addresses


SPECIAL = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "100.100.100.200",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "::7f00:1",
]
PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "64:ff9b::808:808",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("text", SPECIAL)
def test_what_is_not_public(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert not is_public(address)
    reach = Reach(service_list(("*:*", "a.test:*")), operator_list(("*",)))
    assert not reach.admits("a.test", address, 443) and not reach.admits(str(plain_address(address)), address, 443)


@pytest.mark.parametrize(
    "text",
    [
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2002:a83f:8110::",
        "64:ff9b:1::a9fe:a9fe",  # RFC 6052, 2.2: behind a prefix of 96 bits,
        "64:ff9b:1:fffe::a9fe:a9fe",
        "64:ff9b:1:2:a9:fea9:fe00:0",  # of 64,
        "64:ff9b:1:a9:fe:a9fe::",  # of 56,
        "64:ff9b:1:a9fe:a9:fe00::",  # of 48
    ],
)
def test_metadata_is_known_in_every_disguise(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert is_metadata(address) and not is_public(address)
    everything = operator_list(("*",))
    assert not Reach(service_list((f"[{text}]:80",)), everything).admits(text, address, 80)
    assert refused([f"[{text}]:80"], everything) == [f"[{text}]:80"]
    assert refused([f"[{text}]:80"], operator_list(("*", f"[{text}]"))) == []


@pytest.mark.parametrize("text", PUBLIC)
def test_what_is_public(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert is_public(address) and not is_metadata(address)
    assert Reach(service_list(("a.test:1",)), operator_list(("*",))).admits("a.test", address, 1)
    assert Reach(service_list(("*:1",)), operator_list(("public",))).admits(str(plain_address(address)), address, 1)


@given(ADDRESSES)
def test_public_is_no_more_than_python_thinks_is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(address) and address not in ipaddress.ip_network("64:ff9b::/96"):
        assert not (address.is_private or address.is_loopback or address.is_link_local or address.is_multicast)


def test_a_private_address_must_be_listed_beside_the_name() -> None:
    inside, allowed = ipaddress.ip_address("10.0.0.5"), operator_list(("*",))
    assert not Reach(service_list(("db.test:5432",)), allowed).admits("db.test", inside, 5432)
    assert Reach(service_list(("db.test:5432", "10.0.0.0/8:5432")), allowed).admits("db.test", inside, 5432)
    assert not Reach(service_list(("db.test:5432", "10.0.0.5:80")), allowed).admits("db.test", inside, 5432)
    assert not Reach(service_list(("10.0.0.5:5432",)), allowed).admits("db.test", inside, 5432)
    assert Reach(service_list(("10.0.0.5:5432",)), allowed).admits("10.0.0.5", inside, 5432)
    assert Reach(service_list(("10.0.0.5:5432",)), allowed).admits(
        "10.0.0.5", ipaddress.ip_address("::ffff:10.0.0.5"), 5432
    )


def test_metadata_needs_the_operator() -> None:
    asked = ("169.254.169.254:80",)
    address = ipaddress.ip_address("169.254.169.254")
    assert refused(asked, operator_list(("*",))) == list(asked)
    assert refused(("0.0.0.0/0:80",), operator_list(("*",))) == ["0.0.0.0/0:80"]
    assert not Reach(service_list(asked), operator_list(("*",))).admits(str(address), address, 80)
    assert not refused(asked, operator_list(("*", "169.254.169.254")))
    assert Reach(service_list(asked), operator_list(("169.254.0.0/16",))).admits(str(address), address, 80)


# -- the operator


@given(st.lists(ENTRIES, max_size=3), CEILINGS, NAMES, ADDRESSES, PORTS)
def test_what_is_covered_is_admitted(
    entries: list[str],
    ceiling: tuple[str, ...],
    name: str,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
) -> None:
    allowed = operator_list(ceiling)
    granted = [entry for entry in canonical(entries) if not refused([entry], allowed)]
    own = service_list(tuple(granted))
    if own.admits_name(name, port):
        assert allowed.admits_name(name, port)
    if own.admits_address(address, port, named=False):
        assert allowed.admits_address(address, port, named=False)


@given(NETWORKS, st.data())
def test_networks_as_a_whole(network: ipaddress.IPv4Network | ipaddress.IPv6Network, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, network.num_addresses - 1))
    address = network[place]
    if all_public(network):
        assert is_public(address)
    if not holds_metadata(network):
        assert not is_metadata(address)


def test_what_operators_write() -> None:
    asked = ("api.example.org", "*.example.org:8080", "10.0.0.5:5432", "8.8.8.8:53", "*:443")
    for ceiling, left in {
        (): asked,
        ("*",): (),
        ("public",): ("10.0.0.5:5432",),
        ("*.example.org",): ("10.0.0.5:5432", "8.8.8.8:53", "*:443"),
        ("*.example.org:443", "10.0.0.0/8"): ("api.example.org", "*.example.org:8080", "8.8.8.8:53", "*:443"),
        ("public:443",): ("api.example.org", "*.example.org:8080", "10.0.0.5:5432", "8.8.8.8:53"),
    }.items():
        assert tuple(refused(asked, operator_list(ceiling))) == left, ceiling


def test_an_address_in_any_spelling() -> None:
    assert parse_address("::FFFF:1.2.3.4") == parse_address("1.2.3.4") and parse_address("fe80::1%eth0") is None
    assert host_name("::ffff:1.2.3.4") == "1.2.3.4" and host_name("Example.COM.") == "example.com"
    assert [host_name(text) for text in ("127.1", "a.0x1", "", "a b", "b\u00fccher.de", "x" * 400)] == [None] * 6
