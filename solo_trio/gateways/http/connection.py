"""One guarded connection. Owns: its socket, its deadlines, and the barrier. Never: lets an exception or a stall out.

Hypercorn on Trio dies with a connection: two requests of a few bytes suffice (`tests/gateways/test_http_wire_attacks.py`).
Here a connection ends in one of three ways, each bounded in time: the peer ends it; we end it (`_end`: last bytes,
end of stream, then what the peer still sends is read and dropped for a while); we cut it (`cut`: closed at once).
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from solo_trio.errors import Rejected
from solo_trio.gateways.http.asgi import Inbox, Message, Receive, Scope, Send
from solo_trio.gateways.http.incidents import Incidents
from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.gateways.http.problems import problem_response
from solo_trio.gateways.http.requests import CERTIFICATE
from solo_trio.gateways.http.tls import Tls
from solo_trio.gateways.http.tls_stream import HandshakeFailed, TlsStream
from solo_trio.gateways.http.wire import StrictProtocol
from solo_trio.model.certificate import Certificate

GuardedApp = Callable[[Scope, Receive, Send, Callable[[], None]], Awaitable[None]]
"""An ASGI application that also gets a function which cuts the connection."""
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class _AppTasks(TaskGroup):
    """Runs the application calls of one connection, each behind an `Inbox`."""

    def __init__(
        self,
        app: GuardedApp,
        cut: Callable[[], None],
        inbox_messages: int,
        certificate: Callable[[], Certificate | None],
    ) -> None:
        super().__init__()
        self._app = app
        self._cut = cut
        self._inbox_messages = inbox_messages
        self._certificate = certificate

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
        inbox = Inbox(self._inbox_messages)
        scope.setdefault("extensions", {})[CERTIFICATE] = self._certificate()
        self.spawn(self._run_app, scope, inbox, send)
        return inbox.put

    async def _run_app(self, scope: Scope, inbox: Inbox, send: Callable[[Message | None], Awaitable[None]]) -> None:
        try:
            await self._app(scope, inbox.receive, send, self._cut)
        finally:
            inbox.close()
            await send(None)

    def cancel_after(self, seconds: float) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.deadline = trio.current_time() + seconds


class GuardedConnection(TCPServer):
    """`TCPServer` with the barrier, bounded writes, and deadlines on every wait for the peer."""

    stream: Any  # a trio.SocketStream or a TlsStream; Hypercorn's annotation names only its own
    protocol: Any

    def __init__(
        self,
        app: GuardedApp,
        stream: trio.SocketStream,
        *,
        config: Config,
        context: WorkerContext,
        state: dict[str, Any],
        limits: ServerLimits,
        incidents: Incidents,
        new_request_id: Callable[[], str],
        tls: Tls | None = None,
    ) -> None:
        super().__init__(app, config, context, state, stream)  # type: ignore[arg-type]
        self._tls = tls
        self.handshaking = tls is not None
        self._certificate: Certificate | None = None
        self._refused_before = False
        self._authority_number = 0
        self._guarded_app = app
        self._limits = limits
        self._incidents = incidents
        self._new_request_id = new_request_id
        self._ended = False
        self._lingers = False
        self._reading = trio.CancelScope()
        self._idle = True
        self._head_begun = False
        self._read_deadline = trio.current_time() + (limits.head_s if tls is None else limits.handshake_s)
        self._receiving = trio.CancelScope()

    async def run(self) -> None:
        try:
            await self._run()
        except* Exception as group:  # noqa: BLE001 - the barrier: one bad peer must not end the nursery of all
            self._incidents.add("connection_contained", group)
        finally:
            self.cut()

    async def _run(self) -> None:
        socket = self.stream.socket
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
        except OSError:  # the peer left before it was served
            return
        if self._tls is not None and not await self._handshake(self._tls):
            return
        tasks = _AppTasks(self._guarded_app, self.cut, self._limits.inbox_messages, self.certificate)
        async with tasks:
            self.protocol = StrictProtocol(
                self.app,
                self.config,
                self.context,
                tasks,
                ConnectionState(self.state),
                self._tls is not None,
                client,
                server,
                self.protocol_send,
                limits=self._limits,
                new_request_id=self._new_request_id,
                write_now=self._write_now,
            )
            await self._read_data()
            with trio.CancelScope(shield=True):  # waits for nothing: a disconnect never waits in an Inbox
                await self.protocol.handle(Closed())
            tasks.cancel_after(self._limits.disconnect_s)
        if self._lingers:
            await self._linger()

    async def _handshake(self, tls: Tls) -> bool:
        """Whether the peer may go on. Until it is done, the connection waits, and is displaced by others."""
        self._authority_number = tls.authority_number
        plain, self.stream = self.stream, TlsStream(self.stream, tls.context)
        with trio.CancelScope(deadline=self._read_deadline) as self._receiving:
            try:
                await self.stream.do_handshake()
            except _GONE:
                return False
            except HandshakeFailed as failure:
                self._incidents.add("handshake_failed")
                await self._refuse(plain, failure)
                return False
        if self._receiving.cancelled_caught:
            self._incidents.add("handshake_slow")
            return False
        self.handshaking = False
        der = self.stream.peer_certificate()
        if der is not None:
            self._certificate = tls.credential(der)
            self._refused_before = tls.refuses(self._certificate)
        if self._read_deadline != -math.inf:  # a server that stops has said so meanwhile
            self._set_read_deadline(trio.current_time() + self._limits.head_s)
        return not self._ended

    async def _refuse(self, plain: trio.SocketStream, failure: HandshakeFailed) -> None:
        """Whoever speaks HTTP where TLS is spoken is told so; an alert was already sent to whoever spoke TLS."""
        self.stream = plain
        if failure.plain[:1].isalpha():
            error = Rejected("tls_required", "this port speaks only TLS: use https:// in the URL")
            status, headers, body = problem_response(error, self._new_request_id())
            lines = [b"HTTP/1.1 %d Bad Request" % status, b"connection: close"]
            lines += [name + b": " + value for name, value in headers]
            await self._write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        await self._end()
        if self._lingers:
            await self._linger()

    def certificate(self) -> Certificate | None:
        """The client's, with what is known of it by now."""
        if self._tls is None or self._certificate is None:
            return None
        return self._tls.now(self._certificate)

    def cut_if_refused(self) -> None:
        """Ends whatever was opened with a certificate that has been revoked since, or has expired, or under another authority.

        Who came with one that was revoked before is told so by each answer.
        """
        if self._tls is None or self._certificate is None:
            return
        foreign = self._tls.authority_number != self._authority_number
        if foreign or (self._tls.refuses(self._certificate) and not self._refused_before):
            self._incidents.add("certificate_ended")
            self.cut()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            await self._end()
        elif isinstance(event, Updated):
            self._idle = event.idle
            self._head_begun = False
            self._set_read_deadline(trio.current_time() + self._limits.idle_s if event.idle else math.inf)

    async def _write(self, data: bytes) -> None:
        """All of `data`, even when cancelled meanwhile (half a frame is worse than late), but never for ever."""
        async with self.send_lock:
            view = memoryview(data)
            for start in range(0, len(data), self._limits.write_bytes):
                if self._ended:
                    return
                with trio.move_on_after(self._limits.write_s, shield=True) as scope:
                    try:
                        await self.stream.send_all(view[start : start + self._limits.write_bytes])
                    except _GONE:
                        self.cut()
                if scope.cancelled_caught:
                    self._incidents.add("write_cut")
                    self.cut()

    def _write_now(self, data: bytes) -> int:
        """How much of `data` the socket took at once, without a task switch; the rest is for `_write`, before anything else."""
        if self._ended or self.send_lock.locked() or self._tls is not None:
            return 0
        try:
            return os.write(self.stream.socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            self.cut()
            return 0

    async def _end(self) -> None:
        with trio.CancelScope(shield=True):  # bounded by the write that may hold the lock
            async with self.send_lock:
                if not self._ended:
                    self._ended = self._lingers = True
                    try:
                        await self.stream.send_eof()
                    except _GONE:
                        self._lingers = False
        self._reading.cancel()

    async def _read_data(self) -> None:
        """Until the peer ends or is too slow, or we end or cut."""
        with self._reading:
            while not self._ended:
                with trio.CancelScope(deadline=self._read_deadline) as self._receiving:
                    try:
                        data = bytes(await self.stream.receive_some(self._limits.read_bytes))
                    except _GONE:
                        return
                if self._receiving.cancelled_caught:
                    if self._head_begun:
                        self._incidents.add("connection_slow_head")
                    return
                if self._idle and not self._head_begun:
                    self._head_begun = True
                    self._set_read_deadline(min(self._read_deadline, trio.current_time() + self._limits.head_s))
                await self.protocol.handle(RawData(data))
                if not data:
                    return

    async def _linger(self) -> None:
        left = self._limits.linger_bytes
        with trio.move_on_after(self._limits.linger_s) as self._receiving:
            while left > 0:
                try:
                    data = await self.stream.receive_some(self._limits.read_bytes)
                except _GONE:
                    return
                if not data:
                    return
                left -= len(data)

    def _set_read_deadline(self, at: float) -> None:
        self._read_deadline = at
        self._receiving.deadline = at

    @property
    def waits(self) -> bool:
        """Whether it waits for a request: none is under way, though the head of one may have begun."""
        return self._idle and not self._ended

    def end_if_idle(self) -> None:
        """Closes a connection that waits for a request, or lingers after its last response.

        A busy one closes after its response, because `context.terminated` is set.
        """
        if self._idle or self._ended:
            self._head_begun = False
            self._set_read_deadline(-math.inf)

    def cut(self) -> None:
        """Closes at once: whoever writes or reads is woken. Any number of times, from any task."""
        self._ended = True
        self._lingers = False
        self._reading.cancel()
        self.stream.socket.close()
