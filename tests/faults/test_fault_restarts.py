"""Starts after a crash: many in a row, of many things at once, while others deploy, and of what no longer loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trio
from e2e_served import CALC, LOCKED, LOCKS, PATIENCE_S, Locks, check_gapless, check_no_second_copy, read_json, served
from many_tasks_child import SETTINGS, idle, name

import solo_trio
from solo_trio import Kernel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]
STARTS = 10
MANY = 1_000
IMPORTING = """
import helper
from solo_trio import service

@service.export
def value():
    return helper.VALUE
"""
SLOW = """
import time
time.sleep(2)
"""


async def test_ten_times_in_quick_succession(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at once when it is ready: nothing changes, nothing runs twice, no restart is counted."""
    monkeypatch.setenv(
        "SOLO_BOOT_LOOP_STARTS", "0"
    )  # or the fourth holds services back (`tests/kernel/test_boot_loop.py`)
    data = tmp_path / "data"
    locks = Locks(data)
    with trio.fail_after(STARTS * PATIENCE_S):
        async with served(data) as server:
            client = await server.make_tenant("a")
            config = {"lock": locks.make("one")}
            body = {"service_id": "one", "code": LOCKED, "config": config, "environment": LOCKS}
            before = (await client.post("/services", json=body)).raise_for_status().json()
            await client.put("/secrets/s", json={"value": "x"})
            server.kill()
        for number in range(STARTS):
            async with served(data) as server:
                client = server.tenant("a")
                status = (await client.get("/services/one")).json()
                assert (status["status"], status["revision"], status["restarts"]) == ("ready", before["revision"], 0)
                if number < STARTS - 1:
                    server.kill()
                    continue
                assert (await client.post("/secrets/s/reveal", json={})).json() == {"value": "x"}
                events = await server.events()
                check_gapless(events)
                check_no_second_copy(events)
                assert [each["type"] for each in events].count("service_recovered") == STARTS


async def test_a_thousand_services_are_recovered(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(solo_trio.__file__).parents[1])}
    child = str(Path(__file__).with_name("many_tasks_child.py"))
    process = await trio.lowlevel.open_process(
        [sys.executable, child, str(tmp_path), str(MANY)], stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    try:
        with trio.fail_after(3 * PATIENCE_S):
            assert (await process.stdout.receive_some(100)).strip() == b"deployed"
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()
    async with Kernel.open(tmp_path, callables={"idle": idle}, settings=SETTINGS) as kernel:
        with trio.fail_after(3 * PATIENCE_S):
            await kernel.wait_recovered()
        report = kernel.system.core.report
        assert report is not None
        print(f"{report.events} events, {report.wanted} services in {report.duration_s:.2f} s")
        assert (report.wanted, report.ready, report.failed, report.pending) == (MANY, MANY, 0, 0)
        assert report.events > MANY
        found = {(tenant.tenant_id, service.service_id) for tenant, service in kernel.system.core.loop.state.services()}
        assert found == {name(number) for number in range(MANY)}


async def test_deploys_during_recovery(tmp_path: Path) -> None:
    """The server takes them before it is ready, and what it recovers is not held up."""
    data = tmp_path / "data"
    with trio.fail_after(3 * PATIENCE_S):
        async with served(data) as server:
            client = await server.make_tenant("a")
            for number in range(3):
                body = {"service_id": f"slow{number}", "code": SLOW, "limits": {"start_timeout_s": 30}}
                assert (await client.post("/services", json=body)).status_code == 201
            server.kill()
        async with trio.open_nursery() as nursery:
            deployed: list[str] = []

            async def deploy() -> None:
                url = await listening(data)
                headers = {"Authorization": f"Bearer {(data / 'admin.token').read_text().strip()}", "X-Tenant-ID": "a"}
                async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as client:
                    assert (await client.get("/health/ready")).status_code == 503
                    body = {"service_id": "new", "code": CALC.format(which="new")}
                    assert (await client.post("/services", json=body)).status_code == 201
                    answer = await client.post("/services/new/call/which")
                    deployed.append(answer.json()["result"])

            (data / "solo.json").unlink()
            nursery.start_soon(deploy)
            async with served(data) as server:
                client = server.tenant("a")
                listed = (await client.get("/services")).json()["services"]
                while not deployed:
                    await trio.lowlevel.checkpoint()
                assert deployed == ["new"]
                assert {each["service_id"]: each["status"] for each in listed}.items() >= {
                    f"slow{number}": "ready" for number in range(3)
                }.items()
                server.kill()
        async with served(data) as server:
            listed = (await server.tenant("a").get("/services")).json()["services"]
            assert [each["status"] for each in listed] == ["ready"] * 4


async def listening(data: Path) -> str:
    while not (data / "solo.json").exists():  # noqa: ASYNC110 - another process makes it
        await trio.sleep(0.01)
    return str(read_json(data / "solo.json")["urls"][0])


async def test_what_no_longer_loads_is_given_up_and_the_rest_runs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    locks = Locks(data)  # an environment; here of a module
    helper = locks.directory / "helper.py"
    helper.write_text("VALUE = 1\n")
    with trio.fail_after(3 * PATIENCE_S):
        async with served(data) as server:
            client = await server.make_tenant("a")
            body = {"service_id": "importing", "code": IMPORTING, "environment": LOCKS}
            assert (await client.post("/services", json=body)).status_code == 201
            body = {"service_id": "calc", "code": CALC.format(which="calc")}
            assert (await client.post("/services", json=body)).status_code == 201
            server.kill()
        helper.write_text("VALUE = \n")
        async with served(data) as server:
            client = server.tenant("a")
            assert (await client.get("/services/importing")).json()["status"] == "given_up"
            assert (await client.post("/services/calc/call/add", json={"args": [2, 3]})).json() == {"result": 5}
            [failed] = [each for each in await server.events() if each["type"] == "service_recovery_failed"]
            assert failed["subject"] == "importing" and "SyntaxError" in str(failed["payload"])
            recovery = (await server.client.get("/system")).json()["recovery"]
            assert (recovery["wanted"], recovery["ready"], recovery["failed"]) == (2, 1, 1)
            answer = await client.post("/services/importing/call/value")
            assert (answer.status_code, answer.json()["code"]) == (503, "service_not_running")
            server.kill()
        helper.write_text("VALUE = 2\n")
        async with served(data) as server:
            client = server.tenant("a")
            assert (await client.get("/services/importing")).json()["status"] == "given_up", "until somebody looks"
            assert (await client.post("/services/importing/restart")).status_code == 200
            assert (await client.post("/services/importing/call/value")).json() == {"result": 2}
