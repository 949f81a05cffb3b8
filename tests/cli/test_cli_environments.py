"""`solo env` on real directories, beside a server and without one; and services of several modules on the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_rig import SOLO, Child, Server, environment, solo, wait_gone

from solo_trio.cli.running import run
from solo_trio.client import packing
from solo_trio.model import archive

Run = Callable[..., tuple[int, str, str]]
NO_NETWORK = ("--", "--no-index", "--no-build-isolation", "--no-deps")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [each for each in os.environ if each.startswith("SOLO_") and not each.startswith("SOLO_TESTS_")]:
        monkeypatch.delenv(name)

    def runner(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([str(each) for each in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return runner


def done(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def refused(result: tuple[int, str, str], code: str) -> str:
    assert result[0] == 1 and result[2].startswith(f"error: {code}: "), result
    assert result[1] == ""
    return result[2]


def wheel(directory: Path) -> Path:
    """A package that pip installs without a network and without building anything."""
    path = directory / "tiny_package-1.0-py3-none-any.whl"
    files = {
        "tiny_package.py": "ANSWER = 42\n",
        "tiny_package-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n",
        "tiny_package-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_package-1.0.dist-info/entry_points.txt": "[console_scripts]\ntiny = tiny_package:main\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, "tiny_package-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in (files | {"tiny_package-1.0.dist-info/RECORD": record}).items():
            packed.writestr(name, content)
    return path


def environments(data: Path) -> list[str]:
    """What there is, also what is hidden."""
    return sorted(path.name for path in (data / "environments").iterdir()) if (data / "environments").exists() else []


def test_made_listed_and_removed(command: Run, tmp_path: Path) -> None:
    data, wanted = tmp_path / "data", tmp_path / "requirements.txt"
    wheel(tmp_path)
    wanted.write_text("tiny-package==1.0\n")
    code, out, err = solo_env("add", "science", wanted, "--data", data, *NO_NETWORK, "--find-links", tmp_path)
    assert code == 0 and out.startswith("science ready: deploy on it with solo deploy "), err
    assert "tiny" in err, "what pip says is the progress"
    assert environments(data) == ["science"] and (data.stat().st_mode & 0o777) == 0o700
    prefix = data / "environments" / "science"
    assert {path.name[:6] for path in (prefix / "bin").iterdir()} == {"python"}, "scripts would name another directory"
    found = subprocess.run(
        [prefix / "bin" / "python", "-I", "-c", "import tiny_package, sys; print(tiny_package.ANSWER, sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["42", str(prefix)]
    [listed] = json.loads(done(command("env", "list", "--data", data, "--json")))["environments"]
    assert listed["name"] == "science" and listed["problem"] is None and "tiny-package==1.0" in listed["packages"]
    assert listed["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert "science" in done(command("env", "list", "--data", data))
    assert "solo env remove science" in refused(command("env", "add", "science", wanted, "--data", data), "file_exists")
    assert done(command("env", "remove", "science", "--data", data)) == "science removed\n"
    assert environments(data) == []
    refused(command("env", "remove", "science", "--data", data), "environment_not_found")


def solo_env(*arguments: str | Path) -> tuple[int, str, str]:
    """In a process of its own: pip writes to the real standard error."""
    ran = solo("env", *arguments)
    return ran.returncode, ran.stdout, ran.stderr


def test_what_cannot_be_installed_leaves_nothing(tmp_path: Path) -> None:
    data, wanted = tmp_path / "data", tmp_path / "requirements.txt"
    wanted.write_text("no-such-package-anywhere\n")
    code, out, err = solo_env("add", "science", wanted, "--data", data, "--json", "--", "--no-index")
    assert (code, out) == (1, "") and "error: environment_unusable: pip could not install" in err
    assert "no-such-package-anywhere" in err, "what pip said"
    assert environments(data) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_an_interrupted_one_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """After SIGKILL the next command takes away what is left; before that nobody sees it."""
    data, wanted = tmp_path / "data", tmp_path / "requirements.txt"
    wanted.write_text("slow @ file://" + str(tmp_path / "slow") + "\n")
    started = tmp_path / "started"
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "slow_backend"\nbackend-path = ["."]\n'
    )
    (tmp_path / "slow" / "slow_backend.py").write_text(  # pip is at work here, until it is ended
        f"import os\nopen({str(started)!r}, 'w').close()\nos.mkfifo({str(tmp_path / 'never')!r})\n"
        f"open({str(tmp_path / 'never')!r})\n"
    )
    child = Child("env", "add", "science", wanted, "--data", data, *NO_NETWORK)
    try:
        wait_for(started, child)
        assert environments(data) and all(name.startswith(".science.") for name in environments(data))
        assert json.loads(solo("env", "list", "--data", data, "--json").stdout) == {"environments": []}
        child.send(number)
        code = child.wait() if number != signal.SIGKILL else child.process.wait(60)
        if number is signal.SIGKILL:
            assert environments(data), "nobody could clean up"
        else:
            assert code == 130 and environments(data) == []
            assert not at_work(tmp_path), "nor a process"
    finally:
        for pid in at_work(tmp_path):  # pip, which has lost who started it
            os.kill(pid, signal.SIGKILL)
        child.close()
    wait_gone(*at_work(tmp_path))
    venv.EnvBuilder(symlinks=True).create(tmp_path / "mine")
    assert solo_env("add", "other", "--path", tmp_path / "mine", "--data", data)[0] == 0
    assert environments(data) == ["other"]


def at_work(directory: Path) -> list[int]:
    """Processes that were started with a path in `directory`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(directory) in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def wait_for(path: Path, child: Child) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline and child.process.poll() is None, child.errors
        time.sleep(0.01)  # nothing to wait on: another process makes the file


def test_one_that_there_is_already(command: Run, tmp_path: Path) -> None:
    data, mine = tmp_path / "data", tmp_path / "mine"
    venv.EnvBuilder(symlinks=True).create(mine)
    document = json.loads(done(command("env", "add", "mine", "--path", mine, "--data", data, "--json")))
    assert document["path"] == str(mine) and document["packages"] == []
    refused(command("env", "add", "mine", "--path", mine, "--data", data), "file_exists")
    refused(command("env", "add", "none", "--path", tmp_path, "--data", data), "environment_unusable")
    (mine / "pyvenv.cfg").write_text("version = 3.8.0\n")
    assert "3.8" in refused(command("env", "add", "old", "--path", mine, "--data", data), "environment_unusable")
    assert "3.8" in done(command("env", "list", "--data", data)), "and why"
    done(command("env", "remove", "mine", "--data", data))
    assert environments(data) == [] and (mine / "bin" / "python").exists(), "only the link is gone"


def test_wrong_usage(command: Run, tmp_path: Path) -> None:
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("")
    for wrong in (["add"], ["add", "x"], ["add", "x", wanted, "--path", tmp_path], ["remove"], ["nothing"]):
        assert command("env", *wrong)[0] == 2, wrong
    for name in ("A", "../x", ".x", "a/b"):
        refused(command("env", "add", name, wanted, "--data", tmp_path / "data"), "invalid_id")
        refused(command("env", "remove", name, "--data", tmp_path / "data"), "invalid_id")
    refused(command("env", "add", "x", tmp_path / "none.txt", "--data", tmp_path / "data"), "invalid_field")
    assert environments(tmp_path / "data") == []


# -- beside a server


def test_beside_a_server(command: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLO_DATA", str(server.data))
    service = tmp_path / "service.py"
    service.write_text("x = 1")
    deploy = ("deploy", service, "--id", "calc", "--environment", "science")
    assert "solo env list" in refused(command(*deploy), "environment_not_found")
    venv.EnvBuilder(symlinks=True).create(tmp_path / "mine")
    done(command("env", "add", "science", "--path", tmp_path / "mine"))
    command(*deploy, "--no-wait")
    try:
        status = json.loads(done(command("status", "calc", "--json")))
        if status["spec"]["environment"] == "science":
            said = refused(command("env", "remove", "science"), "environment_in_use")
            assert "default/calc" in said
    finally:
        command("kill", "calc")
    done(command("env", "remove", "science"))


def test_a_directory_and_an_archive(
    command: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLO_DATA", str(server.data))
    shop = tmp_path / "shop"
    (shop / "prices").mkdir(parents=True)
    (shop / "service.py").write_text(
        "from solo_trio import service\nfrom prices import TEA\n@service.export\ndef tea():\n    return TEA\n"
    )
    (shop / "prices" / "__init__.py").write_text("TEA = 3.5\n")
    assert done(command("deploy", shop, "--id", "shop")).startswith("shop ready: version 1, ")
    try:
        assert done(command("call", "shop", "tea")) == "3.5\n"
        (shop / "prices" / "__init__.py").write_text("TEA = 4\n")
        packed = tmp_path / "shop.zip"
        packed.write_bytes(packing.pack(shop))
        assert done(command("deploy", packed, "--id", "shop", "--replace")).startswith("shop ready: version 2, ")
        assert done(command("call", "shop", "tea")) == "4\n"
        rows = [line.split() for line in done(command("versions", "shop")).splitlines()]
        assert [row[-1] for row in rows] == ["FILES", "2", "2"]
        there = environment(SOLO_DATA=str(server.data))
        first = subprocess.run([*SOLO, "versions", "shop", "--source", "1"], env=there, capture_output=True, check=True)
        assert zipfile.ZipFile(io.BytesIO(first.stdout)).read("prices/__init__.py") == b"TEA = 3.5\n"
        back = subprocess.run(
            [*SOLO, "deploy", "-", "--id", "shop", "--replace"], env=there, input=first.stdout, capture_output=True
        )
        assert back.returncode == 0, back.stderr
        assert done(command("call", "shop", "tea")) == "3.5\n"
    finally:
        command("kill", "shop")
    (shop / "service.py").rename(shop / "main.py")
    assert "service.py" in refused(command("deploy", shop, "--id", "shop"), "archive_refused")
    assert command("deploy", tmp_path / "none", "--id", "shop")[0] == 2


def test_the_bounds_of_packing_are_the_servers() -> None:
    assert packing.FILES_MAX == archive.MEMBERS_MAX
    assert packing.EXPANDED_BYTES_MAX == archive.EXPANDED_BYTES_MAX


def test_somebody_without_a_server_is_asked_nothing(command: Run, tmp_path: Path) -> Any:
    assert done(command("env", "list", "--data", tmp_path / "none")).split() == [
        "ENVIRONMENT",
        "PYTHON",
        "PACKAGES",
        "PATH",
        "PROBLEM",
    ]
    assert not (tmp_path / "none").exists(), "looking makes nothing"
