"""A kernel with everything real (sockets, SQLite, processes) and clients of it. Owns: bounds, what every answer must be.

Each answer that goes through `Client` is checked for what the contract says of all answers, so that no test has to.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import httpx
import trio
from attrs import define, evolve, field

from solo_trio import Kernel
from solo_trio.errors import CODES
from solo_trio.gateways.http.app import build_app, sender_of
from solo_trio.gateways.http.incidents import Incidents
from solo_trio.gateways.http.limits import ServerLimits, StreamLimits
from solo_trio.gateways.http.server import serve
from solo_trio.operations.caller import System
from solo_trio.operations.settings import Settings
from solo_trio.runtimes import procfs

OF_ITSELF = {
    "system_settled",
    "checkpoint_written",
    "log_compacted",
    "runtime_pressure_high",
    "resource_violation",
    "load_shed",
    "capability_denied",
    "access_alert",
}
BOUND_S = 60.0
"""For one request or one wait on a loaded machine; never reached by one that passes."""
PROBLEM_KEYS = {"type", "title", "status", "code", "detail", "request_id"}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
CALC = """
import os
from solo_trio import service

@service.export
async def add(a, b):
    return a + b

@service.export
def pid():
    return os.getpid()
"""
STUBBORN = """
import os, trio
from solo_trio import service

@service.export
def pid():
    return os.getpid()

async def main(ctx):
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
"""


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document, after checking everything that holds for all of them."""
    assert response.headers["content-type"] == "application/problem+json"
    document = json.loads(response.content)
    assert document.keys() >= PROBLEM_KEYS
    assert document["status"] == response.status_code
    row = CODES[document["code"]]
    assert (row.status, row.title) == (response.status_code, document["title"])
    assert document["type"].endswith(document["code"])
    assert document["request_id"] == response.headers["x-request-id"]
    assert isinstance(document["detail"], str) and len(document["detail"].split()) >= 3, "a sentence that helps"
    return document


def check_answer(response: httpx.Response) -> httpx.Response:
    assert response.headers.get_list("x-request-id"), "every response has X-Request-ID"
    assert len(response.headers.get_list("x-request-id")) == 1
    unhealthy = response.status_code == 503 and response.request.url.path.startswith("/health")
    if response.status_code >= 400 and not unhealthy:
        problem(response)
    elif response.content:
        assert response.headers["content-type"] == "application/json"
        json.loads(response.content)
    return response


def refused(response: httpx.Response, code: str) -> dict[str, Any]:
    """The problem document of an answer that must be `code`."""
    document = problem(response)
    assert document["code"] == code, document
    return document


@define
class Client:
    """One credential's view of the API. `json=` and `content=` as with httpx; other keywords become headers."""

    http: httpx.AsyncClient
    token: str | None
    tenant_id: str | None = None
    headers: dict[str, str] = field(factory=dict)

    def _headers(self, more: dict[str, str] | None) -> dict[str, bytes]:
        mine = {} if self.token is None else {"Authorization": f"Bearer {self.token}".strip()}
        return {name: value.encode() for name, value in (mine | self.headers | (more or {})).items()}

    async def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        with trio.fail_after(BOUND_S):
            return check_answer(await self.http.request(method, path, headers=self._headers(headers), **more))

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.request("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        if body is not None:
            more["json"] = body
        return await self.request("POST", path, **more)

    async def delete(self, path: str, **more: Any) -> httpx.Response:
        return await self.request("DELETE", path, **more)

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of a successful answer."""
        if body is not None:
            more["json"] = body
        response = await self.request(method, path, **more)
        assert response.is_success, response.text
        return response.json()

    async def try_deploy(self, service_id: str, code: str, *, query: str = "", **more: Any) -> httpx.Response:
        headers = more.pop("headers", None)
        body = {"service_id": service_id, "code": textwrap.dedent(code), **more}
        return await self.request("POST", f"/services{query}", json=body, headers=headers)

    async def deploy(self, service_id: str, code: str = CALC, **more: Any) -> dict[str, Any]:
        response = await self.try_deploy(service_id, code, **more)
        assert response.status_code == 201, response.text
        return response.json()

    async def try_call(self, service_id: str, function: str, *args: Any, **kwargs: Any) -> httpx.Response:
        return await self.post(f"/services/{service_id}/call/{function}", {"args": list(args), "kwargs": kwargs})

    async def call(self, service_id: str, function: str, *args: Any, **kwargs: Any) -> Any:
        response = await self.try_call(service_id, function, *args, **kwargs)
        assert response.status_code == 200, response.text
        return response.json()["result"]

    async def events(self, **query: Any) -> list[dict[str, Any]]:
        """Every event that matches, over all pages."""
        found: list[dict[str, Any]] = []
        since = query.pop("since_id", 0)
        while since is not None:
            page = (await self.get("/events", params={"since_id": since, "limit": 1000, **query})).json()
            found += page["events"]
            since = page["next"]
        return found

    async def wait_event(self, type_: str, subject: str | None = None, *, after: int = 0) -> dict[str, Any]:
        """The first event of that type, waited for on a stream."""
        async with self.stream(since_id=after, type=type_) as frames:
            async for frame in frames:
                if frame.event == type_ and (subject is None or frame.json["subject"] == subject):
                    found: dict[str, Any] = frame.json
                    return found
        raise AssertionError(f"the stream ended before {type_}")

    async def logs(self, **query: Any) -> list[dict[str, Any]]:
        return (await self.get("/logs", params={"limit": 1000, **query})).json()["logs"]

    async def wait_log(self, text: str, **query: Any) -> list[dict[str, Any]]:
        """All entries, once one has `text` in its message: output arrives through pipes, a little after it is written."""
        with trio.fail_after(BOUND_S):
            while True:
                entries = await self.logs(**query)
                if any(text in entry["message"] for entry in entries):
                    return entries

    @asynccontextmanager
    async def stream(
        self, *, path: str = "/events", headers: dict[str, str] | None = None, **query: Any
    ) -> AsyncIterator[Frames]:
        """An open SSE stream (of events); what happens after this is entered is on it."""
        sent = self._headers({"Accept": "text/event-stream"} | (headers or {}))
        with trio.fail_after(BOUND_S):
            async with Wire.to(self.http.base_url) as wire:
                response = await wire.get(str(httpx.URL(path, params=query)), sent)
                assert response.status_code == 200, await wire.rest()
                names = {name.decode(): value.decode() for name, value in response.headers}
                assert names["content-type"].startswith("text/event-stream")
                assert names["x-request-id"] and names["cache-control"] == "no-store"
                yield Frames(wire)


@define
class Wire:
    """A connection read with h11: httpx leaves half-read async generators behind, which are errors here."""

    stream: trio.SocketStream
    protocol: h11.Connection = field(factory=lambda: h11.Connection(h11.CLIENT))

    @classmethod
    @asynccontextmanager
    async def to(cls, url: httpx.URL, *, receive_bytes: int | None = None) -> AsyncIterator[Wire]:
        """`receive_bytes`: of the system's buffer, which fills up once this end does not read."""
        sock = trio.socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_bytes)
        await sock.connect((url.host, url.port or 80))
        async with trio.SocketStream(sock) as stream:
            yield cls(stream)

    async def get(
        self, target: str, headers: dict[str, bytes], *, method: str = "GET", body: bool = True
    ) -> h11.Response:
        """Send a request (without `body`: only its head) and read the head of the answer."""
        request = h11.Request(method=method, target=target, headers=[("Host", "localhost"), *headers.items()])
        await self.stream.send_all(self.protocol.send(request))
        if body:
            self.protocol.send(h11.EndOfMessage())
        response = await self.next_event()
        assert isinstance(response, h11.Response)
        return response

    async def next_event(self) -> Any:
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            self.protocol.receive_data(await self.stream.receive_some())
        return event

    async def data(self) -> bytes:
        """Some bytes of the body; none at its end."""
        event = await self.next_event()
        if isinstance(event, h11.EndOfMessage):
            return b""
        assert isinstance(event, h11.Data)
        return bytes(event.data)

    async def rest(self) -> bytes:
        parts = []
        while part := await self.data():
            parts.append(part)
        return b"".join(parts)


@define
class Frame:
    """One server-sent event."""

    id: int | None = None
    event: str = "message"
    data: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Frames:
    """The frames of a stream as a browser would see them: comments left out. Ends when the server ends it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffer = b""
        self.comments: list[bytes] = []

    def __aiter__(self) -> Frames:
        return self

    async def __anext__(self) -> Frame:
        while True:
            while b"\n\n" not in self._buffer:
                part = await self._wire.data()
                if not part:
                    assert not self._buffer, "cut in the middle of a frame"
                    raise StopAsyncIteration
                self._buffer += part
            block, _, self._buffer = self._buffer.partition(b"\n\n")
            if not block.startswith(b":"):
                return _frame(block.decode())
            self.comments.append(block)

    async def take(self, count: int) -> list[Frame]:
        """The next so many."""
        with trio.fail_after(BOUND_S):
            return [await self.__anext__() for _ in range(count)]


def _frame(block: str) -> Frame:
    frame = Frame()
    for line in block.split("\n"):
        name, separator, value = line.partition(": ")
        assert separator, line
        if name == "id":
            frame.id = int(value)
        elif name == "event":
            frame.event = value
        else:
            assert name == "data" and not frame.data, line
            frame.data = value
    return frame


@define
class Api:
    """A running kernel, its system credential's client, and ways to others."""

    kernel: Kernel
    url: str
    data: Path
    admin: Client
    clients: contextlib.AsyncExitStack
    incidents: Incidents

    @property
    def system(self) -> System:
        return self.kernel.system

    async def client(self, token: str | None, tenant_id: str | None = None, **headers: str) -> Client:
        http = httpx.AsyncClient(base_url=self.url, timeout=None, trust_env=False)
        return Client(await self.clients.enter_async_context(http), token, tenant_id, headers)

    async def tenant(self, tenant_id: str, **more: Any) -> Client:
        """Create a tenant; a client with its token."""
        answer = await self.admin.ok("POST", "/tenants", {"tenant_id": tenant_id, **more})
        return await self.client(answer["token"], tenant_id)

    async def last_event_id(self) -> int:
        """Of what somebody caused: the kernel writes about itself whenever it likes."""
        return max(each["id"] for each in await self.admin.events() if each["type"] not in OF_ITSELF)


@asynccontextmanager
async def running(
    data: Path,
    settings: Settings | None = None,
    *,
    limits: ServerLimits | None = None,
    streams: StreamLimits | None = None,
) -> AsyncIterator[Api]:
    """A kernel on `data`, served on a loopback port; leaving it shuts down. No defect may have been recorded by then."""
    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as clients:
        async with Kernel.open(data, settings=evolve(settings or Settings(), spare_sandboxes=0)) as kernel:
            core = kernel.system.core
            incidents = Incidents(lambda kind, cause: core.telemetry.bug(kind, cause) if cause is not None else None)
            serving = functools.partial(
                serve,
                build_app(kernel.system, streams),
                host="127.0.0.1",
                port=0,
                stopping=core.closed,
                limits=limits,
                incidents=incidents,
                sender_of=functools.partial(sender_of, kernel.system),
            )
            url: str = await nursery.start(serving)
            http = await clients.enter_async_context(httpx.AsyncClient(base_url=url, timeout=None, trust_env=False))
            token = (data / "admin.token").read_text().strip()
            yield Api(kernel, url, data, Client(http, token), clients, incidents)
        nursery.cancel_scope.deadline = trio.current_time() + BOUND_S  # open streams are told that it is over
    assert not nursery.cancel_scope.cancelled_caught, "serving did not end with the kernel"
    assert not core.telemetry.bugs, core.telemetry.bugs


def alive(pid: int) -> bool:
    """Whether there is a process of a service that calls itself so, other than as a zombie."""
    return any(inside_pid(found) == pid for found in service_pids())


def inside_pid(pid: int) -> int | None:
    """What the process `pid` calls itself, in the innermost of its pid namespaces."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))


def service_pids() -> set[int]:
    """Of all services of this process's kernels: below the ancestor are keepers, their zygotes, and then these."""
    ancestors = [int(pid) for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]
    keepers = [keeper for ancestor in ancestors for keeper in procfs.children(ancestor)]
    zygotes = [zygote for keeper in keepers for zygote in procfs.children(keeper)]
    return {pid for zygote in zygotes for pid in procfs.children(zygote) if procfs.usage(pid)}


def is_event(event: dict[str, Any]) -> bool:
    """Whether it has the shape of the contract."""
    assert event.keys() == {
        "id",
        "at",
        "type",
        "tenant_id",
        "subject",
        "payload",
        "causation_id",
        "correlation_id",
    }
    assert type(event["id"]) is int and RFC3339.fullmatch(event["at"]) and isinstance(event["payload"], dict)
    assert event["causation_id"] is None or event["causation_id"] < event["id"]
    return True
