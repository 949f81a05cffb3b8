"""Admission. Owns: what it adds to a request: a place among those in flight, a token of each bucket. Never: refuses anybody.

The floor is what nobody who limits use can leave out: a counter up and down, and for each bucket one refill, one comparison and
one subtraction, with plain numbers in a dictionary. Beside it stands a whole request (without the gateway).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import trio
from attrs import evolve
from capabilities import SETTINGS, narrowed, timed
from figures import heading, spread

from solo_trio.client import attenuate
from solo_trio.embedding import Kernel
from solo_trio.model.capability import Authority
from solo_trio.operations.caller import System, authenticate
from solo_trio.operations.perform import OPERATIONS, Request, perform

LOOKS = 5_000
RATES = (0, 1, 4)
"""Buckets of the token, beside the tenant's."""
RATE = 1_000_000.0
"""A second, and at once: nobody is refused."""


def bare(buckets: int) -> Callable[[], object]:
    """The arithmetic alone."""
    kept = dict.fromkeys(range(buckets), (RATE, 0.0))
    in_flight = {"tenant": 0}

    def compute() -> None:
        in_flight["tenant"] += 1
        now = perf_counter()
        for number, (tokens, at) in kept.items():
            refilled = min(RATE, tokens + (now - at) * RATE)
            if refilled >= 1:
                kept[number] = (refilled - 1, now)
        in_flight["tenant"] -= 1

    return compute


def enter(system: System, authority: Authority) -> Callable[[], object]:
    def through() -> None:
        with system.admission.place(authority):
            pass

    return through


async def measure(directory: Path) -> None:
    heading("admission: for each request (floor: its arithmetic with plain numbers)")
    settings = evolve(SETTINGS, requests_per_second=RATE, burst=int(RATE))
    async with Kernel.open(directory / "admission", settings=settings) as kernel:
        system = kernel.system
        await kernel.tenant("t0")
        tenant = system.core.loop.state.tenants["t0"]
        own = system.keyring.mint(tenant.key_id, tenant.capability_id).reveal_text()
        for rates in RATES:
            token = own
            for _ in range(rates):
                token = attenuate(token, rate_limit=(RATE, RATE))
            authority = authenticate(system, token)
            floor, ours = [], []
            arithmetic, place = bare(1 + rates), enter(system, authority)
            for look in range(LOOKS):
                if look % 100 == 0:
                    await trio.lowlevel.checkpoint()
                floor.append(timed(arithmetic))
                ours.append(timed(place))
            spread(f"a place, {1 + rates} buckets", ours, {"arithmetic": floor})
        request, operation = Request(token=narrowed(own, 1)), OPERATIONS["list_services"]
        spent = []
        for _ in range(LOOKS // 5):
            await trio.lowlevel.checkpoint()
            began = perf_counter()
            await perform(system, operation, request)
            spent.append(perf_counter() - began)
        place = enter(system, authenticate(system, narrowed(own, 1)))
        spread("a whole request", spent, {"its admission": [timed(place) for _ in range(LOOKS)]})
