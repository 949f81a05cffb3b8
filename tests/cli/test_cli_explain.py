"""`solo explain` as a person sees it: given up, failed, gone; and nothing in it steers the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from cli_rig import PIDS, Server, solo

from solo_trio.client import SoloClient, find_server
from solo_trio.errors import Faulted, Rejected

WILD = r"""
import trio


async def main(ctx):
    await trio.sleep(0.01)
    raise ValueError("boom \x1b[2J\x07")
"""


def test_given_up(server: Server) -> None:
    with SoloClient(**find_server(server.data, environment={}).options(), tenant="default") as client:
        client.services()
        with client.watch(since_id=0, type="service_given_up", service_id="wild") as events:
            client.deploy("wild", WILD, restart_limits={"max_restarts": 2, "max_seconds": 60})
            next(events)
    done = solo("explain", "wild", "--data", server.data)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("wild does not run: it was given up, because it crashed more than twice within 60 s")
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout and "boom \\x1b[2J\\x07" in done.stdout
    assert lines[2].startswith("1. ") and "default asked for wild version 1 (sha " in lines[2]
    assert "it was given up: 3 crashes within 60 s, and 2 are allowed" in done.stdout
    assert "- to try it again: solo restart wild; with other code: solo deploy FILE --id wild --replace" in lines
    answer = json.loads(solo("explain", "wild", "--data", server.data, "--json").stdout)
    assert answer.keys() == {"tenant_id", "service_id", "status", "summary", "steps", "next", "complete"}
    assert answer["status"] == "given_up" and answer["complete"]
    assert "\x1b" not in json.dumps(answer, ensure_ascii=False), "it is harmless before it is shown"
    for step in answer["steps"]:
        assert step.keys() == {"number", "id", "first_id", "at", "type", "text", "causation_id", "correlation_id"}
    assert answer["steps"][0]["correlation_id"] and answer["steps"][1]["causation_id"] == answer["steps"][0]["id"]


def test_failed_and_gone(server: Server, tmp_path: Path) -> None:
    with SoloClient(**find_server(server.data, environment={}).options(), tenant="default") as client:
        client.services()
        try:
            client.deploy("bad", "raise ValueError('no way')")
        except (Rejected, Faulted) as error:
            assert error.code == "service_start_failed"
        client.deploy("calc", PIDS)
        client.kill("calc")
    assert (
        "bad does not exist: its only deployment failed, because: ValueError: no way."
        in solo("explain", "bad", "--data", server.data).stdout
    )
    done = solo("explain", "calc", "--data", server.data)
    assert done.stdout.startswith("calc does not exist any more: somebody asked to stop and forget it.")
    assert "it stopped by itself" in done.stdout
    done = solo("explain", "nobody", "--data", server.data)
    assert done.returncode == 1 and "service_not_found" in done.stderr
