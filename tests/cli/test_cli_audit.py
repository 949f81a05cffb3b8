"""`solo audit export`: through a server, and on a directory that nobody uses; what `solo verify` says of the audit."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_rig import LONG_S, PIDS, SOLO, Server, environment, solo

from solo_trio.client import SoloClient, find_server

NAMES = ["id", "at", "tenant_id", "credential", "operation", "subject", "outcome", "duration_ms", "request_id", "peer"]


def client(data: Path, **more: Any) -> SoloClient:
    return SoloClient(**find_server(data, environment={}).options(), **more)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that a kernel has used, and left; two tenants did something there."""
    data = tmp_path_factory.mktemp("audit") / "data"
    with Server(data) as server:
        with client(data) as system:
            for name in ("one", "two"):
                system.create_tenant(name)
                with client(data, tenant=name) as tenant:
                    tenant.deploy(f"of_{name}", PIDS)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    return data


def exported(*arguments: str | Path, **more: str) -> list[dict[str, Any]]:
    done = solo("audit", "export", *arguments, **more)
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_through_a_server(server: Server, tmp_path: Path) -> None:
    with client(server.data) as system:
        token = system.create_tenant("audited")["token"]
        with SoloClient(system.url, token) as tenant:
            tenant.services()
            mine = tenant.audit()
            page = tenant.audit(limit=1, operation="list_services", outcome="200")
            assert len(page["entries"]) == 1 and page["next"] is None
    everything = exported("--data", server.data)
    assert all(list(each) == NAMES for each in everything)
    assert {"create_tenant", "list_services"} <= {each["operation"] for each in everything}
    of_one = exported("--data", server.data, SOLO_TOKEN=token)
    assert {each["tenant_id"] for each in of_one} == {"audited"} and len(of_one) > len(mine["entries"])
    again = exported("--data", server.data, "--tenant", "audited", "--operation", "list_services")
    listed = [each for each in of_one if each["operation"] == "list_services"]
    assert again[: len(listed)] == listed and {each["credential"] for each in again[len(listed) :]} <= {"system"}
    out = tmp_path / "out.csv"
    done = solo("audit", "export", "--data", server.data, "--format", "csv", "--out", out)
    assert (done.returncode, done.stdout) == (0, "") and f"entries to {out}" in done.stderr
    assert out.stat().st_mode & 0o777 == 0o600 and not list(tmp_path.glob("*.part"))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == NAMES and len(rows) >= len(everything)
    assert [each["request_id"] for each in rows[: len(everything)]] == [each["request_id"] or "" for each in everything]


def test_without_a_server_and_nothing_is_changed(used: Path) -> None:
    before = {path.name: path.read_bytes() for path in used.iterdir() if path.is_file()}
    everything = exported("--data", used)
    assert [each["id"] for each in everything] == list(range(1, len(everything) + 1))
    assert everything[0]["operation"] == "audit_begun"
    deploys = exported("--data", used, "--operation", "deploy")
    assert [each["subject"] for each in deploys] == ["of_one", "of_two"]
    assert {each["subject"] for each in exported("--data", used, "--tenant", "two", "--outcome", "201")} == {"of_two"}
    since = deploys[1]["at"]
    assert exported("--data", used, "--since", since)[0] == deploys[1]
    assert exported("--data", used, "--until", since)[-1]["id"] < deploys[1]["id"]
    assert exported("--data", used, "--since", "2000-01-01") == everything
    assert exported("--data", used, "--until", "2000-01-01") == []
    table = solo("audit", "export", "--data", used, "--format", "csv").stdout
    assert table.splitlines()[0] == ",".join(NAMES) and len(table.splitlines()) == len(everything) + 1
    assert {path.name: path.read_bytes() for path in used.iterdir() if path.is_file()} == before


def test_used_wrongly(used: Path, tmp_path: Path) -> None:
    for arguments in (["--since", "yesterday"], ["--until", "2026-02-30"], ["--format", "xml"], ["--since", ""]):
        done = solo("audit", "export", "--data", used, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
    done = solo("audit", "export", "--data", tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (1, "") and "not_reachable" in done.stderr
    done = solo("audit", "export", "--data", used, "--out", tmp_path / "no" / "such" / "file")
    assert (done.returncode, done.stdout) == (1, "") and "data_unwritable" in done.stderr


def test_progress_on_a_terminal(used: Path, tmp_path: Path) -> None:
    main, side = pty.openpty()
    command = [*SOLO, "audit", "export", "--data", str(used), "--out", str(tmp_path / "out.json")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=side, env=environment(TERM="xterm")) as exporting:
        os.close(side)
        shown = b""
        try:
            while part := os.read(main, 65_536):
                shown += part
        except OSError:  # its end of it is closed
            pass
        os.close(main)
        assert exporting.wait(LONG_S) == 0
    assert json.loads((tmp_path / "out.json").read_text())
    assert b"entries" in shown and b"\x1b[" in shown


def test_verify_finds_damage_in_the_audit(used: Path) -> None:
    def checked() -> tuple[int, dict[str, Any], list[str]]:
        done = solo("verify", "--data", used, "--json")
        report = json.loads(done.stdout)
        [check] = [each for each in report["checks"] if each["name"] == "audit"]
        return done.returncode, check, report["recommendations"]

    code, check, _ = checked()
    assert (code, check["status"]) == (0, "ok") and "follow from each other" in check["detail"]
    connection = sqlite3.connect(used / "audit.db")
    connection.execute("UPDATE audit SET peer = '10.0.0.1' WHERE operation = 'deploy'")
    connection.commit()
    connection.close()
    code, check, recommendations = checked()
    assert (code, check["status"]) == (1, "failed") and "does not match the chain" in check["detail"]
    assert any("file apart" in each for each in recommendations)
    with Server(used) as server:  # a start goes on, and says it loudly
        assert "damaged" in server.errors or server.wait_error("begins anew")
        with client(used) as system:
            assert system.health()["components"]["audit"] == "begun_anew"
            kept = system.system()["audit"]
            assert (used / kept["set_aside"]).exists()
            assert system.health()["status"] == "ok"
        server.send(signal.SIGTERM)
        assert server.wait() == 0
