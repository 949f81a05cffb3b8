"""Watching. Owns: milliseconds from an event's record to its arrival at each of many watchers, what stalled ones hold.

The server is a process of its own (`watch_child.py`). The floor is a process that writes as many bytes to as many plain
sockets, one event at a time. One thread reads all sockets; of some it looks at every event, of the others it only counts bytes.
"""

from __future__ import annotations

import base64
import json
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import trio
from figures import heading, percentile, seconds

CHILD = Path(__file__).with_name("watch_child.py")
WATCHERS = 1_000
LOOKED_AT = 25
"""Watchers whose every event is timed."""
EVENTS = 300
PER_SECOND = 100
STALLED = 200
STALLED_EVENTS = 5_000
STALLED_PER_SECOND = 2_000
READ_BYTES = 262_144
QUIET_S = 2.0
_AT = re.compile(rb'"at":"([^"]+)"|"at_s":([0-9.]+)')


class Server:
    def __init__(self, directory: Path, kind: str, watchers: int) -> None:
        command = [sys.executable, str(CHILD), str(directory), kind, str(watchers)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        said = self.hear()
        self.port, self.token = said["port"], said["token"]

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the server ended")
        return json.loads(line)

    def say(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words.encode() + b"\n")
        self.process.stdin.flush()

    def usage(self) -> dict[str, float]:
        self.say("usage")
        found: dict[str, float] = self.hear()
        return found

    def connect(self, kind: str) -> socket.socket:
        """An open watcher (`socket`, `sse`), or a plain connection."""
        found = socket.socket()
        if kind.startswith("stalled"):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        found.connect(("127.0.0.1", self.port))
        if "sse" in kind:
            head = "GET /events HTTP/1.1\r\nAccept: text/event-stream"
        else:
            key = base64.b64encode(bytes(16)).decode()
            head = (
                "GET /events/watch HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
            )
        if self.token:
            found.sendall(f"{head}\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n\r\n".encode())
            answer = found.recv(4_096)
            if not answer.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
                raise RuntimeError(answer.decode())
        return found


@contextmanager
def server(directory: Path, kind: str, watchers: int) -> Iterator[Server]:
    running = Server(directory, kind, watchers)
    try:
        yield running
    finally:
        running.process.terminate()
        running.process.communicate()


def delays(running: Server, kind: str) -> tuple[list[float], int, float]:
    """Of the watchers looked at: seconds from the record to the arrival; bytes of all; the server's share of a processor."""
    sockets = [running.connect(kind) for _ in range(WATCHERS)]
    found: list[float] = []
    total = 0
    before, began = running.usage()["cpu_s"], time.time()
    with selectors.EpollSelector() as selector:
        for number, each in enumerate(sockets):
            each.setblocking(False)
            selector.register(each, selectors.EVENT_READ, number < LOOKED_AT)
        running.say(f"tell {EVENTS} {PER_SECOND}")
        wanted, quiet_at = EVENTS * LOOKED_AT, time.time() + EVENTS / PER_SECOND + 10 * QUIET_S
        while len(found) < wanted and time.time() < quiet_at:
            for key, _ in selector.select(QUIET_S):
                data = key.fileobj.recv(READ_BYTES)  # type: ignore[union-attr]
                total += len(data)
                if key.data:
                    now = time.time()
                    found += [now - _when(match) for match in _AT.finditer(data)]
    running.hear()
    for each in sockets:
        each.close()
    return found, total, (running.usage()["cpu_s"] - before) / (time.time() - began)


def _when(match: re.Match[bytes]) -> float:
    return datetime.fromisoformat(match[1].decode()).timestamp() if match[1] else float(match[2])


def _latency(directory: Path) -> None:
    heading(f"{WATCHERS} live watchers at {PER_SECOND} events/s (floor: plain sockets, each event written to each)")
    floor: list[float] = []
    for name, kind in (("(floor) plain sockets", "bare"), ("WebSocket", "socket"), ("SSE", "sse")):
        with server(directory / kind, "bare" if kind == "bare" else "kernel", WATCHERS) as running:
            found, total, share = delays(running, kind)
        floor = floor or found
        ratios = [percentile(found, each) / percentile(floor, each) for each in (50, 99)]
        print(
            f"  {name:<22} p50 / p99: {ratios[0]:6.3g} / {ratios[1]:6.3g} x floor   {seconds(percentile(found, 50))} /"
            f" {seconds(percentile(found, 99))}   processor {share:.0%},"
            f" {total / WATCHERS / EVENTS:.0f} bytes/event   {len(found) / LOOKED_AT / EVENTS:.2%} arrived",
            flush=True,
        )


def _stalled(directory: Path) -> None:
    heading(f"{STALLED} watchers that do not read, {STALLED_EVENTS} events")
    for kind in ("none", "stalled socket", "stalled sse"):
        with server(directory / kind.replace(" ", "_"), "kernel", WATCHERS) as running:
            sockets = [running.connect(kind) for _ in range(STALLED if kind != "none" else 0)]
            before = running.usage()["rss_bytes"]
            running.say(f"tell {STALLED_EVENTS} {STALLED_PER_SECOND}")
            running.hear()
            after = running.usage()["rss_bytes"]
            for each in sockets:
                each.close()
        print(f"  {kind:<22} {before / 1e6:6.1f} MB, then {after / 1e6:6.1f} MB", flush=True)


async def measure(directory: Path) -> None:
    await trio.to_thread.run_sync(_latency, directory)
    await trio.to_thread.run_sync(_stalled, directory)
