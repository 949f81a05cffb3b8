"""`solo tenant remove`: who is asked, what is answered, and that nothing happens to who did not mean it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from cli_rig import PIDS, Server
from test_cli_commands import Run, command, done, parsed, refused
from test_cli_life import Terminal

from solo_trio.client import SoloClient, find_server
from solo_trio.errors import Rejected

__all__ = ["command"]  # a fixture


@contextmanager
def admin(server: Server, tenant: str | None = None) -> Iterator[SoloClient]:
    with SoloClient(**find_server(server.data, environment={}).options(), tenant=tenant) as client:
        yield client


@pytest.fixture
def doomed(server: Server) -> Callable[[], bool]:
    """A tenant `doomed` with a service; says whether it is still there."""
    with admin(server, "doomed") as client:
        client.create_tenant("doomed")
        client.deploy("pids", PIDS)

    def is_there() -> bool:
        with admin(server) as client:
            return "doomed" in {each["tenant_id"] for each in client.tenants()["tenants"]}

    return is_there


def test_where_nobody_can_be_asked_it_must_be_said(command: Run, doomed: Callable[[], bool]) -> None:
    code, out, err = command("tenant", "remove", "doomed")
    assert (code, out) == (2, "") and "--yes" in err and doomed()
    assert done(command("tenant", "remove", "doomed", "--yes", "--grace", "0s")) == "doomed removed\n" and not doomed()
    refused(command("tenant", "remove", "doomed", "--yes"), "tenant_not_found")
    refused(command("tenant", "show", "doomed"), "tenant_not_found")


def test_for_programs(command: Run, doomed: Callable[[], bool]) -> None:
    assert parsed(command("tenant", "show", "doomed", "--json"))["status"] == "active"
    answer = parsed(command("tenant", "remove", "doomed", "--yes", "--json"))
    assert answer == {"tenant_id": "doomed", "status": "removed"} and not doomed()


@pytest.mark.parametrize(("typed", "removed"), [("doomed", True), ("doome", False), ("yes", False), ("", False)])
def test_at_a_terminal_its_id_is_to_be_typed(
    server: Server, command: Run, doomed: Callable[[], bool], typed: str, removed: bool
) -> None:
    try:
        with Terminal("tenant", "remove", "doomed", "--data", server.data) as terminal:
            terminal.wait_for("type its id")
            assert "1 services" in terminal.shown and "no way back" in terminal.shown and doomed()
            terminal.type(typed.encode() + b"\n")
            said = terminal.rest()
            assert terminal.process.wait(60) == (0 if removed else 1)
        assert ("doomed removed" in said) == removed and ("nothing was removed" in said) != removed
        assert doomed() != removed
    finally:
        command("tenant", "remove", "doomed", "--yes")


def test_a_client_removes_one(server: Server, doomed: Callable[[], bool]) -> None:
    with admin(server) as client:
        asked = {"grace_ms": 100, "idempotency_key": "once"}
        assert client.remove_tenant("doomed", **asked) == {"tenant_id": "doomed", "status": "removed"}
        assert client.remove_tenant("doomed", **asked)["status"] == "removed", "the same request, the same answer"
        with pytest.raises(Rejected) as caught:
            client.remove_tenant("doomed")
        assert caught.value.code == "tenant_not_found"
        with pytest.raises(Rejected):
            client.remove_tenant("../system")
        assert not json.dumps(client.tenants()).count("doomed")
