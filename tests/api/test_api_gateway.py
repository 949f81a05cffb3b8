"""What HTTP adds to an operation: headers that count once, HEAD, streams that are counted, answers that cannot be sent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from api_rig import BOUND_S, Api, Client, Wire, refused, running

from solo_trio.errors import CODES
from solo_trio.kernel.calls import Calls
from solo_trio.operations.events import ID_MAX
from solo_trio.operations.settings import Settings

STREAM = {"Accept": "text/event-stream"}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Authorization", "/services"),
        ("X-Tenant-ID", "/services"),
        ("Idempotency-Key", "/services"),
        ("If-Match", "/services"),
        ("Last-Event-ID", "/events"),
    ],
)
async def test_a_header_that_decides_is_given_once(tenant: Client, name: str, path: str) -> None:
    value = f"Bearer {tenant.token}" if name == "Authorization" else "t1" if name == "X-Tenant-ID" else '"1"'
    others = {} if name == "Authorization" else {"Authorization": f"Bearer {tenant.token}"}
    for spelled in (name, name.lower()):
        response = await tenant.http.get(path, headers=[*others.items(), (name, value), (spelled, value)])
        assert name in refused(response, "invalid_header")["detail"]
    assert (await tenant.http.get(path, headers=[*others.items(), (name, value)])).status_code == 200


async def test_head_of_a_stream_is_over_at_once(tenant: Client) -> None:
    """The next request on the same connection is answered."""
    async with Wire.to(tenant.http.base_url) as wire:
        for method in ("HEAD", "HEAD", "GET"):
            with trio.fail_after(BOUND_S):
                accept = {"Accept": b"text/event-stream"} if method == "HEAD" else {}
                headers = {"Authorization": f"Bearer {tenant.token}".encode(), **accept}
                response = await wire.get("/events", headers, method=method)
                assert response.status_code == 200
                assert bool(await wire.rest()) == (method == "GET")
                wire.protocol.start_next_cycle()


@pytest.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path / "data", Settings(max_streams_per_tenant=3, max_streams=10)) as found:
        yield found


async def test_open_streams_are_counted_by_tenant(narrow: Api) -> None:
    """One of the ten is for the system only; it may have all that are free."""
    api = narrow
    clients = [await api.tenant("t1"), await api.tenant("t2"), api.admin]
    async with contextlib.AsyncExitStack() as everybody:
        for client, most in zip(clients, (3, 3, 7), strict=True):
            mine = await everybody.enter_async_context(contextlib.AsyncExitStack())
            for _ in range(most):
                await mine.enter_async_context(client.stream(since_id=0))
            response = await client.get("/events", headers=STREAM)
            refused(response, "overloaded")
            assert response.headers["retry-after"] == "5"
            assert "events" in await client.ok("GET", "/events")
            if client is clients[0]:
                refused(await api.admin.get("/events", headers=STREAM | {"X-Tenant-ID": "nobody"}), "tenant_not_found")
                await mine.aclose()  # their places are free again, once the server has seen that they left
                with trio.fail_after(BOUND_S):
                    while (await _try_stream(client)) == 503:
                        pass


async def _try_stream(client: Client) -> int:
    headers = {"Authorization": f"Bearer {client.token}".encode(), "Accept": b"text/event-stream"}
    async with Wire.to(client.http.base_url) as wire:
        return (await wire.get("/events", headers)).status_code


async def test_the_last_places_are_for_the_system(narrow: Api) -> None:
    clients = [await narrow.tenant(f"t{number}") for number in range(4)]
    async with contextlib.AsyncExitStack() as everybody:
        for number in range(9):
            await everybody.enter_async_context(clients[number % 4].stream(since_id=0))
        refused(await clients[3].get("/events", headers=STREAM), "overloaded")
        await everybody.enter_async_context(narrow.admin.stream(since_id=0))
        refused(await narrow.admin.get("/events", headers=STREAM), "overloaded")


async def test_many_streams_at_once_do_not_slip_in(narrow: Api) -> None:
    tenant = await narrow.tenant("t1")
    statuses: list[int] = []
    answered = trio.Event()

    async def one() -> None:
        headers = {"Authorization": f"Bearer {tenant.token}".encode(), "Accept": b"text/event-stream"}
        async with Wire.to(tenant.http.base_url) as wire:
            statuses.append((await wire.get("/events", headers)).status_code)
            if len(statuses) == 20:
                answered.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
        with trio.fail_after(BOUND_S):
            await answered.wait()
        nursery.cancel_scope.cancel()
    assert sorted(statuses) == [200] * 3 + [503] * 17


async def test_a_result_that_cannot_be_encoded(
    tenant: Client, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A service's process may send anything, also what its own kernel module would refuse; no defect is recorded."""

    async def forged(*args: Any) -> Any:
        nested: list[Any] = []
        for _ in range(300):
            nested = [nested]
        return nested

    monkeypatch.setattr(Calls, "call", forged)
    for _ in range(2):
        assert refused(await tenant.try_call("calc", "add"), "result_not_serialisable")["status"] == 502
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_ids_of_events_have_64_bits(tenant: Client, headers: dict[str, str]) -> None:
    for beyond in (ID_MAX + 1, 10**19, -(2**63) - 1, -1):
        refused(await tenant.get(f"/events?since_id={beyond}", headers=headers), "invalid_field")
    if headers:
        async with tenant.stream(since_id=ID_MAX):
            pass
    else:
        assert await tenant.ok("GET", f"/events?since_id={ID_MAX}") == {"events": [], "next": None}
        assert (await tenant.ok("GET", f"/logs?since={ID_MAX}"))["logs"] == []


@pytest.mark.parametrize("type_", ["x_", "x_A", "x_a-b", "x_a b", "x_é", "x", "service_ready,x_"])
async def test_types_of_events_that_cannot_be(tenant: Client, type_: str) -> None:
    refused(await tenant.get("/events", params={"type": type_}), "invalid_field")
    assert await tenant.events(type="x_a_1,x_9") == []


async def test_a_stream_takes_no_limit(tenant: Client) -> None:
    assert "limit" in refused(await tenant.get("/events?limit=5", headers=STREAM), "unknown_field")["detail"]


async def test_bounds_are_written_in_full(tenant: Client) -> None:
    response: httpx.Response = await tenant.try_deploy("a", "x = 1", limits={"memory_mb": 1})
    assert "between 16 and 1048576" in refused(response, "invalid_field")["detail"]
    response = await tenant.try_deploy("a", "x = 1", limits={"start_timeout_s": 0})
    assert "between 0.05 and 600" in refused(response, "invalid_field")["detail"]


async def test_the_type_of_a_problem_leads_to_a_page(tenant: Client) -> None:
    """Open to anybody, for every code; and for nothing else."""
    link = refused(await tenant.get("/services/nobody"), "service_not_found")["type"]
    assert link == "/errors/service_not_found"
    for code, row in CODES.items():
        response = await tenant.http.get(f"/errors/{code}")
        assert response.status_code == 200 and response.headers["content-type"] == "text/plain; charset=utf-8"
        assert code in response.text and row.title in response.text and str(row.status) in response.text
        assert response.headers["x-request-id"]
    for other in ("nonsense", "a" * 5_000, "<script>", "..", "%2e%2e%2fetc", "index"):
        refused(await tenant.http.get(f"/errors/{other}"), "not_found")
    refused(await tenant.http.post("/errors/not_found"), "method_not_allowed")
