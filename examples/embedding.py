"""Solo inside a Trio application: one trusted task, one service in a process of its own.

    python examples/embedding.py [DATA]

Run it twice: the second time, recovery has both running before `deploy` is called, and an equal deployment is left alone.
"""

from __future__ import annotations

import sys

import trio

from solo_trio import Kernel, service

SOURCE = '''
from solo_trio import service

@service.export
async def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b
'''


async def ticker(ctx: service.Context) -> None:
    """Trusted: runs as a task in the tenant's nursery, and may call the tenant's other services."""
    ticks = 0
    while True:
        ticks += 1
        ctx.log.info("tick", ticks=ticks)
        await trio.sleep(0.1)


async def main(data: str) -> None:
    async with Kernel.open(data, callables={"ticker": ticker}) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("agent_1")
        print("recovered:", [f"{each['service_id']} {each['status']}" for each in await tenant.services()])
        await tenant.deploy("ticker", ticker)
        await tenant.deploy("calc", source=SOURCE)
        print("2 + 3 =", await tenant.call("calc", "add", 2, 3))
        for each in await tenant.services():
            print(f"{each['service_id']}: {each['status']}, version {each['version']}, a {each['isolation']}")
    print("closed; what was deployed stays wanted, and runs again with the next kernel on this directory")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "data")
