"""A kernel at work, and its clients: what is asked for, what is acknowledged. Run under a recorder, or to be killed.

    python fault_workload.py DATA MARKS OPERATIONS SEED LIVES [BUG]

Kernel, HTTP server and clients are one process, so the marks that the clients write (one JSON object a line) are in one order
with the kernel's own writes. Each life but the last ends by SIGKILL in the middle of its work; the last one shuts down.

A mark is `{"begin": facts}` before a request and `{"ack": facts, "last": id}` after its answer; facts are names and values,
null for what is gone. `last` is the newest event that the kernel believes then. `{"refused": facts}`: there was no space.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import fault_bugs
import httpx
import trio

from solo_trio.embedding import Kernel
from solo_trio.journal import opening
from solo_trio.operations.settings import Settings

WORKERS: Final = 6
LOG_PAGES: Final = 150
"""The log is moved into the database about this often, and begun again: much oftener than in life."""
CHECKPOINT_EVENTS: Final = 120
TIMEOUT_S: Final = 60.0
FIRST_TENANTS: Final = ("t0", "t1", "t2")
ANYTHING: Final = "?"
"""A value that is not known before the answer."""
CODE: Final = """
from solo_trio import service

@service.export
def which():
    return {number}
"""

Facts = dict[str, Any]


class Marks:
    """What is known by now, and the file that says it."""

    def __init__(self, path: Path) -> None:
        self.known: Facts = {}
        self.open: Facts = {}
        """Asked, not answered."""
        self.acknowledged = 0
        for mark in self.read(path):
            self._note(mark)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)  # a mark that a kill has cut off

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    def close(self) -> None:
        os.close(self._fd)

    def _note(self, mark: dict[str, Any]) -> None:
        self.open |= mark.get("begin", {})
        for name, value in mark.get("ack", {}).items():
            self.known[name] = value
            self.open.pop(name, None)
        for name in mark.get("refused", {}):
            self.open.pop(name, None)

    def write(self, mark: dict[str, Any]) -> None:
        self._note(mark)
        self.acknowledged += "ack" in mark
        os.write(self._fd, json.dumps(mark).encode() + b"\n")


class Refused(Exception):
    """There is no space."""


class Clients:
    """Several at once, each with things of its own."""

    def __init__(
        self, believed: Callable[[], int], marks: Marks, chance: random.Random, budget: int, life: int
    ) -> None:
        self._believed = believed
        """The newest event that the kernel believes, 0 where that cannot be seen."""
        self.marks = marks
        self.chance = chance
        self.left = budget
        self.life = life
        self.number = 0
        self._http: httpx.AsyncClient

    async def run(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S) as self._http:
            for tenant_id in FIRST_TENANTS:
                if self.marks.known.get(f"tenant/{tenant_id}") is None:
                    await self._make_tenant(tenant_id)
            async with trio.open_nursery() as nursery:
                for worker in range(WORKERS):
                    nursery.start_soon(self._work, worker)

    async def _work(self, worker: int) -> None:
        mine = [name for name in sorted(self.marks.known) if name not in self.marks.open]
        mine = [name for name in mine if not name.startswith("secret/tmp")]  # these go with their tenant
        mine = [name for name in mine if zlib.crc32(name.encode()) % WORKERS == worker]
        while self.left > 0:
            self.left -= 1
            try:
                await self._step(worker, mine)
            except Refused:
                continue

    async def _step(self, worker: int, mine: list[str]) -> None:
        """One operation, chosen by lot; `mine` are the facts that this worker may change."""
        tenant_id = self.chance.choice(FIRST_TENANTS)
        self.number += 1
        fresh = f"w{worker}-{self.life}-{self.number}"
        verb = self.chance.choices(
            (
                "set",
                "set_again",
                "shred",
                "grant",
                "revoke",
                "deploy",
                "delete",
                "pause",
                "call",
                "make",
                "remove",
                "keep",
            ),
            (26, 10, 7, 24, 9, 5, 3, 3, 3, 5, 2, 2),
        )[0]
        if verb in ("set_again", "shred"):
            name = self._mine(mine, "secret")
            if name is not None:
                _, tenant_id, secret = name.split("/")
                if verb == "shred":
                    mine.remove(name)
                    await self._ask("DELETE", f"/secrets/{secret}", tenant_id, {name: None})
                else:
                    await self._put_secret(tenant_id, secret, fresh)
                return
        elif verb == "revoke" and (name := self._mine(mine, "capability")) is not None:
            _, tenant_id, capability_id = name.split("/")
            mine.remove(name)
            await self._ask("DELETE", f"/capabilities/{capability_id}", tenant_id, {name: None})
            return
        elif verb in ("delete", "pause", "call") and (name := self._mine(mine, "service")) is not None:
            _, tenant_id, service_id = name.split("/")
            digest, paused = self.marks.known[name]
            if verb == "call" and not paused:
                await self._call(tenant_id, service_id)
            elif verb == "delete":
                mine.remove(name)
                await self._ask("DELETE", f"/services/{service_id}", tenant_id, {name: None})
            else:
                word = "resume" if paused else "pause"
                await self._ask("POST", f"/services/{service_id}/{word}", tenant_id, {name: [digest, not paused]})
            return
        elif verb == "remove" and (name := self._mine(mine, "tenant", "tmp")) is not None:
            mine.remove(name)
            own = {name: None, f"secret/{name.split('/')[1]}/only": None}
            await self._ask("DELETE", f"/{name.replace('tenant', 'tenants')}", None, own, key=False)
            return
        if verb == "deploy":
            code = CODE.format(number=repr(fresh))
            name = f"service/{tenant_id}/{fresh}"
            facts = {name: [hashlib.sha256(code.encode()).hexdigest(), False]}
            await self._ask("POST", "/services", tenant_id, facts, {"service_id": fresh, "code": code})
            mine.append(name)
        elif verb == "make":
            await self._make_tenant(f"tmp{fresh}")
            mine.append(f"tenant/tmp{fresh}")
            await self._put_secret(f"tmp{fresh}", "only", fresh, key=False)
        elif verb == "keep":
            await self._ask("POST", "/system/checkpoint", None, {}, key=False)
        elif verb in ("grant", "revoke"):
            body = {"resource": f"service:{fresh}", "permissions": ["read"]}
            body["metadata"] = {"note": "n" * self.chance.randrange(600)}
            answer = await self._ask("POST", "/capabilities", tenant_id, {}, body, ack=False)
            name = f"capability/{tenant_id}/{answer['id']}"
            self._acknowledge({name: answer["token"]})
            mine.append(name)
        else:
            await self._put_secret(tenant_id, fresh, fresh)
            mine.append(f"secret/{tenant_id}/{fresh}")

    async def _call(self, tenant_id: str, service_id: str) -> None:
        answer = await self._http.post(f"/services/{service_id}/call/which", headers={"X-Tenant-ID": tenant_id})
        assert answer.json() == {"result": service_id}, answer.text

    def _mine(self, mine: list[str], kind: str, start: str = "") -> str | None:
        found = [name for name in mine if name.startswith(f"{kind}/{start}") and self.marks.known.get(name) is not None]
        return self.chance.choice(found) if found else None

    async def _make_tenant(self, tenant_id: str) -> None:
        await self._ask("POST", "/tenants", None, {f"tenant/{tenant_id}": True}, {"tenant_id": tenant_id})

    async def _put_secret(self, tenant_id: str, secret: str, fresh: str, *, key: bool = True) -> None:
        value = fresh + "-" + "v" * self.chance.choice((1, 20, 700, 5_000))
        facts = {f"secret/{tenant_id}/{secret}": value}
        await self._ask("PUT", f"/secrets/{secret}", tenant_id, facts, {"value": value}, key=key)

    async def _ask(
        self,
        method: str,
        path: str,
        tenant_id: str | None,
        facts: Facts,
        body: Any = None,
        *,
        key: bool = True,
        ack: bool = True,
    ) -> Any:
        headers = {} if tenant_id is None else {"X-Tenant-ID": tenant_id}
        if key:
            self.number += 1
            name = f"{self.life}-{self.number}"
            headers["Idempotency-Key"] = name
        if facts:
            self.marks.write({"begin": facts})
        answer = await self._http.request(method, path, headers=headers, json=body)
        if answer.status_code == 503 and answer.json()["code"] == "storage_full":
            # A service's request is several events, of which some may be there.
            self.marks.write({"refused": {name: None for name in facts if not name.startswith("service/")}})
            raise Refused
        assert answer.is_success, (method, path, answer.text)
        if key:
            facts = facts | {f"idempotency/{name}": True}
        if ack:
            self._acknowledge(facts)
        return answer.json() if answer.content else None

    def _acknowledge(self, facts: Facts) -> None:
        self.marks.write({"ack": facts, "last": self._believed()})


async def live(data: Path, marks: Marks, budget: int, seed: int, life: int, *, kill: bool) -> None:
    chance = random.Random(f"{seed}-{life}")
    settings = Settings(checkpoint_interval_events=CHECKPOINT_EVENTS, boot_loop_starts=0)
    async with Kernel.open(data, settings=settings) as kernel:
        token = (data / "admin.token").read_text()
        loop = kernel.system.core.loop
        marks.write({"ack": {"token": token}, "last": loop.state.last_id})
        async with trio.open_nursery() as nursery:
            url: str = await nursery.start(lambda task_status: kernel.serve(port=0, task_status=task_status))
            clients = Clients(lambda: loop.state.last_id, marks, chance, budget, life)
            if kill:
                nursery.start_soon(_kill_when, clients)
            await clients.run(url, token.strip())
            nursery.cancel_scope.cancel()


async def _kill_when(clients: Clients) -> None:
    """In the middle: the others' requests are under way."""
    while clients.left > 0:
        await trio.lowlevel.checkpoint()
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    data, marks, operations, seed, lives = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6])
    bug, life = sys.argv[6], int(sys.argv[7]) if len(sys.argv) > 7 else None
    if life is None and lives == 1:
        life = 0
    if life is None:
        for each in range(lives):
            code = subprocess.run([sys.executable, *sys.argv[:7], str(each)], check=False).returncode
            assert code == (0 if each == lives - 1 else -signal.SIGKILL), f"life {each} ended with {code}"
        return
    opening.CHECKPOINT_PAGES_MAX = LOG_PAGES  # type: ignore[misc]
    fault_bugs.plant(bug)
    last = life == lives - 1
    trio.run(lambda: live(data, Marks(marks), operations // lives, seed, life, kill=not last))


if __name__ == "__main__":
    main()
