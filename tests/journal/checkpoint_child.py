"""A kernel that keeps its state after every few events while it deploys and kills, until it is killed: DATA SEED INTERVAL."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import trio

from solo_trio.embedding import Kernel, Tenant
from solo_trio.operations.settings import Settings

NAMES = [f"s{number}" for number in range(6)]


async def idle(ctx: Any) -> None:
    await trio.sleep_forever()


def say(text: str) -> None:
    print(text, flush=True)


async def work(tenant: Tenant, chance: random.Random) -> None:
    """Deploy what is not there, kill what is; say each before it is asked and once it is acknowledged."""
    there = {each["service_id"] for each in await tenant.services()}
    while True:
        name = chance.choice(NAMES)
        about = f"{tenant.tenant_id}/{name}"
        say(f"ask {about}")
        if name in there:
            await tenant.kill(name)
            there.discard(name)
            say(f"gone {about}")
        else:
            await tenant.deploy(name, idle)
            there.add(name)
            say(f"there {about}")


async def main(data: Path, seed: int, interval: int) -> None:
    settings = Settings(checkpoint_interval_events=interval, boot_loop_starts=0)
    async with Kernel.open(data, callables={"idle": idle}, settings=settings) as kernel:
        await kernel.wait_recovered()
        report = kernel.system.core.report
        assert report is not None
        say(f"start {report.checkpoint or 0} {report.replayed} {report.failed} {report.pending}")
        async with trio.open_nursery() as nursery:
            for number in range(3):
                tenant = await kernel.tenant(f"t{number}")
                nursery.start_soon(work, tenant, random.Random(seed * 10 + number))


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
