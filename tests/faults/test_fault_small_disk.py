"""A real server on a tiny disk: full, it goes on with reads, stops and revocations; new work is refused until there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio
from e2e_served import COMMAND, PATIENCE_S, check_gapless, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]
SIZE_KIB = 1_024
TOO_SMALL_KIB = 300
"""The journal alone does with it (`tests/journal/test_journal_disk.py`); a server with its audit does not."""
SECRETS_MAX = 500
IDLE = "from solo_trio import service\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("missing: permission to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"missing: permission to mount a small file system ({done.stderr.strip()})")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    path = disk / "somebody_elses"
    with path.open("ab", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4_096))
            except OSError:
                return path


async def until_full(client: httpx.AsyncClient, name: str = "s") -> list[str]:
    """Set secrets until there is no space; those that were acknowledged."""
    kept = []
    for number in range(SECRETS_MAX):
        answer = await client.put(f"/secrets/{name}{number}", json={"value": f"{number}" * 100})
        if answer.status_code != 201:
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_full"), answer.text
            assert "Retry-After" in answer.headers
            return kept
        kept.append(f"{name}{number}")
    raise AssertionError("the disk never became full")


async def test_full_and_with_space_again(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLO_FREE_DISK_MB", "0")  # or nothing new is taken long before
    with trio.fail_after(4 * PATIENCE_S):
        data = disk / "data"
        async with served(data) as server:
            client = await server.make_tenant("a")
            body = {"service_id": "calc", "code": IDLE}
            assert (await client.post("/services", json=body)).status_code == 201
            granted = (
                await client.post("/capabilities", json={"resource": "events", "permissions": ["read"]})
            ).raise_for_status()
            filler = fill(disk)
            kept = await until_full(client)

            # New work is refused, whatever it is, and nothing of it is there.
            before = len(await server.events())
            for method, path, more in (
                ("POST", "/services", {"service_id": "more", "code": IDLE}),
                ("POST", "/capabilities", {"resource": "events", "permissions": ["read"]}),
                ("PUT", "/secrets/more", {"value": "x" * 3_000}),
            ):
                answer = await client.request(method, path, json=more)
                assert (answer.status_code, answer.json()["code"]) == (503, "storage_full"), answer.text
            assert (await client.get("/services/more")).status_code == 404
            health = await server.client.get("/health")
            assert health.status_code == 503 and "storage" in health.text

            # Reads go on, and so do revocations and stops.
            assert (await client.get("/services/calc")).json()["status"] == "ready"
            names = [each["name"] for each in (await client.get("/secrets?limit=1000")).json()["secrets"]]
            assert names == sorted(kept)
            answer = await client.delete(f"/capabilities/{granted.json()['id']}")
            assert answer.is_success, answer.text
            answer = await client.delete("/services/calc")
            assert (answer.status_code, answer.json()["status"]) == (200, "stopped"), answer.text
            assert len(await server.events()) > before
            server.kill()

        # A kernel starts on the full disk, and serves what it can.
        async with served(data) as server:
            client = server.tenant("a")
            assert (await client.get("/services/calc")).status_code == 404
            token = {"Authorization": f"Bearer {granted.json()['token']}"}
            assert (await client.get("/events", headers=token)).status_code == 401
            fill(disk)  # to start, it has emptied its log
            kept += await until_full(client, "again")

            filler.unlink()
            with trio.fail_after(PATIENCE_S):
                while (await client.put("/secrets/more", json={"value": "y"})).status_code == 503:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            assert (await client.post("/secrets/more/reveal", json={})).json() == {"value": "y"}
            assert (await server.client.get("/health")).status_code == 200
            names = [each["name"] for each in (await client.get("/secrets?limit=1000")).json()["secrets"]]
            assert names == sorted([*kept, "more"])
            check_gapless(await server.events())


async def test_a_disk_on_which_nothing_fits(disk: Path) -> None:
    """Said, with what to do; and with more space the same directory is used."""
    data = disk / "data"
    resize(disk, TOO_SMALL_KIB)
    done = await trio.run_process(
        [*COMMAND, "serve", "--data", str(data), "--port", "0"], capture_stdout=True, capture_stderr=True, check=False
    )
    said = done.stderr.decode()
    assert done.returncode == 1 and b"ready" not in done.stdout, said
    assert "storage_full" in said and "free disk space" in said and "Traceback" not in said, said
    resize(disk, 4_096)
    async with served(data) as server:
        await server.make_tenant("a")
        check_gapless(await server.events())


def resize(disk: Path, size_kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_kib}k", str(disk)], check=True)
