"""A log that was repaired from a checkpoint has lost events that later requests look back at."""

from __future__ import annotations

from pathlib import Path

from api_rig import problem, refused, running

from solo_trio.bootstrap import repair_data
from solo_trio.journal.library import driver

SOURCE = "from solo_trio import service\n\n@service.export\ndef one():\n    return 1\n"


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


async def test_what_was_asked_before_and_what_is_asked_anew(tmp_path: Path) -> None:
    """Nothing is done twice, nothing is a defect, and whatever is wanted can still be changed."""
    async with running(tmp_path) as api:
        tenant = await api.tenant("acme")
        await tenant.ok("POST", "/services", {"service_id": "calc", "code": SOURCE}, headers=key("deploy"))
        await tenant.ok("PATCH", "/services/calc", {"restart": "transient"}, headers=key("change"))
        grant = {"resource": "service:calc", "permissions": ["read"]}
        await tenant.ok("POST", "/capabilities", grant, headers=key("grant"))
        await tenant.ok("POST", "/services/calc/restart", headers=key("restart"))
        await tenant.ok("POST", "/services/calc/pause", headers=key("pause"))
        await tenant.ok("POST", "/services/calc/resume", headers=key("resume"))
        token = tenant.token
        for _ in range(2):
            await api.admin.ok("POST", "/system/checkpoint")
        before = await api.last_event_id()

    connection = driver.connect(str(tmp_path / "kernel.db"), isolation_level=None)
    connection.execute("DELETE FROM events WHERE type = 'tenant_created'")
    connection.close()
    assert (await repair_data(tmp_path, lambda plan: plan.way == "checkpoint", lambda what: None)).repaired

    async with running(tmp_path) as api:
        await api.kernel.wait_recovered()
        tenant = await api.client(token, "acme")
        assert (await tenant.get(f"/events?since_id={before - 1}&limit=1")).json()["events"]
        for method, path, body, name in (
            ("POST", "/services", {"service_id": "calc", "code": SOURCE}, "deploy"),
            ("PATCH", "/services/calc", {"restart": "transient"}, "change"),
            ("POST", "/capabilities", grant, "grant"),
            ("POST", "/services/calc/restart", None, "restart"),
            ("POST", "/services/calc/pause", None, "pause"),
            ("POST", "/services/calc/resume", None, "resume"),
        ):
            more = {} if body is None else {"json": body}
            answer = await tenant.request(method, path, headers=key(name), **more)
            refused(answer, "idempotency_conflict")
            assert "lost in a repair" in problem(answer)["detail"], name
        listed = (await tenant.get("/services/calc")).json()
        assert (listed["status"], listed["spec"]["restart"]) == ("ready", "transient")
        await tenant.ok("POST", "/services/calc/restart")
        paused = await tenant.ok("POST", "/services/calc/pause")
        assert (paused["version"], paused["digest"]) == (1, listed["digest"])
        await tenant.ok("POST", "/services/calc/resume")
        changed = await tenant.ok("PATCH", "/services/calc", {"restart": "permanent"})
        assert changed["spec"]["restart"] == "permanent"
        unchanged = await tenant.ok("PATCH", "/services/calc", {"restart": "permanent"})
        assert unchanged["spec"]["restart"] == "permanent"
        await tenant.ok("POST", "/services?replace=true", {"service_id": "calc", "code": SOURCE + "# two\n"})
        await tenant.ok("DELETE", "/services/calc")
