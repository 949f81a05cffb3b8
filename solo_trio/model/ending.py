"""How a service ended, as a value. Owns: the kinds. Never: what follows from one (`service_requests`)."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

EndKind = Literal["completed", "crashed", "load_failed", "stopped", "killed", "lost"]


@frozen
class Breach:
    """The limit that ended a service, in its own unit; None: what knows of it does not know that (the supervisor does)."""

    resource: str
    value: float | None = None
    limit: float | None = None


@frozen
class Ending:
    """How a service ended.

    completed: `main` returned. crashed: it raised, exited or was signalled by itself. load_failed: the source did not
    compile, raised on import, or has no usable entry. stopped: it followed a stop request. killed: the kernel killed it.
    lost: the sandbox or zygote around it died, which is not the service's fault.
    """

    kind: EndKind
    reason: str
    """One line, for people."""
    traceback: str = ""
    """The last lines, bounded by the runtime."""
    exit_code: int | None = None
    signal: str | None = None
    breach: Breach | None = None
    """The kernel, or what it had set up, killed it for this. Recorded as a `resource_violation` beside its crash."""
