"""The two requests that end a bare server, a hundred times each against `solo serve`: it goes on answering."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from e2e_served import PATIENCE_S, served

pytestmark = pytest.mark.slow

ATTACKS = 100
LONG_CHUNK_EXTENSION = (
    b"POST /services HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 70_000
)
EARLY_BYTE_AFTER_UPGRADE = (
    b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n\x81"
)


@pytest.mark.parametrize("attack", [LONG_CHUNK_EXTENSION, EARLY_BYTE_AFTER_UPGRADE], ids=["chunk", "upgrade"])
async def test_the_server_survives_a_hundred_wire_attacks(tmp_path: Path, attack: bytes) -> None:
    async with served(tmp_path) as server:
        address = urlsplit(server.url)
        assert address.hostname is not None and address.port is not None
        for number in range(ATTACKS):
            stream = await trio.open_tcp_stream(address.hostname, address.port)
            async with stream:
                try:
                    await stream.send_all(attack)
                    await stream.send_eof()
                    with trio.fail_after(PATIENCE_S):
                        while await stream.receive_some(65_536):
                            pass
                except trio.BrokenResourceError:
                    pass  # reset: as good an end as any
            if number % 10 == 0:
                assert (await server.client.get("/health")).status_code == 200
        assert (await server.client.get("/health")).status_code == 200
        assert server.process.poll() is None
