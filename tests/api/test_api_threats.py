"""Hostile text in whatever is stored as it is: it stays text."""

from __future__ import annotations

import pytest
from api_rig import Api, Client

SQL = [
    "'; DROP TABLE events; --",
    "' OR '1'='1",
    '"; DELETE FROM audit; --',
    "x') UNION SELECT sealed FROM secrets --",
    "%' ESCAPE '\\",
    "\\'; PRAGMA writable_schema = 1; --",
]


@pytest.mark.parametrize("text", SQL)
async def test_text_that_is_sql_stays_text(api: Api, tenant: Client, text: str) -> None:
    """In each field that takes any text; and as a filter it finds what has it, which is nothing."""
    await tenant.ok("PUT", "/secrets/s", {"value": text}, headers={"Idempotency-Key": text})
    assert (await tenant.ok("POST", "/secrets/s/reveal", {}))["value"] == text
    granted = await tenant.ok(
        "POST", "/capabilities", {"resource": "logs", "permissions": ["read"], "metadata": {text: text}}
    )
    assert (await tenant.ok("GET", f"/capabilities/{granted['id']}"))["metadata"] == {text: text}
    code = "async def main(ctx):\n    ctx.log.info(ctx.config['text'], text=ctx.config['text'])\n"
    await tenant.deploy("s", code, config={"text": text}, restart="temporary")
    assert (await tenant.wait_log(text))[0]["message"] == text
    assert (await tenant.ok("GET", "/services/s"))["spec"]["config"] == {"text": text}
    for path in ("/events", "/logs", "/audit", "/services", "/capabilities", "/secrets"):
        for name in ("type", "service_id", "operation", "credential", "outcome", "status", "cursor", "level"):
            response = await tenant.get(path, params={name: text})
            assert response.status_code == 400, (path, name, response.text)
    checks = (await api.admin.ok("POST", "/system/verify"))["checks"]
    assert not [each for each in checks if each["status"] == "failed"]
    events = await tenant.events()
    assert {"secret_stored", "capability_granted", "service_deployed"} <= {each["type"] for each in events}
