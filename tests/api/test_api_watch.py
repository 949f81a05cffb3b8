"""WebSocket `/events/watch`: who may, what it tells, resuming, what a client may say, readers that do not read, the end."""

from __future__ import annotations

import contextlib
import json
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from api_rig import BOUND_S, Api, Client, is_event, problem, refused, running
from attrs import define, field
from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream

from solo_trio.gateways.http.limits import ServerLimits, StreamLimits
from solo_trio.operations.settings import Settings

QUIET = "x = 1"
BIG = 60_000


@define
class Watcher:
    """An open socket of trio-websocket. `next` leaves bookmarks out, and keeps them."""

    connection: Any
    bookmarks: list[int] = field(factory=list)

    async def any(self) -> dict[str, Any]:
        with trio.fail_after(BOUND_S):
            found: dict[str, Any] = json.loads(await self.connection.get_message())
        assert len(found) == 1 and found.keys() <= {"event", "bookmark", "compacted", "end"}
        return found

    async def next(self) -> dict[str, Any]:
        while "bookmark" in (found := await self.any()):
            self.bookmarks.append(found["bookmark"])
        return found

    async def events(self, count: int) -> list[dict[str, Any]]:
        found = [(await self.next())["event"] for _ in range(count)]
        assert all(is_event(event) for event in found)
        return found

    async def closed(self) -> tuple[int, str | None]:
        """The code and the reason of the close, which is what comes next."""
        with trio.fail_after(BOUND_S), pytest.raises(ConnectionClosed) as caught:
            await self.connection.get_message()
        return caught.value.reason.code, caught.value.reason.reason


def target_of(query: dict[str, Any], path: str = "/events/watch") -> str:
    return path + (f"?{httpx.QueryParams(query)}" if query else "")


def headers_of(client: Client, **more: str) -> list[tuple[bytes, bytes]]:
    given = {"Authorization": f"Bearer {client.token}"} if client.token else {}
    return [
        (name.replace("_", "-").encode(), value.encode()) for name, value in (given | client.headers | more).items()
    ]


@asynccontextmanager
async def connected(api: Api, target: str, headers: list[tuple[bytes, bytes]]) -> AsyncIterator[Any]:
    """trio-websocket on a socket of ours: its own it leaves open when it is refused, or when the server closes first."""
    async with trio.open_nursery() as nursery, await trio.open_tcp_stream("127.0.0.1", port_of(api)) as stream:
        connection = await wrap_client_stream(nursery, stream, "localhost", target, extra_headers=headers)
        yield connection
        with contextlib.suppress(ConnectionClosed):
            await connection.aclose()
        nursery.cancel_scope.cancel()


def port_of(api: Api) -> int:
    return int(api.url.rpartition(":")[2])


@asynccontextmanager
async def watch(api: Api, client: Client, **query: Any) -> AsyncIterator[Watcher]:
    with trio.fail_after(BOUND_S):
        async with connected(api, target_of(query), headers_of(client)) as connection:
            yield Watcher(connection)


async def rejected(api: Api, headers: list[tuple[bytes, bytes]], path: str = "/events/watch", **query: Any) -> str:
    """The code of the problem that the handshake is refused with."""
    with trio.fail_after(BOUND_S), pytest.raises(BaseException) as caught:
        async with connected(api, target_of(query, path), headers):
            pass
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, ConnectionRejected), error
    head = [(bytes(name).decode(), bytes(value).decode()) for name, value in error.headers]
    document = problem(httpx.Response(error.status_code, headers=head, content=error.body))
    return str(document["code"])


@pytest.fixture
async def other(api: Api) -> Client:
    return await api.tenant("t2")


# -- what it tells


async def test_everything_since_an_id_then_what_comes(api: Api, tenant: Client, other: Client) -> None:
    await tenant.deploy("old", QUIET)
    await other.deploy("old", QUIET)
    history = await tenant.events()
    async with watch(api, tenant, since_id=0) as watcher:
        assert await watcher.events(len(history)) == history
        await other.deploy("new", QUIET)
        await tenant.deploy("new", QUIET)
        live = await watcher.events(4)
        assert history + live == await tenant.events()
    async with watch(api, tenant, since_id=history[1]["id"]) as watcher:
        assert (await watcher.events(1))[0] == history[2], "since_id is exclusive"


async def test_without_since_id_it_begins_now(api: Api, tenant: Client) -> None:
    await tenant.deploy("old", QUIET)
    last = (await tenant.events())[-1]["id"]
    async with watch(api, tenant) as watcher:
        await tenant.deploy("new", QUIET)
        [event] = await watcher.events(1)
        assert event["id"] > last and event["subject"] == "new"


async def test_filters_and_whose(api: Api, tenant: Client, other: Client) -> None:
    for client in (tenant, other):
        await client.deploy("a", QUIET)
        await client.deploy("b", QUIET)
    wanted = {"service_id": "b", "type": "service_ready,service_deployed"}
    async with watch(api, tenant, since_id=0, **wanted) as watcher:
        assert await watcher.events(2) == await tenant.events(**wanted)
    async with watch(api, api.admin, since_id=0, type="service_ready") as watcher:
        assert {event["tenant_id"] for event in await watcher.events(4)} == {"t1", "t2"}
    by_header = await api.client(api.admin.token, None, **{"X-Tenant-ID": "t2"})
    async with watch(api, by_header, since_id=0, type="service_ready") as watcher:
        assert await watcher.events(2) == await other.events(type="service_ready")


async def test_bookmarks_are_where_to_resume(tmp_path: Path) -> None:
    async with running(tmp_path / "data", streams=StreamLimits(bookmark_s=0.2)) as api:
        tenant, other = await api.tenant("t1"), await api.tenant("t2")
        async with watch(api, tenant, since_id=0) as watcher:
            await other.deploy("elsewhere", QUIET)
            last = (await other.events())[-1]["id"]
            seen = [event["id"] for event in await watcher.events(len(await tenant.events()))]
            while not watcher.bookmarks or watcher.bookmarks[-1] < last:
                watcher.bookmarks.append((await watcher.any())["bookmark"])
            assert watcher.bookmarks == sorted(watcher.bookmarks) and watcher.bookmarks[-1] > seen[-1]
        await tenant.deploy("mine", QUIET)
        async with watch(api, tenant, since_id=watcher.bookmarks[-1]) as watcher:
            assert (await watcher.events(1))[0]["subject"] == "mine"


async def test_what_was_pruned_is_said(api: Api, tenant: Client) -> None:
    """To every reader, with the event that it can go on from."""
    await tenant.deploy("old", QUIET)
    last = (await tenant.events())[-1]["id"]
    await tenant.deploy("new", QUIET)
    await api.admin.ok("POST", "/system/compact", {"keep_events": await api.last_event_id() - last})
    oldest = api.system.core.journal.oldest_id
    assert oldest == last + 1
    history = [event for event in await tenant.events() if event["id"] >= oldest]
    for since_id in (0, 1, oldest - 2):
        page = await tenant.ok("GET", f"/events?since_id={since_id}")
        assert page["compacted"] == {"oldest_id": oldest} and page["events"] == history
    for since_id in (f"?since_id={oldest - 1}", ""):
        assert "compacted" not in await tenant.ok("GET", f"/events{since_id}")
    async with watch(api, tenant, since_id=1) as watcher:
        assert await watcher.next() == {"compacted": {"oldest_id": oldest}}
        assert await watcher.events(1) == history[:1]
    async with watch(api, tenant, since_id=oldest - 1) as watcher:
        assert await watcher.events(1) == history[:1]
    async with tenant.stream(since_id=1) as frames:
        gap, event = await frames.take(2)
        assert (gap.event, gap.json, gap.id) == ("compacted", {"oldest_id": oldest}, None)
        assert event.json == history[0]


# -- who may


async def test_refusals_are_problems_before_the_upgrade(api: Api, tenant: Client, other: Client) -> None:
    token = f"Bearer {tenant.token}".encode()
    mine = (b"Authorization", token)
    for headers, query, code in (
        ([], {}, "unauthenticated"),
        ([(b"Authorization", b"Bearer nonsense")], {}, "unauthenticated"),
        ([(b"Authorization", b"Basic " + token)], {}, "unauthenticated"),
        ([], {"token": tenant.token}, "unauthenticated"),
        ([], {"access_token": tenant.token}, "unauthenticated"),
        ([(b"Sec-WebSocket-Protocol", token)], {}, "unauthenticated"),
        ([mine], {"access_token": tenant.token}, "unknown_field"),
        ([mine, mine], {}, "invalid_header"),
        ([mine, (b"authorization", b"Bearer x")], {}, "invalid_header"),
        ([mine, (b"X-Tenant-ID", b"t1"), (b"X-Tenant-ID", b"t1")], {}, "invalid_header"),
        ([mine, (b"X-Tenant-ID", b"t2")], {}, "tenant_mismatch"),
        ([mine, (b"X-Tenant-ID", b"../x")], {}, "invalid_id"),
        ([mine], {"since_id": "-1"}, "invalid_field"),
        ([mine], {"since_id": "x"}, "invalid_field"),
        ([mine], {"since_id": "1" * 30}, "invalid_field"),
        ([mine], {"since_id": ["1", "2"]}, "invalid_field"),
        ([mine], {"type": "nonsense"}, "invalid_field"),
        ([mine], {"service_id": "../x"}, "invalid_id"),
        ([mine], {"limit": "5"}, "unknown_field"),
        ([mine], {f"q{number}": "" for number in range(100)}, "invalid_field"),
        ([mine, (b"Origin", b"http://evil.example")], {}, "host_not_allowed"),
        ([mine, (b"Origin", b"null")], {}, "host_not_allowed"),
        ([mine, (b"X-Tenant-ID", b"t1"), (b"Origin", b"http://localhost.evil.example")], {}, "host_not_allowed"),
    ):
        assert await rejected(api, headers, **query) == code, (headers, query)
    system = [(b"Authorization", f"Bearer {api.admin.token}".encode()), (b"X-Tenant-ID", b"nobody")]
    assert await rejected(api, system) == "tenant_not_found"
    for path in ("/", "/events", "/services", "/events/watch/more", "/health", "//events/watch"):
        assert await rejected(api, [mine], path) == "not_found"
    async with watch(api, tenant, since_id=0) as watcher:
        await watcher.events(1)


async def test_an_ordinary_request_is_told_to_upgrade(api: Api, tenant: Client) -> None:
    for headers in ({}, {"Accept": "text/event-stream"}):
        response = await tenant.get("/events/watch", headers=headers)
        refused(response, "upgrade_required")
        assert response.headers["upgrade"] == "websocket"
    refused(await (await api.client(None)).get("/events/watch"), "unauthenticated")
    refused(await tenant.post("/events/watch", {}), "method_not_allowed")


async def test_sockets_and_streams_are_counted_together(tmp_path: Path) -> None:
    async with running(tmp_path / "data", Settings(max_streams_per_tenant=2)) as api:
        tenant = await api.tenant("t1")
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(watch(api, tenant))
            await stack.enter_async_context(tenant.stream())
            assert await rejected(api, headers_of(tenant)) == "overloaded"
            refused(await tenant.get("/events", headers={"Accept": "text/event-stream"}), "overloaded")
        with trio.fail_after(BOUND_S):
            while True:
                with contextlib.suppress(BaseExceptionGroup, ConnectionRejected):
                    async with watch(api, tenant) as watcher:
                        await tenant.deploy("new", QUIET)
                        await watcher.events(1)
                        break


# -- what a client may say


async def test_what_a_client_says_is_dropped_and_pings_are_answered(api: Api, tenant: Client) -> None:
    async with watch(api, tenant, since_id=0) as watcher:
        await watcher.events(1)
        for message in ("hello", b"\x00\xff", "", json.dumps({"event": 1})):
            await watcher.connection.send_message(message)
        with trio.fail_after(BOUND_S):
            await watcher.connection.ping(b"there?")
        await tenant.deploy("calc", QUIET)
        await watcher.events(4)
        await watcher.connection.aclose(1000, "enough")
    async with tenant.stream():
        pass
    assert not api.incidents.count


@pytest.mark.parametrize("size", [5_000, 70_000, 3_000_000])
async def test_a_huge_message_closes(api: Api, tenant: Client, size: int) -> None:
    async with watch(api, tenant) as watcher, trio.open_nursery() as nursery:

        async def send() -> None:
            with contextlib.suppress(ConnectionClosed, trio.BrokenResourceError):
                await watcher.connection.send_message("x" * size)

        nursery.start_soon(send)
        with contextlib.suppress(ConnectionClosed):
            while True:
                found = await watcher.any()
                assert found.keys() <= {"bookmark", "end"}
        code, _ = await watcher.closed()
        assert code == 1009
        nursery.cancel_scope.cancel()


async def test_a_flood_closes(api: Api, tenant: Client) -> None:
    async with watch(api, tenant) as watcher, trio.open_nursery() as nursery:

        async def flood() -> None:
            with contextlib.suppress(ConnectionClosed, trio.BrokenResourceError):
                while True:
                    await watcher.connection.send_message("x")

        nursery.start_soon(flood)
        found = await watcher.next()
        assert found == {"end": {"reason": "rate_limited"}}
        assert (await watcher.closed())[0] == 1008
        nursery.cancel_scope.cancel()


# -- on the wire


class Raw:
    """A client that says exactly the bytes it is told, and reads when it is told."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    @classmethod
    @asynccontextmanager
    async def to(
        cls, api: Api, client: Client, query: str = "", *, more: bytes = b"", receive_bytes: int | None = None
    ) -> AsyncIterator[Raw]:
        sock = trio.socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_bytes)
        await sock.connect(("127.0.0.1", port_of(api)))
        async with trio.SocketStream(sock) as stream:
            head = (
                f"GET /events/watch{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {client.token}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await stream.send_all(head.encode() + more)
            yield cls(stream)

    async def _more(self) -> bool:
        try:
            data = bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            data = b""
        self.buffer += data
        return bool(data)

    async def head(self) -> str:
        with trio.fail_after(BOUND_S):
            while b"\r\n\r\n" not in self.buffer and await self._more():
                pass
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode()

    async def frame(self) -> tuple[int, bytes] | None:
        """Opcode and payload; None at the end."""
        with trio.fail_after(BOUND_S):
            while True:
                if len(self.buffer) >= 2:
                    size, at = self.buffer[1], 2
                    if size >= 126:
                        width = 2 if size == 126 else 8
                        size, at = int.from_bytes(self.buffer[2 : 2 + width], "big"), 2 + width
                    if len(self.buffer) >= at + size:
                        opcode, payload = self.buffer[0] & 0x0F, self.buffer[at : at + size]
                        self.buffer = self.buffer[at + size :]
                        return opcode, payload
                if not await self._more():
                    return None


def client_frame(opcode: int, payload: bytes) -> bytes:
    assert len(payload) < 126
    mask = secrets.token_bytes(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((0x80 | opcode, 0x80 | len(payload))) + mask + masked


async def test_the_handshake_and_the_close(api: Api, tenant: Client) -> None:
    async with Raw.to(api, tenant) as raw:
        head = await raw.head()
        assert head.startswith("HTTP/1.1 101 ") and "x-request-id" in head.lower()
        assert "deflate" not in head.lower()
        await raw.stream.send_all(client_frame(9, b"ping") + client_frame(8, struct.pack("!H", 1000)))
        frames = [await raw.frame(), await raw.frame(), await raw.frame()]
        assert frames == [(10, b"ping"), (8, struct.pack("!H", 1000)), None]
    async with Raw.to(api, tenant) as raw:  # who leaves without a word is forgotten too
        await raw.head()
    with trio.fail_after(BOUND_S):
        while open_streams(api):
            await trio.lowlevel.checkpoint()
            await tenant.get("/services")


def open_streams(api: Api) -> int:
    return sum(1 for _ in api.system.core.hub._published._tasks)  # who waits for what comes


@pytest.mark.parametrize(
    "wrong", [b"\xff" * 20, b"\x83\x80aaaa", b"\x81\x01a", b"\x89\xfe\x00\x7eaaaa" + b"x" * 126, b"\x80\x80aaaa", b"x"]
)
async def test_wrong_frames_end_their_connection_only(api: Api, tenant: Client, wrong: bytes) -> None:
    async with watch(api, tenant, since_id=0) as watcher:
        for early in (True, False):
            async with Raw.to(api, tenant, more=wrong if early else b"") as raw:
                if not early:
                    assert (await raw.head()).startswith("HTTP/1.1 101 ")
                    await raw.stream.send_all(wrong)
                if wrong != b"x":  # which is half a frame, unless it comes before the answer
                    with trio.fail_after(BOUND_S):
                        while await raw._more():
                            pass
        await tenant.deploy("new", QUIET)
        await watcher.events(5)
    # an early byte makes Hypercorn raise; the barrier counted it
    api.system.core.telemetry.bugs.clear()  # type: ignore[attr-defined]


# -- readers that do not read


async def fill(client: Client, count: int) -> None:
    """Big events that leave nothing running."""
    for number in range(count):
        name = f"f{number}"
        refused(await client.try_deploy(name, "x = (", config={"a": "#" * BIG}), "service_start_failed")


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Api]:
    """Cuts after two seconds; a write of half a second was too slow."""
    limits, streams = ServerLimits(write_s=2.0, write_bytes=16 * 1024), StreamLimits(slow_s=0.5)
    async with running(tmp_path / "data", limits=limits, streams=streams) as found:
        yield found


async def test_a_stalled_reader_is_cut_and_hurts_nobody(strict: Api) -> None:
    tenant = await strict.tenant("t1")
    await fill(tenant, 130)
    async with Raw.to(strict, tenant, "?since_id=0", receive_bytes=8_192) as stalled:
        await stalled.head()
        async with watch(strict, tenant) as watcher:
            await tenant.deploy("new", QUIET)
            await watcher.events(4)
        with trio.fail_after(BOUND_S):
            while not strict.incidents.count["write_cut"]:
                assert (await tenant.get("/services")).status_code == 200
    with trio.fail_after(BOUND_S):
        while open_streams(strict):
            await tenant.get("/services")


async def test_a_slow_reader_is_told_where_to_resume(strict: Api) -> None:
    """It reads on before it would be cut: what was written arrives whole, then the end."""
    tenant = await strict.tenant("t1")
    await fill(tenant, 130)
    history = await tenant.events()
    async with Raw.to(strict, tenant, "?since_id=0", receive_bytes=8_192) as slow:
        await slow.head()
        seen: list[int] = []
        resume = None
        began = trio.current_time()
        with trio.fail_after(BOUND_S):
            while trio.current_time() - began < 1.0:  # the server's writes fill every buffer long before
                await tenant.get("/services")
            while (frame := await slow.frame()) is not None:
                opcode, payload = frame
                if opcode == 8:
                    assert struct.unpack("!H", payload[:2]) == (1013,)
                    continue
                text = json.loads(payload)
                if "event" in text:
                    seen.append(text["event"]["id"])
                elif "end" in text:
                    assert text["end"]["reason"] == "too_slow"
                    resume = text["end"]["resume"]
    assert resume is not None and resume == seen[-1] < history[-1]["id"]
    assert seen == [event["id"] for event in history if event["id"] <= resume]
    assert not strict.incidents.count["write_cut"]
    async with watch(strict, tenant, since_id=resume) as watcher:
        assert (await watcher.events(1))[0]["id"] > resume


# -- the end


@pytest.mark.parametrize("watchers", [1, 20])
async def test_open_sockets_end_with_the_kernel(tmp_path: Path, watchers: int) -> None:
    ends: list[tuple[list[int], dict[str, Any], int]] = []
    async with trio.open_nursery() as nursery, running(tmp_path / "data") as api:
        tenant = await api.tenant("t1")
        await tenant.deploy("calc", QUIET)

        async def follow(task_status: trio.TaskStatus[None]) -> None:
            async with watch(api, api.admin, since_id=0) as watcher:
                task_status.started()
                ids = []
                while "event" in (found := await watcher.next()):
                    ids.append(found["event"]["id"])
                ends.append((ids, found, (await watcher.closed())[0]))

        for _ in range(watchers):
            await nursery.start(follow)
    assert len(ends) == watchers
    for ids, end, code in ends:
        assert ids == list(range(1, len(ids) + 1)) and len(ids) > 5
        assert end == {"end": {"reason": "shutdown"}} and code == 1001
