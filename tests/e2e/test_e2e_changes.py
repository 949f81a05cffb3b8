"""`kill -9` while services are replaced, paused, resumed and changed: what was acknowledged holds, nothing runs twice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import trio
from attrs import define, field
from e2e_served import LOCKED, LOCKS, PATIENCE_S, Locks, Served, check_gapless, check_no_second_copy, served

# httpx leaves its generators to the collector when a connection breaks in the middle
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning")

WORKERS: Final = 8
KILLS: Final = 4
BROKEN: Final = "raise RuntimeError('does not start')"
Wanted = tuple[int, bool, str] | None
"""Of one service: the number in its config, whether it is paused, its restart policy. None: there is none."""


@define
class Worker:
    """One client with a service of its own, and what it knows must be true."""

    number: int
    lock: str
    known: Wanted = None
    perhaps: list[Wanted] = field(factory=list)
    """What may be true instead, because a request was not answered."""
    counter: int = 0
    acknowledged: int = 0

    @property
    def path(self) -> str:
        return f"/services/s{self.number}"

    def body(self, code: str, policy: str) -> dict[str, Any]:
        self.counter += 1
        config = {"lock": self.lock, "n": self.counter}
        body = {"service_id": f"s{self.number}", "code": code, "config": config, "restart": policy}
        return body | {"environment": LOCKS}

    async def step(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        verbs = (
            ["deploy"] if self.known is None else ["replace", "replace", "break", "pause", "resume", "patch", "delete"]
        )
        verb = chance.choice(verbs)
        policy = chance.choice(["permanent", "transient"])
        now = self.known
        after: Wanted = now
        if verb in ("deploy", "replace"):
            body = self.body(LOCKED, policy)
            after = (self.counter, False, policy)
            request = client.post("/services", json=body, params={"replace": "true"} if verb == "replace" else {})
        elif verb == "break":
            request = client.post("/services?replace=true", json=self.body(BROKEN, policy))
        elif verb == "delete":
            after, request = None, client.delete(self.path)
        else:
            assert now is not None
            if verb == "patch":
                after, request = (now[0], now[1], policy), client.patch(self.path, json={"restart": policy})
            else:
                after, request = (now[0], verb == "pause", now[2]), client.post(f"{self.path}/{verb}")
        self.perhaps = [after]
        answer = await request
        expected = {"deploy": 201, "replace": 201, "break": 422}.get(verb, 200)
        if answer.status_code == 503:  # it was shutting down, or did not get so far
            return
        assert answer.status_code == expected, (verb, now, answer.text)
        self.known, self.perhaps = after, []
        self.acknowledged += 1

    async def check(self, client: httpx.AsyncClient) -> None:
        answer = await client.get(self.path)
        found: Wanted = None
        if answer.status_code != 404:
            shown = answer.json()
            assert shown["status"] in ("ready", "paused"), shown
            found = (shown["spec"]["config"]["n"], shown["status"] == "paused", shown["spec"]["restart"])
        assert found in [self.known, *self.perhaps], (self.number, found, self.known, self.perhaps)
        self.known, self.perhaps = found, []


async def test_kills_under_replacing_pausing_and_changing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    locks = Locks(tmp_path / "data")
    workers = [Worker(number, locks.make(f"lock{number}")) for number in range(WORKERS)]
    for round_ in range(KILLS + 1):
        async with served(tmp_path / "data") as server:
            client = await server.make_tenant("t") if round_ == 0 else server.tenant("t")
            for worker in workers:
                await worker.check(client)
            events = await server.events()
            check_gapless(events)
            check_no_second_copy(events)
            if round_ == KILLS:
                break
            enough = sum(worker.acknowledged for worker in workers) + chance.randrange(40, 80)
            await _until_killed(server, client, workers, chance, enough)
    assert all(worker.acknowledged for worker in workers)


async def _until_killed(
    server: Served, client: httpx.AsyncClient, workers: list[Worker], chance: random.Random, enough: int
) -> None:
    async with trio.open_nursery() as nursery:

        async def work(worker: Worker) -> None:
            try:
                while True:
                    await worker.step(client, chance)
                    if sum(each.acknowledged for each in workers) >= enough:
                        server.kill()
            except (httpx.TransportError, ProcessLookupError):
                return

        nursery.cancel_scope.deadline = trio.current_time() + PATIENCE_S
        for worker in workers:
            nursery.start_soon(work, worker)
    assert not nursery.cancel_scope.cancelled_caught, "it took too long"
