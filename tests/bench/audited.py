"""What the audit costs a request. Owns: the same requests with and without it, in turns. Never: asserts a time.

The floor is the same kernel with an audit that keeps nothing. Over HTTP as a client sees it; and `perform` alone, without
sockets and parsing, beside which it weighs the most. What is measured is processor time, of all threads: what the thread that
writes does counts too, though nobody waits for it.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import trio
from figures import heading, rounds

from solo_trio import Kernel
from solo_trio.journal.audit import AuditLog
from solo_trio.operations.auditing import NoAudit
from solo_trio.operations.caller import System
from solo_trio.operations.perform import OPERATIONS, Request, perform
from solo_trio.operations.settings import Settings
from solo_trio.ports import Audit

ROUNDS = 20
HTTP_REQUESTS = 100
PERFORMED = 500
READ_BYTES = 65_536


async def measure(directory: Path) -> None:
    """Rounds with and without, one after the other, so that both see the same machine."""
    heading("audit: a request with it beside one without it")
    settings = Settings(requests_per_second=0, spare_sandboxes=0, alert_denials=0)
    async with trio.open_nursery() as nursery:
        async with Kernel.open(directory / "data", settings=settings) as kernel:
            url: str = await nursery.start(partial(kernel.serve, port=0))
            system, kept = kernel.system, kernel.system.audit.log
            token = (directory / "data" / "admin.token").read_text().strip()
            host, _, port = url.removeprefix("http://").partition(":")
            ask = f"GET /tenants HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            for what, requests, run in (
                ("GET /tenants over HTTP, each", HTTP_REQUESTS, partial(_over_http, host, int(port), ask)),
                ("perform alone, each", PERFORMED, partial(_performed, system, token)),
            ):
                await run(requests)
                without, with_ = [], []
                for _ in range(ROUNDS):
                    without.append(await _timed(system, NoAudit(), requests, run))
                    with_.append(await _timed(system, kept, requests, run))
                rounds(what, with_, without)
            state = kept.state
            print(
                f"  {state.entries} entries, {state.bytes / max(1, state.entries):.0f} bytes each, {state.dropped} dropped"
            )
        nursery.cancel_scope.cancel()


async def _timed(system: System, audit: Audit, requests: int, run: partial) -> float:
    system.audit.log = audit
    began = time.process_time()
    await run(requests)
    if isinstance(audit, AuditLog):
        await audit.flush()
    return (time.process_time() - began) / requests


async def _over_http(host: str, port: int, ask: bytes, requests: int) -> None:
    async with await trio.open_tcp_stream(host, port) as stream:
        for _ in range(requests):
            await stream.send_all(ask)
            head, _, body = bytes(await stream.receive_some(READ_BYTES)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            while len(body) < length:
                body += await stream.receive_some(READ_BYTES)


async def _performed(system: System, token: str, requests: int) -> None:
    for _ in range(requests):
        await perform(system, OPERATIONS["list_tenants"], Request(token=token, request_id="r", peer="127.0.0.1"))
        await trio.lowlevel.checkpoint()
