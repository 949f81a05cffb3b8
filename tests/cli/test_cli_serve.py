"""`solo serve` as a real process: what it says, what it leaves, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cli_rig import LONG_S, PIDS, SLOW_START, STUBBORN, Server, environment, inside_pid, solo, wait_gone

from solo_trio import __version__
from solo_trio.client import SoloClient, find_server
from solo_trio.errors import SoloError
from solo_trio.runtimes import procfs

EXIT_S = 1.0
"""What a busy machine may add: a process's end, and that the test learns of it."""


def connect(server: Server, tenant: str | None = "default") -> SoloClient:
    return SoloClient(**find_server(server.data, environment={}).options(), tenant=tenant)


def deploy(server: Server, service_id: str, source: str) -> None:
    with connect(server) as client:
        if not client.tenants()["tenants"]:
            client.create_tenant("default")
        client.deploy(service_id, source)


def test_it_says_ready_and_leaves_what_commands_need(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        state = server.data / "solo.json"
        assert json.loads(state.read_bytes()) == {
            "pid": server.process.pid,
            "urls": [server.url],
            "version": __version__,
        }
        for path in (state, server.data / "admin.token"):
            assert path.stat().st_mode & 0o777 == 0o600
        with connect(server, None) as client:
            assert client.health()["status"] == "ok"
            assert client.ready()
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert server.line() == ""
        assert not state.exists()
        assert (server.data / "admin.token").exists()
        assert "Traceback" not in server.errors


def test_ctrl_c_ends_it_gracefully_and_says_so_in_the_log(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        server.send(signal.SIGINT)
        assert server.wait() == 0
    with Server(tmp_path / "data") as server, connect(server, None) as client:
        types = [each["type"] for each in client.events(limit=1_000)["events"] if each["type"] != "checkpoint_written"]
        assert types[-3:] == ["system_shutdown_started", "system_shutdown_complete", "system_started"]


def test_a_second_server_on_the_same_data_is_refused_and_the_first_untouched(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        for port in (0, server.port):
            refused = solo("serve", "--data", server.data, "--port", str(port))
            assert refused.returncode == 1
            assert refused.stderr.startswith("error: data_in_use: ")
            assert str(server.process.pid) in refused.stderr
            assert "Traceback" not in refused.stderr
            assert refused.stdout == ""
        assert (server.data / "solo.json").exists()
        with connect(server, None) as client:
            assert client.ready()


def test_a_taken_port_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = solo("serve", "--data", tmp_path / "data", "--port", str(taken.getsockname()[1]))
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: address_unusable: ")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_an_unusable_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "tenants").write_text("")
    (tmp_path / "strange" / "solo.json").mkdir(parents=True)
    for name in ("file", "odd", "strange"):
        refused = solo("serve", "--data", tmp_path / name, "--port", "0", "--log-level", "error")
        assert refused.returncode == 1
        first, second = refused.stderr.splitlines()
        assert first.startswith("error: data_unwritable: ")
        assert second.startswith("  next: ")


def test_damaged_data_is_refused(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    database = tmp_path / "data" / "kernel.db"
    database.write_bytes(b"x" * database.stat().st_size)
    refused = solo("serve", "--data", tmp_path / "data", "--port", "0")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: data_damaged: ")
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "data" / "solo.json").exists()


@pytest.mark.slow
def test_a_journal_that_fails_ends_the_process_with_1_and_says_why(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        with connect(server, None) as client, failing_disk(server), pytest.raises(SoloError) as refused:
            client.create_tenant("a")
        assert refused.value.code in ("journal_failed", "kernel_stopped", "not_reachable")
        assert server.wait() == 1
        assert "error: journal_failed: " in server.errors
        assert "Traceback" not in server.errors
        assert not (server.data / "solo.json").exists()
    with Server(tmp_path / "data") as server, connect(server, None) as client:
        assert client.ready()


@contextmanager
def failing_disk(server: Server) -> Iterator[None]:
    """Every sync of the log fails from now on."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("missing: strace")
    inject = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"]
    tracer = subprocess.Popen(
        [strace, "-f", "-o", "/dev/null", *inject, "-p", str(server.process.pid)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"missing: permission to trace a process ({said.strip()})")
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=LONG_S)


def test_options_come_from_the_environment_and_flags_win(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data, "--max-per-tenant", "1", SOLO_PORT="1", SOLO_DATA="/nowhere", SOLO_LOG_LEVEL="error") as server:
        deploy(server, "one", PIDS)
        with connect(server) as client, pytest.raises(SoloError, match="quota_exceeded"):
            client.deploy("two", PIDS)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert server.errors == ""


def test_names_that_it_answers_to(tmp_path: Path) -> None:
    def status(server: Server, host: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONG_S)
        with closing(connection):
            connection.request("GET", "/health", headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read()

    with Server(tmp_path / "flags", "--allow-host", "one.example", "--allow-host", "TWO.example") as server:
        assert [status(server, name)[0] for name in ("one.example", "two.example:1", "localhost")] == [200] * 3
        code, body = status(server, "evil.example")
        assert code == 403
        assert "--allow-host" in json.loads(body)["detail"]
    with Server(tmp_path / "environment", SOLO_ALLOW_HOST="one.example, two.example") as server:
        assert [status(server, name)[0] for name in ("one.example", "two.example", "evil.example")] == [200, 200, 403]


def test_its_keys_reach_no_core_file(tmp_path: Path) -> None:
    """And its services start and are measured all the same."""
    with Server(tmp_path / "data") as server:
        proc = Path("/proc") / str(server.process.pid)
        [core] = [line for line in (proc / "limits").read_text().splitlines() if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]
        deploy(server, "pids", PIDS)
        with connect(server) as client:
            assert client.status("pids")["usage"]


def test_hardened_is_not_dumpable() -> None:
    """Asked of the process itself: nothing outside shows it when root runs it."""
    code = (
        "import ctypes, resource; from solo_trio.bootstrap import harden_process; harden_process()\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=LONG_S
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0 0 0\n", "")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--prot", "1"],
        ["--port", "70000"],
        ["--log-level", "loud"],
        ["--shutdown-timeout-ms", "soon"],
        ["extra"],
        ["--data", ""],
        ["--allow-host", "http://solo.example"],
        ["--allow-host", "solo.example:8080"],
        ["--allow-host", ""],
    ],
)
def test_wrong_usage_is_2(wrong: list[str], tmp_path: Path) -> None:
    refused = solo("serve", "--data", tmp_path / "data", *wrong)
    assert refused.returncode == 2
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_it_serves_and_takes_deployments_while_it_recovers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data) as server:
        deploy(server, "slow", SLOW_START)
        server.process.kill()
    with Server(data, ready=False) as server:
        server.wait_error("listening on")
        with connect(server) as client:
            assert not client.ready()
            assert client.health()["status"] == "ok"
            client.deploy("new", PIDS)
            assert not client.ready()
            assert client.status("slow")["status"] == "starting"
        server.wait_ready()
        with connect(server) as client:
            assert {each["status"] for each in client.services()["services"]} == {"ready"}


@pytest.mark.slow
def test_a_signal_during_recovery_ends_it_gracefully(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data) as server:
        deploy(server, "slow", SLOW_START)
        server.process.kill()
    with Server(data, ready=False) as server:
        server.wait_error("listening on")
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert server.line() == ""


@pytest.mark.slow
def test_sigterm_is_in_time_with_a_service_that_ignores_everything(tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--shutdown-timeout-ms", "3000") as server:
        deploy(server, "stubborn", STUBBORN)
        [pid] = stubborn_pids(server)
        began = time.monotonic()
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - began < 3.0 + EXIT_S
        wait_gone(pid)


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once_and_nothing_stays(tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--shutdown-timeout-ms", "60000") as server:
        deploy(server, "stubborn", STUBBORN)
        [pid] = stubborn_pids(server)
        server.send(signal.SIGTERM)
        server.wait_error("ending: SIGTERM")
        began = time.monotonic()
        while server.process.poll() is None:
            assert time.monotonic() - began < 10
            server.send(signal.SIGTERM)
            time.sleep(0.1)  # a signal that follows another at once is taken for the same
        assert server.wait() == 1
        wait_gone(pid)
    with Server(tmp_path / "data") as server, connect(server) as client:
        assert client.status("stubborn")["status"] == "ready"


def test_two_signals_at_once_are_one(tmp_path: Path) -> None:
    """timeout(1) signals the process, and then its group."""
    with Server(tmp_path / "data") as server:
        server.send(signal.SIGTERM)
        server.send(signal.SIGINT)
        assert server.wait() == 0


def stubborn_pids(server: Server) -> list[int]:
    """Which of the kernel's processes; from its log: a service that is busy for ever answers no call."""
    deadline = time.monotonic() + 20
    with connect(server) as client:
        while True:
            lines = [entry["message"] for entry in client.logs("stubborn")["logs"]]
            if pids := [int(line.removeprefix("pid ")) for line in lines if line.startswith("pid ")]:
                started = procfs.descendants(server.process.pid)
                return [found for found in started if inside_pid(found) in pids]
            assert time.monotonic() < deadline, lines
            time.sleep(0.02)


def test_nobody_has_to_read_what_it_says(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        server = Server(tmp_path / "data", ready=False, stdout=write)
    finally:
        os.close(write)
    with server:
        server.wait_error("'ready' could not be printed")
        with connect(server, None) as client:
            assert client.ready()
        server.send(signal.SIGTERM)
        assert server.wait() == 0
