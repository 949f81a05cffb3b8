"""The commands about this machine: each as meant, and wrong in the ways that a person gets it wrong."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_rig import LONG_S, PIDS, SOLO, Child, Server, environment, solo

from solo_trio.cli import doctor, machine
from solo_trio.cli.checking import Report, check_source
from solo_trio.cli.running import run
from solo_trio.configuration import table
from solo_trio.hardening import FINDINGS_MAX

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in this process and in an empty directory; returns code, output and errors."""
    for name in [each for each in os.environ if each.startswith("SOLO_") and not each.startswith("SOLO_TESTS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def runner(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([str(each) for each in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return runner


# -- init


def test_init_makes_a_directory_that_a_server_starts_with(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    made = solo("init", data)
    assert (made.returncode, made.stdout) == (0, f"wrote {data}/solo.toml\n")
    assert made.stderr == f"  next: solo serve --data {data}\n"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "solo.toml").stat().st_mode) == 0o600
    text = (data / "solo.toml").read_text()
    (data / "solo.toml").write_text(
        text.replace("#http_port = 8080", "http_port = 0").replace("#max_total = 1000", "max_total = 0")
    )
    child = Child("serve", "--data", data)
    try:
        assert child.line().startswith("ready http://127.0.0.1:")
        assert f"configured by {data}/solo.toml" in child.errors
        refused = solo("deploy", "-", "--id", "a", "--data", data, text=PIDS)
        assert refused.stderr.startswith("error: quota_exceeded: ")
        child.send(signal.SIGTERM)
        assert child.wait() == 0
    finally:
        child.close()


def test_init_without_a_name(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("init")[:2] == (0, "wrote data/solo.toml\n")
    monkeypatch.setenv("SOLO_DATA", str(tmp_path / "other"))
    assert json.loads(command("init", "--json")[1]) == {
        "data": str(tmp_path / "other"),
        "config": str(tmp_path / "other" / "solo.toml"),
    }


def test_init_writes_over_nothing_unless_told(command: Run, tmp_path: Path) -> None:
    (tmp_path / "solo.toml").write_text("mine")
    code, out, err = command("init", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("error: file_exists: ")
    assert (tmp_path / "solo.toml").read_text() == "mine"
    (tmp_path / "solo.toml").unlink()
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "solo.toml").symlink_to(tmp_path / "elsewhere")
    assert command("init", tmp_path)[0] == 1
    tmp_path.chmod(0o755)
    code, out, err = command("init", tmp_path, "--force")
    assert (code, out) == (0, f"wrote {tmp_path}/solo.toml\n")
    assert f"chmod 700 {tmp_path}" in err
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert not (tmp_path / "solo.toml").is_symlink()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755  # what is there already stays as it is
    assert list(tomllib.loads((tmp_path / "solo.toml").read_text())) == ["solo", *_sections()[1:]]


def _sections() -> list[str]:
    return list(dict.fromkeys(entry.section for entry in table().values()))


def test_init_where_nothing_can_be_made(command: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        code, out, err = command("init", name)
        assert (code, out) == (1, ""), name
        assert err.startswith("error: data_unwritable: ")
    for wrong in ("", tmp_path / ("x" * 300), "nu\0ll"):
        assert command("init", wrong)[0] == 2
    assert command("init", tmp_path, "more")[0] == 2


# -- config


def test_config_show(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.toml").write_text('[limits]\nmax_total = 3\n\n[security]\nallow_hosts = ["a.example"]\n')
    monkeypatch.setenv("SOLO_MAX_PER_TENANT", "2")
    monkeypatch.setenv("SOLO_TOKEN", "very-secret")
    monkeypatch.setenv("SOLO_MASTER_KEY", "very-secret")
    monkeypatch.setenv("SOLO_URL", "http://user:very-secret@example:1/")
    code, out, err = command("config", "show", "--config", "c.toml", "--data", tmp_path, "--json")
    assert (code, err) == (0, "")
    assert "very-secret" not in out
    shown = json.loads(out)
    assert shown["file"] == "c.toml"
    assert shown["client"]["SOLO_TOKEN"] == "(set)"
    assert shown["client"]["SOLO_URL"] == "***@example:1/"
    assert list(shown["values"]) == list(table())
    assert shown["values"]["limits.max_total"] == {"value": 3, "source": "file c.toml:2"}
    assert shown["values"]["limits.max_per_tenant"] == {"value": 2, "source": "environment SOLO_MAX_PER_TENANT"}
    assert shown["values"]["solo.data_dir"] == {"value": str(tmp_path), "source": "flag --data"}
    assert shown["values"]["solo.host"]["source"] == "default"
    code, out, err = command("config", "show", "--config", "c.toml")
    assert (code, err) == (0, "")
    assert "very-secret" not in out
    assert any(
        line.split() == ["security.allow_hosts", '["a.example"]', "file", "c.toml:5"] for line in out.splitlines()
    )


def test_config_check(command: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("[limits]\nmax_total = 3\n")
    bad.write_text('[limits]\nmax_totl = 3\nmax_total = "3"\n"a\\u001b[2J" = 1\n')
    assert command("config", "check", good) == (0, f"{good} is right\n", "")
    assert json.loads(command("config", "check", good, "--json")[1]) == {"file": str(good), "ok": True, "faults": []}
    code, out, err = command("config", "check", bad)
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"error: invalid_configuration: {bad}:") for line in lines)
    assert "\x1b" not in err
    assert len(json.loads(command("config", "check", bad, "--json")[1])["faults"]) == 3
    assert "cannot be read" in command("config", "check", tmp_path / "none")[2]
    directory = tmp_path / "some"
    directory.mkdir()
    (directory / "solo.toml").write_bytes(bad.read_bytes())
    assert command("config", "check", "--data", directory)[0] == 1
    (directory / "solo.toml").write_bytes(good.read_bytes())
    assert command("config", "check", "--data", directory) == (0, f"{directory / 'solo.toml'} is right\n", "")
    assert command("config", "check", good, "--data", directory)[0] == 2
    assert command("config", "check")[0] == 2
    assert command("config", "check", "")[0] == 2


@pytest.mark.parametrize("words", [["config", "show"], ["serve"], ["init"]])
def test_a_wrong_configuration_starts_nothing(words: list[str], tmp_path: Path) -> None:
    ran = solo(*words, cwd=tmp_path, SOLO_MAX_TOTAL="many", SOLO_DATA=str(tmp_path / "data"))
    if words == ["init"]:  # it is how to come to a right one
        assert ran.returncode == 0
        return
    assert (ran.returncode, ran.stdout) == (1, "")
    first, advice = ran.stderr.splitlines()
    assert first.startswith(
        "error: invalid_configuration: the environment variable SOLO_MAX_TOTAL must be a whole number"
    )
    assert "solo config show" in advice
    assert not (tmp_path / "data").exists()


def test_a_serve_with_a_wrong_file_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("[solo]\nhttp_prt = 1\n")
    for more, variables in ((["--config", "wrong.toml"], {}), ([], {"SOLO_CONFIG": "wrong.toml"})):
        ran = solo("serve", "--port", "0", *more, cwd=tmp_path, **variables)
        assert (ran.returncode, ran.stdout) == (1, "")
        said = "error: invalid_configuration: wrong.toml:2: solo.http_prt is not known; do you mean solo.http_port?\n"
        assert ran.stderr.startswith(said)
    assert [each.name for each in tmp_path.iterdir()] == ["wrong.toml"]


def test_commands_find_the_server_by_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'[solo]\ndata_dir = "{tmp_path / "there"}"\nhttp_port = 0\nlog_level = "error"\n')
    child = Child("serve", "--config", tmp_path / "c.toml")
    try:
        assert child.line().startswith("ready ")
        ran = solo("health", "--json", cwd=tmp_path, SOLO_CONFIG="c.toml")
        assert (ran.returncode, json.loads(ran.stdout)["ready"]) == (0, True)
        child.send(signal.SIGTERM)
        assert (child.wait(), child.errors) == (0, "")
    finally:
        child.close()


# -- check


def check(text: str | bytes) -> Report:
    return check_source(text if isinstance(text, bytes) else text.encode())


GOOD = """
import trio
from solo_trio import service


@service.export
async def add(a, b):
    return a + b


if trio:
    @service.export
    def more():
        return 1


async def main(ctx, task_status):
    task_status.started()
"""


def test_what_is_right_has_no_findings() -> None:
    report = check(GOOD)
    assert (report.findings, report.exports, report.main) == ([], ["add", "more"], True)
    examples = Path(__file__).parents[2] / "examples"
    for name in ("calc.py", "counter.py"):
        assert check_source((examples / name).read_bytes()).findings == []
    assert check(PIDS).findings == []


S = "from solo_trio import service\n"
ERRORS = {
    "": "it is empty",
    "  \n": "it is empty",
    "x = (\n": "the syntax is wrong",
    "return 1\n": "the syntax is wrong",
    "async def main(ctx):\n    yield\n    return 1\n": "the syntax is wrong",
    "a = '\0'\n": "",
    "(" * 500 + ")" * 500: "",
    "def main(ctx): pass\n": "main must be an async function",
    "class main: pass\n": "main must be an async function",
    "async def main(): pass\n": "main must take one argument",
    "async def main(a, b): pass\n": "main must take one argument",
    "async def main(ctx, *, other): pass\n": "main must take one argument",
    "async def main(task_status): pass\n": "main must take one argument",
    "async def main(ctx):\n    yield 1\n": "main must not yield",
    S + "@service.export()\ndef f(): pass\n": "takes no parentheses",
    S + "@service.export\ndef größe(): pass\n": "cannot be called from outside",
    S + "@service.export\ndef " + "f" * 200 + "(): pass\n": "cannot be called from outside",
}
WARNINGS = {
    "x = 1\n": "exports nothing and has no main",
    S + "@service.export\ndef f(): pass\n@service.export\ndef f(): pass\n": "is exported at line",
    S + "@service.export\nasync def main(ctx): pass\n": "main is exported",
    S + "@service.export\ndef f():\n    yield 1\n": "is a generator",
    S + "@print\n@service.export\ndef f(): pass\n": "is not the outermost decorator",
    S + "class A:\n    @service.export\n    def f(self): pass\n": "has no effect",
    S + "@service.export\nclass A: pass\n": "is a class",
}


@pytest.mark.parametrize("text", list(ERRORS))
def test_what_is_wrong_is_an_error(text: str) -> None:
    report = check(text)
    assert not report.ok
    assert any(ERRORS[text] in each.what for each in report.findings if each.level == "error"), report


@pytest.mark.parametrize("text", list(WARNINGS))
def test_what_is_doubtful_is_a_warning(text: str) -> None:
    report = check(text)
    assert report.ok
    assert any(WARNINGS[text] in each.what for each in report.findings), report


@pytest.mark.parametrize(
    "text",
    [
        "async def main(ctx, task_status=None): pass\n",
        "async def main(ctx, *, task_status): pass\n",
        "async def main(*args): pass\n",
        "async def main(ctx, more=1): pass\n",
        "async def main(ctx):\n    def inner():\n        yield\n",
        "import solo_trio.service\n@solo_trio.service.export\ndef f(): pass\n",
        "from solo_trio.service import export as public\n@public\ndef f(): pass\n",
        "import functools\nmain = functools.partial(print)\n",
        "x = '\\d'\nasync def main(ctx): pass\n",
    ],
)
def test_what_may_be_is_left_alone(text: str) -> None:
    assert check(text).findings == []


def test_bytes_that_are_no_text() -> None:
    assert check(b"a = 1\n\xff").findings[0].line == 2
    assert "a service may have" in check(b"#" * (1 << 21)).findings[0].what
    assert len(check(S + "@service.export()\ndef f(): pass\n" * 500).findings) == FINDINGS_MAX


def test_check_as_a_command(command: Run, tmp_path: Path) -> None:
    source = tmp_path / "s.py"
    source.write_text(GOOD)
    code, out, err = command("check", source)
    assert (code, err) == (0, "")
    assert out == f"{source}: no errors found; exports add, more; main: yes (advice, not proof)\n"
    assert json.loads(command("check", source, "--json")[1]) == {
        "file": str(source),
        "ok": True,
        "findings": [],
        "exports": ["add", "more"],
        "main": True,
    }
    source.write_text("\n\ndef main(ctx): pass\n")
    code, out, _ = command("check", source)
    assert (code, [line.split("  ") for line in out.splitlines()][1][0]) == (1, f"{source}:3:1")
    assert "main must be an async function  Write async def main(ctx)." in out
    assert json.loads(command("check", source, "--json")[1])["findings"][0]["line"] == 3
    for wrong in ([], [tmp_path / "none"], [tmp_path], [source, source], [""]):
        assert command("check", *wrong)[0] == 2
    source.write_text("import os\n\nasync def main(ctx):\n    os.system('ls')\n    open('a')\n")
    code, out, _ = command("check", source)
    [header, first, second] = out.splitlines()
    assert (code, header.split()) == (1, ["WHERE", "LEVEL", "RULE", "FOUND", "WHAT", "TO", "DO"])
    assert first.startswith(f"{source}:4:5  error    process_use    os.system starts another process  ")
    assert second.startswith(f"{source}:5:5  warning  blocking_call  open blocks, in an async function ")
    [first, second] = json.loads(command("check", source, "--json")[1])["findings"]
    assert (first["rule"], first["level"], first["line"], first["column"]) == ("process_use", "error", 4, 5)
    source.write_text("async def main(ctx):\n    open('a')\n")
    code, out, _ = command("check", source)
    assert code == 0 and out.splitlines()[-1].startswith(f"{source}: no errors found;"), "warnings are no failure"
    piped = solo("check", "-", text="x = (\n")
    assert (piped.returncode, piped.stderr) == (1, "")
    assert piped.stdout.splitlines()[1].startswith("-:1:5  error  syntax  the syntax is wrong")


def test_check_runs_nothing(command: Run, tmp_path: Path) -> None:
    source = tmp_path / "s.py"
    source.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + GOOD)
    assert command("check", source)[0] == 0
    assert not (tmp_path / "ran").exists()


# -- doctor

LOOKED_AT = [
    "configuration",
    "python",
    "sqlite",
    "sandbox",
    "namespaces",
    "landlock",
    "seccomp",
    "cgroups",
    "open files",
    "data directory",
    "file system",
    "free space",
    "fsync",
    "clock",
    "server",
]


def test_doctor(command: Run, tmp_path: Path) -> None:
    code, out, _ = command("doctor", "--data", tmp_path / "none", "--json")
    found = {each["name"]: each for each in json.loads(out)["checks"]}
    assert list(found) == LOOKED_AT
    assert {each["status"] for each in found.values()} <= {"ok", "warn", "fail"}
    assert code == (0 if json.loads(out)["ok"] else 1)
    assert found["python"]["status"] == "ok"
    assert found["data directory"]["advice"] == f"solo init {tmp_path / 'none'}"
    assert not (tmp_path / "none").exists()
    assert found["server"]["status"] == "warn"
    assert all(each["advice"] for each in found.values() if each["status"] != "ok" and each["name"] != "server")
    assert list(tmp_path.iterdir()) == []
    lines = command("doctor", "--data", tmp_path / "none")[1].splitlines()
    assert lines[0].split() == ["WHAT", "STATUS", "FOUND", "WHAT", "TO", "DO"]
    assert len(lines) == len(LOOKED_AT) + 1


def test_doctor_says_what_fails(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    code, out, _ = command("doctor", "--data", tmp_path / "file", "--json")
    assert code == 1
    found = {each["name"]: each for each in json.loads(out)["checks"]}
    assert found["data directory"]["status"] == "fail"
    assert found["fsync"]["status"] == "warn"
    monkeypatch.setenv("SOLO_MAX_TOTAL", "x")
    code, out, _ = command("doctor", "--data", tmp_path, "--json")
    found = {each["name"]: each for each in json.loads(out)["checks"]}
    assert (code, found["configuration"]["status"]) == (1, "fail")
    assert "SOLO_MAX_TOTAL" in found["configuration"]["says"]


def test_doctor_finds_the_server(command: Run, tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        found = {
            each["name"]: each for each in json.loads(command("doctor", "--data", server.data, "--json")[1])["checks"]
        }
        assert (found["server"]["status"], found["server"]["says"]) == ("ok", server.url)
        assert found["data directory"]["status"] == "ok"


def test_few_open_files_fail(tmp_path: Path) -> None:
    ran = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 100; exec "$@"', "sh", *SOLO, "doctor", "--json"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        timeout=LONG_S,
    )
    found = {each["name"]: each for each in json.loads(ran.stdout)["checks"]}
    assert ran.returncode == 1
    assert (found["open files"]["status"], found["open files"]["says"]) == ("fail", "100")


def test_what_the_machine_says(tmp_path: Path) -> None:
    assert machine.file_system(Path("/proc/self")) == "proc"
    assert machine.file_system(tmp_path / "none" / "below") == machine.file_system(tmp_path)
    assert machine.nearest(tmp_path / "none" / "below") == tmp_path
    assert 0 < machine.fsync_ms(tmp_path) < 60_000
    assert list(tmp_path.iterdir()) == []
    assert [each.name for each in doctor.examine(tmp_path)] == LOOKED_AT


# -- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(command: Run, shell: str) -> None:
    code, out, err = command("completion", shell)
    assert (code, err) == (0, "")
    assert f"_SOLO_COMPLETE={shell}_complete" in out


def test_completion_wrongly_used(command: Run) -> None:
    assert command("completion")[0] == 2
    assert command("completion", "tcsh")[0] == 2


def completed(words: str, cwd: Path, **more: str) -> list[str]:
    """What bash would be offered for the last word."""
    count = len(words.split(" ")) - 1
    variables = {"_SOLO_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    ran = solo(cwd=cwd, **variables, **more)
    assert ran.stderr == ""
    return [line.partition(",")[2] for line in ran.stdout.splitlines() if line]


def test_completion_of_words_and_ids(tmp_path: Path) -> None:
    assert completed("solo rest", tmp_path) == ["restart", "restore"]
    assert "--replace" in completed("solo deploy --r", tmp_path)
    assert completed("solo update x --limit mem", tmp_path) == ["memory_mb="]
    assert completed("solo status ", tmp_path) == []  # there is no server
    with Server(tmp_path / "data") as server:
        for name in ("one", "two"):
            assert solo("deploy", "-", "--id", name, "--data", server.data, text=PIDS).returncode == 0
        for verb in ("status", "kill", "restart", "pause", "resume", "call", "versions", "update"):
            assert completed(f"solo {verb} t", tmp_path, SOLO_DATA=str(server.data)) == ["two"]
        assert completed("solo status ", tmp_path) == ["one", "two"]  # ./data
        assert completed(f"solo status --data {server.data} o", Path("/")) == ["one"]
        assert completed("solo status ", tmp_path, SOLO_TENANT="nobody") == []
