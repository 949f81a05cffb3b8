"""Turns at stretching passphrases: so many of a tenant, one tenant after the other, and whoever gives up makes room."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio.errors import Faulted
from solo_trio.kernel import derivations
from solo_trio.kernel.derivations import DERIVATIONS_MAX, DERIVATIONS_TENANT_MAX, Derivations


async def test_tenants_have_turns_one_after_the_other(autojump_clock: MockClock) -> None:
    turns, order, most = Derivations(), [], 0

    async def one(whose: str) -> None:
        nonlocal most
        async with turns.turn(whose):
            order.append(whose)
            most = max(most, turns._working)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for whose in ("a", "b", "c"):
            for _ in range(DERIVATIONS_TENANT_MAX):
                nursery.start_soon(one, whose)
            await wait_all_tasks_blocked()
    rounds = ["".join(sorted(order[at : at + 2])) for at in range(0, len(order), 2)]  # of two at once either is first
    assert rounds == ["aa", "ab", "ac", "bc", "bc", "bc"]
    assert most == DERIVATIONS_MAX
    assert (turns._waiting, turns._places, turns._working) == ({}, {}, 0)


async def test_places_are_bounded(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivations, "DERIVATIONS_WAITING_MAX", DERIVATIONS_TENANT_MAX + 1)
    turns = Derivations()

    async def one(whose: str) -> None:
        async with turns.turn(whose):
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(DERIVATIONS_TENANT_MAX):
            nursery.start_soon(one, "a")
        await wait_all_tasks_blocked()
        with pytest.raises(Faulted, match="overloaded"):
            await one("a")
        nursery.start_soon(one, "b")
        await wait_all_tasks_blocked()
        with pytest.raises(Faulted, match="overloaded"):
            await one("c")
    await one("a")


async def test_who_gives_up_or_fails_makes_room(autojump_clock: MockClock) -> None:
    turns = Derivations()
    for _ in range(3):
        async with trio.open_nursery() as nursery:

            async def one(whose: str) -> None:
                async with turns.turn(whose):
                    await trio.sleep(60)

            for whose in ("a", "b", "a"):
                nursery.start_soon(one, whose)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with pytest.raises(ValueError, match="it failed"):
            async with turns.turn("a"):
                raise ValueError("it failed")
    assert (turns._waiting, turns._places, turns._working) == ({}, {}, 0)
