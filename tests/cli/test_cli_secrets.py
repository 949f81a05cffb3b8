"""`solo secrets` and `solo keys`: where a value and a key come from, what is printed, and what never is."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_rig import LONG_S, SOLO, Child, environment, solo

VALUE = "canary-cli-3b7e"
BINARY = bytes([255, 0, 10, 13])


@contextmanager
def serving(data: Path, **more: str) -> Iterator[None]:
    server = Child("serve", "--data", data, "--port", "0", **more)
    try:
        assert server.line().startswith("ready ")
        yield
    finally:
        server.send(signal.SIGTERM)
        assert server.wait() == 0
        server.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data directory of a server that runs."""
    directory = tmp_path_factory.mktemp("secrets") / "data"
    with serving(directory):
        yield directory


def run(data: Path, *arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return solo("secrets", *arguments, "--data", data, text=text)


def said(data: Path, *arguments: str | Path, text: str | None = None) -> str:
    done = run(data, *arguments, text=text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_standard_input_and_back(data: Path) -> None:
    assert said(data, "set", "from-input", text=f"{VALUE}\n") == "from-input: version 1\n"
    assert said(data, "get", "from-input") == VALUE, "without a newline: it may go into a file"
    assert json.loads(said(data, "get", "from-input", "--json")) == {"value": VALUE}
    assert json.loads(said(data, "set", "from-input", "-", "--json", text="two\n\n")) == {
        "name": "from-input",
        "version": 2,
    }
    assert said(data, "get", "from-input") == "two\n"
    assert said(data, "get", "from-input", "--version", "1") == VALUE


def test_from_a_file_as_it_is(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "value"
    for content in (b"text with an end\n", BINARY):
        file.write_bytes(content)
        said(data, "set", "from-file", "--file", file)
        command = [*SOLO, "secrets", "get", "from-file", "--data", str(data)]
        done = subprocess.run(command, capture_output=True, env=environment(), timeout=LONG_S, check=True)
        assert done.stdout == content


def test_from_the_command_line_with_a_warning(data: Path) -> None:
    done = run(data, "set", "from-line", VALUE)
    assert done.returncode == 0 and "can be read by others" in done.stderr
    assert VALUE not in done.stdout + done.stderr
    assert said(data, "get", "from-line") == VALUE


def test_a_terminal_is_asked_without_echo(data: Path) -> None:
    command = [*SOLO, "secrets", "set", "typed", "--data", str(data)]
    controller, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment(), start_new_session=True
        )
        os.close(terminal)
        shown = b""
        deadline = time.monotonic() + LONG_S
        while b"value of typed" not in shown:
            assert select.select([controller], [], [], deadline - time.monotonic())[0]
            shown += os.read(controller, 1_024)
        os.write(controller, VALUE.encode() + b"\n")
        while process.poll() is None or select.select([controller], [], [], 0)[0]:
            if select.select([controller], [], [], 0.1)[0]:
                try:
                    shown += os.read(controller, 1_024)
                except OSError:  # the other end is closed
                    break
        assert process.wait(LONG_S) == 0
    finally:
        os.close(controller)
    assert VALUE.encode() not in shown and b"version 1" in shown
    assert said(data, "get", "typed") == VALUE


def test_under_a_key_of_ones_own(data: Path, tmp_path: Path) -> None:
    key, other = tmp_path / "my.key", tmp_path / "other.key"
    key.write_text("correct horse battery staple\n")
    other.write_text("wrong\n")
    said(data, "set", "mine", "--key-file", key, text=VALUE)
    assert said(data, "get", "mine", "--key-file", key) == VALUE
    for arguments in (("get", "mine"), ("get", "mine", "--key-file", other)):
        done = run(data, *arguments)
        assert done.returncode == 1 and done.stderr.startswith("error: secret_access_denied: ")
    key.write_bytes(BINARY)
    done = run(data, "get", "mine", "--key-file", key)
    assert done.returncode == 1 and "must be text" in done.stderr


def test_listed_and_deleted(data: Path) -> None:
    said(data, "set", "z-last", text="x")
    lines = said(data, "list").splitlines()
    assert lines[0].split() == ["SECRET", "VERSION", "SET", "SEALED", "BY"]
    assert any(line.split()[:2] == ["z-last", "1"] for line in lines)
    listed = json.loads(said(data, "list", "--json"))["secrets"]
    assert [each["name"] for each in listed] == sorted(each["name"] for each in listed)
    assert said(data, "delete", "z-last") == "z-last revoked\n"
    done = run(data, "delete", "z-last")
    assert done.returncode == 1 and done.stderr.startswith("error: secret_not_found: ")
    assert VALUE not in json.dumps(listed) + "".join(lines)


def test_wrong_usage(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text("x")
    assert run(data, "set", "a", "x", "--file", file).returncode == 2
    assert run(data, "get", "a", "--version", "0").returncode == 2
    assert run(data, "set").returncode == 2
    for name in ("a b", "a/b", "../a"):
        done = run(data, "set", name, text="x")
        assert done.returncode == 1 and "invalid_id" in done.stderr
    done = run(data, "set", "empty", text="\n")
    assert done.returncode == 1 and "invalid_field" in done.stderr
    done = run(data, "set", "large", text="x" * 65_537)
    assert done.returncode == 1 and "too_large" in done.stderr


def test_deployed_with_a_secret(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "holder.py"
    source.write_text(
        "from solo_trio import service\n\n"
        "@service.export\nasync def size():\n    return len(await CTX.secret('given'))\n\n"
        "async def main(ctx):\n    global CTX\n    CTX = ctx\n    import trio\n    await trio.sleep_forever()\n"
    )
    said(data, "set", "given", text=VALUE)
    done = solo("deploy", source, "--id", "holder", "--secret", "given", "--data", data)
    assert done.returncode == 0, done.stderr
    assert solo("call", "holder", "size", "--data", data).stdout == f"{len(VALUE)}\n"


def test_the_master_key_is_not_rotated_under_a_kernel(data: Path) -> None:
    before = (data / "master.key").read_bytes()
    done = solo("keys", "rotate", "--data", data)
    assert done.returncode == 1 and done.stderr.startswith("error: data_in_use: ")
    assert (data / "master.key").read_bytes() == before


def test_the_master_key_is_rotated_between_two_runs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for start in range(2):
        with serving(data):
            if start == 0:
                said(data, "set", "api", text=VALUE)
            assert said(data, "get", "api") == VALUE
        key = (data / "master.key").read_text().strip()
        done = solo("keys", "rotate", "--data", data, *(["--json"] if start else []))
        assert done.returncode == 0, done.stderr
        assert key not in done.stdout + done.stderr
        assert (data / "master.key").read_text().strip() not in done.stdout + done.stderr
        assert (json.loads(done.stdout) == {"keys": 4}) if start else done.stdout.startswith("4 keys are under")
    assert solo("verify", "--data", data).returncode == 0


def test_rotating_what_is_no_data_directory(tmp_path: Path) -> None:
    done = solo("keys", "rotate", "--data", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: data_unwritable: ")
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_a_command_for_every_command_without_a_server(tmp_path: Path) -> None:
    data, printed = tmp_path / "data", tmp_path / "printed.key"
    printed.write_text("0c" * 32)
    more = {"SOLO_MASTER_KEY_COMMAND": f"cat '{printed}'"}
    with serving(data, **more):
        pass
    assert not (data / "master.key").exists()
    assert solo("verify", "--data", data, **more).returncode == 0
    assert solo("verify", "--data", data).returncode == 1
    new = tmp_path / "new.key"
    new.write_text("0d" * 32)
    new.chmod(0o600)
    assert solo("keys", "rotate", "--data", data, **more).returncode == 1
    done = solo("keys", "rotate", "--data", data, "--new-key-file", new, **more)
    assert done.returncode == 0, done.stderr
    assert solo("verify", "--data", data, **more).returncode == 1
    printed.write_text("0d" * 32)
    assert solo("verify", "--data", data, **more).returncode == 0
