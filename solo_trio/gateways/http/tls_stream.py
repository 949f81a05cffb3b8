"""TLS over a socket. Owns: records in and out of memory, the handshake, a proper end. Never: certificates' meaning, time-outs.

Trio's own `SSLStream` has no end that tells the peer and does not wait for it, and hides what a guarded connection must see.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

import trio

RECORD_BYTES: Final = 16 * 1024
"""Of one read of the socket; a record holds as much."""
HANDSHAKE_BYTES_MAX: Final = 256 * 1024
"""From a client until its handshake is done; OpenSSL itself takes chains of at most 100 KiB."""
RECORD_TYPE_HANDSHAKE: Final = 0x16


class HandshakeFailed(Exception):
    """The peer is not served. `plain`: it spoke something else, which began with these bytes."""

    def __init__(self, why: str, plain: bytes = b"") -> None:
        super().__init__(why)
        self.plain = plain


class TlsStream:
    """What `GuardedConnection` needs of a stream. One task at a time may receive; several may send, and take turns."""

    def __init__(self, transport: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.transport = transport
        self.socket = transport.socket
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._sending = trio.Lock()
        self._closing = False

    async def do_handshake(self) -> None:
        """Raises `HandshakeFailed` (the peer has been told why), and the socket's own errors."""
        received = 0
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError as error:
                await self._flush()  # the alert
                raise HandshakeFailed(str(error)) from None
            else:
                await self._flush()
                return
            data = bytes(await self.transport.receive_some(RECORD_BYTES))
            if not received and data and data[0] != RECORD_TYPE_HANDSHAKE:
                raise HandshakeFailed("it speaks no TLS", plain=data)
            received += len(data)
            if not data or received > HANDSHAKE_BYTES_MAX:
                raise HandshakeFailed("it ended early" if not data else "it says too much")
            self._incoming.write(data)

    def peer_certificate(self) -> bytes | None:
        """The verified certificate of the client, in DER; None: it sent none."""
        return self._tls.getpeercert(binary_form=True)

    async def receive_some(self, bytes_max: int) -> bytes:
        """Nothing at the end. After `send_eof` what comes is only there to be dropped, and is not looked at."""
        await trio.lowlevel.checkpoint()
        if self._closing:
            return bytes(await self.transport.receive_some(bytes_max))
        while True:
            try:
                return self._tls.read(bytes_max)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                await self._flush()
                raise trio.BrokenResourceError from error
            await self._flush()  # answers to the peer's key updates
            data = await self.transport.receive_some(RECORD_BYTES)
            if not data:  # HTTP's own framing says whether something is missing
                return b""
            self._incoming.write(data)

    async def send_all(self, data: bytes | memoryview) -> None:
        async with self._sending:
            view = memoryview(data)
            while view:
                try:
                    view = view[self._tls.write(view) :]
                except ssl.SSLError as error:
                    raise trio.BrokenResourceError from error
            await self._drain()

    async def send_eof(self) -> None:
        """Say that nothing follows, and wait for nobody."""
        async with self._sending:
            self._closing = True
            with suppress(ssl.SSLError, ValueError):  # it is said; that the peer has not said so is its own affair
                self._tls.unwrap()
            await self._drain()
            await self.transport.send_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            async with self._sending:
                await self._drain()

    async def _drain(self) -> None:
        if self._outgoing.pending:
            await self.transport.send_all(self._outgoing.read())
