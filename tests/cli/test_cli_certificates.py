"""`solo certs` and `solo serve --tls` as processes: from nothing to a tenant that calls its service with a certificate."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cli_rig import LONG_S, Server, environment, solo

from solo_trio.client import SoloClient, find_server
from solo_trio.errors import Faulted, Rejected

CALC = """
from solo_trio import service

@service.export
def add(a, b):
    return a + b
"""


def done(*arguments: str | Path, **more: str) -> str:
    ended = solo(*arguments, **more)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout


def failed(*arguments: str | Path, code: str, **more: str) -> str:
    ended = solo(*arguments, **more)
    assert ended.returncode == 1 and ended.stderr.startswith(f"error: {code}: "), ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def made(data: Path, *arguments: str | Path) -> dict[str, Any]:
    listed = json.loads(done("certs", *arguments, "--data", data, "--json"))["certificates"]
    found: dict[str, Any] = listed[-1]
    return found


def pair(made: dict[str, Any]) -> tuple[str, ...]:
    return "--cert", made["certificate"], "--key", made["key"]


def test_the_whole_way(tmp_path: Path) -> None:
    data, ca = tmp_path / "data", str(tmp_path / "data" / "certs" / "ca.crt")
    (tmp_path / "calc.py").write_text(CALC)
    done("certs", "init", "--data", data, "--host", "solo.test")
    issued = made(data, "issue", "--tenant", "agent_1")
    with Server(data, "--tls") as server:
        assert server.url.startswith("https://")
        state = json.loads((data / "solo.json").read_text())
        assert state["urls"] == [server.url] and state["ca_cert"] == ca
        assert done("health", "--data", data).splitlines()[0].split() == ["url", server.url]
        done("tenant", "create", "agent_1", "--data", data)

        there = ("--url", server.url, "--ca-cert", ca)
        done("deploy", tmp_path / "calc.py", "--id", "calc", *there, *pair(issued))
        assert done("call", "calc", "add", "2", "3", *there, *pair(issued)).strip() == "5"
        by_environment = {"SOLO_URL": server.url, "SOLO_CA_CERT": ca, "SOLO_CERT": issued["certificate"]}
        by_environment["SOLO_KEY"] = issued["key"]
        assert done("call", "calc", "add", "20", "3", **by_environment).strip() == "23"
        assert done("call", "calc", "add", "1", "1", "--data", data, *pair(issued)).strip() == "2"

        failed("list", *there, *pair(issued), "--tenant", "other", code="tenant_mismatch")
        assert "--ca-cert" in failed("list", "--url", server.url, code="not_reachable", SOLO_TOKEN="x")
        assert "https" in failed("list", "--url", server.url.replace("https", "http"), code="tls_required")
        failed("list", *there, code="unauthenticated")
        failed("list", *there, "--cert", ca, code="certificate_unusable")
        failed(
            "list",
            *there,
            "--cert",
            issued["certificate"],
            "--key",
            str(data / "certs" / "ca.key"),
            code="certificate_unusable",
        )
        failed("list", *there, "--key", issued["key"], code="certificate_unusable")

        other = tmp_path / "other"
        foreign = made(other, "init") and made(other, "issue", "--tenant", "agent_1")
        assert "does not accept" in failed("list", *there, *pair(foreign), code="not_reachable")

        revoked = made(data, "revoke", "agent_1")
        assert revoked["serial"] == issued["serial"]
        server.wait_error("certificates were read again")
        failed("list", *there, *pair(issued), code="unauthenticated")
        assert "KEY" not in server.errors and "Traceback" not in server.errors


def test_nobody_without_a_certificate(tmp_path: Path) -> None:
    """Commands on the machine itself have one in the data directory."""
    data = tmp_path / "data"
    done("certs", "init", "--data", data)
    with Server(data, "--tls", "--tls-client-required") as server:
        token = (data / "admin.token").read_text().strip()
        there = ("--url", server.url, "--ca-cert", str(data / "certs" / "ca.crt"))
        assert "client certificate" in failed("health", *there, code="not_reachable", SOLO_TOKEN=token)
        done("tenant", "list", "--data", data)
        assert find_server(data, environment={}).cert is not None
        with SoloClient(**find_server(data, environment={}).options()) as client:
            assert client.health()["status"] == "ok"


def test_tls_and_plain_do_not_meet(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        url = server.url.replace("http:", "https:")
        assert "does not speak TLS" in failed("health", "--url", url, code="not_reachable")
        done("health", "--data", tmp_path / "data")
        assert "Traceback" not in server.errors


def test_a_server_without_certificates_says_how_to_make_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert "solo certs init" in failed("serve", "--data", data, "--port", "0", "--tls", code="certificate_unusable")
    assert not (data / "kernel.db").exists(), "nothing was begun"


def test_what_is_used_wrongly(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert solo("certs", "issue", "--data", data).returncode == 2
    assert solo("certs", "issue", "--tenant", "a", "--system", "--data", data).returncode == 2
    assert solo("certs", "init", "--ca-cert", "x", "--data", data).returncode == 2
    assert solo("certs", "issue", "--tenant", "", "--data", data).returncode == 2
    failed("certs", "issue", "--tenant", "a", "--data", data, code="certificate_unusable")
    failed(
        "certs",
        "init",
        "--ca-cert",
        tmp_path / "no",
        "--ca-key",
        tmp_path / "no",
        "--data",
        data,
        code="certificate_unusable",
    )
    done("certs", "init", "--data", data)
    failed("certs", "init", "--data", data, code="file_exists")
    made(data, "issue", "--tenant", "a")
    failed("certs", "issue", "--tenant", "a", "--data", data, code="file_exists")
    failed("certs", "renew", "nothing", "--data", data, code="certificate_not_found")
    failed("certs", "revoke", "nothing", "--data", data, code="certificate_not_found")
    rows = done("certs", "list", "--data", data).splitlines()
    assert [row.split()[0] for row in rows] == ["NAME", "server", "admin", "a"]


def test_renewed_under_traffic_without_a_restart(tmp_path: Path) -> None:
    """With the server's process, its files, and clients that never see a refusal."""
    data = tmp_path / "data"
    done("certs", "init", "--data", data)
    client_files = made(data, "issue", "--system")
    stop, served, wrong = threading.Event(), [0], list[Exception]()
    with Server(data, "--tls") as server:
        options = find_server(data, cert=client_files["certificate"], key=client_files["key"], environment={}).options()
        assert options["token"] is None

        def traffic() -> None:
            while not stop.is_set():
                try:
                    with SoloClient(**options) as fresh:
                        served[0] += fresh.system()["version"] != ""
                except (Faulted, Rejected) as error:
                    wrong.append(error)

        thread = threading.Thread(target=traffic)
        thread.start()
        try:
            with SoloClient(**options) as kept:
                kept.system()
                for _ in range(2):
                    before = len(server.errors)
                    done("certs", "renew", "--data", data)
                    deadline = time.monotonic() + LONG_S
                    while "read again" not in server.errors[before:]:
                        assert time.monotonic() < deadline, server.errors
                        time.sleep(0.01)  # a poll, not a guess
                kept.system()
        finally:
            stop.set()
            thread.join(LONG_S)
        assert wrong == [] and served[0] > 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
def test_the_openssl_command_agrees(tmp_path: Path) -> None:
    """Another program's view: TLS 1.3 only, verified, no compression, no renegotiation, no ticket, no early data."""
    data = tmp_path / "data"
    done("certs", "init", "--data", data)
    client = made(data, "issue", "--tenant", "a1")
    ca = str(data / "certs" / "ca.crt")
    assert (
        subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", ca, client["certificate"]],
            capture_output=True,
        ).returncode
        == 0
    )
    with Server(data, "--tls") as server:

        def s_client(*more: str, text: str = "") -> str:
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", ca, *more]
            ended = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=LONG_S, env=environment()
            )
            return ended.stdout + ended.stderr

        asked = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        good = s_client("-x509_strict", "-verify_ip", "127.0.0.1", "-ign_eof", text=asked)
        assert "Verify return code: 0 (ok)" in good and "HTTP/1.1 200" in good, good
        assert "Compression: NONE" in good and "TLSv1.3" in good and "Early data was not sent" in good
        assert "Max Early Data: 0" in good or "New session ticket" not in good.replace("Post-Handshake ", "")
        assert "session ticket arrived" not in good.lower()
        for old in ("-tls1_2", "-tls1_1", "-tls1"):
            assert "HTTP/1.1 200" not in s_client(old, "-ign_eof", text=asked)
        for weak in ("TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"):
            assert "HTTP/1.1 200" not in s_client("-ciphersuites", weak, "-ign_eof", text=asked)
        assert "Traceback" not in server.errors
