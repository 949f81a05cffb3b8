"""A kernel that is going to be killed: DATA. Two tenants with three services each; says a line when all are ready."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run with -I

import trio

from solo_trio.embedding import Kernel

SOURCE = """
import trio
from solo_trio import service
@service.export
async def ping():
    return "pong"
async def main(ctx, task_status):
    with open("/scratch/file", "w") as file:
        file.write("mine")
    task_status.started()
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
"""
TENANTS = ("one", "two")
SERVICES = ("a", "b", "c")


async def main() -> None:
    async with Kernel.open(sys.argv[1]) as kernel:
        for tenant_id in TENANTS:
            tenant = await kernel.tenant(tenant_id)
            for service_id in SERVICES:
                await tenant.deploy(service_id, source=SOURCE)
        print("ready", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
