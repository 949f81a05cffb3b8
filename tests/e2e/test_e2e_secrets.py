"""Secrets of a real server: a canary is found nowhere, what is shredded is in no file, and a `kill -9` loses nothing."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from e2e_served import PATIENCE_S, Served, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]

VALUE = "canary-value-5d1e9b7c"
PASSPHRASE = "canary-passphrase-77aa01"
RAW = "ca9a4e" * 10 + "beef"
TALKER = """
import os, sys
from solo_trio import service
CTX = None

@service.export
async def talk():
    value = await CTX.secret("api")
    CTX.log.error("it is " + value, value=value)
    print(value)
    print(repr(value), value.encode().hex(), file=sys.stderr)
    raise ValueError(value)

@service.export
async def die():
    os.abort()

async def main(ctx):
    global CTX
    CTX = ctx
    import trio
    await trio.sleep_forever()
"""


def forms(text: str) -> Iterable[bytes]:
    data = text.encode()
    yield data
    yield data.hex().encode()
    yield base64.b64encode(data).rstrip(b"=")[:-1]
    yield data[::-1]


def found_in(directory: Path, *texts: str) -> list[tuple[Path, bytes]]:
    """Where one of the texts is, read by another process: this one must not open a database that it has open."""
    needles = [form.hex() for text in texts for form in forms(text)]
    script = (
        "import sys, pathlib, json\n"
        "needles = [bytes.fromhex(each) for each in sys.argv[2:]]\n"
        "hits = []\n"
        "for path in pathlib.Path(sys.argv[1]).rglob('*'):\n"
        "    if path.is_file():\n"
        "        content = path.read_bytes()\n"
        "        hits += [(str(path), each.hex()) for each in needles if each in content]\n"
        "print(json.dumps(hits))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(directory), *needles], capture_output=True, text=True, check=True, timeout=60
    )
    return [(Path(path), bytes.fromhex(needle)) for path, needle in json.loads(run.stdout)]


async def put(client: httpx.AsyncClient, name: str, value: Any, **more: Any) -> None:
    headers = {"Idempotency-Key": f"key-{name}"}
    answer = await client.put(f"/secrets/{name}", json={"value": value, **more}, headers=headers)
    assert answer.is_success, answer.text


async def wait_log(client: httpx.AsyncClient, text: str) -> list[dict[str, Any]]:
    with trio.fail_after(PATIENCE_S):
        while True:
            entries: list[dict[str, Any]] = (await client.get("/logs?tail=1000")).json()["logs"]
            if any(text in json.dumps(entry) for entry in entries):
                return entries
            await trio.sleep(0.05)


async def use_everywhere(server: Served) -> list[str]:
    """Use the canaries in every way that there is; all that was answered, but for where they are asked for."""
    client = await server.make_tenant("a")
    seen: list[str] = []

    async def ask(method: str, path: str, body: Any = None) -> httpx.Response:
        answer = await client.request(method, path, json=body)
        seen.append(answer.text + repr(answer.headers))
        return answer

    await put(client, "api", VALUE)
    await put(client, "bytes", {"base64": base64.b64encode(VALUE.encode()).decode()})
    await put(client, "mine", VALUE, key=PASSPHRASE)
    await put(client, "raw", VALUE, key=RAW)
    for name, body in (("api", {}), ("mine", {"key": PASSPHRASE}), ("raw", {"key": RAW})):
        answer = await client.post(f"/secrets/{name}/reveal", json=body)
        assert answer.json() == {"value": VALUE}
    for name, body in (("api", {"key": PASSPHRASE}), ("mine", {"key": PASSPHRASE + "x"}), ("raw", {"key": "x" + RAW})):
        assert (await ask("POST", f"/secrets/{name}/reveal", body)).json()["code"] == "secret_access_denied"
    for body in ({"value": [VALUE]}, {"value": VALUE, "more": VALUE}, {"value": VALUE, "key": [PASSPHRASE]}):
        assert (await ask("PUT", "/secrets/bad", body)).status_code == 400
    deployment = {"service_id": "talker", "code": TALKER, "secrets": ["api"], "restart": "transient"}
    assert (await ask("POST", "/services", deployment)).status_code == 201
    assert (await ask("POST", "/services/talker/call/talk", {})).json()["code"] == "call_failed"
    seen.append(json.dumps(await wait_log(client, "[secret api]")))
    await ask("POST", "/services/talker/call/die", {})
    for path in (
        "/secrets",
        "/secrets/api",
        "/services/talker",
        "/services",
        "/openapi.json",
        "/health",
        "/events?limit=1000",
    ):
        await ask("GET", path)
    answer = await server.client.get("/events?limit=1000")
    seen += [
        answer.text,
        (await server.client.get("/system")).text,
        (await server.client.get("/audit?limit=1000")).text,
    ]
    return seen


async def test_a_canary_is_found_nowhere(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with served(data) as server:
        seen = await use_everywhere(server)
        command_line = await trio.Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        while_it_runs = found_in(data, VALUE, PASSPHRASE, RAW)
    for text in (VALUE, PASSPHRASE, RAW):
        for form in forms(text):
            assert not any(form in each.encode() for each in seen), "an answer or a log"
            assert form not in command_line
    assert while_it_runs == []
    assert found_in(data, VALUE, PASSPHRASE, RAW) == []
    cores = [path for path in Path.cwd().glob("core*") if path.is_file()]
    assert cores == []


@pytest.mark.parametrize("how", [signal.SIGABRT, signal.SIGSEGV])
async def test_a_crash_in_mid_decryption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """Dying of what writes core files, where the machine allows them, with values and keys in memory: a service too."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)  # where a core file would be
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        async with served(tmp_path / "data") as server:
            client = await server.make_tenant("a")
            await put(client, "api", VALUE)
            await put(client, "mine", VALUE, key=PASSPHRASE)
            deployment = {"service_id": "talker", "code": TALKER, "secrets": ["api"], "restart": "temporary"}
            assert (await client.post("/services", json=deployment)).status_code == 201
            await client.post("/services/talker/call/talk", json={})
            await client.post("/services/talker/call/die", json={})
            async with trio.open_nursery() as nursery:
                for name, body in [("api", {}), ("mine", {"key": PASSPHRASE})] * 8:
                    nursery.start_soon(reveal_until_it_dies, client, name, body)
                for _ in range(3):  # some of them are answered: others are under way
                    await client.get("/health")
                server.process.send_signal(how)
                await server.process.wait()
            assert server.process.returncode == -how
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert list(here.iterdir()) == [], "a core file"
    assert found_in(tmp_path, VALUE, PASSPHRASE) == []


async def reveal_until_it_dies(client: httpx.AsyncClient, name: str, body: dict[str, Any]) -> None:
    with contextlib.suppress(httpx.HTTPError):
        while True:
            answer = await client.post(f"/secrets/{name}/reveal", json=body)
            assert answer.status_code in (200, 503)


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acknowledged: dict[str, str] = {}
    all_began = trio.Event()
    async with served(tmp_path) as server:
        client = await server.make_tenant("a")
        async with trio.open_nursery() as nursery:

            async def setting(which: int) -> None:
                number = 0
                while True:
                    name, value = f"s{which}", f"value {which} {number}"
                    try:
                        answer = await client.put(f"/secrets/{name}", json={"value": value})
                    except httpx.HTTPError:
                        return
                    if answer.is_success:
                        acknowledged[name] = value
                    if len(acknowledged) == 4:
                        all_began.set()
                    number += 1

            for which in range(4):
                nursery.start_soon(setting, which)
            with trio.fail_after(PATIENCE_S):
                await all_began.wait()
            server.kill()
    async with served(tmp_path) as server:
        client = server.tenant("a")
        for name, value in acknowledged.items():
            newest = (await client.post(f"/secrets/{name}/reveal", json={})).json()["value"]
            which, number = int(value.split()[1]), int(value.split()[2])
            assert newest in (value, f"value {which} {number + 1}"), "what was under way may be there"


async def test_what_is_deleted_is_in_no_file(tmp_path: Path) -> None:
    """Sealed bytes of it, that is: whoever has the keys could open them."""
    async with served(tmp_path) as server:
        client = await server.make_tenant("a")
        await put(client, "api", "x" * 20_000)
        await put(client, "kept", "y" * 20_000)
        sealed = {name: _sealed(tmp_path, name) for name in ("api", "kept")}
        assert len(sealed["api"]) > 20_000
        server.kill()
    async with served(tmp_path) as server:  # whatever is in the log file now is what a crash left there
        client = server.tenant("a")
        assert (await client.delete("/secrets/api")).status_code == 200
        assert _holds(tmp_path, sealed["kept"]) and not _holds(tmp_path, sealed["api"])


async def test_a_removed_tenants_key_is_in_no_file(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        client = await server.make_tenant("a")
        await put(client, "api", "hush")
        keys = _select(tmp_path, "SELECT wrapped FROM keys WHERE incarnation != 'system'")
        assert len(keys) == 2 and all(_holds(tmp_path, key) for key in keys)
        assert (await server.client.delete("/tenants/a")).is_success
        assert not any(_holds(tmp_path, key) for key in keys)


def _sealed(data: Path, name: str) -> bytes:
    [found] = _select(data, f"SELECT sealed FROM secrets WHERE name = '{name}'")
    return found


def _select(data: Path, query: str) -> list[bytes]:
    script = (
        "import sys\n"
        "from solo_trio.journal.library import driver\n"
        "connection = driver.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n"
        "for row in connection.execute(sys.argv[2]): print(row[0].hex())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(data / "kernel.db"), query],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )
    return [bytes.fromhex(line) for line in run.stdout.split()]


def _holds(data: Path, content: bytes) -> bool:
    """Whether any stretch of it is in one of the journal's files: large values lie in several pages."""
    stretches = [content[at : at + 24] for at in range(0, len(content) - 24, 500)] or [content]
    files = [path.read_bytes() for path in (data / "kernel.db", data / "kernel.db-wal") if path.exists()]
    return any(stretch in file for stretch in stretches for file in files)
