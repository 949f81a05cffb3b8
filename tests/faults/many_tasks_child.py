"""A kernel with many task services: `python many_tasks_child.py DATA COUNT`. Says `deployed` when all run, then waits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import trio

from solo_trio import Kernel
from solo_trio.operations.settings import Settings

TENANTS: Final = 4
AT_ONCE: Final = 50
SETTINGS: Final = Settings(boot_loop_starts=0, max_per_tenant=1_000)


async def idle(ctx: Any) -> None:
    await trio.sleep_forever()


def name(number: int) -> tuple[str, str]:
    return f"t{number % TENANTS}", f"s{number}"


async def main(data: Path, count: int) -> None:
    async with Kernel.open(data, callables={"idle": idle}, settings=SETTINGS) as kernel:
        tenants = {f"t{number}": await kernel.tenant(f"t{number}") for number in range(TENANTS)}

        async def deploy(first: int) -> None:
            for number in range(first, count, AT_ONCE):
                tenant_id, service_id = name(number)
                await tenants[tenant_id].deploy(service_id, idle)

        async with trio.open_nursery() as nursery:
            for first in range(AT_ONCE):
                nursery.start_soon(deploy, first)
        print("deployed", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
