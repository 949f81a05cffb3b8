"""The guarded HTTP server. Owns: listening, accepting, the cap on connections, and a bounded end. Never: speaks HTTP.

Hypercorn on Trio, in the caller's nursery, behind our guard: `connection.py` (the wire), `guard.py` (the application).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import LifespanTimeoutError

from solo_trio.gateways.http.asgi import ASGIApp
from solo_trio.gateways.http.body import SenderOf, everybody_alike
from solo_trio.gateways.http.connection import GuardedApp, GuardedConnection
from solo_trio.gateways.http.guard import Guard
from solo_trio.gateways.http.hosts import HostCheck
from solo_trio.gateways.http.incidents import Incidents
from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.gateways.http.tls import Tls


def new_request_id() -> str:
    return secrets.token_hex(8)


async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    stopping: trio.Event,
    limits: ServerLimits | None = None,
    allowed_hosts: Iterable[str] = (),
    incidents: Incidents | None = None,
    new_request_id: Callable[[], str] = new_request_id,
    tls: Tls | None = None,
    sender_of: SenderOf = everybody_alike,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` until `stopping` is set, then ends within `grace_s + disconnect_s + shutdown_s`.

    `task_status.started(url)` names the port that was really bound. Port 0 takes a free one, on the first address of
    `host` only. With `tls` it speaks nothing else.
    Raises OSError if nothing can be bound, LifespanFailureError if the application does not start.
    An application that shields itself from cancellation is waited for: only that makes the end unbounded.
    """
    limits = limits or ServerLimits()
    incidents = incidents or Incidents()
    config = _configure(limits)
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=limits.backlog)
    if port == 0:
        for other in listeners[1:]:
            other.socket.close()
        del listeners[1:]
    try:
        state: dict[str, object] = {}
        lifespan = Lifespan(ASGIWrapper(app), config, state)
        guard = Guard(
            app,
            hosts=HostCheck(host, allowed_hosts),
            limits=limits,
            incidents=incidents,
            new_request_id=new_request_id,
            sender_of=sender_of,
        )
        server = _Server(guard, config, state, limits, incidents, new_request_id, tls)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            await server.run(listeners, stopping, lambda: task_status.started(_url(host, listeners[0], tls)))
            try:
                if not lifespan.shutdown.is_set():  # an application without a lifespan has left long ago
                    await lifespan.wait_for_shutdown()
            except LifespanTimeoutError:
                incidents.add("lifespan_slow")
            nursery.cancel_scope.cancel()
    finally:
        for listener in listeners:
            listener.socket.close()


class _Server:
    """The open connections of one `serve`."""

    def __init__(
        self,
        app: GuardedApp,
        config: Config,
        state: dict[str, object],
        limits: ServerLimits,
        incidents: Incidents,
        new_request_id: Callable[[], str],
        tls: Tls | None,
    ) -> None:
        self._app = app
        self._tls = tls
        self._config = config
        self._state = state
        self._limits = limits
        self._incidents = incidents
        self._new_request_id = new_request_id
        self._context = WorkerContext(None)
        self._open: dict[GuardedConnection, None] = {}  # oldest first
        self._none_open = trio.lowlevel.ParkingLot()

    async def run(
        self, listeners: list[trio.SocketListener], stopping: trio.Event, started: Callable[[], None]
    ) -> None:
        async with trio.open_nursery() as connections:
            try:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener, connections)
                    if self._tls is not None:
                        accepting.start_soon(self._tls.keep_current, self._cut_refused)
                    started()
                    await stopping.wait()
                    accepting.cancel_scope.cancel()
                for listener in listeners:
                    listener.socket.close()
                await self._context.terminated.set()
                for connection in self._open:
                    connection.end_if_idle()
                with trio.move_on_after(self._limits.grace_s):
                    while self._open:
                        await self._none_open.park()
            finally:  # a write is shielded: cancelled or not, it ends only because its socket does
                for connection in self._open:
                    self._incidents.add("grace_cut")
                    connection.cut()
            connections.cancel_scope.deadline = trio.current_time() + self._limits.disconnect_s

    async def _accept(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                self._incidents.add("accept_failed", error)
                await trio.sleep(self._limits.accept_retry_s)
                continue
            if len(self._open) >= self._limits.connections_max and not self._make_room():
                self._incidents.add("connection_refused")
                stream.socket.close()
                continue
            if self._tls is not None:
                self._bound_handshakes()
            connection = GuardedConnection(
                self._app,
                stream,
                config=self._config,
                context=self._context,
                state=self._state,
                limits=self._limits,
                incidents=self._incidents,
                new_request_id=self._new_request_id,
                tls=self._tls,
            )
            self._open[connection] = None
            connections.start_soon(self._run_connection, connection)

    def _make_room(self) -> bool:
        """Sockets that ask for nothing must not keep everybody else out."""
        for connection in self._open:
            if connection.waits:
                del self._open[connection]
                self._incidents.add("connection_displaced")
                connection.cut()
                return True
        return False

    def _bound_handshakes(self) -> None:
        shaking = [connection for connection in self._open if connection.handshaking]
        if len(shaking) >= self._limits.handshakes_max:
            self._incidents.add("handshake_displaced")
            shaking[0].handshaking = False
            shaking[0].cut()

    def _cut_refused(self) -> None:
        for connection in list(self._open):
            connection.cut_if_refused()

    async def _run_connection(self, connection: GuardedConnection) -> None:
        try:
            await connection.run()
        finally:
            self._open.pop(connection, None)
            if not self._open:
                self._none_open.unpark_all()


def _configure(limits: ServerLimits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_max_requests = limits.connection_requests_max
    config.websocket_max_message_size = limits.message_bytes_max
    config.startup_timeout = limits.startup_s
    config.shutdown_timeout = limits.shutdown_s
    return config


def _url(host: str, listener: trio.SocketListener, tls: Tls | None) -> str:
    port = listener.socket.getsockname()[1]
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
