"""DELETE and restart: how a stop ends, what meets it on the way, and revisions."""

from __future__ import annotations

import pytest
import trio
from api_rig import BOUND_S, CALC, STUBBORN, Api, Client, alive, refused, service_pids

FAREWELL = """
import os, trio
from solo_trio import service

@service.export
def pid():
    return os.getpid()

async def main(ctx):
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.2)
        print("cleaned up")
"""
SPINNING = """
import os, trio
from solo_trio import service

@service.export
def pid():
    return os.getpid()

@service.export
async def spin():
    while True:
        pass
"""


async def test_grace_is_used(tenant: Client) -> None:
    await tenant.deploy("polite", FAREWELL)
    pid = await tenant.call("polite", "pid")
    answer = await tenant.ok("DELETE", "/services/polite?grace_ms=30000")
    assert answer == {"service_id": "polite", "status": "stopped", "reason": "stopped"}
    assert not alive(pid)
    assert [entry["message"] for entry in await tenant.logs(service_id="polite")] == ["cleaned up"]


async def test_force_does_not_ask(tenant: Client) -> None:
    await tenant.deploy("polite", FAREWELL)
    answer = await tenant.ok("DELETE", "/services/polite?force=true&grace_ms=600000")
    assert answer["reason"] == "killed"
    assert await tenant.logs(service_id="polite") == []
    [killed] = await tenant.events(type="service_killed")
    assert killed["payload"]["force"] is True


@pytest.mark.parametrize("query", ["grace_ms=0", "grace_ms=100", "force=1", "force=true&grace_ms=0"])
async def test_whoever_ignores_a_stop_is_killed(tenant: Client, query: str) -> None:
    await tenant.deploy("mule", STUBBORN)
    pid = await tenant.call("mule", "pid")
    with trio.fail_after(BOUND_S):
        answer = await tenant.ok("DELETE", f"/services/mule?{query}")
    assert answer == {"service_id": "mule", "status": "stopped", "reason": "killed"}
    assert not alive(pid) and service_pids() == set()
    [stopped] = await tenant.events(type="service_stopped")
    assert stopped["payload"]["reason"] == "killed"


async def test_without_a_grace_the_deployments_stop_timeout_counts(tenant: Client) -> None:
    await tenant.deploy("mule", STUBBORN, limits={"stop_timeout_s": 0.05})
    assert (await tenant.ok("DELETE", "/services/mule"))["reason"] == "killed"
    [killed] = await tenant.events(type="service_killed")
    assert killed["payload"]["grace_ms"] == 50


async def test_a_service_that_spins_is_killed(tenant: Client) -> None:
    await tenant.deploy("mad", SPINNING)
    pid = await tenant.call("mad", "pid")
    async with trio.open_nursery() as nursery:

        async def spin() -> None:
            refused(await tenant.try_call("mad", "spin"), "call_interrupted")

        nursery.start_soon(spin)
        await wait_cpu(tenant, "mad")
        assert (await tenant.ok("DELETE", "/services/mad?grace_ms=50"))["reason"] == "killed"
    assert not alive(pid)


async def wait_cpu(client: Client, service_id: str) -> None:
    """Until the service burns time: then the call has arrived."""
    with trio.fail_after(BOUND_S):
        while (await client.ok("GET", f"/services/{service_id}"))["usage"]["cpu_s"] < 0.1:
            pass


async def test_second_time_is_404(tenant: Client) -> None:
    refused(await tenant.delete("/services/calc"), "service_not_found")
    await tenant.deploy("calc")
    await tenant.ok("DELETE", "/services/calc")
    refused(await tenant.delete("/services/calc"), "service_not_found")
    types = [event["type"] for event in await tenant.events(service_id="calc")]
    assert types[-2:] == ["service_killed", "service_stopped"]


async def test_what_meets_a_stop_on_its_way(tenant: Client) -> None:
    await tenant.deploy("mule", STUBBORN)
    answers: list[dict[str, object]] = []
    async with trio.open_nursery() as nursery:

        async def stop(query: str) -> None:
            answers.append(await tenant.ok("DELETE", f"/services/mule{query}"))

        nursery.start_soon(stop, "?grace_ms=3000")
        await tenant.wait_event("service_killed", "mule")
        assert (await tenant.ok("GET", "/services/mule"))["status"] == "stopping"
        refused(await tenant.try_deploy("mule", CALC), "service_stopping")
        refused(await tenant.post("/services/mule/restart"), "service_stopping")
        refused(await tenant.try_call("mule", "pid"), "service_not_running")
        assert (await tenant.ok("GET", "/services?status=stopping"))["services"][0]["service_id"] == "mule"
        nursery.start_soon(stop, "")  # joins
    assert answers == [{"service_id": "mule", "status": "stopped", "reason": "killed"}] * 2
    assert len(await tenant.events(type="service_killed")) == 1
    await tenant.deploy("mule")


async def test_delete_while_it_starts(tenant: Client) -> None:
    async with trio.open_nursery() as nursery:

        async def deploy() -> None:
            source = "import trio\nasync def main(ctx, task_status): await trio.sleep_forever()"
            refused(await tenant.try_deploy("slow", source, limits={"start_timeout_s": 600}), "service_deleted")

        nursery.start_soon(deploy)
        await tenant.wait_event("service_started", "slow")
        refused(await tenant.post("/services/slow/restart"), "service_not_running")
        assert (await tenant.ok("DELETE", "/services/slow"))["status"] == "stopped"
    assert service_pids() == set()


async def test_delete_while_it_is_queued_for_a_restart(tenant: Client) -> None:
    source = CALC + "\n@service.export\ndef explode():\n    os._exit(1)\n"
    await tenant.deploy("frail", source, restart_limits={"max_restarts": 1, "max_seconds": 3600})
    refused(await tenant.try_call("frail", "explode"), "call_interrupted")
    await tenant.wait_event("service_crashed", "frail")
    assert (await tenant.ok("DELETE", "/services/frail"))["status"] == "stopped"
    assert service_pids() == set()


@pytest.mark.parametrize("quoted", [True, False])
async def test_if_match(tenant: Client, quoted: bool) -> None:
    revision = (await tenant.deploy("calc"))["revision"]

    def matching(number: int) -> dict[str, str]:
        return {"If-Match": f'"{number}"' if quoted else str(number)}

    before = await tenant.events()
    for wrong in (0, revision - 1, revision + 1, 10**17):
        refused(await tenant.delete("/services/calc", headers=matching(wrong)), "revision_mismatch")
        refused(await tenant.post("/services/calc/restart", headers=matching(wrong)), "revision_mismatch")
    assert await tenant.events() == before
    restarted = await tenant.post("/services/calc/restart", headers=matching(revision))
    assert restarted.status_code == 200
    refused(await tenant.delete("/services/calc", headers=matching(revision)), "revision_mismatch")
    etag = (await tenant.get("/services/calc")).headers["etag"]
    assert etag == restarted.headers["etag"]
    assert (await tenant.delete("/services/calc", headers={"If-Match": etag})).status_code == 200
    refused(await tenant.delete("/services/calc", headers={"If-Match": etag}), "service_not_found")


async def test_if_match_anything(tenant: Client) -> None:
    await tenant.deploy("calc")
    assert (await tenant.delete("/services/calc", headers={"If-Match": "*"})).status_code == 200


async def test_a_crash_does_not_change_the_revision(tenant: Client) -> None:
    source = CALC + "\n@service.export\ndef explode():\n    os._exit(1)\n"
    revision = (await tenant.deploy("frail", source))["revision"]
    refused(await tenant.try_call("frail", "explode"), "call_interrupted")
    await tenant.wait_event("service_crashed", "frail")
    assert await tenant.call("frail", "add", 1, 2) == 3, "waits for the restart"
    assert (await tenant.ok("GET", "/services/frail"))["revision"] == revision


async def test_restart_of_one_that_was_given_up(tenant: Client) -> None:
    source = CALC + "\n@service.export\ndef explode():\n    os._exit(1)\n"
    await tenant.deploy("frail", source, restart_limits={"max_restarts": 0, "max_seconds": 10})
    refused(await tenant.try_call("frail", "explode"), "call_interrupted")
    await tenant.wait_event("service_given_up", "frail")
    status = await tenant.ok("GET", "/services/frail")
    assert status["status"] == "given_up" and "code 1" in status["last_crash"]["reason"]
    refused(await tenant.try_call("frail", "add", 1, 2), "service_not_running")
    restarted = await tenant.ok("POST", "/services/frail/restart")
    assert restarted["status"] == "ready"
    assert await tenant.call("frail", "add", 1, 2) == 3


async def test_restart_that_fails(tenant: Client) -> None:
    source = """
    import trio
    async def main(ctx, task_status):
        if ctx.generation > 1:
            raise OSError("not twice")
        task_status.started()
        await trio.sleep_forever()
    """
    await tenant.deploy("once", source, restart_limits={"max_restarts": 0, "max_seconds": 10})
    document = refused(await tenant.post("/services/once/restart"), "service_start_failed")
    assert "not twice" in document["detail"]
    assert (await tenant.ok("GET", "/services/once"))["status"] == "given_up"
    assert (await tenant.ok("DELETE", "/services/once"))["reason"] == "not_running"


async def test_restart_of_nothing(api: Api, tenant: Client) -> None:
    refused(await tenant.post("/services/calc/restart"), "service_not_found")
