"""Events: pages without gaps, streams that resume, filters, the end of a stream, readers that do not read."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from api_rig import BOUND_S, Api, Client, Frame, Wire, is_event, refused, running

from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.model.event import KINDS

QUIET = "x = 1"
TOLD = 120
"""Times 65,000 bytes: more than the buffers of a connection hold, which grow to 4 MiB on the sender's side alone."""
NUMBERS = itertools.count()


@pytest.fixture
async def busy(api: Api) -> Client:
    """A tenant with some history, between which another tenant's events lie."""
    tenant, other = await api.tenant("t1"), await api.tenant("t2")
    for number in range(2):
        await tenant.deploy(f"s{number % 2}", QUIET)
        await other.deploy(f"s{number % 2}", QUIET)
        await tenant.ok("DELETE", f"/services/s{number % 2}")
        await other.ok("DELETE", f"/services/s{number % 2}")
    return tenant


async def stored(api: Api, **matching: Any) -> list[dict[str, Any]]:
    """What a page should have, from one big page of the whole system."""
    everything = (await api.admin.ok("GET", "/events", params={"limit": 1000}))["events"]
    return [event for event in everything if all(event[name] == value for name, value in matching.items())]


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
async def test_pages_have_no_gaps_and_no_repeats(api: Api, busy: Client, limit: int) -> None:
    for client, expected in ((busy, await stored(api, tenant_id="t1")), (api.admin, await stored(api))):
        found: list[dict[str, Any]] = []
        since: int | None = None
        while True:
            query = {"limit": limit} | ({} if since is None else {"since_id": since})
            page = await client.ok("GET", "/events", params=query)
            assert len(page["events"]) <= limit
            found += page["events"]
            since = page["next"]
            if since is None:
                break
            assert since == page["events"][-1]["id"]
        assert found == expected
        assert all(is_event(event) for event in found)
    assert [event["id"] for event in await stored(api)] == list(range(1, len(await stored(api)) + 1))


async def test_times_never_go_back(api: Api, busy: Client) -> None:
    times = [event["at"] for event in await stored(api)]
    assert times == sorted(times)


async def test_since_id_is_exclusive(busy: Client) -> None:
    first, second, *_ = await busy.events()
    page = await busy.ok("GET", "/events", params={"since_id": first["id"], "limit": 1})
    assert page["events"] == [second]
    for beyond in (10**6, 10**17):
        assert await busy.ok("GET", "/events", params={"since_id": beyond}) == {"events": [], "next": None}


async def test_filters(api: Api, busy: Client) -> None:
    assert await busy.events(service_id="s1") == await stored(api, tenant_id="t1", subject="s1")
    assert await busy.events(type="service_killed") == await stored(api, tenant_id="t1", type="service_killed")
    both = await busy.events(type="service_killed,service_ready", service_id="s0", limit=1)
    assert {event["type"] for event in both} == {"service_killed", "service_ready"} and len(both) == 2
    assert await busy.events(type="x_mine") == []
    assert await busy.events(service_id="nobody") == []
    assert await api.admin.events(type="service_killed") == await stored(api, type="service_killed")
    by_header = await api.client(api.admin.token, None, **{"X-Tenant-ID": "t1"})
    assert await by_header.events() == await stored(api, tenant_id="t1")
    detail = refused(await busy.get("/events?type=nonsense"), "invalid_field")["detail"]
    assert all(kind in detail for kind in KINDS)


# -- streams


def is_frame(frame: Frame) -> bool:
    event = frame.json
    assert is_event(event)
    assert frame.id == event["id"] and frame.event == event["type"]
    return True


async def test_stream_from_the_beginning_then_live(api: Api, busy: Client) -> None:
    history = await busy.events()
    async with busy.stream(since_id=0) as frames:
        seen = await frames.take(len(history))
        assert all(is_frame(frame) for frame in seen) and [frame.json for frame in seen] == history
        await busy.deploy("live", QUIET)
        live = await frames.take(4)
        assert [frame.event for frame in live] == [
            "service_deployment_started",
            "service_started",
            "service_ready",
            "service_deployed",
        ]
    assert history + [frame.json for frame in live] == await busy.events()


async def test_stream_without_since_id_begins_now(busy: Client) -> None:
    last = (await busy.events())[-1]["id"]
    async with busy.stream() as frames:
        await busy.deploy("live", QUIET)
        [frame] = await frames.take(1)
        assert frame.event == "service_deployment_started" and frame.id is not None and frame.id > last


async def test_last_event_id_resumes_and_wins(busy: Client) -> None:
    history = await busy.events()
    middle = history[len(history) // 2]["id"]
    expected = [event for event in history if event["id"] > middle]
    for query in ({}, {"since_id": 0}, {"since_id": 10**9}):
        async with busy.stream(headers={"Last-Event-ID": str(middle)}, **query) as frames:
            assert [frame.json for frame in await frames.take(len(expected))] == expected
    page = await busy.ok("GET", "/events", headers={"Last-Event-ID": str(middle)})
    assert page["events"] == history, "it is for streams"


async def test_reading_with_breaks_misses_and_repeats_nothing(busy: Client) -> None:
    seen: list[int] = []
    total = len(await busy.events()) + 8
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            for number in range(2):
                await busy.deploy(f"live{number}", QUIET)

        nursery.start_soon(write)
        while len(seen) < total:
            headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
            async with busy.stream(since_id=0, headers=headers) as frames:
                seen += [frame.id or 0 for frame in await frames.take(min(3, total - len(seen)))]
    assert seen == [event["id"] for event in await busy.events()]


async def test_stream_filters(api: Api, busy: Client) -> None:
    async with busy.stream(since_id=0, type="service_killed,service_ready", service_id="s1") as frames:
        seen = [frame.json for frame in await frames.take(2)]
    assert seen == await busy.events(type="service_killed,service_ready", service_id="s1")
    async with api.admin.stream(since_id=0, type="tenant_created") as frames:
        assert [frame.json["tenant_id"] for frame in await frames.take(2)] == ["t1", "t2"]


async def test_bad_streams_are_refused_as_problems(api: Api, busy: Client) -> None:
    accept = {"Accept": "text/event-stream"}
    for query in ("since_id=-1", "since_id=x", "type=nonsense", "service_id=../x", "limit=0", "surprise=1"):
        response = await busy.get(f"/events?{query}", headers=accept)
        assert response.status_code == 400 and response.headers["content-type"] == "application/problem+json"
    refused(await busy.get("/events", headers=accept | {"Last-Event-ID": "x"}), "invalid_field")
    refused(await busy.get("/events", headers=accept | {"Last-Event-ID": "-1"}), "invalid_field")
    refused(await (await api.client(None)).get("/events", headers=accept), "unauthenticated")


async def test_accept_chooses(busy: Client) -> None:
    for accept in ("*/*", "application/json", "text/html", "application/json, text/plain"):
        assert "events" in await busy.ok("GET", "/events", headers={"Accept": accept})
    async with busy.stream(since_id=0, headers={"Accept": "text/event-stream, */*;q=0.1"}) as frames:
        assert is_frame((await frames.take(1))[0])


async def test_head_ends(busy: Client) -> None:
    """HEAD is GET without a body: also where GET would never end."""
    for path, accept in (("/services", "*/*"), ("/events", "*/*"), ("/events", "text/event-stream")):
        with trio.fail_after(BOUND_S):
            response = await busy.http.head(path, headers={"Authorization": f"Bearer {busy.token}", "Accept": accept})
        assert response.status_code == 200 and response.content == b"" and response.headers["x-request-id"]


@pytest.mark.parametrize("readers", [1, 20])
async def test_streams_end_with_the_kernel(tmp_path: Path, readers: int) -> None:
    ends: list[list[Frame]] = []
    async with trio.open_nursery() as nursery, running(tmp_path / "data") as api:
        tenant = await api.tenant("t1")
        await tenant.deploy("calc", QUIET)

        async def read(task_status: trio.TaskStatus[None]) -> None:
            async with api.admin.stream(since_id=0) as frames:
                task_status.started()
                ends.append([frame async for frame in frames])

        for _ in range(readers):
            await nursery.start(read)
    assert len(ends) == readers
    for frames in ends:
        *events, end = frames
        assert end.event == "end" and json.loads(end.data) == {"reason": "shutdown"} and end.id is None
        assert [frame.id for frame in events] == list(range(1, len(events) + 1))
        assert "system_shutdown_started" in {frame.event for frame in events}, "and perhaps what came of it"


async def test_streams_that_were_left_do_no_harm(busy: Client) -> None:
    for _ in range(30):
        async with busy.stream(since_id=0):
            pass
    async with busy.stream(since_id=0) as frames:
        await busy.deploy("live", QUIET)
        async for frame in frames:
            if frame.event == "service_deployed" and frame.json["subject"] == "live":
                break


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Api]:
    """A server that cuts a reader after a moment, so that a test can wait for it."""
    async with running(tmp_path / "data", limits=ServerLimits(write_s=3.0, write_bytes=16 * 1024)) as found:
        yield found


async def test_a_reader_that_does_not_read_hurts_nobody(strict: Api) -> None:
    tenant = await strict.tenant("t1")
    async with trio.open_nursery() as nursery:
        stalled = []
        for _ in range(5):
            connection = Wire.to(tenant.http.base_url, receive_bytes=16 * 1024)
            wire = await connection.__aenter__()
            nursery.start_soon(functools.partial(_close_later, connection))
            headers = {"Authorization": f"Bearer {tenant.token}".encode(), "Accept": b"text/event-stream"}
            response = await wire.get("/events?since_id=0", headers)
            assert response.status_code == 200
            stalled.append(wire)
        async with tenant.stream() as frames:
            for _ in range(4):
                nursery.start_soon(_fail_many, tenant, TOLD // 4)
            seen = 0
            async for frame in frames:
                seen += frame.event == "service_deployment_started"
                if seen == TOLD:
                    break
        with trio.fail_after(BOUND_S):
            while strict.incidents.count["write_cut"] < len(stalled):  # reading before that would be reading on
                assert (await tenant.get("/services")).status_code == 200
        for wire in stalled:
            with trio.fail_after(BOUND_S), pytest.raises((trio.BrokenResourceError, h11.RemoteProtocolError)):
                await wire.rest()  # what had been sent before it was cut; then the cut, which does not look like an end
        nursery.cancel_scope.cancel()


async def _fail_many(client: Client, count: int) -> None:
    """Big events that leave nothing running."""
    for _ in range(count):
        name = f"s{next(NUMBERS)}"
        refused(await client.try_deploy(name, "x = (", config={"a": "#" * 65_000}), "service_start_failed")


async def _close_later(connection: Any) -> None:
    try:
        await trio.sleep_forever()
    finally:
        await connection.__aexit__(None, None, None)
