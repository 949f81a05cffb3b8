"""What simulated services do. Owns: sources that stand for a behaviour, the plan of each start. Never: remembers anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio

from solo_trio.errors import Faulted, SoloError
from solo_trio.ports import Ending, Launch
from solo_trio.testing import Plan

CRASHED: Final = Ending("crashed", "exit status 1", "ValueError: simulated", exit_code=1)
LOST: Final = Ending("lost", "its sandbox is gone")
UNLOADABLE: Final = Ending("load_failed", "SyntaxError: simulated", "SyntaxError: simulated")
VARIANTS: Final = 3
"""Sources of each behaviour, which differ in nothing but their digest."""


async def answer(launch: Launch, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a call of any simulated service comes to."""
    if function == "slow":
        await trio.sleep(float(args[0]))
        return "slow"
    if function == "secret":
        try:
            return await launch.secret(str(args[0]))
        except SoloError as error:
            return error.code
    if function == "relay":
        try:
            return await launch.outgoing(str(args[0]), "echo", [1], {}, 5.0, None)
        except SoloError as error:
            return error.code
    if function == "raise":
        raise Faulted("call_failed", "it raised", error_type="ValueError", message="simulated")
    return list(args)


def _stop(chance: random.Random) -> dict[str, float]:
    """How it takes a request to stop, and being killed."""
    if chance.random() < 0.15:
        return {"dies_s": chance.choice((0.0, 0.5, 3.0))}  # deaf
    return {"stops_s": chance.choice((0.0, 0.05, 1.0)), "dies_s": chance.choice((0.0, 0.0, 0.5))}


def _ready(chance: random.Random) -> float:
    return chance.choice((0.0, 0.05, 0.4))


def steady(chance: random.Random, number: int) -> Plan:
    return Plan(ready_s=_ready(chance), answer=answer, **_stop(chance))


def slow(chance: random.Random, number: int) -> Plan:
    """Sometimes too slow."""
    return Plan(starts_s=chance.choice((0.0, 1.0)), ready_s=chance.uniform(0.5, 6.5), answer=answer, **_stop(chance))


def crasher(chance: random.Random, number: int) -> Plan:
    ends_s = chance.expovariate(1 / 15.0)
    return Plan(ready_s=_ready(chance), ends_s=ends_s, ending=CRASHED, answer=answer, **_stop(chance))


def loop(chance: random.Random, number: int) -> Plan:
    """Ready, and gone."""
    return Plan(ready_s=0.0, ends_s=chance.choice((0.0, 0.01, 0.3)), ending=CRASHED, answer=answer, **_stop(chance))


def completes(chance: random.Random, number: int) -> Plan:
    return Plan(ready_s=0.0, ends_s=chance.uniform(0, 20), ending=Ending("completed", "main returned"), answer=answer)


def rots(chance: random.Random, number: int) -> Plan:
    """Loads at first, and one day no more."""
    if number > 1 and chance.random() < 0.4:
        return Plan(ready_s=9.0, ends_s=0.1, ending=UNLOADABLE)
    return crasher(chance, number)


def liar(chance: random.Random, number: int) -> Plan:
    """Ends without a word, is ready when it has ended, ends before it was ready, dies long after it was killed."""
    how = chance.randrange(4)
    if how == 0:
        return Plan(ready_s=0.0, ends_s=chance.uniform(0, 5), ending=None, ready_after_end=True)
    if how == 1:
        return Plan(ready_s=3.0, ends_s=1.0, ending=CRASHED, ready_after_end=True)
    if how == 2:
        return Plan(ready_s=0.0, ends_s=chance.uniform(0, 20), ending=LOST, ready_after_end=True, answer=answer)
    return Plan(ready_s=0.1, dies_s=8.0, answer=answer)


def unavailable(chance: random.Random, number: int) -> Plan:
    if chance.random() < 0.4:
        return Plan(starts_s=chance.choice((0.0, 0.5)), available=False)
    return crasher(chance, number)


def never(chance: random.Random, number: int) -> Plan:
    return Plan(ready_s=1e9, **_stop(chance))


BEHAVIOURS: Final[dict[str, Callable[[random.Random, int], Plan]]] = {
    each.__name__: each for each in (steady, slow, crasher, loop, completes, rots, liar, unavailable, never)
}
_LIKELY: Final = (steady, steady, steady, crasher, crasher, slow, loop, completes, rots, liar, unavailable, never)


def source(chance: random.Random) -> str:
    behaviour = chance.choice(_LIKELY).__name__
    return f"# {behaviour} {chance.randrange(VARIANTS)}\n"


def steady_source(number: int = 0) -> str:
    return f"# steady {number}\n"


def behaviour_of(launch: Launch) -> str:
    assert isinstance(launch.source, str)
    return launch.source.split()[1]
