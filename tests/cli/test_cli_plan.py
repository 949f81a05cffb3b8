"""`solo serve --plan`: after a real kill it says what the next start then does, and not a byte was changed for it."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from cli_rig import PIDS, STUBBORN, Child, Server, solo

from solo_trio.bootstrap.directory import RESTORING_FILE
from solo_trio.client import SoloClient, find_server
from solo_trio.journal.library import driver

WILD = "async def main(ctx):\n    raise ValueError('boom')\n"
SLOW = "import time\n\ntime.sleep(2)\n"


def digests(data: Path) -> dict[str, str]:
    """Of every file there is."""
    files = [path for path in data.rglob("*") if path.is_file()]
    return {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def client_of(data: Path) -> SoloClient:
    return SoloClient(**find_server(data, environment={}).options(), tenant="default")


def plan_of(data: Path, *more: str) -> tuple[int, dict[str, Any]]:
    done = solo("serve", "--plan", "--json", "--port", "0", "--data", data, *more)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose kernel was killed in the middle of everything."""
    data = tmp_path_factory.mktemp("plan") / "data"
    with Server(data) as server:
        with client_of(data) as client:
            client.create_tenant("default")
            client.deploy("base", PIDS)
            client.deploy("top", PIDS, depends_on=["base"])
            client.deploy("gone", "# its source will be lost\n")
            client.deploy("quiet", PIDS)
            client.pause("quiet")
            client.deploy("stubborn", STUBBORN)
            with client.watch(since_id=0, type="service_given_up", service_id="wild") as events:
                client.deploy("wild", WILD, restart_limits={"max_restarts": 0, "max_seconds": 60})
                next(events)
            killing = Child("kill", "stubborn", "--grace", "60s", "--data", data)
            with client.watch(since_id=0, type="service_killed", service_id="stubborn") as events:
                next(events)
            client.deploy("intent", SLOW, wait=False)
        server.send(signal.SIGKILL)
        server.wait()
        killing.wait()
        killing.close()
    connection = driver.connect(str(data / "kernel.db"), isolation_level=None)
    digest = hashlib.sha256(b"# its source will be lost\n").hexdigest()
    assert connection.execute("DELETE FROM artifacts WHERE digest = ?", (digest,)).rowcount == 1
    connection.close()
    return data


def test_it_is_what_the_next_start_does(killed: Path, tmp_path: Path) -> None:
    before = digests(killed)
    code, plan = plan_of(killed)
    assert digests(killed) == before, "no file is written, made or taken away"
    assert code == 0 and plan["would_start"] and plan["problems"] == []
    assert not plan["shut_down_in_order"] and plan["hold"] is None and not plan["clock"]["held"]
    assert plan["replayed"] == plan["last_event_id"] - (plan["checkpoint"] or 0)
    by_id = {each["service_id"]: each for each in plan["start"]}
    assert {name: (each["round"], each["outcome"]) for name, each in by_id.items()} == {
        "base": (1, "ready"),
        "top": (2, "ready"),
        "gone": (1, "given_up"),
        "intent": (1, "ready"),
    }
    assert "is missing" in by_id["gone"]["obstacle"]
    assert [each["service_id"] for each in plan["finish_stopping"]] == ["stubborn"]
    left = {each["service_id"]: each for each in plan["left_as_they_are"]}
    assert {name: each["status"] for name, each in left.items()} == {"quiet": "paused", "wild": "given_up"}
    assert "somebody paused it" in left["quiet"]["why"] and "boom" in left["wild"]["why"]
    with Server(killed) as server:
        with client_of(killed) as client:
            happened: dict[str, list[str]] = defaultdict(list)
            for event in client.events(since_id=plan["last_event_id"], limit=1000)["events"]:
                if event["subject"] is not None:
                    happened[event["subject"]].append(event["type"])
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    told = {each["service_id"]: each["events"] for each in (*plan["start"], *plan["finish_stopping"])}
    assert dict(happened) == told
    code, plan = plan_of(killed)
    assert code == 0 and plan["shut_down_in_order"] and plan["checkpoint"] is not None
    assert {each["service_id"] for each in plan["start"]} == {"base", "top", "intent"}
    assert {each["service_id"] for each in plan["left_as_they_are"]} == {"quiet", "wild", "gone"}


def test_for_people(killed: Path) -> None:
    done = solo("serve", "--plan", "--port", "0", "--data", killed, "--start-paused")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("solo serve would start on ")
    assert "it starts paused, as it is asked to: every service is held back until solo resume" in done.stdout
    assert (
        "default/base does not run" not in done.stdout
        and "leave paused: default/base: base does not run" in done.stdout
    )
    assert solo("serve", "--json", "--data", killed).returncode == 2


def test_what_a_start_would_be_refused_for(killed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(killed, copy)
    key = (copy / "master.key").read_bytes()
    (copy / "master.key").unlink()
    code, plan = plan_of(copy)
    assert code == 1 and not plan["would_start"] and "master.key is missing" in plan["problems"][0]["detail"]
    (copy / "master.key").write_bytes(key.translate(bytes.maketrans(b"0123456789abcdef", b"123456789abcdef0")))
    (copy / "master.key").chmod(0o600)
    code, plan = plan_of(copy)
    assert code == 1 and "master key" in plan["problems"][0]["detail"]
    (copy / "master.key").write_bytes(key)
    head = (copy / "kernel.head").read_bytes()
    (copy / "kernel.head").write_bytes(head[:-1] + bytes([head[-1] ^ 1]))
    before = digests(copy)
    code, plan = plan_of(copy)
    assert code == 1 and plan["problems"][0]["code"] == "data_damaged"
    assert digests(copy) == before
    (copy / "kernel.head").write_bytes(head)
    code, plan = plan_of(copy)
    assert code == 0, plan["problems"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = solo("serve", "--plan", "--json", "--port", str(taken.getsockname()[1]), "--data", copy)
        assert done.returncode == 1 and json.loads(done.stdout)["problems"][0]["code"] == "address_unusable"


def test_in_use_and_the_first_start(killed: Path, tmp_path: Path) -> None:
    code, plan = plan_of(tmp_path / "new")
    assert code == 0 and plan["first_start"] and not (tmp_path / "new").exists()
    with Server(killed):
        code, plan = plan_of(killed)
        assert code == 1 and plan["problems"][0]["code"] == "data_in_use"


def test_a_restore_that_did_not_come_to_its_end(tmp_path: Path) -> None:
    """Whether it was killed before or after it wrote a database: a start refuses both."""
    (tmp_path / RESTORING_FILE).write_bytes(b"")
    code, plan = plan_of(tmp_path)
    assert code == 1 and not plan["would_start"] and not plan["first_start"]
    [problem] = plan["problems"]
    assert problem["code"] == "data_damaged" and "solo restore once more" in problem["detail"]
    done = solo("serve", "--port", "0", "--data", tmp_path)
    assert done.returncode != 0 and problem["detail"] in done.stderr
