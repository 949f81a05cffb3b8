"""One connection of a service. Owns: carrying bytes between its end and the network's, closing both. Never: asks who may.

At most `CHUNK_BYTES` in each direction are held here; whatever the reader does not take waits in the sockets, which are
bounded, and then with whoever sends. The end of one direction is passed on while the other goes on.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import trio

from solo_trio.policy.addresses import Address

CHUNK_BYTES: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset, so that the other side knows that it did not get everything."""

Way = Literal["in", "out"]


class Pump:
    """Between `inner`, whose other end the service has, and `outer`, the connection to `address`."""

    def __init__(
        self,
        inner: trio.socket.SocketType,
        outer: trio.socket.SocketType,
        host: str,
        address: Address,
        port: int,
        account: Callable[[Way, int], Awaitable[None]],
    ) -> None:
        self.host = host
        self.address = address
        self.port = port
        self.moved_at = trio.current_time()
        """When something went over it last."""
        self._inner = inner
        self._outer = outer
        self._account = account
        self._scope = trio.CancelScope()
        self._finished: set[Way] = set()

    async def run(self) -> None:
        """Until both directions are through, one of them fails, or it is cut."""
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, self._inner, self._outer, "out")
                    nursery.start_soon(self._carry, self._outer, self._inner, "in")
            except* OSError:
                pass
        self.close()

    def cut(self) -> None:
        """End it now, whatever is still on its way."""
        self._scope.cancel()

    def close(self) -> None:
        """Idempotent."""
        if len(self._finished) < 2 and not self.is_abandoned():
            with contextlib.suppress(OSError):
                self._outer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._inner.close()
        self._outer.close()

    def is_abandoned(self) -> bool:
        """Whether the service has said all and closed its end too: nobody will read what comes."""
        if "out" not in self._finished or self._inner.fileno() < 0:
            return False
        asked = select.poll()
        asked.register(self._inner.fileno(), 0)
        return any(flags & select.POLLHUP for _, flags in asked.poll(0))

    async def _carry(self, source: trio.socket.SocketType, target: trio.socket.SocketType, way: Way) -> None:
        while data := await source.recv(CHUNK_BYTES):  # never recvmsg: the service could send descriptors
            self.moved_at = trio.current_time()
            with memoryview(data) as view:
                sent = 0
                while sent < len(data):
                    sent += await target.send(view[sent:])
            self.moved_at = trio.current_time()
            await self._account(way, len(data))
        self._finished.add(way)
        self.moved_at = trio.current_time()
        with contextlib.suppress(OSError):  # it has gone altogether
            target.shutdown(socket.SHUT_WR)
