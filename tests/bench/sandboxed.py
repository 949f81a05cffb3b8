"""The sandbox. Owns: seconds from asking for a service to its first line, crowds of them, what a neighbour notices of bombs.

The floor of a spawn is a fork and exec of a Python that does nothing; of a crowd, as many bare forks that are alive at once; of
the neighbour's calls, the same calls while nothing else runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio
import trio.lowlevel
from deploys import SETTINGS
from figures import heading, percentile, rounds, seconds, spread
from floors import fork_and_exec, fork_together
from many import child

from solo_trio.bootstrap import LOCKS_DIRECTORY
from solo_trio.embedding import Kernel, Tenant
from solo_trio.errors import SoloError
from solo_trio.ports import Launch
from solo_trio.runtimes.process import ProcessRuntime, Sandboxing
from solo_trio.runtimes.tenant_lock import take_over

SPAWNS = 100
EXECS = 20
CROWDS = {"1000 services in one tenant": (1_000, 1), "100 tenants x 10 services": (1_000, 100)}
QUIET_S = 5.0
CALLS_PER_S = 100
PAUSE_S = 0.15
"""Between spawns: time enough for another sandbox to be made in advance."""
NEIGHBOUR = "from solo_trio import service\n@service.export\nasync def add(a, b):\n    return a + b\n"
BOMBS = {
    "processor": "import trio\nasync def main(ctx):\n    while True:\n        pass\n",
    "memory": "async def main(ctx):\n    kept = []\n    while True:\n        kept.append(bytearray(1 << 20))\n",
    "threads": (
        "import threading, trio, time\nasync def main(ctx):\n    while True:\n        try:\n"
        "            threading.Thread(target=time.sleep, args=(60,)).start()\n        except RuntimeError:\n"
        "            await trio.sleep(0.01)\n"
    ),
    "output": "async def main(ctx):\n    while True:\n        print('x' * 4000)\n",
    "files": (
        "async def main(ctx):\n    number = 0\n    while True:\n        number += 1\n        try:\n"
        "            open(f'{number % 5000}', 'wb').write(b'x' * 65536)\n        except OSError:\n            pass\n"
    ),
    "crash": "async def main(ctx):\n    import ctypes\n    ctypes.string_at(0)\n",
}
BOMB_S = 4.0


async def measure(directory: Path) -> None:
    await _neighbour(directory)
    await _spawns(directory)
    await _crowds(directory)


async def _nothing(*_: Any, **__: Any) -> None:
    return None


async def _spawns(directory: Path) -> None:
    heading(f"{SPAWNS} starts of a sandboxed service until it is ready (floor: fork and exec of Python)")
    floor = await trio.to_thread.run_sync(fork_and_exec, EXECS)
    for name, spares, pause_s in (("forked for it", 0, 0.0), ("made in advance", 32, PAUSE_S)):
        runtime = ProcessRuntime(directory / name.replace(" ", "_"), Sandboxing(spares=spares))
        try:
            found = await _timed_starts(runtime, pause_s)
        finally:
            await runtime.close(trio.current_time() + 10)
        spread(f"  {name}", found, {"exec": floor})


async def _timed_starts(runtime: ProcessRuntime, pause_s: float) -> Sequence[float]:
    found: list[float] = []
    async with trio.open_nursery() as nursery:
        for number in range(SPAWNS + 2):
            launch = Launch(
                tenant_id="t",
                incarnation="ab" * 8,
                service_id=f"s{number}",
                version=1,
                generation=1,
                entry="source",
                source=NEIGHBOUR,
                config={},
                limits={"memory_mb": 128.0},
                log=lambda *_: None,
                outgoing=_nothing,
            )
            began = time.perf_counter()
            running = await runtime.start(launch, nursery)
            await running.ready.wait()
            if number >= 2:  # the first starts the tenant's zygote
                found.append(time.perf_counter() - began)
            running.kill()
            await running.ended.wait()
            await trio.sleep(pause_s)
    return found


async def _crowds(directory: Path) -> None:
    heading("crowds of sandboxed services (floor: as many bare forks, alive at once)")
    for name, (count, tenants) in CROWDS.items():
        data = directory / f"crowd_{tenants}"
        try:
            floor = [fork_together(count)]
            started = child(data, "process", "deploy", count, tenants)
            await take_over(data / LOCKS_DIRECTORY, 30.0)
            recovered = child(data, "process", "recover", count, tenants)
            await take_over(data / LOCKS_DIRECTORY, 30.0)
            stopped = child(data, "process", "stop", count, tenants)
        finally:
            await take_over(data / LOCKS_DIRECTORY, 30.0)
        print(f"  {name}", flush=True)
        rounds("start, all at once, until ready", [started["seconds"]], floor)
        rounds("recovery after kill -9", [recovered["seconds"]], floor)
        rounds("stop, all at once, until gone", [stopped["seconds"]], floor)
        print(
            f"    {recovered['ready']} ready after the recovery; {seconds(recovered['seconds'] / count)} a service; "
            f"memory outside the kernel {started['outside_bytes'] / 1_048_576:.2f} MiB a service, "
            f"of one process {started['service_bytes'] / 1_048_576:.2f} MiB",
            flush=True,
        )


async def _neighbour(directory: Path) -> None:
    heading(f"a neighbour in another tenant, called {CALLS_PER_S} times a second (floor: while nothing else runs)")
    async with Kernel.open(directory / "neighbour", settings=SETTINGS) as kernel:
        good, bad = await kernel.tenant("good"), await kernel.tenant("bad")
        await good.deploy("calc", source=NEIGHBOUR)
        await _calls(good, 1.0)
        quiet = await _calls(good, QUIET_S)
        for name, source in BOMBS.items():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_explode, bad, name, source)
                await trio.sleep(0.3)
                found = await _calls(good, BOMB_S)
                nursery.cancel_scope.cancel()
            spread(f"  while it has a bomb of {name}", found, {"quiet p99": [percentile(quiet, 99)]})
            await bad.kill(name, force=True)


async def _explode(tenant: Tenant, name: str, source: str) -> None:
    try:
        await tenant.deploy(name, source=source, limits={"memory_mb": 256, "threads": 32, "disk_mb": 16})
    except SoloError:
        await trio.lowlevel.checkpoint()


async def _calls(tenant: Tenant, duration_s: float) -> list[float]:
    """Seconds that each call took; one that is late counts from when it was due."""
    found: list[float] = []
    start = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def one(due: float) -> None:
            assert await tenant.call("calc", "add", 1, 2) == 3
            found.append(trio.current_time() - due)

        for number in range(int(duration_s * CALLS_PER_S)):
            due = start + number / CALLS_PER_S
            await trio.sleep_until(due)
            nursery.start_soon(one, due)
    return found
