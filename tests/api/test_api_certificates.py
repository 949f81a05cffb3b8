"""Client certificates as credentials: the matrix of certificate x token x named tenant, on HTTP, SSE and WebSocket."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from api_rig import BOUND_S
from attrs import define, evolve
from trio_websocket import ConnectionRejected, wrap_client_stream

from solo_trio import Kernel
from solo_trio.gateways.http.tls import TlsFiles
from solo_trio.model.certificate import Certificate
from solo_trio.operations.certified import certified
from solo_trio.operations.settings import Settings
from solo_trio.vault.certificate_files import CertificateFiles

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning")
OK, MISMATCH, NOBODY, DENIED, REQUIRED = (
    200,
    "tenant_mismatch",
    "unauthenticated",
    "permission_denied",
    "tenant_required",
)
FORWARDED = {
    "X-Forwarded-Client-Cert": "By=x;URI=solo://system;Hash=1",
    "X-SSL-Client-Cert": "-----BEGIN CERTIFICATE-----",
    "X-SSL-Client-Verify": "SUCCESS",
    "X-SSL-Client-S-DN": "CN=system",
    "X-Client-Cert": "solo://tenant/b",
    "Ssl-Client-Cert": "solo://tenant/b",
    "Client-Cert": ":AAAA:",
    "X-ARR-ClientCert": "AAAA",
}
"""What proxies say of certificates; none of it is a credential here."""


@define
class Secured:
    """A kernel behind TLS, two tenants, and a certificate for each of them, for the system, and for nobody there is."""

    kernel: Kernel
    url: str
    files: CertificateFiles
    tokens: dict[str, str]
    pairs: dict[str, tuple[str, str]]
    stack: AsyncExitStack

    def context(self, certificate: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.files.path("ca", "crt")))
        if certificate is not None:
            context.load_cert_chain(*self.pairs[certificate])
        return context

    async def client(self, certificate: str | None) -> httpx.AsyncClient:
        client = httpx.AsyncClient(base_url=self.url, verify=self.context(certificate), timeout=None, trust_env=False)
        return await self.stack.enter_async_context(client)

    async def tenant(self, tenant_id: str) -> None:
        admin = await self.client("system")
        answer = await admin.post("/tenants", json={"tenant_id": tenant_id})
        assert answer.status_code == 201, answer.text
        self.tokens[tenant_id] = answer.json()["token"]

    def issue(self, name: str, tenant_id: str | None) -> None:
        made = self.files.issue(name, tenant_id, 30, None, replace=False)
        self.pairs[name] = made.certificate, made.key


@asynccontextmanager
async def secured(data: Path) -> AsyncIterator[Secured]:
    files = CertificateFiles(data)
    files.init([], 90, None)
    certs = files.directory
    tls = TlsFiles(
        certificate=certs / "server.crt",
        key=certs / "server.key",
        client_ca=certs / "ca.crt",
        revoked=certs / "revoked",
        check_s=0.05,
    )
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        async with Kernel.open(data, settings=evolve(Settings(), spare_sandboxes=0)) as kernel:

            async def serve(task_status: trio.TaskStatus[str]) -> None:
                await kernel.serve(port=0, tls=tls, task_status=task_status)

            url = await nursery.start(serve)
            found = Secured(kernel, url, files, {}, {}, stack)
            for name, tenant_id in {"system": None, "a": "a", "b": "b", "ghost": "ghost"}.items():
                found.issue(name, tenant_id)
            for tenant_id in ("a", "b"):
                await found.tenant(tenant_id)
            found.tokens |= {"system": (data / "admin.token").read_text().strip(), "forged": "AgEEc29sbwJ", "empty": ""}
            yield found
            await stack.aclose()
        nursery.cancel_scope.deadline = trio.current_time() + BOUND_S
    assert not kernel.system.core.telemetry.bugs, kernel.system.core.telemetry.bugs


@pytest.fixture
async def solo(tmp_path: Path) -> AsyncIterator[Secured]:
    async with secured(tmp_path / "data") as found:
        yield found


def expected(certificate: str | None, token: str | None, named: str | None) -> Any:
    """The rule in words: what the token is, unless the certificate says more; a tenant's credential is for that tenant."""
    if certificate == "ghost":
        return NOBODY
    if certificate is None and token is None:
        return NOBODY
    if token in ("forged", "empty"):
        return NOBODY
    if certificate in ("a", "b") and token is not None and token != certificate:
        return MISMATCH
    who = token or certificate
    if who == "system":
        return REQUIRED if named is None else OK if named in ("a", "b") else "tenant_not_found"
    return OK if named in (None, who) else MISMATCH


MATRIX = [
    (certificate, token, named)
    for certificate in (None, "system", "a", "b", "ghost")
    for token in (None, "system", "a", "b", "forged", "empty")
    for named in (None, "a", "b", "nowhere")
]


def headers(solo: Secured, token: str | None, named: str | None) -> dict[str, str]:
    sent = {} if token is None else {"Authorization": f"Bearer {solo.tokens[token]}".strip()}
    return sent | ({} if named is None else {"X-Tenant-ID": named})


async def test_the_matrix(solo: Secured) -> None:
    """Every combination, on a tenant's route by header and by body, as a stream, and as a WebSocket."""
    for certificate in dict.fromkeys(each[0] for each in MATRIX):
        client = await solo.client(certificate)
        for _, token, named in [each for each in MATRIX if each[0] == certificate]:
            case = (certificate, token, named)
            wanted = expected(*case)
            sent = headers(solo, token, named)
            for more in ({}, FORWARDED):
                answer = await client.get("/services", headers=sent | more)
                assert answered(answer) == wanted, (case, answer.text)
            who = token or certificate
            if named is not None:  # the same said in the body of a mutation; it fails later, if it is let in
                answer = await client.post(
                    "/services",
                    json={"tenant_id": named, "service_id": "x", "code": 5},
                    headers=headers(solo, token, None),
                )
                assert answered(answer) == ("invalid_field" if wanted == OK else wanted), (case, answer.text)
            if named is None and who is not None:
                system = await client.get("/system", headers=sent)
                allowed = wanted in (OK, REQUIRED) and who == "system"
                assert answered(system) == (OK if allowed else DENIED if wanted == OK else wanted), (case, system.text)


def answered(answer: httpx.Response) -> Any:
    assert answer.headers["x-request-id"]
    return 200 if answer.status_code == 200 else answer.json()["code"]


@pytest.mark.parametrize("certificate", [None, "system", "a", "ghost"])
async def test_streams_and_sockets_take_the_same_credentials(solo: Secured, certificate: str | None) -> None:
    client = await solo.client(certificate)
    for _, token, named in [each for each in MATRIX if each[0] == certificate and each[1] != "empty"]:
        case = (certificate, token, named)
        wanted = expected(*case)
        if wanted == REQUIRED:  # without a tenant it sees all of them
            wanted = OK
        sent = headers(solo, token, named) | FORWARDED
        answer = await stream_answer(client, sent)
        assert answer == wanted, (case, answer)
        assert await socket_answer(solo, certificate, sent) == wanted, case


async def stream_answer(client: httpx.AsyncClient, sent: dict[str, str]) -> Any:
    request = client.build_request("GET", "/events", headers=sent | {"Accept": "text/event-stream"})
    with trio.fail_after(BOUND_S):
        answer = await client.send(request, stream=True)
        try:
            if answer.status_code == 200:
                assert answer.headers["content-type"].startswith("text/event-stream")
                return OK
            await answer.aread()
            return answer.json()["code"]
        finally:
            await answer.aclose()


async def socket_answer(solo: Secured, certificate: str | None, sent: dict[str, str]) -> Any:
    """On a socket of ours: one that trio-websocket makes it leaves open when it is refused."""
    url = httpx.URL(solo.url)
    headers = [(name.encode(), value.encode()) for name, value in sent.items()]
    try:
        with trio.fail_after(BOUND_S):
            async with await trio.open_tcp_stream(url.host, url.port or 443) as plain, trio.open_nursery() as nursery:
                stream = trio.SSLStream(
                    plain, solo.context(certificate), server_hostname=url.host, https_compatible=True
                )
                await wrap_client_stream(nursery, stream, url.netloc.decode(), "/events/watch", extra_headers=headers)
                nursery.cancel_scope.cancel()
        return OK
    except ConnectionRejected as refusal:
        return json.loads(refusal.body)["code"]
    except BaseExceptionGroup as group:
        refused = group.subgroup(ConnectionRejected)
        assert refused is not None
        error: Any = refused
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return json.loads(error.body)["code"]


async def test_a_token_beside_a_certificate_narrows(solo: Secured) -> None:
    """With a token that may only read services, the certificate adds nothing to it."""
    client = await solo.client("a")
    granted = await client.post("/capabilities", json={"resource": "service:*", "permissions": ["read"]})
    assert granted.status_code == 201, granted.text
    narrow = {"Authorization": f"Bearer {granted.json()['token']}"}
    body = {"service_id": "calc", "code": "x = 1"}
    assert answered(await client.get("/services", headers=narrow)) == OK
    assert answered(await client.post("/services", json=body, headers=narrow)) == DENIED
    assert (await client.post("/services", json=body)).status_code == 201
    other = await solo.client("b")
    assert answered(await other.get("/services", headers=narrow)) == MISMATCH
    revoked = await client.delete(f"/capabilities/{granted.json()['id']}")
    assert revoked.status_code == 200, revoked.text
    assert answered(await client.get("/services", headers=narrow)) == NOBODY
    assert answered(await client.get("/services")) == OK


async def test_revoked_by_serial(solo: Secured) -> None:
    """A connection that is open, a new one, a stream, and a token beside it: nothing of it is taken any more."""
    client, bystander = await solo.client("a"), await solo.client("b")
    assert answered(await client.get("/services")) == OK
    async with trio.open_nursery() as nursery:
        ended = trio.Event()
        opened: list[int] = []

        async def follow() -> None:
            request = client.build_request("GET", "/events", headers={"Accept": "text/event-stream"})
            answer = await client.send(request, stream=True)
            opened.append(answer.status_code)
            try:
                await answer.aread()
            except httpx.HTTPError:
                ended.set()

        nursery.start_soon(follow)
        with trio.fail_after(BOUND_S):
            while not opened:
                await trio.lowlevel.checkpoint()
        solo.files.revoke("a")
        with trio.fail_after(BOUND_S):
            await ended.wait()
    fresh = await solo.client("a")
    for sent in ({}, headers(solo, "a", None), headers(solo, "system", None)):
        assert answered(await fresh.get("/services", headers=sent)) == NOBODY
    assert answered(await bystander.get("/services")) == OK
    by_token = await solo.client(None)
    assert answered(await by_token.get("/services", headers=headers(solo, "a", None))) == OK


async def test_a_certificate_of_a_removed_tenant_opens_nothing_of_its_successor(solo: Secured) -> None:
    old, admin = await solo.client("a"), await solo.client("system")
    assert answered(await old.get("/services")) == OK
    removed = await admin.delete("/tenants/a")
    assert removed.status_code == 200, removed.text
    assert answered(await old.get("/services")) == NOBODY
    await solo.tenant("a")
    assert answered(await old.get("/services")) == NOBODY
    solo.issue("a-again", "a")
    assert answered(await (await solo.client("a-again")).get("/services")) == OK


async def test_a_tenant_may_be_created_after_its_certificate(solo: Secured) -> None:
    early = await solo.client("ghost")
    assert answered(await early.get("/services")) == NOBODY
    await solo.tenant("ghost")
    assert answered(await early.get("/services")) == OK


def test_expiry_is_looked_at_with_the_kernels_time() -> None:
    """The handshake asks this machine's clock, which may go back; the kernel's never does."""
    from solo_trio.errors import Rejected
    from solo_trio.model.state import KernelState

    until = int((datetime.now(UTC) + timedelta(hours=1)).timestamp() * 1e6)
    certificate = Certificate("1", "nobody", not_after_us=until)
    assert certified(KernelState(), until - 1, certificate) is None
    for wrong in (
        (until, certificate),
        (0, evolve(certificate, revoked=True)),
        (0, evolve(certificate, names="unclear")),
        (0, evolve(certificate, names="system")),
        (0, evolve(certificate, names="tenant", tenant_id="a")),
    ):
        with pytest.raises(Rejected) as caught:
            certified(KernelState(), *wrong)
        assert caught.value.code == "unauthenticated"
        assert "expired" not in caught.value.detail and "revoked" not in caught.value.detail
