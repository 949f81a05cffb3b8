"""What was asked long ago lies in the archive: every verb answers from what is its own tenant's, never from a neighbour's."""

from __future__ import annotations

from pathlib import Path

from api_rig import Api, Client, running

SOURCE = "from solo_trio import service\n\n@service.export\ndef one():\n    return 1\n"
CANARY = "canary-of-beta"


async def compacted_to(api: Api, event_id: int) -> None:
    """Until `event_id` is the oldest at hand: the checkpoints that this takes come behind it."""
    for _ in range(3):
        last = (await api.admin.ok("GET", "/system"))["last_event_id"]
        done = await api.admin.ok("POST", "/system/compact", {"keep_events": last - event_id + 1})
        if done["oldest_id"] == event_id:
            return
    raise AssertionError(f"the oldest is {done['oldest_id']}, not {event_id}: held by {done}")


async def verbs(tenant: Client) -> None:
    """Whatever changes or starts a service, and looks back at what was asked for."""
    before = await tenant.ok("GET", "/services/mine")
    for method, path, body in (
        ("PATCH", "/services/mine", {"restart_limits": {"max_restarts": 9}}),
        ("PATCH", "/services/mine", {"restart_limits": {"max_restarts": 9}}),
        ("POST", "/services/mine/pause", None),
        ("POST", "/services/mine/pause", None),
        ("POST", "/services/mine/resume", None),
        ("POST", "/services/mine/resume", None),
        ("POST", "/services/mine/restart", None),
        ("POST", "/services", {"service_id": "mine", "code": SOURCE, "config": {"whose": "alpha"}}),
        ("POST", "/services?wait=false", {"service_id": "mine", "code": SOURCE, "config": {"whose": "alpha"}}),
    ):
        more = {} if body is None else {"json": body}
        answer = await tenant.request(method, path, **more)
        assert answer.is_success or answer.status_code == 409, (method, path, answer.text)
        assert CANARY not in answer.text, (method, path)
        document = answer.json()
        if "spec" in document:
            assert document["spec"]["config"] == {"whose": "alpha"}, (method, path)
        assert document.get("digest", before["digest"]) == before["digest"], (method, path)
    failed = await tenant.request(
        "POST", "/services?replace=true", json={"service_id": "mine", "code": "raise RuntimeError"}
    )
    assert failed.status_code == 422 and CANARY not in failed.text
    assert failed.json()["restored"] == {"version": before["version"]}


async def test_no_verb_answers_with_a_neighbours(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        alpha, beta = await api.tenant("alpha"), await api.tenant("beta")
        await alpha.ok("POST", "/services", {"service_id": "mine", "code": SOURCE, "config": {"whose": "alpha"}})
        beside = {"service_id": "theirs", "code": SOURCE + "# of beta\n", "config": {"whose": CANARY}}
        theirs = (await beta.ok("POST", "/services", beside))["revision"]
        for _ in range(3):
            await beta.ok("POST", "/services/theirs/restart")
        for _ in range(2):
            await api.admin.ok("POST", "/system/checkpoint")
        await compacted_to(api, theirs)
        await verbs(alpha)
        await beta.ok("PATCH", "/services/theirs", {"restart_limits": {"max_restarts": 8}})
        for _ in range(2):
            await api.admin.ok("POST", "/system/checkpoint")
        await api.admin.ok("POST", "/system/compact", {"keep_events": 0})
        await verbs(alpha)
        await alpha.ok("DELETE", "/services/mine")
