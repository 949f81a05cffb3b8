"""A kernel that is going to be killed: DATA KIND deploy|recover COUNT TENANTS. Says one line of JSON when all is ready."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter

import trio
from deploys import SETTINGS, SOURCE, idle

from solo_trio.embedding import Kernel, Tenant


async def deploy_one(tenant: Tenant, kind: str, service_id: str) -> None:
    if kind == "task":
        await tenant.deploy(service_id, idle)
    else:
        await tenant.deploy(service_id, source=SOURCE.decode())


async def main(data: Path, kind: str, action: str, count: int, tenants: int) -> None:
    began = perf_counter()
    async with Kernel.open(data, callables={"idle": idle}, settings=SETTINGS) as kernel:
        said: dict[str, float] = {}
        if action == "deploy":
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    tenant = await kernel.tenant(f"t{number % tenants}")
                    nursery.start_soon(deploy_one, tenant, kind, f"s{number}")
        else:
            await kernel.wait_recovered()
            report = kernel.system.core.report
            assert report is not None
            said = {"ready": report.ready, "replay_seconds": report.replay_s, "seconds": perf_counter() - began}
        print(json.dumps(said), flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    directory, kind, action, count, tenants = sys.argv[1:]
    trio.run(main, Path(directory), kind, action, int(count), int(tenants))
