"""Calls: what a function may be, how each failure looks, what a call meets while its service comes and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from api_rig import BOUND_S, Api, Client, refused, running

from solo_trio.operations.settings import Settings

KIT = """
import os, threading
import trio
from solo_trio import service

gate = trio.Event()
inside = 0

@service.export
async def add(a, b=10, *, c=100):
    return a + b + c

@service.export
def sync_thread():
    return threading.current_thread() is threading.main_thread()

@service.export
async def echo(*args, **kwargs):
    return [args, kwargs]

@service.export
async def fail(kind="ValueError", message="no luck"):
    raise {"ValueError": ValueError, "KeyError": KeyError, "OSError": OSError}[kind](message)

@service.export
def fail_sync():
    raise LookupError("from a thread")

@service.export
async def fail_in_a_group():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)

@service.export
async def hostile():
    class Hostile(Exception):
        def __str__(self):
            raise RuntimeError("inner")
    raise Hostile

@service.export
async def give(what):
    return {
        "object": object, "set": {1}, "nan": float("nan"), "inf": float("inf"), "bytes": b"x", "huge": 2**70,
        "surrogate": "\\ud800", "key": {1: 2}, "none": None, "tuple": (1, (2,)), "big": 2**63, "float": 1e308,
    }[what]

@service.export
async def cycle():
    one = []
    one.append(one)
    return one

@service.export
async def nest(depth):
    made = []
    for _ in range(depth):
        made = [made]
    return made

@service.export
async def big(size):
    return "x" * size

@service.export
async def wait():
    global inside
    inside += 1
    try:
        await gate.wait()
    finally:
        inside -= 1
    return "waited"

@service.export
async def how_many_wait():
    return inside

@service.export
async def open_gate():
    gate.set()

@service.export
async def exit_now(*args):
    os._exit(9)

@service.export
async def system_exit():
    raise SystemExit("bye")

@service.export
async def generation():
    return os.getpid()

async def not_exported():
    pass

class Thing:
    @staticmethod
    @service.export
    def method():
        return 1
"""


@pytest.fixture
async def kit(tenant: Client) -> Client:
    await tenant.deploy(
        "kit", KIT, limits={"calls_in_flight": 4}, restart_limits={"max_restarts": 50, "max_seconds": 1}
    )
    return tenant


async def waiting(client: Client, count: int) -> None:
    """Until so many calls of `wait` are inside the service."""
    with trio.fail_after(BOUND_S):
        while await client.call("kit", "how_many_wait") != count:
            pass


async def test_functions_and_arguments(kit: Client) -> None:
    assert await kit.call("kit", "add", 1) == 111
    assert await kit.call("kit", "add", 1, 2, c=3) == 6
    assert await kit.call("kit", "add", a=1, b=2) == 103
    assert await kit.call("kit", "sync_thread") is False
    everything = [
        None,
        True,
        False,
        0,
        -(2**63),
        2**63 - 1,
        1.5,
        -0.0,
        5e-324,
        "",
        "🜁\0\x1b\u2028</script>",
        [],
        {},
        [[{"": [1]}]],
    ]
    assert await kit.call("kit", "echo", *everything) == [everything, {}]
    odd = {"self": 1, "args": 2, "kwargs": 3, "": 4, "not an identifier": 5, "🜁": 6}
    assert (await kit.ok("POST", "/services/kit/call/echo", {"kwargs": odd}))["result"] == [[], odd]


async def test_what_a_function_raises(kit: Client) -> None:
    for kind, message in (("ValueError", "no luck"), ("OSError", "ünï\x00\x1b[31m"), ("ValueError", "")):
        document = refused(await kit.try_call("kit", "fail", kind, message), "call_failed")
        assert document["status"] == 502 and document["error_type"] == kind
        assert message in document["detail"]
    assert refused(await kit.try_call("kit", "fail_sync"), "call_failed")["error_type"] == "LookupError"
    assert refused(await kit.try_call("kit", "fail_in_a_group"), "call_failed")["error_type"] == "ValueError"
    assert refused(await kit.try_call("kit", "hostile"), "call_failed")["error_type"] == "Hostile"
    assert "argument" in refused(await kit.try_call("kit", "add"), "call_failed")["detail"]
    assert len(refused(await kit.try_call("kit", "fail", "ValueError", "x" * 900_000), "call_failed")["detail"]) < 2_000
    assert (await kit.ok("GET", "/services/kit"))["restarts"] == 0


async def test_functions_that_are_not_there(kit: Client) -> None:
    for name in ("nothing", "not_exported", "main", "method", "os", "Thing", "gate", "__builtins__"):
        refused(await kit.try_call("kit", name), "function_not_found")
    refused(await kit.try_call("nobody", "add"), "service_not_found")


async def test_results_that_are_not_json(kit: Client) -> None:
    for what in ("object", "set", "nan", "inf", "bytes", "huge", "surrogate", "key"):
        assert refused(await kit.try_call("kit", "give", what), "result_not_serialisable")["status"] == 502
    refused(await kit.try_call("kit", "cycle"), "result_not_serialisable")
    refused(await kit.try_call("kit", "nest", 100_000), "result_not_serialisable")
    assert await kit.call("kit", "give", "none") is None
    assert await kit.call("kit", "give", "tuple") == [1, [2]]
    assert await kit.call("kit", "give", "big") == 2**63
    assert await kit.call("kit", "give", "float") == 1e308
    await kit.call("kit", "nest", 60)


async def test_big_results(kit: Client) -> None:
    for size in (100_000, 1_000_000):
        assert len(await kit.call("kit", "big", size)) == size
    for size in (1_100_000, 17_000_000):
        refused(await kit.try_call("kit", "big", size), "result_not_serialisable")
    assert await kit.call("kit", "add", 1) == 111


async def test_more_calls_than_it_takes(kit: Client) -> None:
    results = []
    async with trio.open_nursery() as nursery:

        async def one() -> None:
            while (response := await kit.try_call("kit", "wait")).status_code == 503:
                pass  # the test's own questions take a place too
            results.append(response)

        for _ in range(3):
            nursery.start_soon(one)
        await waiting(kit, 3)
        nursery.start_soon(one)
        with trio.fail_after(BOUND_S):
            while (response := await kit.try_call("kit", "how_many_wait")).is_success:
                pass
        assert refused(response, "overloaded")["status"] == 503
        assert response.headers["retry-after"] == "1"
        refused(await kit.try_call("kit", "open_gate"), "overloaded")
        nursery.cancel_scope.cancel()
    # Clients that left: their calls are cancelled inside the service, and make room.
    with trio.fail_after(BOUND_S):
        while not (await kit.try_call("kit", "how_many_wait")).is_success:
            pass
    await waiting(kit, 0)
    assert results == []


async def test_calls_run_at_the_same_time(kit: Client) -> None:
    results = []
    async with trio.open_nursery() as nursery:

        async def one() -> None:
            results.append(await kit.call("kit", "wait"))

        for _ in range(3):
            nursery.start_soon(one)
        await waiting(kit, 3)
        await kit.call("kit", "open_gate")
    assert results == ["waited"] * 3


@pytest.mark.parametrize("how", ["exit_now", "system_exit"])
async def test_the_service_ends_during_the_call(kit: Client, how: str) -> None:
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            assert refused(await kit.try_call("kit", "wait"), "call_interrupted")["status"] == 502

        nursery.start_soon(wait)
        await waiting(kit, 1)
        refused(await kit.try_call("kit", how), "call_interrupted")
    await kit.wait_event("service_crashed", "kit")
    assert await kit.call("kit", "add", 1) == 111, "waits for the restart"


async def test_many_calls_over_crashes(kit: Client) -> None:
    """Every call is answered: done, interrupted, or refused for now. A crash is one failure, whatever it interrupts."""
    codes = []
    async with trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            response = await kit.try_call("kit", "exit_now" if number % 15 == 5 else "add", number)
            codes.append("ok" if response.is_success else response.json()["code"])

        for number in range(60):
            nursery.start_soon(one, number)
    assert len(codes) == 60 and set(codes) <= {"ok", "call_interrupted", "overloaded"}
    assert await kit.call("kit", "add", 1) == 111


async def test_waits_for_a_first_start(tenant: Client) -> None:
    slow = "async def main(ctx, task_status):\n    await trio.sleep(0.3)\n    task_status.started()\n    await gate.wait()\n"
    source = f"{KIT}\n{slow}"
    response = await tenant.try_deploy("kit", source, query="?wait=false")
    assert response.status_code == 202
    assert await tenant.call("kit", "add", 1) == 111


async def test_given_up_and_stopped(tenant: Client) -> None:
    await tenant.deploy("kit", KIT, restart_limits={"max_restarts": 0, "max_seconds": 1})
    refused(await tenant.try_call("kit", "exit_now"), "call_interrupted")
    await tenant.wait_event("service_given_up", "kit")
    assert refused(await tenant.try_call("kit", "add", 1), "service_not_running")["status"] == 503
    await tenant.deploy("done", "async def main(ctx): pass", restart="temporary")
    await tenant.wait_event("service_stopped", "done")
    refused(await tenant.try_call("done", "add", 1), "service_not_running")


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Client]:
    async with running(tmp_path / "data", Settings(call_timeout_s=0.5)) as api:
        yield await api.tenant("t1")


async def test_a_call_that_takes_too_long(impatient: Client) -> None:
    await impatient.deploy("kit", KIT)
    document = refused(await impatient.try_call("kit", "wait"), "call_timeout")
    assert document["status"] == 504 and "0.5 s" in document["detail"]
    await waiting(impatient, 0)  # it is cancelled inside the service
    assert await impatient.call("kit", "add", 1) == 111


async def test_waiting_for_a_start_has_the_same_bound(impatient: Client) -> None:
    source = "import trio\nasync def main(ctx, task_status): await trio.sleep_forever()"
    response = await impatient.try_deploy("slow", source, query="?wait=false", limits={"start_timeout_s": 600})
    assert response.status_code == 202
    refused(await impatient.try_call("slow", "add"), "call_timeout")
    assert (await impatient.ok("DELETE", "/services/slow"))["status"] == "stopped"


async def test_services_call_each_other(api: Api, kit: Client) -> None:
    source = """
    import trio
    from solo_trio import service
    kept = []

    @service.export
    async def through(service_id, function, args):
        try:
            return ["ok", await kept[0].call(service_id, function, *args)]
        except service.CallError as error:
            return ["error", error.code]

    async def main(ctx):
        kept.append(ctx)
        await trio.sleep_forever()
    """
    await kit.deploy("front", source)
    assert await kit.call("front", "through", "kit", "add", [1]) == ["ok", 111]
    assert await kit.call("front", "through", "kit", "fail", []) == ["error", "call_failed"]
    assert await kit.call("front", "through", "kit", "nothing", []) == ["error", "function_not_found"]
    assert await kit.call("front", "through", "nobody", "add", []) == ["error", "service_not_found"]
    assert await kit.call("front", "through", "../x", "add", []) == ["error", "invalid_id"]
    assert await kit.call("front", "through", "kit", "give", ["nan"]) == ["error", "result_not_serialisable"]
    assert await kit.call("front", "through", "front", "through", ["kit", "add", [5]]) == ["ok", ["ok", 115]]
