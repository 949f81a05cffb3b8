"""Sources that do not start: 422 in bounded time with the reason, nothing left, the id free at once."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio
from api_rig import BOUND_S, CALC, Api, Client, problem, refused, service_pids

START_S = 0.5
QUICK = {"start_timeout_s": START_S}
FAILING: dict[str, tuple[str, str]] = {
    # source, what the reason says, what the last line of the traceback says ("": there is none)
    "syntax": ("def broken(:\n", "SyntaxError"),
    "indentation": ("if True:\nx = 1\n", "IndentationError"),
    "nul": ("x = 1\0\n", "null bytes"),
    "parentheses": ("(" * 900_000, "SyntaxError"),
    "unary": ("x = " + "-" * 900_000 + "1", "Error"),
    "raises": ("def go():\n    raise ValueError('no luck')\ngo()\n", "ValueError: no luck"),
    "raises-group": ("raise BaseExceptionGroup('g', [KeyboardInterrupt(), ValueError('in')])", "ExceptionGroup"),
    "raises-hostile": ("class E(Exception):\n def __str__(self): raise RuntimeError\nraise E", "E"),
    "long-message": ("raise ValueError('x' * 1_000_000)", "ValueError: xxx"),
    "control-characters": ("raise ValueError('\\x1b[31mred\\x00\\ud800\\r\\n')", "ValueError: "),
    "system-exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "sys-exit-0": ("import sys\nsys.exit()", "SystemExit"),
    "keyboard-interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "os-exit": ("import os\nos._exit(0)", "exited by itself with code 0"),
    "os-exit-7": ("import os\nos._exit(7)", "exited by itself with code 7"),
    "abort": ("import os\nos.abort()", "ended by SIGABRT"),
    "kills-itself": ("import os\nos.kill(os.getpid(), 9)", "ended by SIGKILL"),
    "segfault": ("import ctypes\nctypes.string_at(0)", "ended by SIGSEGV"),
    "no-such-module": ("import no_such_module", "ModuleNotFoundError"),
    "main-not-async": ("def main(ctx): pass", "main must be an async function"),
    "main-without-ctx": ("async def main(): pass", "main must take one argument"),
    "main-raises-early": ("async def main(ctx, task_status): raise OSError('early')", "OSError: early"),
    "main-returns-unready": ("async def main(ctx, task_status): pass", "task_status.started()"),
}
BLOCKING: dict[str, str] = {
    "spins": "while True: pass",
    "sleeps": "import time\ntime.sleep(1e6)",
    "ignores-signals": "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ntime.sleep(1e6)",
    "never-ready": "import trio\nasync def main(ctx, task_status):\n await trio.sleep_forever()",
    "blocks-in-main": "import time\nasync def main(ctx, task_status):\n time.sleep(1e6)",
    "shields-itself": (
        "import trio\nasync def main(ctx, task_status):\n with trio.CancelScope(shield=True):\n  await trio.sleep_forever()"
    ),
    "swallows-cancel": (
        "import trio\nasync def main(ctx, task_status):\n while True:\n"
        "  try:\n   await trio.sleep_forever()\n  except BaseException:\n   pass"
    ),
}


async def check_nothing_left(client: Client, service_id: str, document: dict[str, Any]) -> None:
    refused(await client.get(f"/services/{service_id}"), "service_not_found")
    assert (await client.ok("GET", "/services"))["services"] == []
    refused(await client.delete(f"/services/{service_id}"), "service_not_found")
    refused(await client.try_call(service_id, "add"), "service_not_found")
    assert service_pids() == set()
    types = [event["type"] for event in await client.events(service_id=service_id)]
    assert types == ["service_deployment_started", "service_started", "service_deployment_failed"]
    [failed] = await client.events(service_id=service_id, type="service_deployment_failed")
    assert failed["payload"]["reason"] == document["reason"]
    assert failed["payload"]["traceback"] == document["traceback"]
    assert failed["payload"]["generation"] == 1


@pytest.mark.parametrize("name", FAILING)
async def test_fails_to_start(tenant: Client, name: str) -> None:
    source, reason = FAILING[name]
    document = refused(await tenant.try_deploy("bad", source), "service_start_failed")
    assert document["status"] == 422
    assert reason in document["reason"] and document["reason"] in document["detail"]
    assert len(document["reason"]) <= 600 and len(document["traceback"]) <= 10_000
    await check_nothing_left(tenant, "bad", document)
    assert (await tenant.deploy("bad", CALC))["version"] == 1, "the id is free at once"


async def test_traceback_names_the_services_own_lines(tenant: Client) -> None:
    document = problem(await tenant.try_deploy("bad", FAILING["raises"][0]))
    lines = document["traceback"].splitlines()
    assert lines[-1] == "ValueError: no luck"
    assert "    raise ValueError('no luck')" in lines and any("line 2, in go" in line for line in lines)
    assert "/solo_trio/" not in document["traceback"]


@pytest.mark.parametrize("name", BLOCKING)
async def test_blocks_for_ever(tenant: Client, name: str) -> None:
    await tenant.deploy("warm", "x = 1")  # the first start of a tenant takes longer
    await tenant.ok("DELETE", "/services/warm")
    with trio.fail_after(BOUND_S):
        document = refused(await tenant.try_deploy("bad", BLOCKING[name], limits=QUICK), "service_start_failed")
    assert document["reason"] == "did not become ready within 0.5 s"
    await check_nothing_left(tenant, "bad", document)
    assert (await tenant.deploy("bad", CALC))["version"] == 1


async def test_a_blocking_start_holds_up_nobody(api: Api, tenant: Client) -> None:
    other = await api.tenant("other")
    answered = trio.Event()

    async def block() -> None:
        refused(await tenant.try_deploy("bad", BLOCKING["spins"], limits={"start_timeout_s": 600}), "service_deleted")
        answered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(block)
        await tenant.wait_event("service_started", "bad")
        for client in (tenant, other):
            await client.deploy("good")
            assert await client.call("good", "add", 1, 2) == 3
        assert (await tenant.ok("GET", "/services/bad"))["status"] == "starting"
        assert not answered.is_set()
        await tenant.ok("DELETE", "/services/bad?grace_ms=0")
        with trio.fail_after(BOUND_S):
            await answered.wait()
    refused(await tenant.get("/services/bad"), "service_not_found")


async def test_many_bad_deployments_leave_nothing(tenant: Client) -> None:
    async with trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            source = FAILING["raises"][0] if number % 2 else "import os\nos._exit(1)"
            refused(await tenant.try_deploy(f"bad{number}", source), "service_start_failed")

        for number in range(30):
            nursery.start_soon(one, number)
    assert (await tenant.ok("GET", "/services"))["services"] == []
    assert service_pids() == set()
    assert len(await tenant.events(type="service_deployment_failed")) == 30


async def test_what_it_printed_before_it_failed_is_in_its_log(tenant: Client) -> None:
    source = "import sys\nprint('got this far')\nsys.stderr.write('and this')\nraise ValueError"
    refused(await tenant.try_deploy("bad", source), "service_start_failed")
    entries = {entry["message"]: entry["stream"] for entry in await tenant.logs(service_id="bad")}
    assert entries["got this far"] == "stdout" and entries["and this"] == "stderr"


async def test_ready_and_gone_at_once_was_a_success(tenant: Client) -> None:
    """Once ready was reported it is 201, even if it ends before the answer."""
    response = await tenant.try_deploy("brief", "async def main(ctx): pass", restart="temporary")
    assert response.status_code == 201
    stopped = await tenant.wait_event("service_stopped", "brief")
    assert stopped["payload"]["reason"] == "completed"
    status = await tenant.ok("GET", "/services/brief")
    assert status["status"] == "stopped" and re.fullmatch("[0-9a-f]{64}", status["digest"])
    assert (await tenant.ok("DELETE", "/services/brief"))["status"] == "stopped"
    refused(await tenant.get("/services/brief"), "service_not_found")
