"""Serving a system over HTTP. Owns: joining application, guarded server and the kernel's end. Never: routes or rules."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

import trio

from solo_trio.gateways.http.app import build_app, sender_of
from solo_trio.gateways.http.incidents import Incidents
from solo_trio.gateways.http.limits import ServerLimits
from solo_trio.gateways.http.server import serve
from solo_trio.gateways.http.tls import Tls
from solo_trio.operations.caller import System

CONNECTIONS_BESIDE: Final = 64
"""So many connections more than streams there are at least: streams must not keep requests out."""


async def serve_http(
    system: System,
    *,
    host: str,
    port: int,
    allowed_hosts: Iterable[str] = (),
    tls: Tls | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until the kernel closes; `started` with the URL. Raises OSError if nothing can be bound.

    `allowed_hosts`: names that `Host` and `Origin` may have besides loopback, `host` and the address that was reached.
    `tls`: serve HTTPS only, and take certificates of clients as credentials.
    """

    def tell(kind: str, cause: BaseException | None) -> None:
        if kind == "request_failed" and cause is not None:
            system.core.telemetry.bug("serving a request", cause)

    settings = system.settings
    await serve(
        build_app(system),
        host=host,
        port=port,
        stopping=system.core.closed,
        limits=ServerLimits(connections_max=max(settings.max_connections, settings.max_streams + CONNECTIONS_BESIDE)),
        allowed_hosts=allowed_hosts,
        incidents=Incidents(tell),
        tls=tls,
        sender_of=partial(sender_of, system),
        task_status=task_status,
    )
