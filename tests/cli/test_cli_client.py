"""The SDK: both clients offer every operation, errors arrive as they were, and a watcher misses nothing."""

from __future__ import annotations

import inspect
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cli_rig import PIDS, Server
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.client import AsyncSoloClient, SoloClient, asks, find_server
from solo_trio.client.answers import read_answer
from solo_trio.client.asks import Ask
from solo_trio.client.connecting import Address
from solo_trio.client.watching import RECONNECT_S_MAX, EventStream
from solo_trio.errors import CODES, Faulted, KernelBug, Rejected, SoloError
from solo_trio.gateways.http.problems import problem_response
from solo_trio.operations.perform import OPERATIONS

BUILDERS = {
    name: function
    for name, function in vars(asks).items()
    if inspect.isfunction(function) and function.__module__.startswith(f"{asks.__name__}.") and not name.startswith("_")
}
EXAMPLES: dict[str, list[Any]] = {
    "deploy": ["s", "code"],
    "status": ["s"],
    "kill": ["s"],
    "restart": ["s"],
    "pause": ["s"],
    "resume": ["s"],
    "update": ["s"],
    "versions": ["s"],
    "explain": ["s"],
    "call": ["s", "f"],
    "create_tenant": ["t"],
    "show_tenant": ["t"],
    "update_tenant": ["t"],
    "remove_tenant": ["t"],
    "set_secret": ["n", "v"],
    "show_secret": ["n"],
    "reveal_secret": ["n"],
    "delete_secret": ["n"],
    "grant": ["service:s", ["call"]],
    "show_capability": ["0" * 32],
    "revoke": ["0" * 32],
    "revoke_token": ["token"],
    "verify_token": ["token", "service:s", "call"],
    "attenuate": ["token"],
}


def test_every_operation_can_be_asked_for_and_nothing_else() -> None:
    asked = set()
    for name, build in BUILDERS.items():
        ask = build(*EXAMPLES.get(name, []))
        parts = ask.path.split("/")
        [path] = [
            operation.path
            for operation in OPERATIONS.values()
            if operation.method == ask.method
            and not operation.stream
            and len(operation.path.split("/")) == len(parts)
            and all(
                want in ("{" + want.strip("{}") + "}", have)
                for want, have in zip(operation.path.split("/"), parts, strict=True)
            )
            and operation.path.split("/")[1] == parts[1]
            and ("{" in operation.path or operation.path == ask.path)
        ]
        asked.add((ask.method, path))
    over_http = [operation for operation in OPERATIONS.values() if operation.transport == "http"]
    assert asked == {(operation.method, operation.path) for operation in over_http}


def test_both_clients_offer_the_same() -> None:
    for name in BUILDERS:
        assert name in vars(SoloClient)
        assert name in vars(AsyncSoloClient)

    def public(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")}

    assert public(SoloClient) - {"close"} == public(AsyncSoloClient) - {"aclose"}


@pytest.mark.parametrize("code", sorted(CODES))
def test_an_error_arrives_as_it_was_raised(code: str) -> None:
    kind: type[SoloError] = Rejected if CODES[code].status < 500 and code != "rate_limited" else Faulted
    sent: SoloError = kind(code, "do this", where="here") if code != "kernel_bug" else KernelBug("do this")
    status, headers, body = problem_response(sent, "r1")
    with pytest.raises(kind if code != "kernel_bug" else KernelBug) as raised:
        read_answer(asks.services(), status, httpx.Headers(headers), body)
    assert (raised.value.code, raised.value.detail, raised.value.status) == (code, "do this", status)
    assert raised.value.extra == sent.extra | {"request_id": "r1"}


def test_when_to_try_again_arrives_too() -> None:
    status, headers, body = problem_response(Faulted("overloaded", "wait", retry_after_s=7), "r1")
    with pytest.raises(Faulted) as raised:
        read_answer(asks.services(), status, httpx.Headers(headers), body)
    assert raised.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (502, b"<html>"),
        (404, b"{}"),
        (400, b'{"code": 5}'),
        (400, b'{"code": "from_the_future", "detail": "x"}'),
    ],
)
def test_what_no_solo_server_says_is_not_reachable(status: int, body: bytes) -> None:
    with pytest.raises(Faulted) as raised:
        read_answer(asks.call("s", "f"), status, httpx.Headers(), body)
    assert raised.value.code == "not_reachable"


def test_an_unhealthy_answer_is_an_answer() -> None:
    body = b'{"status": "failing", "components": {"journal": "storage_full"}}'
    assert read_answer(asks.health(), 503, httpx.Headers(), body)["status"] == "failing"
    assert read_answer(asks.ready(), 503, httpx.Headers(), b'{"status": "recovering"}') is False


@pytest.mark.parametrize("service_id", ["", ".", "..", "a/b", "a%2Fb", "a?x", "a#x", "é", "a\n", "a" * 129])
def test_no_id_leads_to_another_route(service_id: str) -> None:
    for build in (asks.status, asks.kill, asks.restart):
        with pytest.raises(Rejected, match="invalid_id"):
            build(service_id)


def test_a_proxy_is_for_servers_elsewhere() -> None:
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "http://0.0.0.0:1"):
        assert Address.of(url, None).options(1)["trust_env"] is False
    for url in ("http://solo.example", "https://127.0.0.1.example"):
        assert Address.of(url, None).options(1)["trust_env"] is True
        assert Address.of(url, None).options(1)["verify"] is True


def test_a_token_is_not_shown() -> None:
    with SoloClient("http://127.0.0.1:1", "sekret") as client:
        assert "sekret" not in repr(client)
    assert "sekret" not in repr(find_server(url="http://127.0.0.1:1", environment={"SOLO_TOKEN": "sekret"}))


# -- frames


def frame(id_: int, padding: str = "") -> bytes:
    event = {"id": id_, "type": "x", "padding": padding}
    return f"id: {id_}\nevent: x\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


@given(st.lists(st.text(max_size=8), max_size=8), st.data())
def test_however_a_stream_is_cut_each_event_arrives_once(paddings: list[str], data: st.DataObject) -> None:
    frames = [frame(number + 1, padding) for number, padding in enumerate(paddings)]
    text = b": solo\n\n" + b": keep-alive\n\n".join(frames) + b'event: end\ndata: {"reason": "shutdown"}\n\n'
    stream = EventStream(0)
    stream.ask()
    found = []
    while text:
        size = data.draw(st.integers(1, len(text)))
        found += stream.received(text[:size])
        text = text[size:]
    assert [(each["id"], each["padding"]) for each in found] == [(i + 1, each) for i, each in enumerate(paddings)]
    assert stream.last_id == len(paddings)


def test_a_half_frame_of_a_broken_connection_is_forgotten() -> None:
    stream = EventStream(4, service_id="s", type="t")
    stream.connected()
    assert [each["id"] for each in stream.received(frame(5) + frame(6)[:-1])] == [5]
    stream.broken(None)
    assert stream.ask().query == {"since_id": 5, "service_id": "s", "type": "t"}
    assert [each["id"] for each in stream.received(frame(5) + frame(6))] == [6]


def test_what_was_never_there_is_not_waited_for() -> None:
    with pytest.raises(Faulted, match="first"):
        EventStream(0).broken(Faulted("not_reachable", "first"))


class Heard:
    """An onlooker."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.url: str | None = None

    def gone(self, error: SoloError | None) -> None:
        self.told.append("gone")

    def back(self) -> None:
        self.told.append("back")

    def place(self) -> str | None:
        return self.url


def test_a_stream_waits_as_long_as_it_is_patient_and_says_where_to_go_on() -> None:
    now, heard = 0.0, Heard()
    stream = EventStream(0, patience_s=600, onlooker=heard, clock=lambda: now)
    stream.connected()
    stream.received(frame(7))
    waits = []
    while now < 599:
        waits.append(stream.broken(Faulted("not_reachable", "away")))
        now += waits[-1] + 1
    assert waits == sorted(waits) and waits[0] < 0.2 and waits[-1] == RECONNECT_S_MAX
    assert heard.told == ["gone"]
    stream.received(b": solo\n\n")  # no event, and yet it is back
    assert heard.told == ["gone", "back"]
    assert stream.broken(None) == waits[0]
    assert heard.told == ["gone", "back"], "one that ends and is taken up at once is nothing to speak of"
    now += 601
    with pytest.raises(Faulted, match="last") as raised:
        stream.broken(Faulted("not_reachable", "last"))
    assert raised.value.extra["last_id"] == 7


def test_ten_restarts_without_an_event_are_no_reason_to_give_up() -> None:
    stream = EventStream(0, type="service_given_up", patience_s=5.0, clock=lambda: 0.0)
    stream.connected()
    for _ in range(10):
        stream.received(b": solo\n\n")
        waits = [stream.broken(each) for each in (None, Faulted("not_reachable", "x"), Faulted("shutting_down", "x"))]
        assert waits[0] < waits[1] < waits[2] < 1


@pytest.mark.parametrize("code", ["unauthenticated", "permission_denied", "tenant_not_found", "invalid_field"])
def test_a_refusal_ends_a_stream(code: str) -> None:
    stream = EventStream(3)
    stream.connected()
    stream.received(frame(5))
    with pytest.raises(Rejected, match=code) as raised:
        stream.broken(Rejected(code, "no"))
    assert raised.value.extra["last_id"] == 5


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: {}\n\n", b'data: {"id": "x"}\n\n', b"data: 5\n\n"])
def test_a_malformed_event_is_not_skipped(data: bytes) -> None:
    with pytest.raises(Faulted, match="malformed"):
        EventStream(0).received(data)
    stream = EventStream(0)
    stream.connected()
    with pytest.raises(Faulted, match="malformed") as raised:
        stream.received(data)
    with pytest.raises(Faulted, match="malformed"):  # it would come again and again
        stream.broken(raised.value)


# -- on real servers


def test_a_stream_begins_now_or_where_it_was_asked_to(server: Server) -> None:
    options = find_server(server.data, environment={}).options()
    with SoloClient(**options, tenant="default") as client:
        page = client.events(since_id=0, limit=1_000)["events"]
        with client.watch(since_id=0) as events:
            assert [next(events) for _ in page] == page
        with client.watch() as events:
            client.restart("pids")
            assert next(events)["id"] > page[-1]["id"]
    with SoloClient(**options) as client, client.watch() as events:
        client.create_tenant("watched")
        assert next(events)["type"] == "tenant_created"


async def test_the_trio_client_does_the_same(server: Server) -> None:
    options = find_server(server.data, environment={}).options()
    async with AsyncSoloClient(**options, tenant="default") as client:
        assert await client.call("pids", "echo", [1], {"k": 2}) == [[1], {"k": 2}]
        with pytest.raises(Faulted, match="call_failed"):
            await client.call("pids", "fail")
        with pytest.raises(Rejected, match="service_not_found"):
            await client.status("nobody")
        page = (await client.events(since_id=0, limit=5))["events"]
        async with client.watch(since_id=0) as events:
            assert [await anext(events) for _ in page] == page
        async with client.watch() as events:
            with trio.move_on_after(0.05):  # cancelled while it waits, it is left in order
                await anext(events)
        assert await client.ready()


def test_one_key_is_one_deployment(server: Server) -> None:
    with SoloClient(**find_server(server.data, environment={}).options(), tenant="default") as client:
        answers = [client.deploy("keyed", PIDS, idempotency_key="k1") for _ in range(2)]
        assert answers[0] == answers[1]
        client.kill("keyed", force=True)


@pytest.mark.slow
async def test_a_watcher_misses_nothing_when_the_kernel_is_killed_and_started_again(tmp_path: Path) -> None:
    """On the same port: the client finds it again by itself, and goes on where it was."""
    data = tmp_path / "data"
    with trio.fail_after(60):
        with Server(data) as server:
            port = server.port
            client = AsyncSoloClient(**find_server(data, environment={}).options())
            async with client, client.watch(since_id=0) as events:
                seen = [await anext(events) for _ in range(2)]
                await client.create_tenant("a")
                seen.append(await anext(events))
                server.process.kill()
                await trio.to_thread.run_sync(server.wait)
                with Server(data, port=port, ready=False) as again:
                    while seen[-1]["type"] != "system_started":
                        seen.append(await anext(events))
                    await trio.to_thread.run_sync(again.wait_ready)
                    await client.create_tenant("b")
                    while seen[-1]["tenant_id"] != "b":
                        seen.append(await anext(events))
                    assert [each["id"] for each in seen] == list(range(1, len(seen) + 1))
                    assert (await client.events(since_id=0))["events"][: len(seen)] == seen


async def test_a_server_may_be_away_for_most_of_an_hour(autojump_clock: trio.testing.MockClock) -> None:
    """What is between the client and a server that is there again after half an hour is played here."""
    tries = 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        if tries > 1 and trio.current_time() - began < 1_800:
            raise httpx.ConnectError("nothing listens")
        kind = {"Content-Type": "text/event-stream"}
        return httpx.Response(200, headers=kind, content=b": solo\n\n" + frame(1 if tries == 1 else 2))

    began = trio.current_time()
    transport = httpx.MockTransport(answer)
    async with AsyncSoloClient("http://127.0.0.1:1", transport=transport) as client:
        async with client.watch(since_id=0) as events:
            assert [(await anext(events))["id"] for _ in range(2)] == [1, 2]
        assert 1_800 <= trio.current_time() - began < 1_810
        assert tries < 700
        tries, began = 0, trio.current_time()
        async with client.watch(since_id=0, patience_s=20) as events:
            assert (await anext(events))["id"] == 1
            with pytest.raises(Faulted, match="nothing listens there") as raised:
                await anext(events)
        assert raised.value.extra["last_id"] == 1
        assert trio.current_time() - began < 30


class _Odd(BaseHTTPRequestHandler):
    """Something that is no Solo server."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def odd_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Odd) as server:
        assert isinstance(server, socketserver.BaseServer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_something_else_on_the_port(odd_url: str) -> None:
    ask: Ask[Any] = asks.services()
    with SoloClient(odd_url) as client, pytest.raises(Faulted, match="not a Solo server"):
        client.send(ask)
    with (
        SoloClient(odd_url) as client,
        pytest.raises(Faulted, match="it sends no events"),
        client.watch(since_id=0) as events,
    ):
        next(events)
    async with AsyncSoloClient(odd_url) as other:
        with pytest.raises(Faulted, match="not a Solo server"):
            await other.send(ask)


async def test_nothing_on_the_port() -> None:
    with SoloClient("http://127.0.0.1:1") as client:
        with pytest.raises(Faulted, match="not_reachable"):
            client.health()
        with pytest.raises(Faulted, match="not_reachable"), client.watch(since_id=0) as events:
            next(events)
    async with AsyncSoloClient("http://127.0.0.1:1") as other:
        with pytest.raises(Faulted, match="not_reachable"):
            await other.health()
