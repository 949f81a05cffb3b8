"""The commands, on a real server: each once as meant, and wrong in each way that a person gets it wrong."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_rig import LONG_S, PIDS, SOLO, Child, Server, environment, solo

from solo_trio.cli.running import run
from solo_trio.client import SoloClient, find_server

ENDS = "service_stopped,service_crashed,service_given_up"
COMMANDS = ("serve", "demo", "deploy", "list", "status", "kill", "call", "logs", "events", "tenant", "health")
Run = Callable[..., tuple[int, str, str]]


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
    assert exit_code == 1
    assert out == ""
    assert err.startswith(f"error: {code}: ")
    assert "Traceback (most recent call last)" not in err
    return err


# -- services


def test_deploy_call_status_kill(command: Run, source: Path) -> None:
    assert done(command("deploy", source, "--id", "one", "--restart", "transient")).startswith("one ready: version 1, ")
    assert done(command("call", "one", "echo", "1")) == "[[1], {}]\n"
    assert "status     ready\n" in done(command("status", "one"))
    assert done(command("kill", "one", "--grace", "500ms")) == "one stopped\n"
    for verb in ("kill", "status"):
        assert "list them with: solo list" in refused(command(verb, "one"), "service_not_found")


def test_a_deployment_is_as_it_was_asked_for(command: Run, source: Path) -> None:
    options = ["--restart", "temporary", "--config", '{"b": [1]}', "--max-restarts", "2", "--max-seconds", "9.5"]
    answer = parsed(command("deploy", source, "--id", "asked", *options, "--json"))
    assert answer["status"] == "ready"
    spec = parsed(command("status", "asked", "--json"))["spec"]
    assert spec["restart"] == "temporary"
    assert spec["config"] == {"b": [1]}
    assert spec["restart_limits"] == {"max_restarts": 2, "max_seconds": 9.5}
    assert parsed(command("kill", "asked", "--force", "--json"))["status"] == "stopped"


def test_deploy_without_waiting(command: Run, source: Path) -> None:
    assert parsed(command("deploy", source, "--id", "later", "--no-wait", "--json"))["status"] == "starting"
    assert parsed(command("call", "later", "pid", "--json"))["result"] > 1
    done(command("kill", "later", "--force"))


def test_deploy_from_standard_input(server: Server) -> None:
    ran = solo("deploy", "-", "--id", "piped", "--data", server.data, text=PIDS)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert solo("kill", "piped", "--force", "--data", server.data).returncode == 0


def test_deploy_tells_what_was_found(command: Run, tmp_path: Path) -> None:
    source = tmp_path / "shell.py"
    source.write_text(PIDS + "\n\ndef shell():\n    os.system('ls')\n")
    line = source.read_text().count("\n")
    finding = f"{line}:5: os.system starts another process (process_use): Do the work in Python"
    code, out, err = command("deploy", source, "--id", "shell")
    assert (code, out.split(":")[0]) == (0, "shell ready")
    assert err.startswith(f"error: {source}:{finding}")
    done(command("kill", "shell", "--force"))
    assert command("tenant", "update", "default", "--hardening", "refuse")[0] == 0
    try:
        code, out, err = command("deploy", source, "--id", "shell")
    finally:
        assert command("tenant", "update", "default", "--hardening", "warn")[0] == 0
    assert (code, out) == (1, "")
    assert err.startswith("error: code_refused: ") and f"  error: {finding}" in err


def test_deploy_refused(command: Run, source: Path, tmp_path: Path) -> None:
    refused(command("deploy", source, "--id", "pids"), "service_exists")
    refused(command("deploy", source, "--id", "Upper"), "invalid_id")
    broken = tmp_path / "broken.py"
    broken.write_text("x = (\n")
    assert "SyntaxError" in refused(command("deploy", broken, "--id", "broken"), "service_start_failed")
    broken.write_bytes(b"\xff\xfe")
    refused(command("deploy", broken, "--id", "broken"), "invalid_field")
    broken.write_bytes(b"")
    refused(command("deploy", broken, "--id", "broken"), "invalid_field")
    (tmp_path / "empty").mkdir()
    refused(command("deploy", tmp_path / "empty", "--id", "broken"), "archive_refused")
    refused(command("status", "broken"), "service_not_found")


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["FILE"],
        ["missing.py", "--id", "a"],
        ["FILE", "--id", "a", "--config", "{"],
        ["FILE", "--id", "a", "--config", "[]"],
        ["FILE", "--id", "a", "--config", '{"a": NaN}'],
        ["FILE", "--id", "a", "--restart", "sometimes"],
        ["FILE", "--id", "a", "--max-restarts", "-1"],
        ["FILE", "--id", "a", "--max-seconds", "0"],
        ["FILE", "--id", "a", "--colour"],
    ],
)
def test_deploy_wrongly_used(command: Run, source: Path, wrong: list[str]) -> None:
    code, out, err = command("deploy", *(source if each == "FILE" else each for each in wrong))
    assert (code, out) == (2, "")
    assert "Error: " in err


def test_list(command: Run) -> None:
    header, row = done(command("list")).splitlines()
    assert header.split() == ["SERVICE", "STATUS", "VERSION", "RESTARTS", "READY", "SINCE", "DIGEST"]
    assert row.split()[:4] == ["pids", "ready", "1", "0"]
    assert [each["service_id"] for each in parsed(command("list", "--json"))["services"]] == ["pids"]
    assert parsed(command("list", "--json", "--status", "given_up"))["services"] == []
    assert command("list", "--status", "happy")[0] == 2
    assert command("list", "extra")[0] == 2


def test_status(command: Run) -> None:
    answer = parsed(command("status", "pids", "--json"))
    assert answer["service_id"] == "pids"
    assert "service_deployed" in done(command("status", "pids"))
    refused(command("status", "nobody"), "service_not_found")
    refused(command("status", ""), "invalid_id")
    refused(command("status", "../health"), "invalid_id")
    assert command("status")[0] == 2


def test_arguments_of_a_call_are_json_or_text(command: Run) -> None:
    given = ["1", "-2.5", "true", "null", '"5"', "[1, 2]", '{"a": 1}', "text", "name=value", "NaN", "1e999", "", "-"]
    result = parsed(command("call", "pids", "echo", *given, "--kw", "k=[3]", "--kw", "t=-7", "--json"))["result"]
    args = [1, -2.5, True, None, "5", [1, 2], {"a": 1}, "text", "name=value", "NaN", "1e999", "", "-"]
    assert result == [args, {"k": [3], "t": -7}]
    assert done(command("call", "pids", "echo", "--", "--kw", "-x")) == '[["--kw", "-x"], {}]\n'


def test_call_refused_and_wrongly_used(command: Run) -> None:
    said = refused(command("call", "pids", "fail"), "call_failed")
    assert "ValueError: on purpose" in said
    assert "next: look at its log with: solo logs pids\n" in said
    refused(command("call", "pids", "nothing"), "function_not_found")
    refused(command("call", "pids", "no/thing"), "invalid_id")
    refused(command("call", "nobody", "echo"), "service_not_found")
    refused(command("call", "pids", "echo", "123456789012345678901"), "invalid_json")
    assert command("call", "pids", "echo", "--frobnicate")[0] == 2
    assert command("call", "pids", "echo", "--kw", "novalue")[0] == 2
    assert command("call", "pids")[0] == 2


def test_nothing_from_a_service_steers_the_terminal(command: Run) -> None:
    assert done(command("call", "pids", "text")) == "red \\x1b[31m and \\u202e\n"
    logged = done(command("logs", "pids"))
    assert "begun \\x1b[2J config=" in logged
    assert "\x1b" not in logged + done(command("logs", "pids", "--json"))


def test_logs(command: Run) -> None:
    lines = done(command("logs", "pids")).splitlines()
    assert any("warning begun" in line for line in lines)
    assert any(line.endswith("printed") for line in lines)
    assert len(parsed(command("logs", "pids", "--tail", "1", "--json"))["logs"]) == 1
    refused(command("logs", "nobody"), "service_not_found")
    assert command("logs", "pids", "--tail", "0")[0] == 2


def test_kill_wrongly_used(command: Run) -> None:
    for grace in ("5", "soon", "-1s", "5 s", "٥s"):
        assert command("kill", "pids", "--grace", grace)[0] == 2
    refused(command("kill", "pids", "--grace", "1h"), "invalid_field")
    assert parsed(command("status", "pids", "--json"))["status"] == "ready"


# -- events, tenants, health


def test_events(command: Run) -> None:
    everything = parsed(command("events", "--json", "--limit", "1000"))
    assert everything["next"] is None
    assert {each["tenant_id"] for each in everything["events"]} == {"default"}
    ids = [each["id"] for each in everything["events"]]
    assert parsed(command("events", "--json", "--since", ids[3], "--limit", "2"))["events"] == everything["events"][4:6]
    deployed = parsed(command("events", "--json", "--type", "service_deployed", "--service", "pids"))["events"]
    assert [each["subject"] for each in deployed] == ["pids"]
    code, out, err = command("events", "--limit", "1")
    assert (code, len(out.splitlines())) == (0, 2)
    assert err == f"there are more, with: --since {ids[0]}\n"
    system = parsed(command("events", "--all", "--json", "--limit", "1"))["events"]
    assert [(each["id"], each["type"]) for each in system] == [(1, "system_started")]
    refused(command("events", "--type", "nonsense"), "invalid_field")
    refused(command("events", "--service", "No"), "invalid_id")
    for wrong in (["--since", "-1"], ["--since", "x"], ["--limit", "1001"], ["--all", "--tenant", "default"]):
        assert command("events", *wrong)[0] == 2


def test_events_followed(command: Run) -> None:
    lines = done(command("events", "--follow", "--since", "0", "--limit", "3", "--json")).splitlines()
    page = parsed(command("events", "--limit", "3", "--json"))["events"]
    assert [json.loads(line) for line in lines] == page
    assert len(done(command("events", "--follow", "--since", "0", "--limit", "2")).splitlines()) == 2


def test_ctrl_c_ends_a_command_quietly_with_130(server: Server) -> None:
    child = Child("events", "--follow", "--since", "0", "--json", "--data", server.data)
    try:
        assert json.loads(child.line())["type"] == "tenant_created"
        child.send(signal.SIGINT)
        assert child.wait() == 130
        assert child.errors == ""
    finally:
        child.close()


def test_a_reader_that_leaves_early_is_no_error(server: Server) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ran = subprocess.run(
            [*SOLO, "events", "--all", "--data", str(server.data)],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=LONG_S,
            env=environment(),
        )
    finally:
        os.close(write)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_tenants(command: Run, server: Server) -> None:
    code, token, err = command("tenant", "create", "agent", "--max-services", "0")
    assert code == 0
    assert "not shown again" in err
    with SoloClient(server.url, token.strip()) as client:
        assert client.services()["services"] == []
    assert "agent" in done(command("tenant", "list"))
    assert [each["tenant_id"] for each in parsed(command("tenant", "list", "--json"))["tenants"]] == [
        "agent",
        "default",
    ]
    assert parsed(command("tenant", "show", "agent", "--json"))["limits"] == {"max_services": 0}
    assert "tenant" in done(command("tenant", "show", "agent"))
    code, out, err = command("tenant", "update", "agent", "--hardening", "refuse")
    assert (code, out, err) == (
        0,
        'agent updated: {"max_services": 0}\n',
        "findings of the analyser from now on: refuse\n",
    )
    assert parsed(command("tenant", "show", "agent", "--json"))["hardening"] == "refuse"
    use = ["--requests-per-second", "2.5", "--burst", "10", "--in-flight", "4"]
    assert done(command("tenant", "update", "agent", "--max-memory-mb", "256", *use)) == (
        'agent updated: {"max_services": 0, "max_memory_mb": 256.0, "requests_per_second": 2.5, "burst": 10, "in_flight": 4}\n'
    )
    assert command("tenant", "create", "busy", *use)[0] == 0
    assert parsed(command("tenant", "show", "busy", "--json"))["limits"] == {
        "requests_per_second": 2.5,
        "burst": 10,
        "in_flight": 4,
    }
    for wrong in (["--burst", "0"], ["--in-flight", "0"], ["--requests-per-second", "0"], ["--burst", "1.5"]):
        assert command("tenant", "update", "agent", *wrong)[0] == 2
    assert command("tenant", "create", "strict", "--hardening", "refuse")[0] == 0
    assert command("tenant", "update", "agent", "--hardening", "maybe")[0] == 2
    refused(command("tenant", "create", "agent"), "tenant_exists")
    refused(command("tenant", "create", "Agent"), "invalid_id")
    refused(command("tenant", "show", "nobody"), "tenant_not_found")
    assert command("tenant", "remove-it")[0] == 2


def test_the_tenant_is_the_tokens_the_named_or_default(
    command: Run, server: Server, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = parsed(command("tenant", "create", "own", "--json"))["token"]
    monkeypatch.setenv("SOLO_URL", server.url)
    monkeypatch.delenv("SOLO_DATA")
    refused(command("list"), "unauthenticated")
    monkeypatch.setenv("SOLO_TOKEN", token)
    parsed(command("deploy", source, "--id", "mine", "--json"))
    assert parsed(command("status", "mine", "--json"))["tenant_id"] == "own"
    refused(command("list", "--tenant", "default"), "tenant_mismatch")
    refused(command("tenant", "list"), "permission_denied")
    monkeypatch.setenv("SOLO_TOKEN", (server.data / "admin.token").read_text().strip())
    assert [each["service_id"] for each in parsed(command("list", "--json"))["services"]] == ["pids"]
    monkeypatch.setenv("SOLO_TENANT", "own")
    assert [each["service_id"] for each in parsed(command("list", "--json"))["services"]] == ["mine"]
    refused(command("list", "--tenant", "nobody"), "tenant_not_found")
    done(command("kill", "mine", "--force"))


def test_a_wrong_token_in_the_environment_is_named(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLO_TOKEN", "solo_wrong")
    assert "next: the token in SOLO_TOKEN is not valid here" in refused(command("list"), "unauthenticated")


def test_a_service_that_does_not_run_can_be_begun_anew(command: Run, tmp_path: Path) -> None:
    """The advice names what there is, with the service's own id."""
    source = tmp_path / "ends.py"
    source.write_text("async def main(ctx):\n    pass\n")
    done(command("deploy", source, "--id", "ends", "--restart", "temporary"))
    with_stream = command("events", "--follow", "--since", "0", "--service", "ends", "--type", ENDS, "--limit", "1")
    assert "ends" in done(with_stream)
    said = refused(command("call", "ends", "anything"), "service_not_running")
    for advice in ("solo status ends", "solo restart ends", "solo deploy FILE --id ends --replace"):
        assert advice in said
    done(command("kill", "ends"))


@pytest.mark.parametrize("words", [["list"], ["serve", "--port", "0"]])
def test_an_empty_data_directory_is_wrong_usage(command: Run, words: list[str]) -> None:
    code, out, err = command(*words, "--data", "")
    assert (code, out) == (2, "")
    assert "name a directory" in err


def test_default_is_made_on_first_use(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        found = find_server(server.data, environment={})
        with SoloClient(**found.options()) as client:
            assert client.tenants()["tenants"] == []
            assert json.loads(solo("list", "--json", "--data", server.data).stdout)["services"] == []
            assert [each["tenant_id"] for each in client.tenants()["tenants"]] == ["default"]


def test_health(command: Run) -> None:
    answer = parsed(command("health", "--json"))
    assert (answer["status"], answer["ready"]) == ("ok", True)
    assert "status    ok" in done(command("health"))


# -- no server, no command


@pytest.mark.parametrize("words", [["list"], ["health"], ["status", "a"], ["tenant", "list"], ["events", "--follow"]])
def test_without_a_server_it_says_how_to_start_one(command: Run, tmp_path: Path, words: list[str]) -> None:
    said = refused(command(*words, "--data", tmp_path / "none"), "not_reachable")
    assert f"solo serve --data {tmp_path / 'none'}" in said
    refused(command(*words, "--url", "http://127.0.0.1:1"), "not_reachable")
    refused(command(*words, "--url", "nonsense"), "invalid_field")


def test_a_server_that_is_gone_is_not_asked(command: Run, server: Server, tmp_path: Path) -> None:
    """Another process may listen on its port by now."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(LONG_S)
    (tmp_path / "solo.json").write_text(json.dumps({"pid": ended.pid, "urls": [server.url], "version": "0"}))
    (tmp_path / "admin.token").write_text("secret")
    assert f"(pid {ended.pid}) is gone" in refused(command("list", "--data", tmp_path), "not_reachable")
    (tmp_path / "solo.json").write_text("{")
    refused(command("list", "--data", tmp_path), "not_reachable")


def test_what_answers_may_be_no_solo_server(command: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLO_TOKEN", "x")
    refused(command("list", "--url", server.url + "/nothing"), "not_found")
    monkeypatch.setenv("SOLO_TOKEN", "x\ny")
    refused(command("list", "--url", server.url), "unauthenticated")


@pytest.mark.parametrize("wrong", [["fly"], ["list", "--fly"], ["--fly"], ["list", "--data"]])
def test_unknown_words_are_wrong_usage(command: Run, wrong: list[str]) -> None:
    code, out, err = command(*wrong)
    assert (code, out) == (2, "")
    assert err


def test_help_and_version(command: Run) -> None:
    out = done(command("--help"))
    for name in COMMANDS:
        assert f"\n  {name} " in out
        assert "Usage: " in done(command(name, "--help"))
    assert done(command("--version")).startswith("solo, version ")


def test_help_needs_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; from solo_trio.cli.running import run; run(['--help'])\n"
        "sys.exit(sorted({'trio', 'hypercorn', 'httpx', 'rich', 'cryptography'} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=LONG_S
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_client_command_imports_no_trio(server: Server) -> None:
    code = (
        "import sys; from solo_trio.cli.running import run\n"
        f"assert run(['list', '--data', {str(server.data)!r}]) == 0\n"
        "sys.exit(sorted({'trio', 'hypercorn', 'rich', 'solo_trio.embedding'} & set(sys.modules)) or 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=LONG_S
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_terminal_gets_a_table_with_colour(server: Server) -> None:
    ours, terminal = pty.openpty()
    try:
        ran = subprocess.run(
            [*SOLO, "list", "--data", str(server.data)],
            stdout=terminal,
            stderr=subprocess.PIPE,
            timeout=LONG_S,
            env=environment(TERM="xterm-256color", COLUMNS="120"),
        )
        assert (ran.returncode, ran.stderr) == (0, b"")
        shown = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(terminal)
    assert "\x1b[32mready" in shown
    assert "pids" in shown
