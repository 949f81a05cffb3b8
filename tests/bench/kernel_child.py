"""A kernel that is going to be killed: DATA KIND deploy|recover|stop COUNT TENANTS. Says one line of JSON when it is done."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import trio
from deploys import SETTINGS, SOURCE, idle

from solo_trio.embedding import Kernel, Tenant
from solo_trio.runtimes import procfs

LOOKS = 100


async def deploy_one(tenant: Tenant, kind: str, service_id: str) -> None:
    if kind == "task":
        await tenant.deploy(service_id, idle)
    else:
        await tenant.deploy(service_id, source=SOURCE.decode())


async def all_at_once(calls: list[Callable[[], Awaitable[Any]]]) -> float:
    """Seconds until each of them is answered."""
    began = perf_counter()
    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(call)  # type: ignore[arg-type]
    return perf_counter() - began


async def timed(call: Callable[[], Awaitable[Any]]) -> float:
    """The median of many, one after the other."""
    times = []
    for _ in range(LOOKS):
        began = perf_counter()
        await call()
        times.append(perf_counter() - began)
    return median(times)


def own_bytes(pid: int) -> int:
    """Memory that no other process shares (USS), from /proc/PID/smaps_rollup."""
    found = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            found += int(line.split()[1]) * 1_024
    return found


async def deploy(kernel: Kernel, kind: str, count: int, tenants: int) -> dict[str, float]:
    handles = [await kernel.tenant(f"t{number}") for number in range(tenants)]
    before = own_bytes(os.getpid())
    calls = [
        lambda number=number: deploy_one(handles[number % tenants], kind, f"s{number}")  # type: ignore[misc]
        for number in range(count)
    ]
    start = await all_at_once(calls)
    grown = own_bytes(os.getpid()) - before
    others = [own_bytes(pid) for pid in procfs.descendants(os.getpid())]
    return {
        "seconds": start,
        "status": await timed(lambda: handles[0].status("s0")),
        "list": await timed(handles[0].services),
        "kernel_bytes": grown / count,
        "service_bytes": median(others) if others else 0.0,
        "outside_bytes": sum(others) / count,
    }


async def main(data: Path, kind: str, action: str, count: int, tenants: int) -> None:
    began = perf_counter()
    async with Kernel.open(data, callables={"idle": idle}, settings=SETTINGS) as kernel:
        if action == "deploy":
            said = await deploy(kernel, kind, count, tenants)
        else:
            await kernel.wait_recovered()
            report = kernel.system.core.report
            assert report is not None
            said = {"ready": report.ready, "replay_seconds": report.replay_s, "seconds": perf_counter() - began}
        if action == "stop":
            handles = [await kernel.tenant(f"t{number}") for number in range(tenants)]
            calls = [
                lambda number=number: handles[number % tenants].kill(f"s{number}")  # type: ignore[misc]
                for number in range(count)
            ]
            said = {"seconds": await all_at_once(calls)}
        print(json.dumps(said), flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    directory, kind, action, count, tenants = sys.argv[1:]
    trio.run(main, Path(directory), kind, action, int(count), int(tenants))
