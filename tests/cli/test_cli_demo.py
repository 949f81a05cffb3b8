"""`solo demo` and the examples, as a reader runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_rig import LONG_S, ROOT, Child, Server, environment, solo, wait_gone

from solo_trio.runtimes import procfs


@pytest.mark.slow
def test_the_demo_tells_the_whole_story_and_leaves_nothing(tmp_path: Path) -> None:
    ran = solo("demo", TMPDIR=str(tmp_path), SOLO_DATA="/nowhere", SOLO_TOKEN="none")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert list(map(int, re.findall(r"^(\d+)\. ", ran.stdout, re.M))) == list(range(1, 11))
    for words in (
        "SANDBOX LEVEL ",
        "calc.add(2, 3) = 5",
        "kill -9",
        "restarts 1",
        "none missed, none twice",
        "-> exit 0",
    ):
        assert words in ran.stdout
    assert "\x1b" not in ran.stdout
    [gone] = re.findall(r"its processes ([\d, ]+) are gone", ran.stdout)
    assert len(gone.split(", ")) >= 4
    wait_gone(*map(int, [*re.findall(r"process (\d+)", ran.stdout), *gone.split(", ")]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_either(tmp_path: Path, number: signal.Signals) -> None:
    child = Child("demo", TMPDIR=str(tmp_path), PYTHONUNBUFFERED="1")
    try:
        told = ""
        while "4. Call them" not in told:
            line = child.line()
            assert line, child.errors
            told += line
        started = procfs.descendants(child.process.pid)
        child.send(number)
        assert child.wait() == 130
        assert "Traceback" not in child.errors
        assert int(re.findall(r"process (\d+)", told)[0]) in started and len(started) >= 5
        wait_gone(*started)
        assert list(tmp_path.iterdir()) == []
    finally:
        child.close()


@pytest.mark.slow
def test_a_demo_that_does_not_hold_fails_and_says_what(tmp_path: Path) -> None:
    """The kernel it starts cannot serve: there is no place for its data."""
    code = (
        "import solo_trio.cli.demo_kernel as demo\n"
        "demo.sys.executable = '/bin/false'\n"
        "from solo_trio.cli.running import run\n"
        "raise SystemExit(run(['demo']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=LONG_S,
    )
    assert ran.returncode == 1
    assert "WRONG: the kernel did not become ready" in ran.stdout
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_embedding_example_runs_twice(tmp_path: Path) -> None:
    said = []
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, ROOT / "examples/embedding.py"],
            env=environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LONG_S,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "2 + 3 = 5\n" in ran.stdout
        assert "ticker: ready, version 1, a task" in ran.stdout
        said.append(ran.stdout.splitlines()[0])
    assert said == ["recovered: []", "recovered: ['calc ready', 'ticker ready']"]


def test_the_example_services_do_what_they_say(server: Server) -> None:
    def answer(*arguments: str) -> str:
        ran = solo(*arguments, SOLO_DATA=str(server.data))
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    answer("deploy", str(ROOT / "examples/calc.py"), "--id", "calc")
    assert answer("call", "calc", "add", "2", "3") == "5\n"
    assert answer("call", "calc", "mean", "1", "2") == "1.5\n"
    answer("deploy", str(ROOT / "examples/counter.py"), "--id", "counter", "--config", '{"step": 10, "every_s": 0.01}')
    assert int(answer("call", "counter", "value")) % 10 == 0
    assert json.loads(answer("logs", "counter", "--json", "--tail", "5"))["next"] is None
    assert os.path.exists(server.data)
