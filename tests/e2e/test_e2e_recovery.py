"""`kill -9` the kernel, start it again: what was acknowledged is there, nothing else is, and nothing runs twice."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from e2e_served import CALC, LOCKED, LOCKS, PATIENCE_S, Locks, Served, check_gapless, check_no_second_copy, served

pytestmark = [
    pytest.mark.slow,
    # the kernel is killed in the middle of requests: httpx leaves the generators of their bodies to the collector
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]

TENANTS = [f"t{number}" for number in range(5)]
SERVICES = [f"s{number}" for number in range(5)]


async def test_25_services_of_5_tenants_survive_kill_9(tmp_path: Path) -> None:
    before: dict[tuple[str, str], Any] = {}
    async with served(tmp_path) as server:
        for tenant_id in TENANTS:
            client = await server.make_tenant(tenant_id)
            for service_id in SERVICES:
                code = CALC.format(which=f"{tenant_id}/{service_id}")
                answer = await client.post("/services", json={"service_id": service_id, "code": code})
                assert answer.status_code == 201, answer.text
                assert answer.json()["digest"] == hashlib.sha256(code.encode()).hexdigest()
                before[tenant_id, service_id] = answer.json()
        last_id = (await server.events())[-1]["id"]
        server.kill()
    async with served(tmp_path) as server:
        for tenant_id in TENANTS:
            client = server.tenant(tenant_id)
            listed = (await client.get("/services")).json()["services"]
            assert [each["service_id"] for each in listed] == SERVICES
            for each in listed:
                was = before[tenant_id, each["service_id"]]
                assert each["status"] == "ready"
                assert (each["version"], each["digest"], each["revision"]) == (1, was["digest"], was["revision"])
                assert each["restarts"] == 0
                path = f"/services/{each['service_id']}/call"
                assert (await client.post(f"{path}/add", json={"args": [2, 3]})).json() == {"result": 5}
                assert (await client.post(f"{path}/which")).json() == {"result": f"{tenant_id}/{each['service_id']}"}
        events = await server.events()
        check_gapless(events)
        since = [event for event in events if event["id"] > last_id]
        types = [event["type"] for event in since]
        assert types[0] == "system_started"
        assert types.count("service_recovered") == 25
        assert types.count("service_ready") == 25
        assert "service_deployed" not in types
        assert {e["payload"]["cause"] for e in since if e["type"] == "service_started"} == {"recovery"}
        recovery = (await server.client.get("/system")).json()["recovery"]
        assert (recovery["wanted"], recovery["ready"], recovery["failed"], recovery["pending"]) == (25, 25, 0, 0)


async def test_deleted_stays_deleted_and_a_second_deployment_wins(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        client = await server.make_tenant("a")
        for service_id in ("gone", "again"):
            answer = await client.post("/services", json={"service_id": service_id, "code": CALC.format(which="old")})
            assert answer.status_code == 201
            answer = await client.delete(f"/services/{service_id}")
            assert (answer.status_code, answer.json()["status"]) == (200, "stopped")
        new = CALC.format(which="new")
        answer = await client.post("/services", json={"service_id": "again", "code": new})
        assert (answer.status_code, answer.json()["version"]) == (201, 1)
        server.kill()
    async with served(tmp_path) as server:
        client = server.tenant("a")
        assert (await client.get("/services/gone")).status_code == 404
        status = (await client.get("/services/again")).json()
        assert (status["status"], status["digest"]) == ("ready", hashlib.sha256(new.encode()).hexdigest())
        assert (await client.post("/services/again/call/which")).json() == {"result": "new"}


SLOW_TO_LOAD = """
import time
print("loading")
time.sleep({seconds})
{then}
"""


async def _kill_between_intent_and_ready(tmp_path: Path, then: str) -> tuple[int, str]:
    """Deploy something slow to load, `kill -9` once it is being loaded; returns the intent's event id and the source."""
    code = SLOW_TO_LOAD.format(seconds=2, then=then)
    async with served(tmp_path) as server:
        client = await server.make_tenant("a")
        body = {"service_id": "slow", "code": code, "limits": {"start_timeout_s": 20}}
        answer = await client.post(
            "/services", params={"wait": "false"}, json=body, headers={"Idempotency-Key": "once"}
        )
        assert (answer.status_code, answer.json()["status"]) == (202, "starting")
        with trio.fail_after(PATIENCE_S):
            while "loading" not in (await client.get("/logs", params={"service_id": "slow"})).text:
                await trio.lowlevel.checkpoint()
        server.kill()
    return answer.json()["revision"], code


async def test_killed_between_intent_and_ready_the_intent_is_carried_out(tmp_path: Path) -> None:
    intent, code = await _kill_between_intent_and_ready(tmp_path, "from solo_trio import service")
    async with served(tmp_path) as server:
        client = server.tenant("a")
        assert (await client.get("/services/slow")).json()["status"] == "ready"
        types = [event["type"] for event in await server.events(intent)]
        assert types.count("service_deployed") == 1
        assert types.index("system_started") < types.index("service_deployed")
        body = {"service_id": "slow", "code": code, "limits": {"start_timeout_s": 20}}
        answer = await client.post("/services", json=body, headers={"Idempotency-Key": "other"})
        assert answer.json()["code"] == "service_exists"
        answer = await client.post(
            "/services", params={"wait": "false"}, json=body, headers={"Idempotency-Key": "once"}
        )
        assert (answer.status_code, answer.json()["revision"]) == (202, intent)
        answer = await client.post("/services", json=body, headers={"Idempotency-Key": "once"})
        assert (answer.status_code, answer.json()["revision"], answer.json()["status"]) == (201, intent, "ready")


async def test_killed_between_intent_and_failure_the_intent_is_forgotten(tmp_path: Path) -> None:
    intent, _ = await _kill_between_intent_and_ready(tmp_path, "raise RuntimeError('no')")
    async with served(tmp_path) as server:
        assert (await server.tenant("a").get("/services/slow")).status_code == 404
        types = [event["type"] for event in await server.events(intent)]
        assert types.count("service_deployment_failed") == 1
        assert "service_deployed" not in types
    async with served(tmp_path) as server:
        assert (await server.tenant("a").get("/services/slow")).status_code == 404


async def test_a_repeated_deploy_after_the_crash_gets_the_answer_of_the_first(tmp_path: Path) -> None:
    body = {"service_id": "calc", "code": CALC.format(which="one")}
    async with served(tmp_path) as server:
        client = await server.make_tenant("a")
        first = await client.post("/services", json=body, headers={"Idempotency-Key": "k"})
        assert first.status_code == 201
        server.kill()
    async with served(tmp_path) as server:
        again = await server.tenant("a").post("/services", json=body, headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.json()) == (201, first.json())
        types = [event["type"] for event in await server.events()]
        assert types.count("service_deployment_started") == 1


async def test_given_up_stays_given_up_until_restarted_by_hand(tmp_path: Path) -> None:
    code = "import os\nasync def main(ctx, task_status):\n    task_status.started()\n    os._exit(3)\n"
    async with served(tmp_path) as server:
        client = await server.make_tenant("a")
        body = {"service_id": "bad", "code": code, "restart_limits": {"max_restarts": 1, "max_seconds": 60}}
        assert (await client.post("/services", json=body)).status_code == 201
        with trio.fail_after(PATIENCE_S):
            while (await client.get("/services/bad")).json()["status"] != "given_up":
                pass
        generation = (await client.get("/services/bad")).json()["generation"]
        server.kill()
    async with served(tmp_path) as server:
        status = (await server.tenant("a").get("/services/bad")).json()
        assert (status["status"], status["generation"]) == ("given_up", generation)
        answer = await server.tenant("a").post("/services/bad/call/f")
        assert (answer.status_code, answer.json()["code"]) == (503, "service_not_running")


async def test_crashes_counted_before_the_kill_count_after_it(tmp_path: Path) -> None:
    code = "import os\nfrom solo_trio import service\n@service.export\nasync def crash():\n    os._exit(1)\n"
    async with served(tmp_path) as server:
        client = await server.make_tenant("a")
        body = {"service_id": "bad", "code": code, "restart_limits": {"max_restarts": 1, "max_seconds": 600}}
        assert (await client.post("/services", json=body)).status_code == 201
        assert (await client.post("/services/bad/call/crash")).json()["code"] == "call_interrupted"
        with trio.fail_after(PATIENCE_S):
            while (await client.get("/services/bad")).json()["restarts"] != 1:
                pass
        server.kill()
    async with served(tmp_path) as server:
        client = server.tenant("a")
        assert (await client.get("/services/bad")).json()["restarts"] == 1
        assert (await client.post("/services/bad/call/crash")).json()["code"] == "call_interrupted"
        with trio.fail_after(PATIENCE_S):
            while (await client.get("/services/bad")).json()["status"] != "given_up":
                pass


class Book:
    """What the clients of all rounds know: deployed and not deleted, deleted, and asked without an answer."""

    def __init__(self, locks: Locks) -> None:
        self.locks = locks
        self.deployed: dict[tuple[str, str], str] = {}
        self.deleted: set[tuple[str, str]] = set()
        self.unknown: set[tuple[str, str]] = set()
        self.acknowledged = 0

    def lock(self, tenant_id: str, service_id: str) -> str:
        return self.locks.make(f"{tenant_id}.{service_id}.lock")


async def _deploy_and_delete(
    server: Served, book: Book, worker: int, round_: int, chance: random.Random, enough: trio.Event, acks: int
) -> None:
    tenant_id = f"t{worker % 4}"
    client = server.tenant(tenant_id)
    mine: list[tuple[str, str]] = [key for key in book.deployed if key[1].startswith(f"w{worker}-")]
    try:
        for step in range(1_000):
            if mine and chance.random() < 0.55:
                key = mine.pop(chance.randrange(len(mine)))
                book.unknown.add(key)
                del book.deployed[key]
                answer = await client.delete(f"/services/{key[1]}")
                assert answer.status_code == 200, answer.text
                book.deleted.add(key)
            else:
                key = (tenant_id, f"w{worker}-{round_}-{step}")
                book.unknown.add(key)
                config = {"lock": book.lock(*key)}
                body = {"service_id": key[1], "code": LOCKED, "config": config, "environment": LOCKS}
                answer = await client.post("/services", json=body)
                assert answer.status_code == 201, answer.text
                book.deployed[key] = answer.json()["digest"]
                mine.append(key)
            book.unknown.discard(key)
            book.acknowledged += 1
            if book.acknowledged >= acks:
                enough.set()
    except (httpx.TransportError, ValueError):
        pass  # the kernel was killed in the middle: whatever was asked last stays unknown


async def test_ten_kills_under_16_deployers_and_deleters(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    data = tmp_path / "data"
    book = Book(Locks(data))
    for round_ in range(11):
        async with served(data) as server:
            if round_ == 0:
                for number in range(4):
                    await server.make_tenant(f"t{number}")
            await _check(server, book)
            if round_ == 10:
                break
            enough = trio.Event()
            acks = book.acknowledged + chance.randrange(20, 60)
            async with trio.open_nursery() as nursery:
                for worker in range(16):
                    nursery.start_soon(_deploy_and_delete, server, book, worker, round_, chance, enough, acks)
                with trio.fail_after(PATIENCE_S):
                    await enough.wait()
                server.kill()
    assert book.acknowledged >= 200


async def _check(server: Served, book: Book) -> None:
    listed: dict[tuple[str, str], Any] = {}
    for number in range(4):
        answer = await server.tenant(f"t{number}").get("/services", params={"limit": 1000})
        listed |= {(f"t{number}", each["service_id"]): each for each in answer.json()["services"]}
    for key, digest in book.deployed.items():
        assert key in listed, f"{key} was acknowledged and is lost"
        assert (listed[key]["status"], listed[key]["digest"]) == ("ready", digest)
    for key in book.deleted:
        assert key not in listed, f"{key} was deleted and came back"
    for key, each in listed.items():
        assert each["status"] == "ready"
        if key in book.unknown:  # asked, not answered: it may be there or not; from now on it is known
            book.deployed[key] = each["digest"]
    book.deleted |= book.unknown - set(listed)
    book.unknown.clear()
    events = await server.events()
    check_gapless(events)
    check_no_second_copy(events)
