"""Caveats. Owns: the conditions that a holder adds to a token, as words and back. Never: checks a signature, reads a clock.

A caveat is one line, `name = value`, so that any macaroon library can add one:

    id = 32 hex digits              random, so that no other attenuation is the same
    resource = service:calc         only this
    permissions = call,read         only these
    service = calc                  only what is about this service
    time < 2026-01-01T00:00:00Z     until then
    rate = 5/10                     5 requests a second, 10 at once

What is not understood refuses everything: a condition of a later version must not be passed over.

A caveat is named after the capability and every caveat up to it (`links`), not after what it says of itself: a holder can name
what he narrowed himself, and nothing else, whatever he writes. Tokens are revoked, and counted against rates, by these names.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from attrs import field, frozen

from solo_trio.errors import Rejected
from solo_trio.model.ids import check_id
from solo_trio.model.instant import read_rfc3339, rfc3339
from solo_trio.model.rights import ALL, PERMISSIONS, check_resource, is_within

CAVEAT_CHARACTERS_MAX: Final = 512
RATE_LEAST: Final = 0.000_001
RATE_MAX: Final = 1_000_000.0
LINK_CHARACTERS: Final = 32
ATTENUATION_ID: Final = re.compile("[0-9a-f]{32}", re.ASCII)
_RATE: Final = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,6})?)/([0-9]{1,7}(?:\.[0-9]{1,6})?)", re.ASCII)


@frozen
class Rate:
    """`requests_per_second` in the long run, `burst` at once; `id`: whose bucket it is."""

    id: str
    requests_per_second: float
    burst: float


@frozen
class Caveats:
    """All conditions of one token together: each of them must hold.

    `ids`: the names of its caveats. Each of `rates` has the name of the caveat that states it.
    """

    ids: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    permissions: frozenset[str] | None = None
    """None: no condition; otherwise those that every one of them names."""
    expires_at_us: int | None = None
    rates: tuple[Rate, ...] = ()
    words: tuple[str, ...] = field(default=(), repr=False)
    """As they were read, in order."""
    of_all: bool = False
    """Permissions were named, other than `ALL`, where no caveat before them names a secret: see `Right.narrowed`."""

    def allow(self, resource: str, permission: str) -> bool:
        return self.allow_permission(permission) and all(is_within(resource, each) for each in self.resources)

    def allow_permission(self, permission: str) -> bool:
        return self.permissions is None or permission in self.permissions or ALL in self.permissions

    def touch(self, kind: str) -> bool:
        """Whether all resources that are named have something of that kind in common with it."""
        return all(each == "tenant" or each == "system" or each.partition(":")[0] == kind for each in self.resources)


NONE: Final = Caveats()


def links(words: tuple[str, ...], capability_id: str) -> tuple[str, ...]:
    """The names of the caveats of a token, in order."""
    names: list[str] = []
    name = capability_id
    for each in words:
        name = hashlib.sha256(f"{name}\n{each}".encode()).hexdigest()[:LINK_CHARACTERS]
        names.append(name)
    return tuple(names)


def read_caveats(words: tuple[str, ...], capability_id: str) -> Caveats | None:
    """The conditions that these words state; None if one of them is not understood."""
    ids = links(words, capability_id)
    resources: list[str] = []
    permissions: frozenset[str] | None = None
    expires_at_us: int | None = None
    rates: list[Rate] = []
    of_all = False
    try:
        for link, each in zip(ids, words, strict=True):
            if len(each) > CAVEAT_CHARACTERS_MAX:
                return None
            name, sign, value = each.split(" ", 2)
            if (name, sign) == ("id", "=") and ATTENUATION_ID.fullmatch(value):
                continue
            if (name, sign) == ("resource", "="):
                resources.append(check_resource(value))
            elif (name, sign) == ("service", "="):
                resources.append(f"service:{check_id('service', value)}")
            elif (name, sign) == ("permissions", "="):
                named = frozenset(value.split(","))
                if not named <= PERMISSIONS | {ALL}:
                    return None
                permissions = _both(permissions, named)
                secret = any(each.startswith("secret:") for each in resources)
                of_all = of_all or not (ALL in named or secret)
            elif (name, sign) == ("time", "<"):
                at_us = read_rfc3339(value)
                expires_at_us = at_us if expires_at_us is None else min(expires_at_us, at_us)
            elif (name, sign) == ("rate", "="):
                rates.append(_rate(value, link))
            else:
                return None
    except (ValueError, Rejected):
        return None
    return Caveats(ids, tuple(resources), permissions, expires_at_us, tuple(rates), words, of_all)


def write_caveats(
    attenuation_id: str,
    *,
    permissions: frozenset[str] | None = None,
    resource: str | None = None,
    expires_at_us: int | None = None,
    rate: tuple[float, float] | None = None,
    service: str | None = None,
) -> tuple[str, ...]:
    """The words of one attenuation, its id first. Raises `Rejected`: invalid_field, invalid_id."""
    words = [f"id = {attenuation_id}"]
    if resource is not None:
        words.append(f"resource = {check_resource(resource)}")
    if service is not None:
        words.append(f"service = {check_id('service', service)}")
    if permissions is not None:
        unknown = permissions - PERMISSIONS - {ALL}
        if unknown or not permissions:
            raise Rejected("invalid_field", f"permissions must be of {', '.join(sorted(PERMISSIONS))}")
        words.append(f"permissions = {','.join(sorted(permissions))}")
    if expires_at_us is not None:
        words.append(f"time < {rfc3339(expires_at_us)}")
    if rate is not None:
        check_rate(*rate)
        words.append(f"rate = {_number(rate[0])}/{_number(rate[1])}")
    if len(words) == 1:
        raise Rejected("invalid_field", "say what to narrow: permissions, resource, service, ttl_s or rate_limit")
    if any(len(each) > CAVEAT_CHARACTERS_MAX for each in words):
        raise Rejected("invalid_field", f"a caveat has at most {CAVEAT_CHARACTERS_MAX} characters")
    return tuple(words)


def check_rate(requests_per_second: float, burst: float) -> None:
    """Raises `Rejected("invalid_field")`."""
    if not (RATE_LEAST <= requests_per_second <= RATE_MAX and 1 <= burst <= RATE_MAX):
        raise Rejected(
            "invalid_field",
            f"rate_limit must allow {RATE_LEAST:f} to {RATE_MAX:.0f} requests a second, and a burst of at least 1",
        )


def _both(one: frozenset[str] | None, other: frozenset[str]) -> frozenset[str]:
    if one is None or ALL in one:
        return other
    return one if ALL in other else one & other


def _rate(text: str, whose: str) -> Rate:
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("not a rate")
    rate = Rate(whose, float(match[1]), float(match[2]))
    check_rate(rate.requests_per_second, rate.burst)
    return rate


def _number(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
