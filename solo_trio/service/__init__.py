"""What deployed code imports. Owns: the names a service may use. Never: imports the kernel, or anything but Trio.

from solo_trio import service

@service.export
async def add(a: float, b: float) -> float:
    return a + b

async def main(ctx: service.Context) -> None:
    ctx.log.info("started", version=ctx.version)
"""

from __future__ import annotations

from solo_trio.service.calling import Caller, CallError, caller
from solo_trio.service.context import Context, Log
from solo_trio.service.module import export

__all__ = ["CallError", "Caller", "Context", "Log", "caller", "export"]
