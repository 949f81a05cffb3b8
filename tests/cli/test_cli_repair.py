"""`solo repair`, `solo verify --fix` and `solo serve` on damaged directories: what is said, asked and done; exit codes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_rig import SOLO, Server, environment, solo, used_and_left

from solo_trio.client import SoloClient, find_server
from solo_trio.journal.library import driver


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return used_and_left(tmp_path_factory.mktemp("repair") / "data")


@pytest.fixture
def data(used: Path, tmp_path: Path) -> Path:
    shutil.copytree(used, tmp_path / "data")
    return tmp_path / "data"


def sql(data: Path, *statements: str) -> list[tuple[int, ...]]:
    connection = driver.connect(str(data / "kernel.db"), isolation_level=None)
    rows: list[tuple[int, ...]] = []
    for statement in statements:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


def last_id(data: Path) -> int:
    return sql(data, "SELECT max(id) FROM events")[0][0]


def contents(data: Path) -> dict[str, bytes]:
    """Of the files that count."""
    names = ("kernel.db", "kernel.head", "master.key", "audit.db", "audit.head", "admin.token")
    return {name: (data / name).read_bytes() for name in names if (data / name).exists()}


def lose_the_last(data: Path) -> None:
    sql(data, f"DELETE FROM events WHERE id > {last_id(data) - 2}")


def cut_the_database(data: Path) -> None:
    os.truncate(data / "kernel.db", 8_192)


def forget_the_witness(data: Path) -> None:
    (data / "kernel.head").unlink()


def spoil_the_first_page(data: Path) -> None:
    content = bytearray((data / "kernel.db").read_bytes())
    content[:100] = bytes(100)
    (data / "kernel.db").write_bytes(bytes(content))


HARMS = [lose_the_last, cut_the_database, forget_the_witness, spoil_the_first_page]


@pytest.mark.parametrize("harm", HARMS)
def test_a_server_refuses_and_says_what_to_do(data: Path, harm: Callable[[Path], None]) -> None:
    harm(data)
    before = contents(data)
    done = solo("serve", "--data", data, "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: data_damaged: " in done.stderr and "solo repair" in done.stderr and "solo verify" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(data) == before
    done = solo("verify", "--data", data)
    assert done.returncode == 1 and "failed" in done.stdout and "solo repair" in done.stdout + done.stderr


@pytest.mark.parametrize("harm", [lose_the_last, forget_the_witness, spoil_the_first_page])
def test_shown_first_then_done_then_served(data: Path, harm: Callable[[Path], None]) -> None:
    last = last_id(data)
    harm(data)
    before = contents(data)
    done = solo("repair", "--data", data)
    assert done.returncode == 1 and "solo repair --yes" in done.stderr
    assert contents(data) == before and not (data / "damaged").exists()
    lost = f"events {last - 1} to {last}, 2 in all: their effects are gone"
    assert (lost in done.stdout) is (harm is lose_the_last), done.stdout
    assert "default/pids" in done.stdout
    done = solo("repair", "--data", data, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"repaired; event {last + 1} tells of it" in done.stdout
    [kept] = (data / "damaged").iterdir()
    assert (kept / "kernel.db").read_bytes() == before["kernel.db"]
    assert solo("verify", "--data", data).returncode == 0
    with Server(data) as server, SoloClient(**find_server(data, environment={}).options(), tenant="default") as client:
        assert client.call("pids", "echo", ["still here"]) == [["still here"], {}]
        [event] = client.events(since_id=0, limit=1_000, type="log_repaired")["events"] or [None]
        assert event is None, "it is the system's, not a tenant's"
        done = solo("verify", "--data", data, "--accept-loss", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["status"] == "ok"
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    done = solo("repair", "--data", data, "--yes")
    assert (done.returncode, done.stdout) == (0, "there is nothing to repair\n")


def test_for_programs(data: Path) -> None:
    lose_the_last(data)
    done = solo("repair", "--data", data, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr, answer["repaired"]) == (1, "", False)
    plan = answer["plan"]
    assert plan["events"]["lost"] and plan["way"] in ("log", "checkpoint") and not plan["loses_nothing"]
    done = solo("repair", "--data", data, "--json", "--yes", "--way", "log")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["repaired"], answer["plan"]["way"]) == (0, True, "log")
    done = solo("repair", "--data", data, "--json")
    assert (done.returncode, json.loads(done.stdout)["plan"]) == (0, None)


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_on_a_terminal_it_asks(data: Path, answer: str, code: int) -> None:
    lose_the_last(data)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*SOLO, "repair", "--data", str(data)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="dumb"),
    )
    os.close(theirs)
    shown = b""
    try:
        while b"Repair it so?" not in shown:
            shown += os.read(ours, 65_536)  # an error, if it has ended without asking
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(60) == code
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert (data / "damaged").exists() is (answer == "y")


def test_without_the_master_key_it_says_why(data: Path) -> None:
    lose_the_last(data)
    (data / "master.key").unlink()
    done = solo("repair", "--data", data, "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "without the master key nothing in the directory can be proven" in done.stderr
    assert not (data / "damaged").exists()


def test_wrong_use(data: Path, tmp_path: Path) -> None:
    assert solo("repair", "--way", "sideways").returncode == 2
    done = solo("repair", "--data", tmp_path / "none", "--yes")
    assert done.returncode == 1 and "is no data directory" in done.stderr
    assert not (tmp_path / "none").exists()
    lose_the_last(data)
    done = solo("repair", "--data", data, "--way", "unproven")
    assert done.returncode == 1 and "there is no way unproven" in done.stderr


def test_of_a_directory_that_is_in_use(used: Path, data: Path) -> None:
    with Server(data):
        for command in (("repair", "--yes"), ("repair",)):
            done = solo(*command, "--data", data)
            assert (done.returncode, done.stdout) == (1, "") and "data_in_use" in done.stderr


def test_verify_fix_with_a_server_and_without(data: Path) -> None:
    sql(data, "INSERT INTO secrets VALUES ('gone', 'name', 1, 'v', 'k', x'00')")
    done = solo("verify", "--data", data)
    assert done.returncode == 0 and "solo verify --fix" in done.stderr
    done = solo("verify", "--data", data, "--fix")
    assert done.returncode == 0 and "fixed: removed 1 rows" in done.stderr
    sql(data, "INSERT INTO secrets VALUES ('gone', 'name', 1, 'v', 'k', x'00')")
    with Server(data):
        report = json.loads(solo("verify", "--data", data, "--json").stdout)
        assert report["status"] == "warning" and report["fixed"] == []
        report = json.loads(solo("verify", "--data", data, "--json", "--fix").stdout)
        assert report["status"] == "ok" and report["fixed"] == ["removed 1 rows that nothing named"]
        events = json.loads(solo("events", "--data", data, "--all", "--json", "--type", "inconsistency_fixed").stdout)
        assert len(events["events"] if isinstance(events, dict) else events) == 2
