"""A real `solo serve` in a process of its own, for tests that kill it."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

PATIENCE_S = 60.0
COMMAND = (sys.executable, "-c", "from solo_trio.cli import main; main()")

CALC = """
from solo_trio import service

@service.export
async def add(a, b):
    return a + b

@service.export
def which():
    return {which!r}
"""

LOCKED = """
import fcntl
from solo_trio import service

FILE = None

async def main(ctx, task_status):
    global FILE
    FILE = open(ctx.config["lock"])
    try:
        fcntl.flock(FILE, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError("a second copy ran") from None
    import trio
    task_status.started()
    await trio.sleep_forever()
"""
"""Takes a lock that a second copy of it could not have; a second copy says so in the event of its end."""
LOCKS = "locks"
"""The environment that it must be deployed with: what can be read in every sandbox, and by this test alone."""


class Locks:
    """The files of that environment, in a data directory."""

    def __init__(self, data: Path) -> None:
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        prefix = data / "environments" / LOCKS
        self.directory = prefix / "lib" / python / "site-packages"
        self.directory.mkdir(parents=True)
        (prefix / "pyvenv.cfg").write_text(f"version = {platform.python_version()}\n")
        data.chmod(0o700)

    def make(self, name: str) -> str:
        path = self.directory / name
        path.touch()
        return str(path)


def check_no_second_copy(events: list[dict[str, Any]]) -> None:
    twice = [event for event in events if "a second copy ran" in json.dumps(event)]
    assert not twice, f"a second copy of a service ran: {twice}"


class Served:
    """One run of the server. `client` acts as the system, `tenant(id)` for one tenant."""

    def __init__(self, process: trio.Process, url: str, token: str) -> None:
        self.process = process
        self.url = url
        self.token = token
        self._clients: list[httpx.AsyncClient] = []
        self.client = self._client({})

    def _client(self, headers: dict[str, str]) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}", **headers},
            timeout=httpx.Timeout(PATIENCE_S),
            limits=httpx.Limits(max_connections=64),
        )
        self._clients.append(client)
        return client

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()

    def tenant(self, tenant_id: str) -> httpx.AsyncClient:
        return self._client({"X-Tenant-ID": tenant_id})

    async def make_tenant(self, tenant_id: str) -> httpx.AsyncClient:
        answer = await self.client.post("/tenants", json={"tenant_id": tenant_id})
        assert answer.status_code == 201, answer.text
        return self.tenant(tenant_id)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)

    async def events(self, since_id: int = 0) -> list[dict[str, Any]]:
        """All events after `since_id`, in order."""
        found: list[dict[str, Any]] = []
        while True:
            answer = await self.client.get("/events", params={"since_id": since_id, "limit": 1000})
            assert answer.status_code == 200, answer.text
            found += answer.json()["events"]
            since_id = answer.json()["next"]
            if since_id is None:
                return found


@asynccontextmanager
async def served(data: Path, *options: str) -> AsyncIterator[Served]:
    """Start the server on `data` and wait for `ready`; on leaving, end it with SIGTERM if it still runs."""
    with trio.fail_after(PATIENCE_S):
        process = await trio.lowlevel.open_process(
            [*COMMAND, "serve", "--data", str(data), "--port", "0", *options], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            more = await process.stdout.receive_some(200)
            assert more, "the server ended before it was ready"
            line += more
    url = line.decode().split("ready ", 1)[1].strip()
    server = Served(process, url, (data / "admin.token").read_text().strip())
    try:
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await server.aclose()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE_S):
                await process.wait()
            await process.stdout.aclose()


def check_gapless(events: list[dict[str, Any]]) -> None:
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    times = [event["at"] for event in events]
    assert times == sorted(times)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
