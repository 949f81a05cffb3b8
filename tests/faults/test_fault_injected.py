"""System calls of a real kernel that fail or take long: nothing is acknowledged that is not there, and the end has a reason."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
import trio
from e2e_served import COMMAND, PATIENCE_S, read_json, served
from fault_injecting import calls_of, faults_of, run, sampled
from fault_trace import tracer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]
OPERATIONS = 10
SAMPLES = 3


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    return dict(calls_of(tmp_path_factory.mktemp("count"), OPERATIONS, 3))


@pytest.mark.parametrize("call", ["pwrite64:error=EIO", "pwrite64:error=ENOSPC", "fsync:error=EIO"])
def test_a_call_that_fails(tmp_path: Path, counts: dict[str, int], call: str) -> None:
    """Each of them in turn, in a longer run: `nox -s failing-calls`."""
    seed = random.randrange(2**32)
    print("seed", seed)
    hits = 0
    for when in sampled(counts[call.partition(":")[0]], SAMPLES, random.Random(seed)):
        done = run(tmp_path / str(when), OPERATIONS, seed=3, inject=call, when=when)
        assert not (wrong := faults_of(done, call)), (call, when, wrong, done.stderr[-2_000:])
        hits += bool(done.hit)
    assert hits


def test_calls_that_take_long(tmp_path: Path) -> None:
    done = run(tmp_path, OPERATIONS, seed=3, inject="fsync,fdatasync:delay_exit=150000", when=5)
    assert done.code == 0 and not done.wrong and done.acknowledged >= OPERATIONS / 2, (done.stderr, done.wrong)


async def test_the_server_ends_with_a_reason(tmp_path: Path) -> None:
    """A real `solo serve`: exit code 1, a sentence that says what to do, and all that was acknowledged."""
    data = tmp_path / "data"
    async with served(data) as server:
        client = await server.make_tenant("a")
    log = tmp_path / "stderr"
    failing = tracer("-o", "/dev/null", "-P", str(data / "kernel.db-wal"), "-e", "inject=fsync:error=EIO:when=8+")
    command = [*failing, *COMMAND, "serve", "--data", str(data), "--port", "0"]
    with log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdout is not None
    try:
        async with process.stdout:
            line = b""
            with trio.fail_after(PATIENCE_S):
                while not line.endswith(b"\n"):
                    more = await process.stdout.receive_some(200)
                    assert more, log.read_text()
                    line += more
                acknowledged = await put_until_it_fails(line.decode().split()[1], data)
                assert await process.wait() == 1
    finally:
        if process.poll() is None:
            os.kill(read_json(data / "solo.json")["pid"], signal.SIGKILL)
            await process.wait()
    said = log.read_text()
    assert "check the disk, then start the kernel again" in said, said
    assert "Traceback" not in said, said
    assert acknowledged
    async with served(data) as server:
        client = server.tenant("a")
        for number in acknowledged:
            answer = await client.post(f"/secrets/s{number}/reveal", json={})
            assert answer.json() == {"value": str(number)}


async def put_until_it_fails(url: str, data: Path) -> list[int]:
    """Set secrets until the server is gone; those that were acknowledged."""
    headers = {"Authorization": f"Bearer {(data / 'admin.token').read_text().strip()}", "X-Tenant-ID": "a"}
    acknowledged = []
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as client:
        for number in range(200):
            try:
                answer = await client.put(f"/secrets/s{number}", json={"value": str(number)})
            except httpx.TransportError:
                return acknowledged
            if answer.status_code == 201:
                acknowledged.append(number)
            else:
                assert answer.json()["code"] in ("journal_failed", "kernel_stopped", "shutting_down"), answer.text
    raise AssertionError("the server went on")
