"""Who calls, over HTTP, in real processes: a shared service guards what is one caller's, and is no way round for others."""

from __future__ import annotations

import httpx
import pytest
import trio
from api_rig import BOUND_S, Api, Client, refused
from test_api_capabilities import grant, granted, with_token

from solo_trio.client import AsyncSoloClient, attenuate

BACK = """
from solo_trio import service

@service.export
async def thing(*path):
    who = service.caller()
    return [who.kind, who.capability_id, list(who.services)]
"""
FRONT = """
import trio
from solo_trio import service

async def main(context, task_status):
    global ctx
    ctx = context
    task_status.started()
    await trio.sleep_forever()

@service.export
async def proxy(name, function, *args):
    return await ctx.call(name, function, *args)

@service.export
async def menu():
    "What it gives to everybody who may call it."
    return await ctx.own.call("back", "thing")

@service.export
def from_a_thread(name, function):
    return trio.from_thread.run(ctx.call, name, function)

@service.export
async def twice(name):
    first = await ctx.call(name, "thing")
    ctx.log.info("first")
    while not go.is_set():
        await trio.sleep(0.005)
    try:
        await ctx.call(name, "thing")
    except service.CallError as error:
        return [first, error.code]

go = trio.Event()

@service.export
async def go_on():
    go.set()

@service.export
async def signed(text):
    return f"{await ctx.secret('key')}:{text}"

@service.export
async def reveal(name):
    "Names a secret that its caller chose: so it must ask what the caller may."
    await service.caller().demand("read", f"secret:{name}")
    return await ctx.secret(name)
"""
SHELF = """
from solo_trio import service

notes = {}

def owner():
    who = service.caller()
    return who.capability_id, who.attenuations

@service.export
async def put(name, text):
    if notes.setdefault(name, (owner(), text))[0] != owner():
        raise PermissionError("it is another's")
    notes[name] = owner(), text

@service.export
async def get(name):
    whose, text = notes[name]
    if whose != owner() and not await service.caller().may("deploy", "tenant"):
        raise PermissionError("it is another's")
    return text
"""


@pytest.fixture
async def shared(api: Api, tenant: Client) -> Client:
    """The tenant, with a service that others share and one behind it."""
    await tenant.ok("PUT", "/secrets/key", {"value": "k3y"})
    await tenant.deploy("back", BACK)
    await tenant.deploy("front", FRONT, secrets=["key"])
    return tenant


async def test_a_shared_service_is_no_way_round(api: Api, shared: Client) -> None:
    weak = await granted(api, shared, "service:front", "call")
    refused(await weak.try_call("back", "thing"), "permission_denied")
    for function in ("proxy", "from_a_thread"):
        document = refused(await weak.try_call("front", function, "back", "thing"), "call_failed")
        assert document["error_type"] == "CallError" and "permission_denied" in document["detail"]
        assert (await shared.call("front", function, "back", "thing"))[2] == ["front"]
    assert await weak.call("front", "menu") == ["service", None, ["front"]], "what the service gives by itself"


async def test_the_right_to_both_is_enough(api: Api, shared: Client) -> None:
    made = await grant(shared, "service:*", "call")
    both = with_token(api, made["token"])
    assert await both.call("front", "proxy", "back", "thing") == ["credential", made["id"], ["front"]]
    chained = await both.call("front", "proxy", "front", "proxy", "back", "thing")
    assert chained == ["credential", made["id"], ["front"]], "once for each service"
    narrowed = with_token(api, attenuate(made["token"], service="front"))
    refused(await narrowed.try_call("front", "proxy", "back", "thing"), "call_failed")


async def test_by_the_sdk_it_is_the_same(api: Api, shared: Client) -> None:
    made = await grant(shared, "service:front", "call")
    with trio.fail_after(BOUND_S):
        async with AsyncSoloClient(str(api.url), made["token"]) as solo:
            with pytest.raises(Exception, match="permission_denied"):
                await solo.call("front", "proxy", ["back", "thing"])
            assert await solo.call("front", "menu") == ["service", None, ["front"]]


async def test_one_callers_things_are_not_anothers(api: Api, tenant: Client) -> None:
    """The confused deputy's other half: the service's own objects. It is told who calls, and decides."""
    await tenant.deploy("shelf", SHELF)
    made = await grant(tenant, "service:shelf", "call")
    one, other = with_token(api, made["token"]), await granted(api, tenant, "service:shelf", "call")
    lent = with_token(api, attenuate(made["token"], permissions=["call"]))
    await one.call("shelf", "put", "diary", "dear diary")
    assert await one.call("shelf", "get", "diary") == "dear diary"
    for stranger in (other, lent):
        refused(await stranger.try_call("shelf", "get", "diary"), "call_failed")
        refused(await stranger.try_call("shelf", "put", "diary", "mine"), "call_failed")
    assert await tenant.call("shelf", "get", "diary") == "dear diary", "who has all of the tenant"


async def test_a_secret_is_the_services_own_and_it_can_ask_before_it_gives_it_away(api: Api, shared: Client) -> None:
    weak = await granted(api, shared, "service:front", "call")
    assert await weak.call("front", "signed", "text") == "k3y:text", "otherwise it could use it for nobody"
    refused(await weak.try_call("front", "reveal", "key"), "call_failed")
    assert await shared.call("front", "reveal", "key") == "k3y"


async def test_revoked_during_the_call_it_is_over_at_the_next_use(api: Api, shared: Client) -> None:
    made = await grant(shared, "service:*", "call")
    answers = []

    async def twice() -> None:
        answers.append(await with_token(api, made["token"]).call("front", "twice", "back"))

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(twice)
            await shared.wait_log("first", service_id="front")
            await shared.ok("DELETE", f"/capabilities/{made['id']}")
            await shared.call("front", "go_on")
    assert answers == [[["credential", made["id"], ["front"]], "permission_denied"]]


async def test_revoked_while_the_call_waits_it_is_not_made(api: Api, shared: Client) -> None:
    made = await grant(shared, "service:back", "call")
    await shared.ok("POST", "/services/back/pause")
    answers: list[httpx.Response] = []

    async def wait() -> None:
        answers.append(await with_token(api, made["token"]).try_call("back", "thing"))

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while not api.system.core.calls.waiting(shared.tenant_id or "", "back"):
                await trio.lowlevel.checkpoint()
            await shared.ok("DELETE", f"/capabilities/{made['id']}")
            await shared.ok("POST", "/services/back/resume")
    [answer] = answers
    refused(answer, "permission_denied")
    assert await shared.call("back", "thing")


async def test_a_service_that_may_little_does_not_get_more_by_its_callers(api: Api, shared: Client) -> None:
    """Its deployer's rights are the most that it has, whoever calls."""
    deployer = await granted(api, shared, "service:small", "deploy", "call")
    await deployer.deploy("small", FRONT)
    refused(await shared.try_call("small", "proxy", "back", "thing"), "call_failed")
    refused(await shared.try_call("small", "menu"), "call_failed")
    assert (await shared.call("small", "proxy", "small", "go_on")) is None
