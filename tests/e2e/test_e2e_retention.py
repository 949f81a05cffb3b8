"""Old events leave the database and stay part of the log; a removed tenant leaves nothing behind. On a real server."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from e2e_served import CALC, COMMAND, Served, served

CANARY = "a-canary-that-nobody-else-sings"
EMITS = f"""
from solo_trio import service

@service.export
def fail():
    raise ValueError({CANARY!r} + "-of-a-call")

async def main(ctx):
    import trio
    ctx.log.info({CANARY!r} + "-of-a-log")
    await trio.sleep(0.05)
    raise RuntimeError({CANARY!r} + "-of-a-crash")
"""


def solo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120)


async def deploy(client: Any, name: str, code: str, **more: Any) -> None:
    answer = await client.post("/services", json={"service_id": name, "code": code, **more})
    assert answer.status_code == 201, answer.text


async def ok(answer: Any) -> Any:
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def everything(data: Path) -> bytes:
    """All bytes that the files of a directory hold; what is compressed unpacked."""
    found = b""
    for path in sorted(data.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            found += gzip.decompress(content) if path.suffix == ".gz" else content
    return found


async def verified(server: Served) -> None:
    report = await ok(await server.client.post("/system/verify"))
    assert report["status"] == "ok", report


async def test_compaction_as_an_operator_sees_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with served(data) as server:
        await deploy(await server.make_tenant("acme"), "calc", CALC.format(which=1))
        tenant = server.tenant("acme")
        for _ in range(12):
            await ok(await tenant.post("/services/calc/pause"))
            await ok(await tenant.post("/services/calc/resume"))
        before = await server.events()
        ten = (await ok(await tenant.get("/services/calc")))["events"]
        done = await trio.to_thread.run_sync(
            lambda: solo("compact", "--keep-events", "1", "--data", str(data), "--json")
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["events"] > len(before) - 5 and answer["segments"] == 1 and answer["held_by"] is None
        system = await ok(await server.client.get("/system"))
        assert system["archive"] == {
            "oldest_id": answer["oldest_id"],
            "segments": 1,
            "last_id": answer["oldest_id"] - 1,
            "bytes": answer["bytes"],
        }
        assert (await ok(await tenant.get("/services/calc")))["events"] == ten, "the last ten, from the archive"
        page = await ok(await server.client.get("/events", params={"since_id": 0}))
        assert page["compacted"] == {"oldest_id": answer["oldest_id"]}
        assert page["events"][0]["id"] == answer["oldest_id"]
        assert "log_compacted" in [event["type"] for event in page["events"]]
        await verified(server)
        server.kill()
    offline = await trio.to_thread.run_sync(lambda: solo("verify", "--data", str(data), "--json"))
    assert offline.returncode == 0, offline.stdout + offline.stderr
    async with served(data) as server:
        tenant = server.tenant("acme")
        assert (await ok(await tenant.post("/services/calc/call/add", json={"args": [2, 3]})))["result"] == 5
        await verified(server)
        done = await trio.to_thread.run_sync(lambda: solo("compact", "--keep-events", "0", "--data", str(data)))
        assert done.returncode == 0 and " events moved into " in done.stdout, done.stdout + done.stderr
    [segment, *_] = sorted((data / "archive").iterdir())
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    offline = await trio.to_thread.run_sync(lambda: solo("verify", "--data", str(data), "--json"))
    assert offline.returncode == 1 and "does not have its digest" in offline.stdout
    async with served(data) as server:  # a start does not need it
        report = await ok(await server.client.post("/system/verify"))
        assert report["status"] == "failed"


async def test_the_whole_log_can_be_folded_without_a_checkpoint(tmp_path: Path) -> None:
    """As after an update of the program, which cannot use the checkpoints of another version."""
    data = tmp_path / "data"
    async with served(data) as server:
        await deploy(await server.make_tenant("acme"), "calc", CALC.format(which=1))
        await ok(await server.client.post("/system/compact", json={"keep_events": 0}))
        assert (await ok(await server.client.get("/system")))["archive"]["last_id"] > 5
    script = (
        "import sys; from solo_trio.journal.library import driver\n"
        "c = driver.connect(sys.argv[1], isolation_level=None); c.execute('DELETE FROM checkpoints'); c.close()"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", script, str(data / "kernel.db")]
    await trio.run_process(command, env=os.environ | {"PYTHONPATH": paths})
    async with served(data) as server:
        tenant = server.tenant("acme")
        assert (await ok(await tenant.post("/services/calc/call/add", json={"args": [2, 3]})))["result"] == 5
        recovery = (await ok(await server.client.get("/system")))["recovery"]
        assert recovery["checkpoint"] is None and recovery["replayed"] == recovery["events"]
        await verified(server)


@pytest.mark.parametrize("archived", [False, True])
async def test_a_removed_tenant_is_in_no_file(tmp_path: Path, archived: bool) -> None:
    data = tmp_path / "data"
    async with served(data) as server:
        await deploy(await server.make_tenant("other"), "calc", CALC.format(which=1))
        gone = await server.make_tenant("gone")
        await deploy(gone, "calc", EMITS, config={"key": f"{CANARY}-of-a-config"}, restart="temporary")
        await deploy(gone, "code", CALC.format(which=f"{CANARY}-of-code"))
        await ok(await gone.put("/secrets/key", json={"value": f"{CANARY}-of-a-secret"}))
        await gone.post("/services/calc/call/fail")
        with trio.fail_after(30):
            while (await ok(await gone.get("/services/calc")))["status"] != "stopped":  # noqa: ASYNC110 - of another process
                await trio.sleep(0.05)
        await ok(await server.client.post("/system/checkpoint"))
        held = everything(data)
        for what in ("of-a-config", "of-code", "of-a-crash"):
            assert f"{CANARY}-{what}".encode() in held
        if archived:
            await ok(await server.client.post("/system/compact", json={"keep_events": 3}))
            assert (await ok(await server.client.get("/system")))["archive"]["segments"] == 1
        answer = await ok(await server.client.delete("/tenants/gone"))
        assert answer == {"tenant_id": "gone", "status": "removed"}
        assert CANARY.encode() not in everything(data)
        theirs = [event for event in await server.events() if event["tenant_id"] == "gone"]
        assert [event["type"] for event in theirs][-2:] == ["tenant_removed", "tenant_erased"]
        assert not [event for event in theirs if event["payload"] is not None and event["type"] != "tenant_erased"]
        await verified(server)
        again = await server.make_tenant("gone")
        await deploy(again, "calc", CALC.format(which=2))
        await ok(await server.client.post("/system/compact", json={"keep_events": 0}))
        await verified(server)
        server.kill()
    assert CANARY.encode() not in everything(data)
    offline = await trio.to_thread.run_sync(lambda: solo("verify", "--data", str(data), "--json"))
    assert offline.returncode == 0, offline.stdout + offline.stderr
    async with served(data) as server:
        assert (await ok(await server.tenant("gone").post("/services/calc/call/which", json={})))["result"] == 2
        assert (await ok(await server.tenant("other").post("/services/calc/call/which", json={})))["result"] == 1
        await verified(server)
