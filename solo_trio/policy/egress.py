"""Egress lists. Owns: what their entries mean, whether one is within another. Never: resolves a name, connects.

    api.example.com:443     that name            *.example.org    any name below example.org, at any depth, not itself
    203.0.113.7:8080        that address         10.0.0.0/8:5432  all addresses of a network
    [2001:db8::1]:443       on IPv6              *                any public name or address

Without a port an entry means ports 80 and 443; `:*` is any port. A name is admitted by a name, an address by an address; what a
name turned out to be is admitted if it is public, or listed as an address beside the name (so a name of somebody's own that is
pointed at 10.0.0.5 reaches nothing). Names are ASCII; an IPv4 address inside an IPv6 one counts as itself.

An operator's list bounds those of all services. In it an entry without a port means every port, `*` is everything but
link-local addresses and those where clouds answer a machine about itself, which must be listed as addresses, and `public` is
what `*` is in a service's list.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from attrs import frozen

from solo_trio.policy.addresses import (
    Address,
    Network,
    all_public,
    holds_metadata,
    inside,
    is_metadata,
    is_public,
    parse_address,
    plain_address,
)

ENTRIES_MAX: Final = 64
ENTRY_CHARACTERS_MAX: Final = 300
PORT_MAX: Final = 65_535
PORTS_DEFAULT: Final = frozenset({80, 443})
LISTS_KEPT_MAX: Final = 4_096
"""Parsed lists that are kept for the next time."""

_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""A last label like this makes it an address to some resolvers ("127.1", "0x7f000001"): no name."""
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)

Kind = Literal["any", "public", "name", "below", "network"]
Ports = frozenset[int] | None
"""None: all of them."""


@frozen
class Rule:
    """One entry. `name` for "name" and "below", `network` for "network"."""

    kind: Kind
    ports: Ports
    name: str = ""
    network: Network | None = None

    def takes_port(self, port: int) -> bool:
        return self.ports is None or port in self.ports

    def takes_name(self, name: str) -> bool:
        if self.kind in ("any", "public"):
            return True
        return self.name == name if self.kind == "name" else self.kind == "below" and name.endswith(f".{self.name}")

    def takes_address(self, address: Address) -> bool:
        if self.kind == "any":
            return not is_metadata(address)
        if self.kind == "public":
            return is_public(address)
        network = self.network
        return network is not None and network.version == address.version and address in network

    def covers(self, other: Rule) -> bool:
        """Whether all that `other` may reach is within this one, ports aside."""
        if other.kind == "network":
            assert other.network is not None
            if self.kind == "any":
                return not holds_metadata(other.network)
            if self.kind == "public":
                return all_public(other.network)
            return self.network is not None and inside(other.network, self.network)
        if self.kind == "any" or (self.kind == "public" and other.kind != "any"):
            return True
        if other.kind == "name":
            return self.takes_name(other.name)
        return other.kind == "below" and self.kind == "below" and f".{other.name}".endswith(f".{self.name}")

    def __str__(self) -> str:
        host = {"any": "*", "public": "*", "name": self.name, "below": f"*.{self.name}"}.get(self.kind)
        if self.network is not None:
            alone = self.network.num_addresses == 1
            host = str(self.network.network_address if alone else self.network)
            host = f"[{host}]" if self.network.version == 6 else host
        if self.ports is None:
            return f"{host}:*"
        return f"{host}:{next(iter(self.ports))}" if len(self.ports) == 1 else f"{host}"


@frozen
class EgressList:
    """Parsed entries, in order."""

    rules: tuple[Rule, ...] = ()

    def admits_name(self, name: str, port: int) -> bool:
        """Whether `name` (as `host_name` gives it) may be looked up at all."""
        return any(rule.takes_port(port) and rule.takes_name(name) for rule in self.rules)

    def admits_address(self, address: Address, port: int, *, named: bool) -> bool:
        """Whether `address` may be connected to; `named`: a name that is admitted led to it."""
        if named and is_public(address):
            return True
        return any(rule.takes_port(port) and rule.takes_address(address) for rule in self.rules)

    def lists_address(self, address: Address, port: int) -> bool:
        """Whether it is listed as an address, alone or in a network."""
        return any(
            rule.kind == "network" and rule.takes_port(port) and rule.takes_address(address) for rule in self.rules
        )

    def covers(self, rule: Rule) -> bool:
        """Whether `rule` is within the list: for each of its ports within one entry."""
        if rule.ports is None:
            return any(each.ports is None and each.covers(rule) for each in self.rules)
        return all(any(each.takes_port(port) and each.covers(rule) for each in self.rules) for port in rule.ports)


@frozen
class Reach:
    """What one service may reach at one moment: what its own list and the operator's both admit."""

    own: EgressList = EgressList()
    allowed: EgressList = EgressList()

    def admits_name(self, name: str, port: int) -> bool:
        return self.own.admits_name(name, port) and self.allowed.admits_name(name, port)

    def admits_address(self, address: Address, port: int, *, named: bool) -> bool:
        address = plain_address(address)
        return self.own.admits_address(address, port, named=named) and self.allowed.admits_address(
            address, port, named=named
        )

    def admits(self, host: str, address: Address, port: int) -> bool:
        """Whether a connection that was asked for as `host` may be to `address`."""
        if parse_address(host) is not None:
            return self.admits_address(address, port, named=False)
        return self.admits_name(host, port) and self.admits_address(address, port, named=True)

    def lists_address(self, address: Address, port: int) -> bool:
        return self.own.lists_address(plain_address(address), port)


NOWHERE: Final = Reach()


@functools.lru_cache(LISTS_KEPT_MAX)
def service_list(entries: tuple[str, ...]) -> EgressList:
    """The list of a service. Raises ValueError with a sentence."""
    return EgressList(tuple(parse(entry) for entry in entries))


@functools.lru_cache(LISTS_KEPT_MAX)
def operator_list(entries: tuple[str, ...]) -> EgressList:
    """The list of the operator. Raises ValueError with a sentence."""
    return EgressList(tuple(parse(entry, operator=True) for entry in entries))


def canonical(entries: Iterable[str]) -> tuple[str, ...]:
    """The entries as they are stored: each once, in order, in one spelling. Raises ValueError with a sentence."""
    return tuple(dict.fromkeys(str(parse(entry)) for entry in entries))


def refused(entries: Sequence[str], allowed: EgressList) -> list[str]:
    """Those of a service's entries that are not within what the operator allows."""
    return [entry for entry in entries if not allowed.covers(parse(entry))]


def host_name(text: str) -> str | None:
    """A host as lists compare it: lower case, without a last dot; an address in one spelling. None: it is neither."""
    if len(text) > ENTRY_CHARACTERS_MAX:
        return None
    address = parse_address(text)
    if address is not None:
        return str(address)
    name = text.lower().removesuffix(".")
    if not text.isascii() or _NAME.fullmatch(name) is None or _NUMBER.fullmatch(name.rpartition(".")[2]):
        return None
    return name


def parse(entry: str, *, operator: bool = False) -> Rule:
    """One entry. Raises ValueError with a sentence that names it."""
    if not isinstance(entry, str) or not 0 < len(entry) <= ENTRY_CHARACTERS_MAX:
        raise ValueError(f"an entry is a text like api.example.com:443, of at most {ENTRY_CHARACTERS_MAX} characters")
    host, port = _split(entry)
    ports = _ports(entry, port, None if operator else PORTS_DEFAULT)
    if host == "*":
        return Rule("any" if operator else "public", ports)
    if host == "public" and operator:
        return Rule("public", ports)
    network = _network(entry, host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    if network is not None:
        return Rule("network", ports, network=network)
    below = host.startswith("*.")
    name = host_name(host.removeprefix("*."))
    if name is None or (below and parse_address(name) is not None):
        raise ValueError(
            f"{_shown(entry)} is neither a name nor an address: write api.example.com:443, *.example.com, 203.0.113.7:8080,"
            " 10.0.0.0/8:5432 or [2001:db8::1]:443 (names in ASCII, without a scheme or a path)"
        )
    return Rule("below" if below else "name", ports, name)


def _split(entry: str) -> tuple[str, str | None]:
    """Host and port; an address of IPv6 may go without brackets if there is no port."""
    if entry.startswith("["):
        host, bracket, rest = entry.partition("]")
        if bracket and (not rest or rest.startswith(":")):
            return host + bracket, rest[1:] if rest else None
        return entry, None
    if entry.count(":") != 1:
        return entry, None
    host, _, port = entry.partition(":")
    return host, port


def _ports(entry: str, port: str | None, default: Ports) -> Ports:
    if port is None:
        return default
    if port == "*":
        return None
    if _PORT.fullmatch(port) is None or int(port) > PORT_MAX:
        raise ValueError(f"the port of {_shown(entry)} must be a number between 1 and {PORT_MAX}, or *")
    return frozenset({int(port)})


def _network(entry: str, host: str) -> Network | None:
    if "%" in host:
        return None
    try:
        network = ipaddress.ip_network(host)
    except ValueError:
        if "/" in host and parse_address(host.partition("/")[0]) is not None:
            raise ValueError(
                f"{_shown(entry)} is no network: write its first address, like 10.1.2.0/24, or one address without the /"
            ) from None
        return None
    mapped = isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped
    if mapped and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _shown(entry: str) -> str:
    return repr(entry[:80])[1:-1]
