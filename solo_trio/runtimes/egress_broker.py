"""Asking the kernel for connections, in a service's process. Owns: who waits for which answer, in any thread. Never: sockets of
the service (`egress_child` has those).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import trio
from attrs import define

from solo_trio.runtimes import wire

CONNECT_S_DEFAULT: Final = 30.0
"""Where nobody gives a time-out."""


@define
class _Waiting:
    """For the answer to a `Connect`."""

    wake: Callable[[], None] = lambda: None
    answer: wire.Connected | None = None
    descriptor: int | None = None


class Broker:
    """Asks the kernel for connections, from any thread. `fileno`: of the socket to it, once there is one; `receive` takes in
    whatever has come, without blocking.

    Whoever waits reads: the Trio thread may be busy, or itself be the one that blocks in a connect. One thread at a time waits
    for the kernel, the others for that one; `_bell` wakes it if somebody else took in its answer.
    """

    def __init__(
        self, fileno: Callable[[], int], send: Callable[[wire.FromService], None], receive: Callable[[], None]
    ) -> None:
        self._fileno = fileno
        self._send = send
        self._receive = receive
        self.numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._turn = threading.Condition()
        self._polling = False
        self._bell: tuple[int, int] | None = None
        self._arrived: deque[int | None] = deque()
        """Descriptors whose message is not complete; None for one that there was no room for."""

    def arrived(self, descriptors: list[int], *, lost: bool) -> None:
        """What came with some bytes of the wire."""
        self._arrived.extend(descriptors)
        if lost:
            self._arrived.append(None)

    def answered(self, message: wire.Connected) -> None:
        """Give it to who waits for it."""
        descriptor = self._arrived.popleft() if message.error == 0 and self._arrived else None
        with self._turn:
            waiting = self._waiting.pop(message.id, None)
            if waiting is None:
                if descriptor is not None:
                    os.close(descriptor)
                return
            waiting.answer, waiting.descriptor = message, descriptor
            self._turn.notify_all()
            if self._polling and self._bell is not None:
                os.write(self._bell[1], b"\0")
        waiting.wake()

    def connect(self, host: str, port: int, timeout_s: float | None = None) -> int:
        """A connected descriptor; blocks. Raises OSError."""
        timeout_s = CONNECT_S_DEFAULT if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        number, waiting = next(self.numbers), _Waiting()
        self._ask(number, waiting, host, port, timeout_s)
        try:
            with self._turn:
                while waiting.answer is None and (left := deadline - time.monotonic()) > 0:
                    if self._polling:
                        self._turn.wait(left)
                    else:
                        self._poll(left)
        except BaseException:
            self._drop(number, waiting)
            raise
        if waiting.answer is None:
            self._drop(number, waiting)
            raise TimeoutError("timed out")
        return _granted(waiting)

    async def connect_async(self, host: str, port: int) -> int:
        """The same for a task; cancelling it gives it up."""
        await trio.lowlevel.checkpoint_if_cancelled()
        token, done = trio.lowlevel.current_trio_token(), trio.Event()

        def wake() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        number, waiting = next(self.numbers), _Waiting(wake)
        self._ask(number, waiting, host, port, CONNECT_S_DEFAULT)
        try:
            await done.wait()
        except BaseException:
            self._drop(number, waiting)
            raise
        return _granted(waiting)

    def _ask(self, number: int, waiting: _Waiting, host: str, port: int, timeout_s: float) -> None:
        if not isinstance(port, int) or isinstance(port, bool):
            raise TypeError(f"a port is an integer, not {type(port).__name__}")
        with self._turn:
            self._waiting[number] = waiting
        try:
            self._send(wire.Connect(number, host, port, timeout_s))
        except wire.WireError as error:  # it is ending, or the host is very long
            with self._turn:
                self._waiting.pop(number, None)
            raise OSError(errno.ECONNABORTED, f"no connection can be asked for: {error}") from None

    def _drop(self, number: int, waiting: _Waiting) -> None:
        with self._turn:
            asked = self._waiting.pop(number, None) is not None
        if waiting.descriptor is not None:
            os.close(waiting.descriptor)
        if asked:
            with contextlib.suppress(wire.WireError):
                self._send(wire.Drop(number))

    def _poll(self, left_s: float) -> None:
        """Wait for the kernel and take in what it sends; holds `_turn` before and after, but not meanwhile."""
        if self._bell is None:
            self._bell = os.pipe()
        ring = self._bell[0]
        self._polling = True
        self._turn.release()
        try:
            asked = select.poll()
            asked.register(self._fileno(), select.POLLIN)
            asked.register(ring, select.POLLIN)
            if any(descriptor == ring for descriptor, _ in asked.poll(left_s * 1_000 + 1)):
                os.read(ring, 4_096)
            self._receive()
        finally:
            self._turn.acquire()
            self._polling = False
            self._turn.notify_all()


def _granted(waiting: _Waiting) -> int:
    answer = waiting.answer
    assert answer is not None
    if answer.error < 0:
        raise socket.gaierror(answer.error, answer.detail)
    if answer.error:
        raise OSError(answer.error, answer.detail)
    if waiting.descriptor is None:
        raise OSError(errno.EMFILE, "no descriptor is free for the connection: close some, or raise limits.fds")
    return waiting.descriptor
