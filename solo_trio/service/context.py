"""The `ctx` of a service. Owns: what `main` is given, the same in every runtime. Never: knows how a call travels."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from solo_trio.service.values import plain, printable

if TYPE_CHECKING:
    import httpx

CLOSE_S_MAX: Final = 1.0
"""For taking leave of the connections of `ctx.http`, once the service has ended."""
CALL_TIMEOUT_S: Final = 30.0
"""The longest an outgoing call waits; a shorter `trio.fail_after` around it counts."""
LOG_MESSAGE_CHARS_MAX: Final = 8_192

Ask = Callable[[str, str, list[Any], dict[str, Any], float], Awaitable[Any]]
"""(service_id, function, args, kwargs, timeout_s) -> result; raises `CallError`."""
Reveal = Callable[[str], Awaitable[str | bytes]]
"""(name) -> value; raises `CallError`."""
Sink = Callable[[str, str, dict[str, Any]], None]
"""(level, message, fields); never blocks for long, never raises."""


class CallError(Exception):
    """A call to another service failed, or a secret is not given; `code` is a published error code, as `service_not_found`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Log:
    """The service's log: a message, and fields by name. What is not JSON is logged as its `repr`."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def debug(self, message: object, /, **fields: Any) -> None:
        self._write("debug", message, fields)

    def info(self, message: object, /, **fields: Any) -> None:
        self._write("info", message, fields)

    def warning(self, message: object, /, **fields: Any) -> None:
        self._write("warning", message, fields)

    def error(self, message: object, /, **fields: Any) -> None:
        self._write("error", message, fields)

    def exception(self, message: object, /, **fields: Any) -> None:
        """Like `error`, with the traceback of the exception being handled in the field `traceback`."""
        self._write("error", message, {"traceback": traceback.format_exc()[-LOG_MESSAGE_CHARS_MAX:], **fields})

    def _write(self, level: str, message: object, fields: dict[str, Any]) -> None:
        text = str(message)[:LOG_MESSAGE_CHARS_MAX]
        self._sink(level, text.encode("utf-8", "backslashreplace").decode(), printable(fields))


class Context:
    """What a service knows about itself, and what it may ask for.

    `isolation` is "task" or "process"; nothing else tells a service where it runs. `config` is a copy of the
    deployment's; `version` counts deployments, `generation` starts.
    """

    __slots__ = (
        "_ask",
        "_http",
        "_reveal",
        "config",
        "generation",
        "isolation",
        "log",
        "service_id",
        "tenant_id",
        "version",
    )

    def __init__(
        self,
        *,
        tenant_id: str,
        service_id: str,
        version: int,
        generation: int,
        isolation: str,
        config: dict[str, Any],
        sink: Sink,
        ask: Ask,
        reveal: Reveal,
    ) -> None:
        self.tenant_id = tenant_id
        self.service_id = service_id
        self.version = version
        self.generation = generation
        self.isolation = isolation
        self.config: dict[str, Any] = plain(config, "config")
        self.log = Log(sink)
        self._ask = ask
        self._reveal = reveal
        self._http: httpx.AsyncClient | None = None

    @property
    def http(self) -> httpx.AsyncClient:
        """An HTTP client of the service's own, for what its `egress` lists; anything else raises `httpx.ConnectError`."""
        if self._http is None:
            import httpx  # takes a while, and most services never need it

            self._http = httpx.AsyncClient()
        return self._http

    async def close(self) -> None:
        """Let go of what the service used; for the runtime, once it has ended."""
        if self._http is not None:
            with trio.move_on_after(CLOSE_S_MAX, shield=True):
                await self._http.aclose()

    async def call(self, service: str, function: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an exported function of another service of the tenant.

        Arguments and result are JSON values. Raises `CallError`; `ValueError` for arguments that are not JSON.
        """
        remaining = trio.current_effective_deadline() - trio.current_time()
        timeout_s = max(0.0, min(CALL_TIMEOUT_S, remaining))
        return await self._ask(service, function, plain(args, "args"), plain(kwargs, "kwargs"), timeout_s)

    async def secret(self, name: str) -> str | bytes:
        """The newest value of a secret that the deployment lists: text, or bytes if it was set as such.

        Ask for it when it is needed: then it is the one that counts now. Raises `CallError`: secret_access_denied,
        secret_not_found.
        """
        if not isinstance(name, str):
            raise TypeError("ctx.secret takes the name of a secret")
        return await self._reveal(name)

    def __repr__(self) -> str:
        return f"<Context {self.tenant_id}/{self.service_id} version {self.version} generation {self.generation}>"
