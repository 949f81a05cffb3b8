"""How much of it. Owns: places for requests in flight, rates of tenants and capabilities, guesses of tokens. Never: who may.

Every gateway's requests come through `Admission.place`, after the credential is known and before anything is done for it: a
place among those in flight (`policy.shedding`), one token of every bucket of the chain (`policy.bucket`). Nothing of it is
recorded on the request's path: `run` tells about shedding and circuits, and a restart begins with empty buckets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

import trio

from solo_trio.errors import Faulted, SoloError
from solo_trio.kernel.core import Core
from solo_trio.kernel.staging import Submission
from solo_trio.model.capability import Authority
from solo_trio.model.tenant import TenantState
from solo_trio.model.use import EndShedding, LoadShed, ReportShedding
from solo_trio.operations.buckets import Buckets, Named
from solo_trio.operations.circuits import Circuits
from solo_trio.operations.settings import Settings
from solo_trio.policy.shedding import Load, Places, Refused, Shedding

FAILURES_PER_S: Final = 50.0
FAILURES_BURST: Final = 1_000.0
"""Wrong credentials of one address (of IPv6: one network of 64 bits); beyond that they are told to wait. A right one never is:
it would lock out whoever shares an address. Tokens have 256 bits; what is bounded here is what guessing costs the kernel. These
buckets begin full, because no guess is worth a restart."""
FAILURES_ALL_PER_S: Final = 500.0
FAILURES_ALL_BURST: Final = 10_000.0
PEERS_MAX: Final = 4_096
RETRY_AFTER_S: Final = 1
"""For a place: they come free as requests end."""
RETRY_AFTER_S_MAX: Final = 3_600
LOOK_S: Final = 1.0
"""Between two looks at shedding that goes on."""
SECONDS_PER_MINUTE: Final = 60


class Admission:
    """Of one kernel. `circuits`: of its services."""

    def __init__(self, core: Core, settings: Settings) -> None:
        self.circuits = Circuits(core, self._stir, settings.call_timeout_s)
        self.places = Places(settings.max_in_flight, settings.max_in_flight_per_tenant)
        self.load = Load()
        self.refused: Counter[str] = Counter()
        """Since the start, by code."""
        self._core = core
        self._settings = settings
        now = trio.current_time()
        self._buckets = Buckets(now)
        self._guesses = Buckets(now, per_owner_max=PEERS_MAX, total_max=PEERS_MAX, begin_full=True)
        self._shedding: dict[str | None, Shedding] = {}
        self._stirred = trio.Event()

    # -- on the request's path

    def expect(self, authority: Authority) -> None:
        """Refuse now what `place` would: for a gateway to ask before it spends anything on the body. Raises `Faulted`."""
        tenant = self._tenant(authority)
        _, refused = self._enter(authority, tenant)
        if refused is not None:
            raise self._shed(authority, refused)
        self._check(self._buckets.wait_s(self._chain(authority, tenant), trio.current_time()))

    @contextmanager
    def place(self, authority: Authority) -> Iterator[None]:
        """A place among the requests in flight. Raises `Faulted`: overloaded, rate_limited."""
        tenant = self._tenant(authority)
        load, refused = self._enter(authority, tenant)
        if refused is not None:
            raise self._shed(authority, refused)
        self._check(self._buckets.take(self._chain(authority, tenant), trio.current_time()))
        self.load = load
        try:
            yield
        finally:
            self.load = self.load.leave(authority.incarnation)

    def guessed(self, peer: str | None) -> None:
        """A credential was no good. Raises `Faulted("rate_limited")` if too many were lately."""
        chain = [
            Named("guesses", ("all",), FAILURES_ALL_PER_S, FAILURES_ALL_BURST),
            Named("guesses", ("of", _network(peer)), FAILURES_PER_S, FAILURES_BURST),
        ]
        wait_s = self._guesses.take(chain, trio.current_time())
        if wait_s > 0:
            self.refused["rate_limited"] += 1
            raise _rate_limited("too many wrong credentials came from there: use a right one, or wait", wait_s)

    def _tenant(self, authority: Authority) -> TenantState | None:
        return self._core.loop.state.tenants.get(authority.tenant_id or "")

    def _enter(self, authority: Authority, tenant: TenantState | None) -> tuple[Load, Refused | None]:
        own = None if tenant is None else tenant.limits.in_flight
        return self.load.enter(authority.incarnation, self.places, own)

    def _chain(self, authority: Authority, tenant: TenantState | None) -> list[Named]:
        """The tenant's own bucket, those of the capability and its attenuations."""
        owner, settings, chain = authority.incarnation, self._settings, []
        if tenant is not None and (rate := rate_of(tenant, settings)) is not None:
            chain.append(Named(owner, (), *rate))
        if settings.rate_limit_per_capability and not authority.is_system and authority.capability_id is not None:
            burst = float(settings.rate_limit_per_capability)
            chain.append(Named(owner, (authority.capability_id,), burst / SECONDS_PER_MINUTE, burst))
        for each in authority.rates(self._core.loop.state):
            # A holder may write a rate of his own under somebody else's id: the numbers keep the two apart.
            name = (each.id, each.requests_per_second, each.burst)
            chain.append(Named(owner, name, each.requests_per_second, each.burst))
        return chain

    def _check(self, wait_s: float) -> None:
        if wait_s > 0:
            self.refused["rate_limited"] += 1
            raise _rate_limited("send fewer requests in a second, or have the limit raised", wait_s)

    def _shed(self, authority: Authority, reason: Refused) -> Faulted:
        self.refused["overloaded"] += 1
        who, now = authority.incarnation, trio.current_time()
        shedding = self._shedding.get(who)
        self._shedding[who] = Shedding.first(reason, now) if shedding is None else shedding.again(reason, now)
        self._stir()
        why = "too many requests of the tenant are" if reason == "tenant" else "too many requests are"
        return Faulted(
            "overloaded",
            f"{why} in flight: wait for some of them, then send it again",
            retry_after_s=RETRY_AFTER_S,
        )

    # -- beside it

    def _stir(self) -> None:
        self._stirred.set()

    async def run(self) -> None:
        """Record when shedding begins and ends, and circuits open and close, until the kernel closes."""
        await self._report(EndShedding())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            await self._core.closed.wait()
            nursery.cancel_scope.cancel()

    async def _tell(self) -> None:
        while True:
            if not self._shedding:  # otherwise its end is to be looked for
                await self._stirred.wait()
            self._stirred = trio.Event()
            reports: list[Any] = [*self.circuits.news(), *self._shedding_news(trio.current_time())]
            async with trio.open_nursery() as nursery:  # together, so that they are one transaction
                for each in reports:
                    nursery.start_soon(self._report, each)
            with trio.move_on_after(LOOK_S):
                await self._stirred.wait()
                await trio.sleep(LOOK_S)

    def _shedding_news(self, now: float) -> list[ReportShedding]:
        reports, ids = [], {tenant.incarnation: each for each, tenant in self._core.loop.state.tenants.items()}
        for who, before in list(self._shedding.items()):
            after, news = before.look(now)
            if after is None or (who is not None and who not in ids):
                del self._shedding[who]
            else:
                self._shedding[who] = after
            tenant_id = None if who is None else ids.get(who)
            reports += [
                ReportShedding(tenant_id, who, tuple(LoadShed(told.phase, told.refused, told.reason) for told in news))
            ]
        return [each for each in reports if each.shed]

    async def _report(self, command: Any) -> None:
        try:
            await self._core.loop.report(Submission(command))
        except SoloError as error:
            self._core.telemetry.note("the kernel could not record what it refused", error=str(error))

    def view(self) -> dict[str, Any]:
        """For `GET /system`."""
        return {
            "in_flight": self.load.total,
            "max_in_flight": self.places.total,
            "tenants_in_flight": len(self.load.counts),
            "shedding": sum(each.told for each in self._shedding.values()),
            "circuits": self.circuits.view(),
            "buckets": len(self._buckets),
            "refused": {code: self.refused[code] for code in ("overloaded", "rate_limited")},
        }


def rate_of(tenant: TenantState, settings: Settings) -> tuple[float, float] | None:
    """Requests a second and burst of a tenant; None: as many as it likes. A rate of its own comes with a burst of its own:
    what it may send in a second, if it is not said.
    """
    limits = tenant.limits
    rate = settings.requests_per_second if limits.requests_per_second is None else limits.requests_per_second
    if rate <= 0:
        return None
    if limits.burst is not None:
        return rate, float(limits.burst)
    return rate, float(settings.burst) if limits.requests_per_second is None else max(1.0, rate)


def _rate_limited(detail: str, wait_s: float) -> Faulted:
    return Faulted("rate_limited", detail, retry_after_s=min(RETRY_AFTER_S_MAX, max(1, math.ceil(wait_s))))


def _network(peer: str | None) -> str:
    """What is one guesser: an address, or what one subscriber has of IPv6."""
    try:
        address = ip_address(peer or "")
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or int(address) >> 64)
    return str(address)
