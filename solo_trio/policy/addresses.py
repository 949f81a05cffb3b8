"""Addresses that are not the public internet. Owns: the table of special ranges. Never: resolves, connects.

Written out rather than asked of `ipaddress`, whose `is_global` differs between versions of Python. From the IANA registries of
special-purpose addresses; what is no global unicast of IPv6 (2000::/3) is never public.
"""

from __future__ import annotations

import ipaddress
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(each)
    for each in (
        "169.254.0.0/16",  # link-local: 169.254.169.254 and its neighbours give out the machine's credentials
        "168.63.129.16/32",  # Azure
        "100.100.100.200/32",  # Alibaba Cloud
        "192.0.0.192/32",  # Oracle Cloud
        "fe80::/10",
        "fd00:ec2::/32",  # EC2, on IPv6
        "fd20:ce::254/128",  # Google Cloud, on IPv6
    )
)
"""Link-local and where clouds answer a machine about itself."""
_SPECIAL: Final[tuple[Network, ...]] = METADATA + tuple(
    ipaddress.ip_network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address of any kind inside
        "3fff::/20",
    )
)
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
"""RFC 8215: translators of somebody's own, with prefixes of any length."""
_6TO4: Final = ipaddress.IPv6Network("2002::/16")


def plain_address(address: Address) -> Address:
    """`address`, or the IPv4 address that it stands for: ::ffff:10.0.0.1 is 10.0.0.1."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def parse_address(text: str) -> Address | None:
    """The address that `text` writes, plain; None for a name. An interface (`fe80::1%eth0`) makes it none."""
    try:
        return None if "%" in text else plain_address(ipaddress.ip_address(text))
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether it is on the internet that everybody sees."""
    return all(_is_plainly_public(each) for each in _stands_for(plain_address(address)))


def _is_plainly_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _SPECIAL if network.version == address.version)


def is_metadata(address: Address) -> bool:
    """Whether it is link-local, or where clouds answer a machine about itself."""
    return any(
        each in network
        for each in _stands_for(plain_address(address))
        for network in METADATA
        if network.version == each.version
    )


def all_public(network: Network) -> bool:
    """Whether every address of `network` is public."""
    if isinstance(network, ipaddress.IPv6Network) and not network.subnet_of(_GLOBAL_UNICAST):
        return False
    return not any(_overlap(network, special) for special in _SPECIAL)


def holds_metadata(network: Network) -> bool:
    """Whether some address of `network` is link-local, or a cloud's."""
    return any(_overlap(network, each) for each in (*METADATA, _NAT64, _NAT64_LOCAL, _6TO4))


def inside(network: Network, outer: Network) -> bool:
    """Whether all of `network` is in `outer`; never of another version."""
    if isinstance(network, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return network.subnet_of(outer)
    if isinstance(network, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return network.subnet_of(outer)
    return False


def _overlap(one: Network, other: Network) -> bool:
    return inside(one, other) or inside(other, one)


def _stands_for(address: Address) -> tuple[Address, ...]:
    """Where a translator or a tunnel may really connect to: all that can be read out of the address, and mostly itself."""
    if not isinstance(address, ipaddress.IPv6Address):
        return (address,)
    bits = int(address)
    if address in _NAT64:
        return (_ipv4(bits),)
    if address in _6TO4:
        return (address, _ipv4(bits >> 80))
    if address in _NAT64_LOCAL:
        # RFC 6052, 2.2: with a prefix of 96, 64, 56 or 48 bits; bits 64 to 71 are left out.
        by_56 = (bits >> 64 & 0xFF) << 24 | bits >> 32 & 0xFF_FFFF
        by_48 = (bits >> 64 & 0xFFFF) << 16 | bits >> 40 & 0xFFFF
        return (address, _ipv4(bits), _ipv4(bits >> 24), _ipv4(by_56), _ipv4(by_48))
    return (address,)


def _ipv4(bits: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(bits & 0xFFFF_FFFF)
