"""Capabilities. Owns: seconds to authenticate a token, cold and warm, and to restore ten thousand after a crash.

The floor of a token is the bare chain of HMACs over the same bytes: what nobody who verifies a macaroon can leave out. Cold is
a tenant's first token after a start: its root key is unwrapped. The floor of restoring is reading the same rows raw.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import trio
from figures import heading, rounds, seconds, spread
from floors import read_all

from solo_trio.bootstrap import DATABASE_FILE
from solo_trio.client import attenuate
from solo_trio.embedding import Kernel
from solo_trio.model.capability import Authority
from solo_trio.operations.caller import Caller, System, authenticate
from solo_trio.operations.capabilities import CreateCapabilityInput, create_capability
from solo_trio.operations.settings import Settings
from solo_trio.vault.macaroon import deserialize

TENANTS = 200
WARM_LOOKS = 20
"""At each token."""
DEPTHS = (0, 1, 4)
"""How often a token was narrowed."""
GRANTED = 10_000
AT_ONCE = 256
ROUNDS = 3
SETTINGS = Settings(max_tenants=1_000, spare_sandboxes=0)


def timed(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return perf_counter() - began


def chain(token: str) -> Callable[[], object]:
    """The HMACs of verifying it, and nothing else."""
    macaroon = deserialize(token)

    def compute() -> bytes:
        signature = hmac.digest(
            hmac.digest(b"macaroons-key-generator", bytes(32), "sha256"), macaroon.identifier, "sha256"
        )
        for predicate in macaroon.caveats:
            signature = hmac.digest(signature, predicate, hashlib.sha256)
        return signature

    return compute


def narrowed(token: str, times: int) -> str:
    for _ in range(times):
        token = attenuate(token, permissions=["read"], ttl_s=3_600)
    return token


async def grant(system: System, count: int) -> None:
    tenant = system.core.loop.state.tenants["t0"]
    authority = Authority(tenant.capability_id, "t0", tenant.incarnation)
    caller = Caller(system, authority, "t0", tenant.incarnation)

    async def some(first: int) -> None:
        for number in range(first, count, AT_ONCE):
            await create_capability(caller, CreateCapabilityInput(resource=f"service:s{number}", permissions=["read"]))

    async with trio.open_nursery() as nursery:
        for first in range(AT_ONCE):
            nursery.start_soon(some, first)


async def crashed_with(data: Path, count: int) -> float:
    """Seconds to grant so many; the kernel is cancelled then, which is a crash."""
    spent = 0.0
    with trio.CancelScope() as scope:
        async with Kernel.open(data, settings=SETTINGS) as kernel:
            await kernel.tenant("t0")
            began = perf_counter()
            await grant(kernel.system, count)
            spent = perf_counter() - began
            scope.cancel()
            await trio.sleep_forever()
    return spent


async def measure(directory: Path) -> None:
    heading("tokens: authenticate one (floor: the HMACs of its chain)")
    data = directory / "tokens"
    tokens: list[str] = []
    async with Kernel.open(data, settings=SETTINGS) as kernel:
        for number in range(TENANTS):
            await kernel.tenant(f"t{number}")
            tenant = kernel.system.core.loop.state.tenants[f"t{number}"]
            tokens.append(kernel.system.keyring.mint(tenant.key_id, tenant.capability_id).reveal_text())
    async with Kernel.open(data, settings=SETTINGS) as kernel:
        system = kernel.system
        floor = [timed(chain(token)) for token in tokens]
        cold = [timed(lambda token=token: authenticate(system, token)) for token in tokens]  # type: ignore[misc]
        spread("cold, not narrowed", cold, {"chain": floor})
        for times in DEPTHS:
            some = [narrowed(token, times) for token in tokens]
            warm, floor = [], []
            for _ in range(WARM_LOOKS):
                await trio.lowlevel.checkpoint()
                floor += [timed(chain(token)) for token in some]
                warm += [timed(lambda token=token: authenticate(system, token)) for token in some]  # type: ignore[misc]
            spread(f"warm, narrowed {times} times", warm, {"chain": floor})

    heading(f"{GRANTED} capabilities: recovery after a crash (floor: the same rows read raw)")
    data = directory / "many"
    spent = await crashed_with(data, GRANTED)
    ours, folding, floor = [], [], []
    for _ in range(ROUNDS):
        read, rows = read_all(data / DATABASE_FILE)
        floor.append(read)
        with trio.CancelScope() as scope:
            began = perf_counter()
            async with Kernel.open(data, settings=SETTINGS) as kernel:
                await kernel.wait_recovered()
                ours.append(perf_counter() - began)
                report = kernel.system.core.report
                assert report is not None and len(kernel.system.core.loop.state.capabilities) == GRANTED + 2
                folding.append(report.replay_s)
                scope.cancel()
                await trio.sleep_forever()
    rounds("start", ours, floor)
    rounds("  of that, folding the log", folding, floor)
    print(
        f"    {len(rows)} events in the log; granted in {seconds(spent)}, {seconds(spent / GRANTED)} each", flush=True
    )
