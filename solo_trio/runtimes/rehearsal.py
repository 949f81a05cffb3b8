"""Before there is any service. Owns: living through the life of one, in the ancestor. Never: runs what was deployed.

Python makes much only when it is first used: specialised bytecode, caches of look-ups, compiled patterns. What was made before
the fork is made once and shared; after it, each service would make it for itself, in memory that it shares until it writes.
So the ancestor hosts a service of its own a few times. That takes 1.1 ms and 130 pages off the start of every service.

A sandbox that waits runs Trio once more: what that writes to is then copied already. It takes a fifth to a third off the start
of whatever comes to live there, and leaves it 0.2 MiB larger; a whole life would take little more off, for three times as much.
"""

from __future__ import annotations

import linecache
import socket
import sys
from typing import Final

import trio
import trio.lowlevel

from solo_trio.runtimes import wire
from solo_trio.runtimes.host import MODULE_NAME, Link, live

LIVES: Final = 3
"""Python specialises what has run twice; more brings nothing that can be measured."""
SOURCE: Final = b"""
from solo_trio import service
import trio

@service.export
async def add(a, b):
    return a + b

async def main(ctx):
    ctx.log.info("started", version=ctx.version)
    await trio.sleep_forever()
"""
"""What most services do in their first milliseconds."""


def rehearse() -> None:
    for _ in range(LIVES):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            _prompt(ours)
            link = Link()
            link.attach(theirs)
            if live(link) != 0:
                raise RuntimeError(f"the rehearsal failed: {ours.recv(wire.LAST_WORD_BYTES_MAX)!r}")
    del sys.modules[MODULE_NAME]
    linecache.clearcache()


def warm_up() -> None:
    """Raises OSError where there are too few descriptors for it."""
    trio.run(_turn)


async def _turn() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)


def _prompt(kernel: socket.socket) -> None:
    """All that the kernel would say, in advance: it waits in the socket."""
    end = wire.Wire("kernel")
    hello = wire.Hello("tenant", "rehearsal", 1, 1, "process", {}, 1, SOURCE)
    for message in (hello, wire.Call(1, "add", [1, 2], {}, {}), wire.Stop()):
        kernel.sendall(end.send(message))
