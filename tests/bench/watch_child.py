"""A server of many watchers: DATA kernel|bare WATCHERS. Says one line of JSON with its port, then obeys lines on standard
input: "tell COUNT PER_SECOND" (records so many events), "usage" (says processor seconds and memory).

`bare` is the floor: plain sockets, each event written to each of them, and nothing else.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from solo_trio.embedding import Kernel
from solo_trio.kernel.staging import Submission
from solo_trio.model.capability import EMBEDDER
from solo_trio.model.checkpoint import RecordCheckpoint
from solo_trio.operations.settings import Settings

LINE_MAX = 1_000
FILLER_BYTES = 170
"""As long as the kernel's frames are then."""


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def usage() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"cpu_s": used.ru_utime + used.ru_stime, "rss_bytes": pages * resource.getpagesize()}


async def obey(tell: Any) -> None:
    buffer = b""
    async with trio.lowlevel.FdStream(0) as commands:
        while data := await commands.receive_some(LINE_MAX):
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                word, *numbers = line.decode().split()
                if word == "usage":
                    say(usage())
                else:
                    await at_rate(tell, *map(int, numbers))
                    say("told")


async def at_rate(tell: Any, count: int, per_second: int) -> None:
    began = trio.current_time()
    for number in range(count):
        await trio.sleep_until(began + number / per_second)
        await tell()


async def kernel(data: Path, watchers: int) -> None:
    settings = Settings(max_streams=2 * watchers, max_connections=2 * watchers + 100)
    async with Kernel.open(data, settings=settings) as opened, trio.open_nursery() as nursery:
        url = await nursery.start(lambda task_status: opened.serve(port=0, task_status=task_status))
        say({"port": int(url.rsplit(":", 1)[1]), "token": (data / "admin.token").read_text().strip()})

        async def tell() -> None:
            await opened.system.core.loop.submit(
                Submission(RecordCheckpoint(0, 0), EMBEDDER)
            )  # changes next to nothing

        await obey(tell)
        nursery.cancel_scope.cancel()


async def bare(watchers: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=watchers)
    say({"port": listener.getsockname()[1], "token": ""})
    sockets = [listener.accept()[0] for _ in range(watchers)]
    for each in sockets:
        each.setblocking(False)
    filler = "x" * FILLER_BYTES

    async def tell() -> None:
        data = b'{"event":{"id":1,"at_s":%.6f,"payload":"%s"}}\n' % (time.time(), filler.encode())
        for each in sockets:
            with suppress(BlockingIOError):
                each.send(data)

    await obey(tell)


if __name__ == "__main__":
    directory, kind, count = sys.argv[1:]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trio.run(kernel, Path(directory), int(count)) if kind == "kernel" else trio.run(bare, int(count))
