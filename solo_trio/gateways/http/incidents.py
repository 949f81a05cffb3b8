"""What went wrong on the wire. Owns: counts by kind. Never: logs, raises, or holds anything a client sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

Kind = Literal[
    "accept_failed",  # accept() raised: too many open files, for example
    "connection_refused",  # above the cap, and each of the others has a request under way
    "connection_displaced",  # waited for a request when its place was needed
    "connection_contained",  # an exception that would have killed the server, stopped at its connection
    "connection_slow_head",
    "handshake_failed",  # no TLS, or a certificate that is not accepted
    "handshake_slow",
    "handshake_displaced",  # the oldest of too many
    "certificate_ended",  # revoked or expired while its connection was open
    "body_slow",
    "body_too_large",
    "host_refused",
    "write_cut",  # the client did not read
    "finish_cut",  # the end of a response took too long
    "request_failed",  # the application raised; the client got `kernel_bug`
    "grace_cut",  # still busy at the end of the grace of a shutdown, or when the server was cancelled
    "lifespan_slow",  # the application did not end in time after the last connection
    "tell_failed",  # the callback below raised
]


class Incidents:
    """`tell(kind, cause)` is called for each, in the Trio thread. It must not block; what it raises is only counted."""

    def __init__(self, tell: Callable[[Kind, BaseException | None], None] | None = None) -> None:
        self.count: Counter[Kind] = Counter()
        self._tell = tell

    def add(self, kind: Kind, cause: BaseException | None = None) -> None:
        self.count[kind] += 1
        if self._tell is not None:
            try:
                self._tell(kind, cause)
            except Exception:  # noqa: BLE001 - telemetry must not take down what it watches
                self.count["tell_failed"] += 1
