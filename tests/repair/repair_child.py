"""A process that a test kills, or that kills itself."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio
from repair_rig import Asked, work

from solo_trio.bootstrap import repair_data
from solo_trio.embedding import Kernel


async def live_and_die(data: Path) -> None:
    async with Kernel.open(data) as kernel:
        await work(kernel, 2)
        os.kill(os.getpid(), signal.SIGKILL)


async def repair(data: Path) -> None:
    await repair_data(data, Asked(answer=True), lambda what: None)


CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link"}


def die_at(step: int, data: Path) -> None:
    """Kill this process before its `step`-th change of a file in `data`, or of a file that it opens there to write."""
    left = step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not opens and event not in CHANGES:
            return
        if not any(str(data) in str(each) for each in arguments[:2]):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        die_at(int(sys.argv[3]), Path(sys.argv[1]))
    trio.run({"live_and_die": live_and_die, "repair": repair}[sys.argv[2]], Path(sys.argv[1]))
