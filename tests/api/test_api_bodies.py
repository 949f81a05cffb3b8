"""Bodies and credentials: who has none keeps nobody from being heard, and is told so, and counted, as ever."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from functools import partial

import trio
from api_rig import BOUND_S, Api, Client, Wire
from attrs import evolve

from solo_trio.gateways.http.app import sender_of
from solo_trio.gateways.http.body import SYSTEM, UNKNOWN
from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.gateways.http.requests import CERTIFICATE
from solo_trio.model.certificate import Certificate
from solo_trio.operations.admission import FAILURES_BURST

LIMITS = ServerLimits()
LONG = LIMITS.body_bytes_max
MANY = LIMITS.bodies_bytes_max // LONG


def of(token: str | None, *, certificate: Certificate | None = None) -> dict[str, object]:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return {"headers": headers, "extensions": {CERTIFICATE: certificate}}


async def test_bodies_without_a_credential_lock_nobody_out(api: Api, tenant: Client) -> None:
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for number in range(MANY):
            wire = await stack.enter_async_context(Wire.to(tenant.http.base_url))
            head = {"Content-Length": b"%d" % LONG}
            head |= {"Authorization": b"Bearer wrong"} if number % 2 else {}
            with trio.fail_after(BOUND_S):
                answer = await wire.get("/services", head, method="POST", body=False)
            assert answer.status_code == 401  # at once, not when the body is there
            assert dict(answer.headers)[b"connection"] == b"close"
            assert json.loads(await wire.rest())["code"] == "unauthenticated"
        for _ in range(2 * MANY):  # as long as these are, they are not even kept
            wire = await stack.enter_async_context(Wire.to(tenant.http.base_url))
            text = b"POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % LONG
            await wire.stream.send_all(text + b" " * 65_536)
        with trio.fail_after(BOUND_S):
            await api.admin.ok("POST", "/tenants", {"tenant_id": "t2"})
            answered = await tenant.try_call("none", "f", "x" * 500_000)
        assert json.loads(answered.content)["code"] == "service_not_found"
        nursery.cancel_scope.cancel()


async def test_a_look_at_the_head_counts_no_guess(api: Api) -> None:
    for _ in range(2 * int(FAILURES_BURST)):
        assert sender_of(api.system, of("wrong")) == UNKNOWN
    wrong = await api.client("wrong")
    for size in (10, 100_000):
        assert (await wrong.post("/services", {"a": "x" * size})).status_code == 401


async def test_who_sends_is_known_from_the_head(api: Api, tenant: Client) -> None:
    whose = partial(sender_of, api.system)
    other = await api.tenant("t2")
    assert whose(of(api.admin.token)) == SYSTEM
    assert whose(of(tenant.token)).kind == whose(of(other.token)).kind == "tenant"
    assert whose(of(tenant.token)) != whose(of(other.token))
    assert whose(of(None)) == whose(of("wrong")) == UNKNOWN
    twice = of(tenant.token)
    twice["headers"] *= 2  # type: ignore[operator]
    assert whose(twice) == UNKNOWN
    good = Certificate("1", "tenant", "t1", 2**62, 2**62)
    assert whose(of(None, certificate=good)) == whose(of(tenant.token)) == whose(of(tenant.token, certificate=good))
    assert whose(of(None, certificate=evolve(good, names="system", tenant_id=None))) == SYSTEM
    for bad in (evolve(good, revoked=True), evolve(good, not_after_us=1), evolve(good, tenant_id="t9")):
        assert whose(of(tenant.token, certificate=bad)) == UNKNOWN
    assert whose(of(other.token, certificate=good)) == UNKNOWN
    revoked = await api.admin.ok("DELETE", "/tenants/t2", None)
    assert revoked is not None
    assert whose(of(other.token)) == UNKNOWN
