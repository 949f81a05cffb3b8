"""What one HTTP server may spend. Owns: every limit of the wire and of streams, by name and unit. Never: enforces one."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen, validators

_positive: Any = validators.gt(0)  # for int and float alike


@frozen(kw_only=True)
class ServerLimits:
    """Sizes are bytes, times are seconds (`_s`). Tests pass short ones; nothing else in `gateways/http` is a number."""

    connections_max: int = field(default=512, validator=_positive)
    """Open connections; for one more the oldest that waits for a request is cut, else the new one, unanswered."""
    backlog: int = field(default=128, validator=_positive)
    """Connections the system completes before they are accepted."""
    accept_retry_s: float = field(default=0.1, validator=_positive)
    """Pause after a failed accept (EMFILE and its kin)."""

    handshakes_max: int = field(default=64, validator=_positive)
    """TLS handshakes at the same time; for one more the oldest of them is cut."""
    handshake_s: float = field(default=10.0, validator=_positive)
    """From the connection to the end of its TLS handshake."""

    head_bytes_max: int = field(default=16 * 1024, validator=_positive)
    """Request line and headers together; also one chunk header or the trailers."""
    head_s: float = field(default=10.0, validator=_positive)
    """From the first byte of a request to the end of its head."""
    idle_s: float = field(default=75.0, validator=_positive)
    """From the end of a response to the first byte of the next request."""
    connection_requests_max: int = field(default=10_000, validator=_positive)
    """Then the connection is closed, after an answer that says so."""

    body_bytes_max: int = field(default=4 * 1024 * 1024, validator=_positive)
    body_parts_max: int = field(default=16 * 1024, validator=_positive)
    """Pieces a body may arrive in: one-byte chunks cost a thousand times their size in processor time."""
    body_s: float = field(default=30.0, validator=_positive)
    """From the end of the head to the end of the body."""
    bodies_bytes_max: int = field(default=64 * 1024 * 1024, validator=_positive)
    """Bytes of all bodies being received at once."""
    tenants_bodies_bytes_max: int = field(default=48 * 1024 * 1024, validator=_positive)
    """Of them, those that tenants sent: what is left only a system credential gets."""
    tenant_bodies_bytes_max: int = field(default=16 * 1024 * 1024, validator=_positive)
    """Of them, those that one tenant sent."""
    unknown_body_bytes_max: int = field(default=64 * 1024, validator=_positive)
    """A longer one of somebody without a credential is not kept, and its connection ends with the answer."""
    unknown_bodies_bytes_max: int = field(default=4 * 1024 * 1024, validator=_positive)
    """Those that are kept, of all who have no credential."""

    message_bytes_max: int = field(default=64 * 1024, validator=_positive)
    """One WebSocket message from a client (characters, if it is text)."""
    frames_per_s: float = field(default=16.0, validator=_positive)
    frames_burst: float = field(default=256.0, validator=_positive)
    """WebSocket frames from a client, pings and pongs too; one too many closes with 1008."""
    inbox_messages: int = field(default=16, validator=_positive)
    """Received pieces that wait for the application; a piece is at most `read_bytes` (or one WebSocket message)."""

    read_bytes: int = field(default=64 * 1024, validator=_positive)
    write_bytes: int = field(default=64 * 1024, validator=_positive)
    write_s: float = field(default=20.0, validator=_positive)
    """For each `write_bytes`: a client that reads slower than this is cut."""

    finish_s: float = field(default=5.0, validator=_positive)
    """End-of-response work after the application is done or cancelled, beyond writing."""
    disconnect_s: float = field(default=1.0, validator=_positive)
    """From a connection's end to the cancellation of an application that goes on."""
    linger_s: float = field(default=1.0, validator=_positive)
    linger_bytes: int = field(default=1024 * 1024, validator=_positive)
    """What is read and dropped after our last byte, so that the client gets it instead of a reset."""

    startup_s: float = field(default=30.0, validator=_positive)
    grace_s: float = field(default=3.0, validator=_positive)
    """Shutdown: for requests already begun; then their connections are cut."""
    shutdown_s: float = field(default=2.0, validator=_positive)
    """Shutdown: for the application's own lifespan to end, after the last connection."""


@frozen(kw_only=True)
class StreamLimits:
    """Of answers that do not end. A client that stalls holds one write (`write_bytes`, or one event if that is bigger)."""

    streams_max: int = field(default=256, validator=_positive)
    """Open at once. A tenth of them only a system credential gets."""
    per_tenant_max: int = field(default=32, validator=_positive)

    write_bytes: int = field(default=16 * 1024, validator=_positive)
    """What is told together, of payloads."""
    slow_s: float = field(default=10.0, validator=_positive)
    """A write that took longer is the last but one: the end is told with the place to resume from. Less than
    `ServerLimits.write_s`, after which nothing can be told any more."""
    keep_alive_s: float = field(default=15.0, validator=_positive)
    """Between two signs of life on a quiet SSE stream."""
    bookmark_s: float = field(default=5.0, validator=_positive)
    """Between two bookmarks on a WebSocket."""
    pace_s: float = field(default=0.01, validator=_positive)
    """Between two writes to the same stream, at least: what comes meanwhile is told together."""
    share: float = field(default=0.5, validator=[_positive, validators.le(1)])
    """Of the kernel's one processor, for all streams: a thousand watchers of a busy log must not hold up the log itself."""

    heard_bytes_max: int = field(default=4_096, validator=_positive)
    """One message from a watcher's client. It has nothing to say: what it says is dropped."""
    heard_per_s: float = field(default=4.0, validator=_positive)
    heard_burst: float = field(default=32.0, validator=_positive)
