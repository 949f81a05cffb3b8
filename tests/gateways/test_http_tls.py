"""TLS itself, on real sockets: what a handshake takes and refuses, how it is bounded, files that change while it serves."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.x509.oid import ExtendedKeyUsageOID
from tls_rig import Authority, foreign, odd_pair, write
from wire_client import HOST, PATIENCE_S, Peer, PlainApp, Running, over_tls, running

from solo_trio.errors import Rejected
from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.gateways.http.requests import certificate_of
from solo_trio.gateways.http.tls import Tls
from solo_trio.gateways.http.tls_stream import HandshakeFailed
from solo_trio.model.certificate import Certificate
from solo_trio.vault.certificate_files import CertificateFiles

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
SHORT = ServerLimits(handshake_s=0.3, handshakes_max=4, linger_s=0.3, grace_s=0.3, disconnect_s=0.3)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own(tmp_path: Path) -> Authority:
    """One whose files the test changes."""
    return Authority.make(tmp_path / "data")


class WhoApp(PlainApp):
    """Answers with what it is told of the client's certificate."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Certificate | None] = []

    async def root(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["scheme"] == "https"
        self.seen.append(certificate_of(scope))
        await super().root(scope, receive, send)


async def tried(server: Running, client: ssl.SSLContext) -> bytes:
    """What a client with that context gets to see; in TLS 1.3 it learns of a refusal only when it reads."""
    server.client = client
    try:
        async with server.connect() as peer:
            await peer.send(GET)
            data = await peer.stream.receive_some(65_536)
            return bytes(data)
    except (HandshakeFailed, trio.BrokenResourceError):
        return b""


async def test_a_certificate_says_who_it_is(authority: Authority) -> None:
    app = WhoApp()
    async with running(app, tls=authority.server()) as server:
        for pair in (
            None,
            authority.issue("a1"),
            authority.issue(None),
            authority.odd(),
            authority.odd("https://elsewhere.test/solo"),
            authority.odd("solo://tenant/a1", "solo://tenant/a2"),
            authority.odd("solo://tenant/a1", "solo://system"),
            authority.odd("solo://tenant/"),
            authority.odd("solo://tenant/../a1"),
            authority.odd("solo://tenant/A1"),
            authority.odd("solo://tenant/a1%00"),
            authority.odd("SOLO://tenant/a1"),
            authority.odd("solo://systemd"),
            authority.odd("solo:system"),
        ):
            assert (await tried(server, authority.client(pair))).startswith(b"HTTP/1.1 200 "), pair
    assert app.seen[0] is None
    assert [(each.names, each.tenant_id) for each in app.seen[1:] if each is not None] == [
        ("tenant", "a1"),
        ("system", None),
        ("nobody", None),
        ("nobody", None),
        *[("unclear", None)] * 9,
    ]


async def test_what_a_handshake_refuses(authority: Authority, tmp_path: Path) -> None:
    """Never a request, never a traceback; and the next one is served."""
    uri = "solo://tenant/a1"
    day, year = timedelta(days=1), timedelta(days=365)
    pair = odd_pair(authority.files.authority(), uri)
    intermediate = write(tmp_path / "below.pem", odd_pair(pair, uri))  # signed by a client's certificate
    refused = {
        "expired": authority.odd(uri, begins=-year, lasts=day),
        "not yet": authority.odd(uri, begins=day),
        "for servers": authority.odd(uri, usage=ExtendedKeyUsageOID.SERVER_AUTH),
        "for code": authority.odd(uri, usage=ExtendedKeyUsageOID.CODE_SIGNING),
        "signs itself": authority.odd(uri, itself=True),
        "foreign": foreign(tmp_path / "foreign.pem", uri),
        "foreign with our name": write(
            tmp_path / "named.pem",
            odd_pair(odd_pair(authority.files.authority(), itself=True), uri, subject="Solo authority"),
        ),
        "below another client": intermediate,
    }
    app = PlainApp()
    async with running(app, tls=authority.server()) as server:
        for name, pair_files in refused.items():
            assert await tried(server, authority.client(pair_files)) == b"", name
            assert app.executed == [], name
        assert server.incidents.count["handshake_failed"] == len(refused)
        assert (await tried(server, authority.client())).startswith(b"HTTP/1.1 200 ")
        assert server.incidents.count["connection_contained"] == 0


async def test_only_tls_1_3(authority: Authority) -> None:
    client = authority.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(PlainApp(), tls=authority.server()) as server:
        assert await tried(server, client) == b""
        context = authority.client()
        server.client = context
        async with server.connect() as peer:
            tls = peer.stream._tls  # type: ignore[union-attr]
            assert tls.version() == "TLSv1.3" and tls.compression() is None
            assert tls.cipher()[0] in (
                "TLS_AES_256_GCM_SHA384",
                "TLS_AES_128_GCM_SHA256",
                "TLS_CHACHA20_POLY1305_SHA256",
            )
            assert tls.selected_alpn_protocol() is None
            assert (await peer.get()).status == 200
            assert tls.session is None or not tls.session.has_ticket, "a resumed session would not show its certificate"


async def test_required_means_required(authority: Authority) -> None:
    app = PlainApp()
    async with running(app, tls=authority.server(client_required=True)) as server:
        assert await tried(server, authority.client()) == b""
        assert app.executed == []
        assert (await tried(server, authority.client(authority.issue("a1")))).startswith(b"HTTP/1.1 200 ")


async def test_plain_http_is_told_to_use_tls(authority: Authority, capfd: pytest.CaptureFixture[str]) -> None:
    app = PlainApp()
    async with running(app, SHORT, tls=authority.server()) as server:
        for said in (GET, b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"G"):
            stream = await trio.open_tcp_stream(*server.address)
            async with stream:
                peer = Peer(stream)
                await peer.send(said)
                answer = await peer.response()
                assert (answer.status, "x-request-id" in answer.headers) == (400, False)
                assert b'"code": "tls_required"' in answer.body
                assert await peer.rest() == b""
        for said in (
            b"\0",
            b"\x15\x03\x01\0\x02\x02\x46",
            b"\x80\x2e\x01\x03\x01",
            b"\x16" * 2_000,
            b"\x16\x03\x01\xff\xff",
        ):
            stream = await trio.open_tcp_stream(*server.address)
            async with stream:
                peer = Peer(stream)
                await peer.send(said)
                await stream.send_eof()
                assert b"HTTP" not in await peer.rest()
        server.client = authority.client()
        assert (await server.get()).status == 200
        assert server.incidents.count["connection_contained"] == 0
    assert app.executed == ["/"]
    assert capfd.readouterr().err == ""


async def test_slow_handshakes_are_cut_and_displaced(authority: Authority) -> None:
    """Whether they say nothing, half a hello, or a hello a byte at a time: others are let in meanwhile."""
    hello = client_hello(authority)
    async with running(PlainApp(), SHORT, tls=authority.server()) as server, AsyncExitStack() as stack:
        server.client = authority.client()
        peers = []
        for said in (b"", hello[:1], hello[:100], hello[:-1]):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(*server.address))
            await stream.send_all(said)
            peers.append(Peer(stream))
        for _ in range(3):  # each displaces the oldest of those that are not done
            assert (await server.get()).status == 200
        for peer in peers:
            await peer.rest()
        count = server.incidents.count
        assert count["handshake_slow"] + count["handshake_displaced"] + count["handshake_failed"] == 4
        assert count["handshake_displaced"] >= 1 and count["connection_contained"] == 0


async def test_a_handshake_is_an_idle_connection_for_the_cap(authority: Authority) -> None:
    limits = ServerLimits(connections_max=3)
    async with running(PlainApp(), limits, tls=authority.server()) as server, AsyncExitStack() as stack:
        server.client = authority.client()
        for _ in range(12):
            await stack.enter_async_context(await trio.open_tcp_stream(*server.address))
        for _ in range(12):
            assert (await server.get()).status == 200
        assert server.incidents.count["connection_refused"] == 0
        assert server.incidents.count["connection_displaced"] >= 9


async def test_the_end_does_not_wait_for_handshakes(authority: Authority) -> None:
    async with (
        running(PlainApp(), tls=authority.server()) as server,
        await trio.open_tcp_stream(*server.address) as stream,
    ):
        await stream.send_all(client_hello(authority)[:50])
        await server.wait_until(lambda: True)
        began = trio.current_time()
        await server.stop()
        assert trio.current_time() - began < 8


async def test_the_end_of_a_connection_is_said(authority: Authority) -> None:
    """close_notify: who reads to the end knows that nothing was cut off."""
    async with running(PlainApp(), tls=authority.server()) as server:
        plain = socket.create_connection(server.address, PATIENCE_S)

        def talk() -> bytes:
            with authority.client().wrap_socket(
                plain, server_hostname="localhost", suppress_ragged_eofs=False
            ) as secured:
                secured.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
                data = b""
                while part := secured.recv(65_536):  # raises SSLEOFError without it
                    data += part
                return data

        assert (await trio.to_thread.run_sync(talk)).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_updates_keys_all_the_time_is_served_or_cut(authority: Authority) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl command")
    async with running(PlainApp(), tls=authority.server()) as server:
        process = await trio.lowlevel.open_process(  # type: ignore[attr-defined]
            [
                "openssl",
                "s_client",
                "-connect",
                f"127.0.0.1:{server.address[1]}",
                "-CAfile",
                str(authority.tls.client_ca),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with trio.fail_after(PATIENCE_S):
            try:
                with suppress(trio.BrokenResourceError):
                    for _ in range(200):
                        await process.stdin.send_all(b"K\n")
                server.client = authority.client()
                assert (await server.get()).status == 200
            finally:
                process.kill()
                await process.wait()
        assert server.incidents.count["connection_contained"] == 0


async def test_renewed_while_clients_are_served(own: Authority) -> None:
    """New connections get the new certificate, old ones live on, and none is refused meanwhile."""
    app = PlainApp()
    async with running(app, tls=own.server()) as server:
        server.client = own.client()
        serials: list[str] = []
        failures: list[object] = []

        async def traffic(until: trio.Event) -> None:
            while not until.is_set():
                async with server.connect() as peer:
                    der = peer.stream.peer_certificate()  # type: ignore[union-attr]
                    serials.append(str(hash(der)))
                    if (await peer.get()).status != 200:
                        failures.append(serials[-1])

        async with server.connect() as old, trio.open_nursery() as nursery:
            assert (await old.get()).status == 200
            enough = trio.Event()
            nursery.start_soon(traffic, enough)
            for count in (2, 3):
                await trio.to_thread.run_sync(own.files.renew, "server", 30, ())
                await server.wait_until(lambda: len(set(serials)) == count)  # noqa: B023
            enough.set()
            assert (await old.get()).status == 200
        assert not failures and server.incidents.count["handshake_failed"] == 0


async def test_files_that_cannot_be_used_change_nothing(own: Authority) -> None:
    told: list[str] = []
    good = own.tls.certificate.read_bytes()
    async with running(PlainApp(), tls=Tls(own.tls, told.append)) as server:
        server.client = own.client()
        for broken in (
            b"",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            own.tls.client_ca.read_bytes(),
        ):  # type: ignore[union-attr]
            before = len(told)
            own.tls.certificate.write_bytes(broken)
            await server.wait_until(lambda: len(told) > before)  # noqa: B023
            assert "cannot be used" in told[-1]
            assert (await server.get()).status == 200
        own.tls.certificate.unlink()
        assert (await server.get()).status == 200
        before = len(told)
        own.tls.certificate.write_bytes(good)
        await server.wait_until(lambda: "read again" in told[-1])
        assert (await server.get()).status == 200


async def test_revoked_while_connected(own: Authority) -> None:
    """What the application is told changes at once, and what was opened with it ends."""
    app = WhoApp()
    pair, other = own.issue("a1"), own.issue("a2")
    async with running(app, tls=own.server(check_s=0.5)) as server:
        server.client = own.client(pair)
        async with server.connect() as idle, server.connect() as busy, server.connect() as later:
            for peer in (idle, later):
                assert (await peer.get()).status == 200
            await busy.send(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
            server.client = own.client(other)
            async with server.connect() as bystander:
                assert (await bystander.get()).status == 200
                [revoked] = own.files.revoke("a1")
                assert await idle.rest() == b"" and await busy.rest() == b""
                assert (await bystander.get()).status == 200
        assert server.incidents.count["certificate_ended"] == 3
        server.client = own.client(pair)
        async with server.connect() as again:
            assert (await again.get()).status == 200  # the application refuses it
        assert app.seen[-1] is not None and app.seen[-1].revoked and app.seen[-1].serial == revoked.serial
    assert app.cancelled == ["/wait"]


async def test_a_list_of_revoked_ones_that_vanishes_makes_none_good(own: Authority) -> None:
    told: list[str] = []
    app, pair = WhoApp(), own.issue("a1")
    own.files.revoke("a1")
    kept = own.tls.revoked.read_bytes()  # type: ignore[union-attr]
    async with running(app, tls=Tls(own.tls, told.append)) as server:
        server.client = own.client(pair)
        for content in (kept, b""):
            own.tls.revoked.unlink()  # type: ignore[union-attr]
            before = len(told)
            await server.wait_until(lambda: len(told) > before)  # noqa: B023
            assert "revoked is gone" in told[-1]
            assert (await server.get()).status == 200
            assert app.seen[-1] is not None and app.seen[-1].revoked
            own.tls.revoked.write_bytes(content)  # type: ignore[union-attr]
            await server.wait_until(lambda: "read again" in told[-1])
        assert (await server.get()).status == 200
        assert app.seen[-1] is not None and not app.seen[-1].revoked  # as whoever emptied it wants it


async def test_without_a_list_of_revoked_ones_one_may_come(own: Authority) -> None:
    own.tls.revoked.unlink()  # type: ignore[union-attr]
    app, pair = WhoApp(), own.issue("a1")
    async with running(app, tls=own.server()) as server:
        server.client = own.client(pair)
        async with server.connect() as peer:
            assert (await peer.get()).status == 200
            own.files.revoke("a1")
            assert await peer.rest() == b""


async def test_connections_end_with_the_authority_that_let_them_in(own: Authority, tmp_path: Path) -> None:
    """Those that came without a certificate go on; a file that was written again and says the same ends nothing."""
    told: list[str] = []
    new = Authority.make(tmp_path / "new")
    pair, authority = own.issue("a1"), own.tls.client_ca
    assert authority is not None
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(authority.read_bytes())
    async with running(PlainApp(), tls=Tls(own.tls, told.append)) as server:
        server.client = own.client(pair)
        async with server.connect() as certified:
            server.client = own.client()
            async with server.connect() as other:
                for peer in (certified, other):
                    assert (await peer.get()).status == 200
                authority.write_bytes(trusted.read_bytes())
                await server.wait_until(lambda: bool(told) and "read again" in told[-1])
                assert (await certified.get()).status == 200
                assert new.tls.client_ca is not None
                authority.write_bytes(new.tls.client_ca.read_bytes())
                assert await certified.rest() == b""
                assert (await other.get()).status == 200
        assert server.incidents.count["certificate_ended"] == 1
        assert await tried(server, own.client(pair, trusted)) == b""
        assert b"200" in await tried(server, own.client(new.issue("a1"), trusted))


async def test_a_connection_ends_with_its_certificate(own: Authority) -> None:
    soon = own.odd("solo://tenant/a1", begins=timedelta(seconds=-60), lasts=timedelta(seconds=62))
    async with running(PlainApp(), tls=own.server()) as server:
        server.client = own.client(soon)
        async with server.connect() as peer:
            assert (await peer.get()).status == 200
            assert await peer.rest() == b""
        assert server.incidents.count["certificate_ended"] == 1


def test_a_server_without_usable_files_does_not_start(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    other = Authority.make(tmp_path / "other")
    files = authority.tls
    broken: list[dict[str, Path]] = [
        {"certificate": tmp_path / "nothing"},
        {"key": tmp_path / "nothing"},
        {"key": other.tls.key},
        {"certificate": files.key},
        {"client_ca": tmp_path / "nothing"},
        {"client_ca": files.key},
        {"certificate": tmp_path},
    ]
    for changes in broken:
        with pytest.raises(Rejected) as caught:
            authority.server(**changes)
        assert caught.value.code == "certificate_unusable", changes
        assert str(next(iter(changes.values()))) in caught.value.detail, caught.value.detail
    files.key.chmod(0o644)
    with pytest.raises(Rejected, match="everybody can read"):
        authority.server()
    files.key.chmod(0o600)
    (tmp_path / "certs" / "revoked").write_text("# fine\n12:ab\nnonsense\n")
    with pytest.raises(Rejected, match="revoked:3"):
        authority.server()


def test_a_key_with_a_passphrase_is_refused_without_asking(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    authority = Authority.make(tmp_path)
    key = authority.files.authority().key
    closed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    authority.tls.key.write_bytes(closed)
    with pytest.raises(Rejected, match="passphrase"):
        authority.server()


def test_the_operator_is_told_before_the_certificate_expires(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, datetime.now(UTC) - timedelta(days=80))
    told: list[str] = []
    tls = Tls(authority.tls, told.append)
    trio.run(_looked, tls)
    assert len(told) == 1 and "expires in 10 days" in told[0]
    CertificateFiles(tmp_path).renew("server", 90, ())
    told.clear()
    trio.run(_looked, Tls(authority.tls, told.append))
    assert told == []


async def _looked(tls: Tls) -> None:
    seen = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.keep_current, seen.set)
        with trio.fail_after(PATIENCE_S):
            await seen.wait()
        nursery.cancel_scope.cancel()


def client_hello(authority: Authority) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def test_nothing_here_speaks_tls_by_accident() -> None:
    assert over_tls.get() is None
