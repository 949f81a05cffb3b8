"""`solo state`: the same with a server and without, at any event, and not a byte of a data directory is changed by it."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import pytest
from cli_rig import PIDS, Server, solo

from solo_trio.client import SoloClient, find_server
from solo_trio.errors import Rejected

SECRET = "correct horse battery staple"


def digests(data: Path) -> dict[str, str]:
    """Of every file there is."""
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, object]]]:
    """A data directory whose kernel was killed, and what it said of each of its events."""
    data = tmp_path_factory.mktemp("state") / "data"
    with Server(data) as server:
        with SoloClient(**find_server(data, environment={}).options(), tenant="default") as client:
            client.create_tenant("default")
            client.deploy("pids", PIDS)
            client.set_secret("api", SECRET)
            client.grant("service:pids", ["call"])
            client.pause("pids")
            client.create_tenant("other")
            newest = client.state()["event_id"]
            told = {}
            for event_id in range(newest + 1):
                told[event_id] = json.loads(
                    json.dumps(client.state(at=event_id, limit=1000) | {"last_event_id": 0, "oldest_event_id": 0})
                )
        server.send(signal.SIGKILL)
        server.wait()
    return data, told


def test_without_a_server_it_is_the_same_and_nothing_is_changed(killed: tuple[Path, dict[int, object]]) -> None:
    data, told = killed
    before = digests(data)
    for event_id in (0, 1, len(told) // 2, len(told) - 1):
        done = solo("state", "--data", data, "--at", str(event_id), "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) | {"last_event_id": 0, "oldest_event_id": 0} == told[event_id]
        assert SECRET not in done.stdout
    done = solo("state", "--data", data)
    assert done.returncode == 0 and "pids" in done.stdout and "paused" in done.stdout and "api" in done.stdout
    assert digests(data) == before, "the lock, the log file and the shared memory included"


def test_what_is_different_between_two_events(killed: tuple[Path, dict[int, object]]) -> None:
    data, told = killed
    done = solo("state", "--data", data, "--at", str(len(told) - 1), "--diff", "0", "--json")
    found = json.loads(done.stdout)
    assert (found["from"], found["to"]) == (0, len(told) - 1)
    assert "service default/pids: new (paused)" in found["changes"]
    assert "secret default/api: new" in found["changes"]
    done = solo("state", "--data", data, "--diff", "0", "--at", "0")
    assert (done.returncode, done.stdout) == (0, "") and "nothing is different" in done.stderr
    for since, at, change in (("0", str(len(told) - 1), "new"), (str(len(told) - 1), "0", "gone")):
        done = solo("state", "--data", data, "--at", at, "--diff", since, "--tenant", "other", "--json")
        assert done.returncode == 0, "a tenant that is not there on one side only"
        changes = json.loads(done.stdout)["changes"]
        assert any(each.startswith(f"tenant other: {change}") for each in changes)
        assert not any("default" in each for each in changes)
    done = solo("state", "--data", data, "--at", "1", "--diff", "0", "--tenant", "other")
    assert done.returncode == 1 and "tenant_not_found" in done.stderr


def test_refusals_say_what_to_do(killed: tuple[Path, dict[int, object]], tmp_path: Path) -> None:
    data, _ = killed
    done = solo("state", "--data", data, "--at", "100000")
    assert done.returncode == 1 and "event_not_found: name an earlier event: the newest is " in done.stderr
    done = solo("state", "--data", data, "--tenant", "nobody")
    assert done.returncode == 1 and "tenant_not_found" in done.stderr
    assert solo("state", "--data", data, "--at", "-1").returncode == 2
    done = solo("state", "--data", tmp_path)
    assert done.returncode == 1 and "not_reachable" in done.stderr


def test_through_a_server(server: Server) -> None:
    with SoloClient(**find_server(server.data, environment={}).options()) as client:
        for number in range(3):
            client.create_tenant(f"paged{number}")
        whole = client.state(limit=1000)
        first = client.state(limit=2)
        found = {name: list(first[name]) for name in ("tenants", "services", "capabilities", "secrets")}
        page = first
        client.create_tenant("after")
        while page["next"] is not None:
            page = client.state(limit=2, cursor=page["next"])
            assert page["event_id"] == first["event_id"], "all pages are of one state"
            for name in found:
                found[name] += page[name]
        assert found == {name: whole[name] for name in found}
        with pytest.raises(Rejected, match="cursor"):
            client.state(at=1, cursor=str(first["next"]))
        with pytest.raises(Rejected, match="cursor"):
            client.state(cursor="1")
    done = solo("state", "--data", server.data, "--tenant", "paged1", "--json")
    assert [each["tenant_id"] for each in json.loads(done.stdout)["tenants"]] == ["paged1"]
    assert "paged2" in solo("state", "--data", server.data).stdout
