"""A kernel that removes a tenant and is killed at one step of it: `python removal_child.py DATA STEP`.

It prints the incarnation that it removes. The steps are what a kernel asks of the world, one after the other; SIGKILL comes
when one is done (or, for `asked`, before the first).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from solo_trio import Kernel
from solo_trio.journal.sqlite import SqliteJournal
from solo_trio.runtimes.process import ProcessRuntime
from solo_trio.runtimes.tenant_files import TenantFiles
from solo_trio.telemetry.service_logs import ServiceLogFiles

CALM = """
from solo_trio import service
print("calm says hello")

@service.export
def pid():
    import os
    return os.getpid()
"""
DEAF = """
import trio

async def main(ctx):
    print("deaf says hello")
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
"""
ENDS = {
    "forget": (ProcessRuntime, "forget"),
    "logs": (ServiceLogFiles, "forget"),
    "erase": (TenantFiles, "erase"),
    "events": (SqliteJournal, "erase"),
    "sweep": (SqliteJournal, "sweep"),
}
STEPS = ("asked", "tenant_removal_started", "grace", "service_stopped", "forget", "tenant_removed", *list(ENDS)[1:])
CANARY = "the canary of its configuration"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_after(method: Callable[..., Awaitable[Any]], when: Callable[..., bool] = lambda *_: True) -> Any:
    async def with_an_end(self: Any, *args: Any, **more: Any) -> Any:
        result = await method(self, *args, **more)
        if when(*args):
            die()
        return result

    return with_an_end


async def main(data: Path, step: str) -> None:
    async with Kernel.open(data) as kernel:
        other = await kernel.tenant("other")
        await other.deploy("calm", source=CALM)
        tenant = await kernel.tenant("gone")
        await tenant.deploy("calm", source=CALM, config={"key": CANARY})
        await tenant.deploy("deaf", source=DEAF)
        await tenant.set_secret("password", "the canary")
        for name in ("calm", "deaf"):
            while not await tenant.logs(name):  # noqa: ASYNC110 - what it says comes through a pipe
                await trio.sleep(0.01)
        print(kernel.system.core.loop.state.tenants["gone"].incarnation, flush=True)
        if step == "asked":
            die()
        elif step in ENDS:
            where, name = ENDS[step]
            setattr(where, name, killed_after(getattr(where, name)))
        elif step != "grace":
            SqliteJournal.append = killed_after(  # type: ignore[method-assign]
                SqliteJournal.append, lambda events, *_: step in {event.type for event in events}
            )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: kernel.remove_tenant("gone", grace_s=600 if step == "grace" else 0.2))
            if step == "grace":
                while len(kernel.system.core.tenants["gone"].supervisors) != 1:  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.01)
                die()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
