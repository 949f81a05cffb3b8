"""`solo verify` and `solo checkpoint`: through a server, and on a directory that nobody uses. Exit 0 sound, 1 not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_rig import Server, at_terminal, solo, used_and_left

from solo_trio.client import SoloClient, find_server
from solo_trio.journal.library import driver


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return used_and_left(tmp_path_factory.mktemp("verify") / "data")


def contents(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.iterdir() if path.is_file() and path.name != "reserve"}


def test_through_a_server(server: Server) -> None:
    done = solo("verify", "--data", server.data, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["status"], report["full"]) == ("ok", True)
    assert {check["name"] for check in report["checks"]} >= {"wanted_run", "unwanted_run", "chain", "fold", "artifacts"}
    with SoloClient(**find_server(server.data, environment={}).options()) as client:
        kept = client.system()["verification"]
        assert kept["at"] == report["at"], "the newest report is shown until there is another"
    done = solo("verify", "--data", server.data)
    assert done.returncode == 0 and "wanted_run" in done.stdout
    assert "running 1" in done.stdout and "held back" not in done.stdout


def test_a_tenants_token_may_not(server: Server) -> None:
    with SoloClient(**find_server(server.data, environment={}).options()) as client:
        token = client.create_tenant("other")["token"]
    for command in ("verify", "checkpoint"):
        done = solo(command, "--data", server.data, SOLO_TOKEN=token)
        assert (done.returncode, done.stdout) == (1, "")
        assert "permission_denied" in done.stderr


def test_a_checkpoint_by_hand(server: Server) -> None:
    done = solo("checkpoint", "--data", server.data, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and answer.keys() == {"event_id", "bytes", "duration_ms"}
    with SoloClient(**find_server(server.data, environment={}).options()) as client:
        [event] = client.events(since_id=answer["event_id"], type="checkpoint_written")["events"]
        assert event["payload"] == {"event_id": answer["event_id"], "size_bytes": answer["bytes"]}
    assert solo("checkpoint", "--data", server.data).stdout.startswith("the state after event ")


def test_without_a_server_and_nothing_is_changed(used: Path) -> None:
    before = contents(used)
    done = solo("verify", "--data", used, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["status"] == "ok"
    assert {check["name"] for check in report["checks"]} >= {"files", "keys", "chain", "fold", "checkpoints"}
    done = solo("verify", SOLO_DATA=str(used))
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("ok: events ")
    assert "wanted 1" in done.stdout and "running" not in done.stdout.splitlines()[-1], "nothing runs"
    after = contents(used)
    assert {name: data for name, data in after.items() if name != "lock"} == {
        name: data for name, data in before.items() if name != "lock"
    }


def test_on_a_terminal_its_progress_is_shown_and_taken_away(used: Path) -> None:
    code, shown = at_terminal("verify", "--data", used)
    assert code == 0 and "events" in shown


def test_damage_is_named_and_exits_1(used: Path, tmp_path: Path) -> None:
    data = tmp_path / "copy"
    shutil.copytree(used, data)
    connection = driver.connect(str(data / "kernel.db"), isolation_level=None)
    connection.execute("UPDATE events SET subject = 'x' WHERE id = 2")
    connection.close()
    done = solo("verify", "--data", data)
    assert done.returncode == 1
    assert "event 2 does not match the chain" in done.stdout
    assert "next: restore the whole data directory" in done.stderr
    assert json.loads(solo("verify", "--data", data, "--json").stdout)["status"] == "failed"


def test_where_there_is_nothing(tmp_path: Path) -> None:
    done = solo("verify", "--data", tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not_reachable" in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["verify", "repair", "serve"])
def test_a_restore_that_was_killed_before_it_wrote_anything(tmp_path: Path, command: str) -> None:
    (tmp_path / "kernel.restoring").touch(mode=0o600)
    done = solo(command, "--data", tmp_path)
    assert done.returncode == 1 and "do the same solo restore once more" in done.stdout + done.stderr
