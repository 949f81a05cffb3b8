"""The services of `solo demo`. Owns: their sources. Never: runs here (they are deployed as text, like anybody's)."""

from __future__ import annotations

from typing import Final

_HEAD: Final = """\
import os
import secrets
import signal

import trio

from solo_trio import service


COPY = secrets.token_hex(4)  # the process id is counted inside of the sandbox: two may have the same


@service.export
async def which() -> str:
    return COPY

"""

CALC: Final = (
    _HEAD
    + '''
@service.export
async def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b
'''
)

JOIN: Final = (
    _HEAD
    + '''
@service.export
def add(a: str, b: str) -> str:
    """Join two texts: another tenant's idea of adding."""
    return a + b
'''
)

WORKER: Final = (
    _HEAD
    + '''
done = 0


@service.export
async def progress() -> int:
    return done


@service.export
async def fall() -> None:
    """Crash this process as a defect in a C extension would."""
    os.kill(os.getpid(), signal.SIGSEGV)


async def main(ctx: service.Context) -> None:
    global done
    ctx.log.info("working", copy=COPY, step=ctx.config["step"])
    while True:
        await trio.sleep(0.05)
        done += ctx.config["step"]
'''
)
