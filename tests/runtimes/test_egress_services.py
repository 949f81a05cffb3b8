"""Network access of real services, over loopback: what works inside, what is refused, what is cut, and that bytes arrive."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from attrs import define, field
from runtime_rig import Rig, process_rig

from solo_trio.policy.egress import Reach, operator_list, service_list
from solo_trio.runtimes import egress
from solo_trio.runtimes.egress import Egress
from solo_trio.runtimes.process import ProcessRuntime

HOSTS = {"api.test": ["127.0.0.1"], "deep.api.test": ["127.0.0.1"], "public.test": ["93.184.216.34"], "none.test": []}
EVERYTHING = operator_list(("*",))


@define
class List:
    """What a service may reach; `set` changes it as a PATCH would."""

    entries: tuple[str, ...] = ()
    allowed: Any = EVERYTHING
    asked: int = 0

    def __call__(self) -> Reach:
        self.asked += 1
        return Reach(service_list(self.entries), self.allowed)


def resolve(name: str, port: int) -> list[str]:
    if name not in HOSTS:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return HOSTS[name]


@define
class Server:
    """A server on loopback that does with each connection what `handle` says."""

    port: int
    nursery: trio.Nursery
    streams: list[Any] = field(factory=list)

    def entry(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def server(handle: Callable[[Any], Any], tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:

        async def connection(stream: Any) -> None:
            found.streams.append(stream)
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await handle(stream)

        if tls is None:
            listeners: Any = await nursery.start(functools.partial(trio.serve_tcp, connection, 0, host="127.0.0.1"))
            address = listeners[0].socket.getsockname()
        else:
            serve = functools.partial(trio.serve_ssl_over_tcp, connection, 0, tls, host="127.0.0.1")
            listeners = await nursery.start(serve)
            address = listeners[0].transport_listener.socket.getsockname()
        found = Server(address[1], nursery)
        yield found
        nursery.cancel_scope.cancel()


async def http(stream: Any) -> None:
    """Answers one request with the path and the size of the body."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = await stream.receive_some()
        if not part:
            return
        data += part
    path = data.split(b" ", 2)[1]
    await stream.send_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (len(path), path)
    )
    await stream.aclose()


async def silent(stream: Any) -> None:
    await trio.sleep_forever()


async def echo(stream: Any) -> None:
    while part := await stream.receive_some(65_536):
        await stream.send_all(part)
    await stream.send_eof()


DENY = """
import sys
def deny(event, args):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"a real {event}")
sys.addaudithook(deny)
"""
"""Whoever would use a real socket ends the service."""

CLIENT = (
    DENY
    + """
import socket, ssl, urllib.request, http.client, httpx, trio, anyio, hashlib
from solo_trio import service

ctx = None
async def main(c):
    global ctx
    ctx = c
    await trio.sleep_forever()

def context():
    return ssl.create_default_context(cadata=ctx.config["pem"]) if ctx.config.get("pem") else None

@service.export
def by_urllib(url):
    with urllib.request.urlopen(url, timeout=20, context=context()) as answer:
        return answer.read().decode()

@service.export
async def by_urllib_in_the_loop(url):
    return by_urllib(url)

@service.export
async def by_threads_awaited_in_the_loop(url):
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(by_urllib, [url] * 8))

@service.export
def by_httpx(url):
    return httpx.get(url, verify=context() or True, timeout=20).text

@service.export
async def by_httpx_trio(url):
    async with httpx.AsyncClient(verify=context() or True, timeout=20) as client:
        return (await client.get(url)).text

@service.export
async def by_ctx(url):
    return (await ctx.http.get(url)).text

async def conversation(send, receive):
    await send(b"GET /raw HTTP/1.1\\r\\n\\r\\n")
    found = b""
    while True:
        try:
            part = await receive()
        except anyio.EndOfStream:
            part = b""
        if not part:
            return found.partition(b"\\r\\n\\r\\n")[2].decode()
        found += part

@service.export
async def by_trio(host, port):
    stream = await trio.open_tcp_stream(host, port)
    return await conversation(stream.send_all, stream.receive_some)

@service.export
async def by_trio_socket(host, port):
    with trio.socket.socket() as sock:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        await sock.connect(found[0][4])
        assert sock.getpeername()[1] == port
        stream = trio.SocketStream(sock)
        return await conversation(stream.send_all, stream.receive_some)

@service.export
async def by_anyio(host, port):
    async with await anyio.connect_tcp(host, port) as stream:
        return await conversation(stream.send, stream.receive)

@service.export
def by_asyncio(host, port):
    import asyncio
    async def talk():
        reader, writer = await asyncio.open_connection(host, port)
        async def send(data):
            writer.write(data)
        found = await conversation(send, lambda: reader.read(1000))
        writer.close()
        return found
    return asyncio.run(talk())

@service.export
def by_socket(host, port):
    with socket.create_connection((host, port), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"GET /raw HTTP/1.1\\r\\n\\r\\n")
        found = b""
        while part := sock.recv(1000):
            found += part
        return found.partition(b"\\r\\n\\r\\n")[2].decode()

@service.export
def error(host, port):
    try:
        socket.create_connection((host, port), timeout=20).close()
    except OSError as error:
        return [type(error).__name__, str(error)]
    return ["", ""]
"""
)


@contextlib.asynccontextmanager
async def client(rig: Rig, listed: List, source: str = CLIENT, **config: Any) -> AsyncIterator[Callable[..., Any]]:
    running = await rig.ready(source, egress=listed, config=config)
    yield lambda function, *args: running.call(function, args, {})
    running.kill()
    await running.ended.wait()


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Rig]:
    descriptors = set(os.listdir("/proc/self/fd"))
    async with process_rig(directory) as rig:
        shared(rig).resolve = resolve
        yield rig
        # whatever it was, it is over with the services
        for _ in range(100):
            if not shared(rig).connections.total():
                break
            await trio.sleep(0.02)
        assert shared(rig).connections.total() == 0
    assert len(set(os.listdir("/proc/self/fd")) - descriptors) <= 2  # the event loop's own


def shared(rig: Rig) -> Egress:
    assert isinstance(rig.runtime, ProcessRuntime)
    return rig.runtime.egress


# -- what works inside


URLS = ["by_urllib", "by_urllib_in_the_loop", "by_httpx", "by_httpx_trio", "by_ctx"]
HOST_AND_PORT = ["by_trio", "by_trio_socket", "by_anyio", "by_socket", "by_asyncio"]


async def test_every_way_to_connect(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig, server(http) as one:
        listed = List((one.entry(), f"api.test:{one.port}"))
        async with client(rig, listed) as call:
            for host in ("127.0.0.1", "api.test"):
                for function in URLS:
                    assert await call(function, f"http://{host}:{one.port}/{function}") == f"/{function}", function
                for function in HOST_AND_PORT:
                    assert await call(function, host, one.port) == "/raw", function
            found = await call("by_threads_awaited_in_the_loop", f"http://api.test:{one.port}/many")
            assert found == ["/many"] * 8


async def test_tls_end_to_end_verifies_the_name(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("api.test").configure_cert(tls)
    async with opened(tmp_path) as rig, server(http, tls) as one:
        listed = List((one.entry(), f"*.test:{one.port}"))
        async with client(rig, listed, pem=authority.cert_pem.bytes().decode()) as call:
            for function in ("by_urllib", "by_httpx", "by_httpx_trio"):
                assert await call(function, f"https://api.test:{one.port}/{function}") == f"/{function}", function
            with pytest.raises(Exception, match=r"(?i)hostname mismatch"):
                await call("by_urllib", f"https://deep.api.test:{one.port}/")
        async with client(rig, listed) as call:
            with pytest.raises(Exception, match=r"(?i)certificate verify failed"):
                await call("by_httpx", f"https://api.test:{one.port}/")


async def test_while_the_module_is_loaded(tmp_path: Path) -> None:
    source = (
        DENY
        + "\nimport urllib.request\nfound = urllib.request.urlopen('http://api.test:{port}/load').read().decode()\n"
    )
    source += "from solo_trio import service\n@service.export\nasync def answer():\n    return found\n"
    async with opened(tmp_path) as rig, server(http) as one:
        listed = List((one.entry(), f"api.test:{one.port}"))
        async with client(rig, listed, source.replace("{port}", str(one.port))) as call:
            assert await call("answer") == "/load"


# -- what is refused


async def test_what_is_refused_says_why(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig, server(http) as one, server(silent) as other:
        listed = List((f"api.test:{one.port}", f"public.test:{one.port}", f"none.test:{one.port}", "x.test:1"))
        async with client(rig, listed) as call:

            async def error(host: str, port: int) -> tuple[str, str]:
                kind, text = await call("error", host, port)
                return kind, text

            kind, text = await error("evil.test", 443)
            assert kind == "PermissionError" and "evil.test:443 is not in the egress list" in text and "PATCH" in text
            kind, text = await error("127.0.0.1", one.port)
            assert kind == "PermissionError" and f"127.0.0.1:{one.port} is not in the egress list" in text
            kind, text = await error("api.test", other.port)
            assert kind == "PermissionError" and "is not in the egress list" in text
            kind, text = await error("api.test", one.port)  # a name of somebody's that leads inside
            assert kind == "PermissionError" and "api.test leads to 127.0.0.1" in text and "list 127.0.0.1:" in text
            kind, text = await error("deep.api.test", one.port)
            assert kind == "PermissionError"
            assert await error("x.test", 1) == (
                "gaierror",
                f"[Errno {socket.EAI_NONAME}] x.test: Name or service not known",
            )
            assert (await error("none.test", one.port))[0] == "OSError"
            kind, text = await call("error", "127.0.0.1", 0)
            assert kind == "PermissionError"

            listed.entries = (f"*.api.test:{one.port}", one.entry(), f"127.0.0.1:{other.port + 1}")
            assert await error("deep.api.test", one.port) == ("", "")
            assert (await error("api.test", one.port))[0] == "PermissionError"
            listed.allowed = operator_list(("public",))
            kind, text = await error("deep.api.test", one.port)
            assert kind == "PermissionError" and "egress_allowed" in text
            kind, text = await error("127.0.0.1", one.port)
            assert kind == "PermissionError" and "egress_allowed" in text
        assert not other.streams
        lines = [line for line in rig.lines if line[2] == "network access refused"]
        assert 1 <= len(lines) <= 2 and sum(line[3]["refused"] for line in lines) == 9
        assert lines[0][1] == "warning" and lines[0][3]["host"] == "evil.test"


async def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        async with opened(tmp_path) as rig, client(rig, List((f"127.0.0.1:{port}",))) as call:
            assert (await call("error", "127.0.0.1", port))[0] == "ConnectionRefusedError"


INSIDE = (
    DENY
    + """
import socket, trio
from solo_trio import service

@service.export
def kinds():
    found = {}
    def note(name, function):
        try:
            function()
        except OSError as error:
            found[name] = type(error).__name__
        else:
            found[name] = "done"
    note("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    note("bind", lambda: socket.socket().bind(("127.0.0.1", 0)))
    note("server", lambda: socket.create_server(("127.0.0.1", 0)))
    note("peer", lambda: socket.socket().getpeername())
    note("resolve", lambda: socket.getaddrinfo("a" * 300, 80))
    note("pair", lambda: socket.socketpair())
    note("ex", lambda: (_ for _ in ()).throw(OSError(socket.socket().connect_ex(("10.0.0.1", 80)), "")))
    found["name"] = socket.gethostbyname("api.test")
    found["same"] = socket.gethostbyname("api.test") == found["name"]
    found["six"] = socket.getaddrinfo("api.test", "http", socket.AF_INET6)[0][4][:2]
    return found
"""
)


async def test_sockets_that_a_service_has_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig, client(rig, List(), INSIDE) as call:
        found = await call("kinds")
        denied = {name: found[name] for name in ("udp", "bind", "server", "ex")}
        assert denied == dict.fromkeys(denied, "PermissionError")
        assert found["pair"] == "done" and found["peer"] == "OSError" and found["same"] is True
        assert found["name"].startswith("240.") and found["six"][1] == 80


# -- bytes


BYTES = (
    DENY
    + """
import hashlib, trio, socket
from solo_trio import service
held = []

def parts(size):
    block = hashlib.sha256(str(size).encode()).digest() * 2048
    while size > 0:
        yield block[:size]
        size -= len(block)

@service.export
async def there_and_back(port, size):
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    sent, got, count = hashlib.sha256(), hashlib.sha256(), 0
    async with trio.open_nursery() as nursery:
        async def send():
            for part in parts(size):
                sent.update(part)
                await stream.send_all(part)
            await stream.send_eof()
        nursery.start_soon(send)
        async for part in stream:
            got.update(part)
            count += len(part)
    return [sent.hexdigest(), got.hexdigest(), count]

@service.export
async def hold(port, count=1):
    for _ in range(count):
        held.append(await trio.open_tcp_stream("127.0.0.1", port))
    return len(held)

@service.export
async def read(number=-1):
    return (await held[number].receive_some(100)).decode()

@service.export
async def write(text, number=-1):
    await held[number].send_all(text.encode())

@service.export
async def shut(number=-1):
    await held[number].send_eof()

@service.export
async def let_go():
    for each in held:
        await each.aclose()
    held.clear()
"""
)


async def test_ten_mebibytes_both_ways(tmp_path: Path) -> None:
    size = 10 * 1024 * 1024
    async with opened(tmp_path) as rig, server(echo) as one:
        running = await rig.ready(BYTES, egress=List((one.entry(),)))
        sent, got, count = await running.call("there_and_back", (one.port, size), {})
        assert (sent, count) == (got, size)
        usage = running.usage()
        assert usage["egress_bytes_out"] == usage["egress_bytes_in"] == size
        running.kill()


async def test_each_direction_ends_by_itself(tmp_path: Path) -> None:
    heard = trio.Event()

    async def listen_then_talk(stream: Any) -> None:
        data = b""
        while part := await stream.receive_some():
            data += part
        assert data == b"question"
        heard.set()
        await stream.send_all(b"answer")
        await stream.aclose()

    async def talk_then_listen(stream: Any) -> None:
        await stream.send_all(b"first")
        await stream.send_eof()
        assert await stream.receive_some() == b"later"
        heard.set()

    for handle in (listen_then_talk, talk_then_listen):
        heard = trio.Event()
        async with opened(tmp_path) as rig, server(handle) as one, client(rig, List((one.entry(),)), BYTES) as call:
            await call("hold", one.port)
            if handle is listen_then_talk:
                await call("write", "question")
                await call("shut")
                assert await call("read") == "answer"
            else:
                assert await call("read") == "first"
            assert await call("read") == ""
            if handle is talk_then_listen:
                await call("write", "later")
            await heard.wait()


async def test_a_reset_reaches_the_service_as_an_end(tmp_path: Path) -> None:
    async def reset(stream: Any) -> None:
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()

    async with opened(tmp_path) as rig, server(reset) as one, client(rig, List((one.entry(),)), BYTES) as call:
        await call("hold", one.port)
        await call("write", "x")
        assert await call("read") == ""


async def test_a_slow_reader_is_given_no_more_than_fits(tmp_path: Path) -> None:
    sent = 0

    async def pour(stream: Any) -> None:
        nonlocal sent
        while True:
            await stream.send_all(bytes(65_536))
            sent += 65_536

    async with opened(tmp_path) as rig, server(pour) as one, client(rig, List((one.entry(),)), BYTES) as call:
        await call("hold", one.port)
        before = -1
        while sent != before:  # until nothing more goes, in as long as it takes the sockets to fill
            before = sent
            await trio.sleep(0.3)
        assert 0 < sent < 16 * 1024 * 1024
        pump = only_pump(rig)
        assert pump.moved_at <= trio.current_time()
        assert len(await call("read")) == 100


def door_of(rig: Rig) -> Any:
    assert isinstance(rig.runtime, ProcessRuntime)
    [service] = rig.runtime._services
    return service._door


def only_pump(rig: Rig) -> Any:
    [pump] = door_of(rig)._pumps
    return pump


# -- what is cut


async def gone(stream: Any) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass


async def test_revoking_cuts_what_is_open_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig, server(silent) as one, server(echo) as kept:
        listed = List((one.entry(), kept.entry()))
        running = await rig.ready(BYTES, egress=listed)
        call = lambda function, *args: running.call(function, args, {})  # noqa: E731
        await call("hold", kept.port)
        await call("hold", one.port)
        running.reconsider_egress()  # nothing has changed
        assert running.usage()["egress_connections"] == 2
        listed.entries = (kept.entry(),)
        running.reconsider_egress()
        assert await call("read", 1) == ""
        with trio.fail_after(20):
            await gone(one.streams[0])
        await call("write", "still", 0)
        assert await call("read", 0) == "still"
        assert running.usage()["egress_connections"] == 1
        running.kill()


async def test_revoked_while_it_was_made(tmp_path: Path) -> None:
    async with opened(tmp_path) as rig, server(silent) as one:
        listed = List((one.entry(), f"api.test:{one.port}"))
        started = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def slow(name: str, port: int) -> list[str]:
            def taken_out() -> None:
                listed.entries = (one.entry(),)
                started.set()

            trio.from_thread.run_sync(taken_out, trio_token=token)
            return ["127.0.0.1"]

        shared(rig).resolve = slow
        async with client(rig, listed) as call:
            assert (await call("error", "api.test", one.port))[0] == "PermissionError"
        assert started.is_set() and not one.streams


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_the_end_of_the_service_is_the_end_of_its_connections(tmp_path: Path, how: str) -> None:
    async with opened(tmp_path) as rig, server(silent) as one:
        running = await rig.ready(BYTES, egress=List((one.entry(),)))
        await running.call("hold", (one.port, 3), {})
        assert shared(rig).connections.total() == 3
        running.kill() if how == "kill" else running.request_stop()
        await running.ended.wait()
        with trio.fail_after(20):
            for stream in one.streams:
                await gone(stream)
        assert shared(rig).connections.total() == 0


async def test_what_the_service_closes_takes_no_place(tmp_path: Path) -> None:
    """Also where the other side goes on as if nothing were."""
    async with opened(tmp_path) as rig, server(silent) as one:
        running = await rig.ready(BYTES, egress=List((one.entry(),)))
        await running.call("hold", (one.port, 3), {})
        await running.call("let_go", (), {})
        with trio.fail_after(20):
            while running.usage()["egress_connections"]:  # noqa: ASYNC110 - nothing tells of it
                await trio.sleep(0.02)
        running.kill()


async def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = egress.CONNECTIONS_PER_SERVICE_MAX
    async with opened(tmp_path) as rig, server(silent) as one:
        listed = List((one.entry(), f"*.test:{one.port}"))
        running = await rig.ready(BYTES, egress=listed)
        assert await running.call("hold", (one.port, most), {}) == most
        with pytest.raises(Exception, match="connections are open"):
            await running.call("hold", (one.port,), {})
        assert running.usage()["egress_connections"] == most
        await running.call("let_go", (), {})
        with trio.fail_after(20):
            while running.usage()["egress_connections"]:  # noqa: ASYNC110 - nothing tells of it
                await trio.sleep(0.02)
        assert await running.call("hold", (one.port,), {}) == 1
        monkeypatch.setattr(egress, "CONNECTIONS_MAX", 1)
        with pytest.raises(Exception, match="all services together"):
            await running.call("hold", (one.port,), {})
        monkeypatch.setattr(egress, "IDLE_S_MAX", -math.inf)
        assert await running.call("read", (), {}) == ""
        running.kill()


async def test_names_are_looked_up_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, here, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def stuck(name: str, port: int) -> list[str]:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        release.wait(60)
        with lock:
            here -= 1
        return []

    monkeypatch.setattr(egress, "CONNECT_S_MAX", 0.5)
    source = CLIENT + "\n@service.export\nasync def many(port, count):\n    found = []\n    async def one(n):\n"
    source += "        try:\n            await trio.open_tcp_stream(f'n{n}.test', port)\n"
    source += "        except OSError as error:\n            found.append(type(error).__name__)\n"
    source += "    async with trio.open_nursery() as nursery:\n"
    source += "        for n in range(count):\n            nursery.start_soon(one, n)\n    return found\n"
    async with opened(tmp_path) as rig:
        shared(rig).resolve = stuck
        try:
            async with client(rig, List(("*.test",)), source) as call:
                assert await call("many", 443, 20) == ["TimeoutError"] * 20
                assert most == egress.LOOKUPS_PER_TENANT_MAX
        finally:
            release.set()


async def test_a_service_that_gives_up_leaves_nothing(tmp_path: Path) -> None:
    release = threading.Event()

    def late(name: str, port: int) -> list[str]:
        release.wait(60)
        return ["127.0.0.1"]

    source = CLIENT + "\n@service.export\nasync def impatient(port):\n    with trio.move_on_after(0.2):\n"
    source += "        await trio.open_tcp_stream('api.test', port)\n"
    source += "    try:\n        socket.create_connection(('api.test', port), timeout=0.2)\n"
    source += "    except TimeoutError:\n        return 'gave up'\n"
    async with opened(tmp_path) as rig, server(silent) as one:
        shared(rig).resolve = late
        try:
            async with client(rig, List((one.entry(), f"api.test:{one.port}")), source) as call:
                assert await call("impatient", one.port) == "gave up"
                release.set()
                with trio.fail_after(20):
                    while shared(rig).connections.total():  # noqa: ASYNC110 - nothing tells of it
                        await trio.sleep(0.02)
        finally:
            release.set()
        assert len(one.streams) <= 2
