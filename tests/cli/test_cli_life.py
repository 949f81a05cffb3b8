"""The commands about a service's life, on a real server: each as meant, and refused; and the same with both clients."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_rig import LONG_S, PIDS, SLOW_START, SOLO, Server, environment, solo

from solo_trio.cli.running import run
from solo_trio.cli.top import cells, duration
from solo_trio.client import AsyncSoloClient, SoloClient, find_server
from solo_trio.errors import Rejected

Run = Callable[..., tuple[int, str, str]]
OTHER = PIDS.replace("def text():", "def other():\n    return 'other'\n\n\n@service.export\ndef text():")


@pytest.fixture
def command(server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, on the module's server; returns code, output and errors."""
    for name in [each for each in os.environ if each.startswith("SOLO_") and not each.startswith("SOLO_TESTS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SOLO_DATA", str(server.data))

    def runner(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([str(each) for each in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return runner


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "service.py"
    path.write_text(PIDS)
    return path


def done(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def parsed(result: tuple[int, str, str]) -> Any:
    return json.loads(done(result))


def refused(result: tuple[int, str, str], code: str) -> str:
    exit_code, out, err = result
    assert (exit_code, out) == (1, "")
    assert err.startswith(f"error: {code}: ")
    return err


@contextmanager
def deployed(command: Run, source: Path, *names: str) -> Iterator[None]:
    for name in names:
        done(command("deploy", source, "--id", name))
    try:
        yield
    finally:
        for name in reversed(names):
            command("kill", name, "--force")


# -- one service


def test_restart(command: Run, source: Path) -> None:
    with deployed(command, source, "r"):
        before = parsed(command("call", "r", "pid", "--json"))["result"]
        assert done(command("restart", "r")).startswith("r ready: revision ")
        assert parsed(command("call", "r", "pid", "--json"))["result"] != before
        assert parsed(command("restart", "r", "--json"))["status"] == "ready"
    refused(command("restart", "r"), "service_not_found")
    assert command("restart")[0] == 2


def test_pause_and_resume(command: Run, source: Path) -> None:
    with deployed(command, source, "p"):
        assert done(command("pause", "p")).startswith("p paused: revision ")
        assert parsed(command("status", "p", "--json"))["status"] == "paused"
        assert "then solo resume p if it is paused, else" in refused(command("restart", "p"), "wrong_status").replace(
            "solo restart p if it was given up", "else"
        )
        assert parsed(command("list", "--status", "paused", "--json"))["services"][0]["service_id"] == "p"
        assert done(command("resume", "p")).startswith("p ready: revision ")
        assert parsed(command("call", "p", "echo", "--json"))["result"] == [[], {}]
    for verb in ("pause", "resume"):
        refused(command(verb, "p"), "service_not_found")
        for wrong in ([], ["p", "--all"], ["--all", "--tenant", "default"], ["--all", "--if-match", "1"], ["p", "q"]):
            assert command(verb, *wrong)[0] == 2, wrong


def test_replace_and_versions(command: Run, source: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.py"
    second.write_text(OTHER)
    with deployed(command, source, "v"):
        assert "solo deploy FILE --id v --replace" in refused(command("deploy", second, "--id", "v"), "service_exists")
        assert done(command("deploy", second, "--id", "v", "--replace")).startswith("v ready: version 2, ")
        assert done(command("call", "v", "other")) == "other\n"
        lines = done(command("versions", "v")).splitlines()
        assert lines[0].split() == ["VERSION", "CURRENT", "AT", "DIGEST"]
        assert sorted(line.split()[0] for line in lines[1:]) == ["1", "2"]
        [current] = [line for line in lines[1:] if "yes" in line]
        assert current.startswith("2")
        assert done(command("versions", "v", "--source", "1")).strip() == PIDS.strip()
        assert parsed(command("versions", "v", "--source", "2", "--json"))["source"] == OTHER
        assert {each["version"] for each in parsed(command("versions", "v", "--json"))["versions"]} == {1, 2}
        assert "there is 1, 2" in refused(command("versions", "v", "--source", "7"), "invalid_field").replace(
            "2, 1", "1, 2"
        )
        assert command("versions", "v", "--source", "0")[0] == 2
        second.write_text("raise RuntimeError('no')")
        refused(command("deploy", second, "--id", "v", "--replace"), "service_start_failed")
        assert done(command("call", "v", "other")) == "other\n"
    refused(command("versions", "v"), "service_not_found")


def test_only_if_nothing_changed_meanwhile(command: Run, source: Path) -> None:
    with deployed(command, source, "m"):
        revision = parsed(command("status", "m", "--json"))["revision"]
        for words in (
            ["restart", "m"],
            ["pause", "m"],
            ["update", "m", "--max-restarts", "1"],
            ["deploy", source, "--id", "m", "--replace"],
        ):
            said = refused(command(*words, "--if-match", revision + 1000), "revision_mismatch")
            assert "solo status m" in said
        assert parsed(command("status", "m", "--json"))["revision"] == revision
        assert parsed(command("restart", "m", "--if-match", revision, "--json"))["revision"] > revision


def test_update(command: Run, source: Path) -> None:
    with deployed(command, source, "u"):
        words = [
            "--restart",
            "transient",
            "--max-restarts",
            "2",
            "--max-seconds",
            "7.5",
            "--limit",
            "calls_in_flight=3",
        ]
        answer = parsed(command("update", "u", *words, "--json"))
        assert answer["spec"]["restart"] == "transient"
        assert answer["spec"]["restart_limits"] == {"max_restarts": 2, "max_seconds": 7.5}
        assert answer["spec"]["limits"]["calls_in_flight"] == 3
        code, out, err = command("update", "u", "--limit", "calls_in_flight=90", "--limit", "memory_mb=256")
        assert code == 0
        assert out.startswith("u updated: revision ")
        assert err == "calls_in_flight from its next start on; to start it now: solo restart u\n"
        answer = parsed(command("update", "u", "--limit", "calls_in_flight=80", "--json"))
        assert answer["applies_at_next_start"] == ["calls_in_flight"]
        spec = parsed(command("status", "u", "--json"))["spec"]
        assert (spec["limits"]["memory_mb"], spec["restart"]) == (256, "transient")
        refused(command("update", "u", "--limit", "memory_mb=-1"), "invalid_field")
        refused(command("update", "u", "--limit", "colour=1"), "unknown_field")
        for wrong in ([], ["--limit", "memory_mb"], ["--limit", "memory_mb=x"], ["--limit", "=1"], ["--restart", "x"]):
            assert command("update", "u", *wrong)[0] == 2, wrong
    refused(command("update", "u", "--max-restarts", "1"), "service_not_found")


def test_deploy_with_limits_and_dependencies(command: Run, source: Path) -> None:
    refused(command("deploy", source, "--id", "above", "--depends-on", "nobody"), "dependency_not_found")
    with deployed(command, source, "below"):
        done(command("deploy", source, "--id", "above", "--depends-on", "below", "--limit", "memory_mb=300"))
        spec = parsed(command("status", "above", "--json"))["spec"]
        assert (spec["depends_on"], spec["limits"]) == (["below"], {"memory_mb": 300})
        assert "depends on  below\n" in done(command("status", "above"))
        refused(command("deploy", source, "--id", "below", "--replace", "--depends-on", "above"), "dependency_cycle")
        done(command("kill", "above", "--force"))


# -- the whole kernel


def test_pause_all_and_start_paused(tmp_path: Path, source: Path) -> None:
    data = tmp_path / "data"
    with Server(data) as server:
        for name in ("one", "two"):
            assert solo("deploy", source, "--id", name, "--data", data).returncode == 0
        assert json.loads(solo("pause", "--all", "--json", "--data", data).stdout) == {"paused": True, "held": 2}
        assert solo("pause", "--all", "--data", data).stdout.startswith("paused: 2 services are held back")
        assert solo("resume", "--all", "--data", data).stdout.startswith("resumed: 2 services start again")
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    with Server(data, "--start-paused") as server:
        assert "solo resume --all" in server.wait_error("services are held back")
        listed = json.loads(solo("list", "--json", "--data", data).stdout)["services"]
        assert {each["status"] for each in listed} != {"ready"}
        shown = solo("health", "--data", data).stdout
        assert "paused because  asked\n" in shown and "2 services: they start with solo resume --all" in shown
        health = json.loads(solo("health", "--json", "--data", data).stdout)
        assert (health["paused_because"], health["held"]) == ("asked", 2)
        verified = solo("verify", "--data", data)
        assert verified.returncode == 0
        assert "2 services are held back (it was asked for): start them with solo resume --all\n" in verified.stdout
        assert solo("health", "--url", server.url, SOLO_TOKEN="nobody's").returncode == 0
        resumed = solo("resume", "one", "--data", data)
        assert (resumed.returncode, resumed.stdout.startswith("one ready")) == (0, True), resumed.stderr
        assert json.loads(solo("status", "two", "--json", "--data", data).stdout)["status"] != "ready"
        assert solo("resume", "--all", "--data", data).returncode == 0
        assert solo("call", "two", "echo", "--data", data).returncode == 0
        token = solo("tenant", "create", "other", "--data", data).stdout.strip()
        for verb in ("pause", "resume"):
            said = solo(verb, "--all", "--url", server.url, SOLO_TOKEN=token)
            assert said.stderr.startswith("error: permission_denied: ")


def test_progress_of_a_recovery_is_told(tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW_START)
    data = tmp_path / "data"
    with Server(data) as server:
        assert solo("deploy", slow, "--id", "slow", "--data", data).returncode == 0
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    with Server(data, ready=False) as server:
        server.wait_error("recovering: 0 of 1 services ready")
        server.wait_ready()


# -- the SDK


def test_the_blocking_client(server: Server) -> None:
    with SoloClient(**find_server(server.data, environment={}).options(), tenant="default") as client:
        client.deploy("sdk", PIDS, limits={"memory_mb": 300})
        try:
            assert client.deploy("sdk", OTHER, replace=True)["version"] == 2
            assert [each["version"] for each in client.versions("sdk")["versions"] if each["current"]] == [2]
            revision = client.pause("sdk")["revision"]
            with pytest.raises(Rejected, match="revision_mismatch"):
                client.resume("sdk", if_match=revision - 1)
            assert client.resume("sdk", if_match=revision)["status"] == "ready"
            answer = client.update("sdk", restart="temporary", restart_limits={"max_restarts": 1}, limits={"fds": 100})
            assert answer["spec"]["restart"] == "temporary"
            assert client.restart("sdk", if_match=answer["revision"])["status"] == "ready"
            with pytest.raises(Rejected, match="dependency_not_found"):
                client.deploy("more", PIDS, depends_on=["nobody"])
            assert client.system()["paused"] is False
        finally:
            client.kill("sdk", force=True)


async def test_the_client_for_trio(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        async with AsyncSoloClient(**find_server(server.data, environment={}).options(), tenant="t") as client:
            await client.create_tenant("t")
            await client.deploy("below", PIDS)
            await client.deploy("sdk", PIDS, depends_on=["below"])
            assert (await client.pause("sdk"))["status"] == "paused"
            assert (await client.resume("sdk"))["status"] == "ready"
            assert (await client.pause_all()) == {"paused": True, "held": 2}
            assert (await client.system())["paused"] is True
            assert (await client.resume_all())["paused"] is False
            assert (await client.update("sdk", restart="transient"))["spec"]["restart"] == "transient"
            assert len((await client.versions("sdk"))["versions"]) == 1


# -- top


def test_top_once(command: Run) -> None:
    header, row = done(command("top")).splitlines()
    assert header.startswith("TENANT   SERVICE  STATUS")
    assert row.split()[:4] == ["default", "pids", "ready", "0"]
    assert float(row.split()[4]) > 1
    answer = parsed(command("top", "--json"))
    [service] = answer["services"]
    assert answer["more"] is False
    assert service["rss_bytes"] > 1_000_000
    assert service["uptime_s"] > 0
    everything = parsed(command("top", "--all", "--once", "--json"))["services"]
    assert [each["service_id"] for each in everything] == ["pids"]
    for wrong in (["--interval", "0"], ["--interval", "x"], ["--all", "--tenant", "default"], ["extra"]):
        assert command("top", *wrong)[0] == 2
    refused(command("top", "--tenant", "nobody"), "tenant_not_found")


def test_top_shows_time_and_foreign_text_safely() -> None:
    said = [duration(each) for each in (None, 0.4, 59, 60, 3_599, 3_600, 86_399, 86_400, 200_000)]
    assert said == ["", "0 s", "59 s", "1:00", "59:59", "1:00:00", "23:59:59", "1 d 0:00", "2 d 7:33"]
    row = dict.fromkeys(("rss_bytes", "cpu_percent", "cpu_s", "uptime_s"))
    shown = cells({"tenant_id": "a", "service_id": "b\x1b[2J", "status": "ready\n", "restarts": 0, "held": True, **row})
    assert shown == ("a", "b\\x1b[2J", "ready\\n (held)", "0", "", "", "", "")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str | Path, **more: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*SOLO, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm-256color", COLUMNS="120", LINES="30", **more),
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def wait_for(self, words: str, *, again: bool = False) -> None:
        if again:
            self.shown = ""
        deadline = time.monotonic() + LONG_S
        while words not in self.shown:
            readable, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"it never showed {words!r}, but {self.shown[-2_000:]!r}"
            self.shown += os.read(self._ours, 65_536).decode(errors="replace")

    def rest(self) -> str:
        try:
            while data := os.read(self._ours, 65_536):
                self.shown += data.decode(errors="replace")
        except OSError:  # how a terminal ends
            pass
        return self.shown

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LONG_S)
        os.close(self._ours)


@pytest.mark.parametrize("leave", ["q", "SIGINT"])
def test_top_on_a_terminal_goes_on_until_told(server: Server, leave: str) -> None:
    with Terminal("top", "--all", "--interval", "0.5", "--data", server.data) as terminal:
        terminal.wait_for("pids")
        terminal.wait_for("q leaves", again=True)
        terminal.wait_for("pids", again=True)
        if leave == "q":
            terminal.type(b"xq")
        else:
            terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(LONG_S) == 0
        assert "Traceback" not in terminal.rest()


def test_top_waits_for_a_server_that_is_away(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data) as server, Terminal("top", "--interval", "0.5", "--data", data) as terminal:
        terminal.wait_for("0 services")
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        terminal.wait_for("not_reachable")
        with Server(data, port=server.port):
            terminal.wait_for("q leaves", again=True)
            terminal.type(b"q")
            assert terminal.process.wait(LONG_S) == 0


def test_a_deployment_turns_on_a_terminal(server: Server, tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW_START)
    with Terminal("deploy", slow, "--id", "turning", "--data", server.data) as terminal:
        terminal.wait_for("deploying turning ...")
        terminal.wait_for("\r\x1b[K")
        terminal.wait_for("turning ready: version 1")
        assert terminal.process.wait(LONG_S) == 0
    assert solo("kill", "turning", "--force", "--data", server.data).returncode == 0
