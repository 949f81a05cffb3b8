"""Bombs, and setting them off. Owns: what each does, what its ending must say. Never: judges.

All go off in one run, one after the other; each is small enough for the machine to survive if nothing stops it.
"""

from __future__ import annotations

import textwrap
import traceback
from pathlib import Path
from typing import Any

import trio

from solo_trio.ports import Launch, Running
from solo_trio.runtimes.process import ProcessRuntime, Sandboxing

RUN_S_MAX = 240.0
BOMB_S_MAX = 60.0
"""On a machine that is busy with other tests; alone each takes less than two."""
ANSWER_S_MAX = 10.0
LIMITS = {"memory_mb": 64, "threads": 16, "fds": 48, "disk_mb": 4, "cpu_seconds": 10}
PING = """
    from solo_trio import service
    @service.export
    async def ping():
        return "pong"
"""
KILLED = "for its memory_mb"
MEMORY = f"MemoryError|{KILLED}"
BOMBS: dict[str, tuple[str, str]] = {
    # name: what it does (512 MiB at most), what its ending and its lines say
    "memory_of_a_list": ("kept = []\nfor _ in range(512): kept.append(bytearray(1 << 20))", MEMORY),
    "memory_at_once": ("[0] * (1 << 40)", MEMORY),
    "memory_of_private_pages": (
        "import mmap\nfound = mmap.mmap(-1, 512 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nfill(found)",
        f"Cannot allocate memory|{MEMORY}",
    ),
    "memory_of_shared_pages": (
        "import mmap\nfill(mmap.mmap(-1, 512 << 20))",
        KILLED,
    ),
    "memory_of_many_threads": (
        """
        import threading
        threading.stack_size(32 << 20)
        stop = threading.Event()
        def use():
            here = bytearray(4 << 20)
            stop.wait()
        for _ in range(100): threading.Thread(target=use, daemon=True).start()
        """,
        f"can't start new thread|{MEMORY}",
    ),
    "threads": (
        """
        import threading
        stop = threading.Event()
        threading.stack_size(128 << 10)
        started = 0
        try:
            for _ in range(1000):
                threading.Thread(target=stop.wait, daemon=True).start()
                started += 1
        finally:
            print("threads", started, "few" if started < 16 else "many")
        """,
        r"(?s)can't start new thread.*threads \d+ few",
    ),
    "fork": ("import os\nfor _ in range(1000): os.fork()", "PermissionError"),
    "descriptors": ("import os\nkept = [os.pipe() for _ in range(10_000)]", "Too many open files"),
    "buffers_of_sockets": (
        """
        import socket
        kept, total = [], 0
        while True:
            one, other = socket.socketpair()
            kept += [one, other]
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
            try:
                while True: total += one.send(bytes(1 << 16))
            except BlockingIOError:
                pass
            assert total < 64 << 20, "too much"
        """,
        f"Too many open files|{MEMORY}",
    ),
    "bytes_of_its_directory": (
        """
        for number in range(64):
            with open(f"/scratch/{number}", "wb") as file: file.write(bytes(1 << 20))
        """,
        "No space left on device",
    ),
    "files_of_its_directory": (
        "import os\nfor number in range(1_000_000): os.close(os.open(f'/scratch/{number}', os.O_CREAT | os.O_WRONLY))",
        "No space left on device",
    ),
    "directories_in_directories": (
        "import os\nfor number in range(100_000): os.mkdir('deeper'); os.chdir('deeper')",
        "No space left on device",
    ),
    "one_large_file": (
        "with open('/scratch/file', 'wb') as file:\n    file.truncate(1 << 40)",
        "File too large|No space left on device",
    ),
    "processor": ("while True: pass", "SIGXCPU"),
    "output": (
        """
        import os, time
        until = time.monotonic() + 1
        while time.monotonic() < until: os.write(1, b"y" * 65_536)
        """,
        "completed",
    ),
    "output_without_an_end_of_line": (
        """
        import os, time
        until = time.monotonic() + 1
        while time.monotonic() < until: os.write(2, bytes(65_536))
        """,
        "completed",
    ),
    "frames": (
        """
        import time
        until = time.monotonic() + 1
        while time.monotonic() < until: ctx.log.info("x" * 1000, number=1)
        """,
        "completed",
    ),
    "no_frames_at_all": ("import os\nwhile True: os.write(3, b'\\xff' * 65_536)", "broke the protocol"),
    "descriptors_sent": (
        """
        import os, socket, struct
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=4i", 0, 1, 2, 3))]
        with socket.socket(fileno=os.dup(3)) as sock:
            frame = b'{"kind":"log","level":"info","message":"m","fields":{}}'
            for _ in range(200): sock.sendmsg([struct.pack("!I", len(frame)) + frame], rights)
        """,
        "completed|broke the protocol",
    ),
    "recursion": ("def deeper(): return deeper() + 1\ndeeper()", "RecursionError"),
    "recursion_without_a_limit": (
        """
        import sys
        sys.setrecursionlimit(2**31 - 1)
        def deeper(_): return sorted([1], key=deeper)
        deeper(0)
        """,
        f"SIGSEGV|RecursionError|{MEMORY}",
    ),
    "recursion_in_native_code": (
        """
        import ctypes, sys
        sys.setrecursionlimit(2**31 - 1)
        prototype = ctypes.CFUNCTYPE(None)
        def deeper(): prototype(deeper)()
        deeper()
        """,
        f"SIGSEGV|RecursionError|{MEMORY}",
    ),
    "recursion_of_a_parser": ("import json\njson.loads('[' * 1_000_000)", "RecursionError"),
    "recursion_of_the_compiler": (
        "compile('(' * 100_000, 'x', 'eval')",
        "SyntaxError|MemoryError|RecursionError|SIGSEGV",
    ),
    "pattern": ("import re, sys\nre.match(r'(a*)*b', 'a' * 100_000)", f"SIGXCPU|{MEMORY}"),
    "crash_in_native_code": ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
    "abort": ("import os\nos.abort()", "SIGABRT"),
    "killed_by_itself": ("import os\nos.kill(os.getpid(), 9)", "SIGKILL"),
    "illegal_instruction": ("import os, signal\nos.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
}
COUNTED = {"memory_of_shared_pages"}
"""Let off only where control groups count memory: no rlimit does."""
LASTING = {"processor", "output", "output_without_an_end_of_line", "frames", "pattern"}
ANSWERS_LEAST = 10
"""From neighbours while it lasts, a second or so."""
SHORT = {"processor", "pattern"}
"""Those that are to run into the limit of processor seconds."""
BOMB = """
from solo_trio import service
def fill(pages):
    for at in range(0, len(pages), 4096): pages[at] = 1
def explode(ctx):
{body}
async def main(ctx: service.Context):
    explode(ctx)
"""


async def _started(
    runtime: ProcessRuntime, nursery: trio.Nursery, tenant: str, name: str, source: str, **more: Any
) -> Running:
    lines: list[str] = more.get("lines", [])

    def log(stream: Any, level: str, message: str, fields: dict[str, Any]) -> None:
        if len(lines) < 100:
            lines.append(message[:200])

    async def outgoing(*asked: Any) -> None:
        raise AssertionError(asked)

    launch = Launch(
        tenant_id=tenant,
        incarnation=tenant,
        service_id=name,
        version=1,
        generation=1,
        entry="source",
        source=textwrap.dedent(source),
        config={},
        limits=more.get("limits", {}),
        log=log,
        outgoing=outgoing,
    )
    return await runtime.start(launch, nursery)


async def _answer(running: Running) -> str:
    with trio.fail_after(ANSWER_S_MAX):
        return str(await running.call("ping", [], {}))


async def _explode(
    runtime: ProcessRuntime, nursery: trio.Nursery, neighbours: list[Running], name: str
) -> dict[str, Any]:
    body = textwrap.indent(textwrap.dedent(BOMBS[name][0]), "    ")
    limits = {**LIMITS, "cpu_seconds": 1} if name in SHORT else LIMITS
    lines: list[str] = []
    answers = 0
    with trio.fail_after(BOMB_S_MAX):
        bomb = await _started(
            runtime, nursery, "a", name.replace("_", "-"), BOMB.format(body=body), limits=limits, lines=lines
        )
        async with trio.open_nursery() as asking:

            async def ask() -> None:
                nonlocal answers
                while True:
                    for each in neighbours:
                        assert await _answer(each) == "pong"
                        answers += 1
                    await trio.sleep(0.02)

            asking.start_soon(ask)
            await bomb.ended.wait()
            asking.cancel_scope.cancel()
    assert bomb.ending is not None
    after = [await _answer(each) for each in neighbours]
    said = bomb.ending
    breach = f"for its {said.breach.resource}" if said.breach is not None else ""
    text = "\n".join([f"{said.kind} {said.reason} {said.signal} {breach}", said.traceback, *lines[-20:]])
    return {"text": text, "answers": answers, "after": after}


async def set_off(directory: Path, level: int, without: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with trio.fail_after(RUN_S_MAX):
        runtime = ProcessRuntime(directory, Sandboxing(level=level, without=without))
        async with trio.open_nursery() as nursery:
            try:
                neighbours = [
                    await _started(runtime, nursery, tenant, "quiet", PING, limits={"memory_mb": 64}) for tenant in "ab"
                ]
                for each in neighbours:
                    await each.ready.wait()
                before = [each.pid for each in neighbours]  # type: ignore[attr-defined]
                for name in BOMBS:
                    if name in COUNTED and "memory" not in runtime.controllers:
                        continue
                    try:
                        found[name] = await _explode(runtime, nursery, neighbours, name)
                    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - its own test fails
                        found[name] = {"broken": "".join(traceback.format_exception(error))[-2000:]}
                assert [each.pid for each in neighbours] == before  # type: ignore[attr-defined]
                found[""] = {"controllers": runtime.controllers}
            finally:
                with trio.CancelScope(shield=True):
                    await runtime.close(trio.current_time() + 10)
    return found
