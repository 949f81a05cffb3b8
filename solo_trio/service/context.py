"""The `ctx` of a service. Owns: what `main` is given, the same in every runtime. Never: knows how a call travels."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from solo_trio.service.calling import Caller, CallError, May, caller, is_known
from solo_trio.service.values import plain, printable

if TYPE_CHECKING:
    import httpx

CLOSE_S_MAX: Final = 1.0
"""For taking leave of the connections of `ctx.http`, once the service has ended."""
CALL_TIMEOUT_S: Final = 30.0
"""The longest an outgoing call waits; a shorter `trio.fail_after` around it counts."""
LOG_MESSAGE_CHARS_MAX: Final = 8_192

Ask = Callable[[int, str, str, list[Any], dict[str, Any], float], Awaitable[Any]]
"""(number of the call that it is made for, 0: none; service_id, function, args, kwargs, timeout_s) -> result.

Raises `CallError`."""
Reveal = Callable[[str], Awaitable[str | bytes]]
"""(name) -> value; raises `CallError`."""
Sink = Callable[[str, str, dict[str, Any]], None]
"""(level, message, fields); never blocks for long, never raises."""


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


class Own:
    """`ctx.own`: what the service does by itself, whoever called it."""

    __slots__ = ("_ctx",)

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def call(self, service: str, function: str, /, *args: Any, **kwargs: Any) -> Any:
        """As `Context.call`, with the rights that the service was deployed with, and without those of its caller."""
        return await self._ctx._call(0, service, function, args, kwargs)


class Context:
    """What a service knows about itself, and what it may ask for.

    `isolation` is "task" or "process"; nothing else tells a service where it runs. `config` is a copy of the
    deployment's; `version` counts deployments, `generation` starts.
    """

    __slots__ = (
        "_ask",
        "_http",
        "_may",
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
        may: May,
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
        self._may = may
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

        Inside a call of this service it is made for whoever called, who must have the right to it too; see `own`.
        Arguments and result are JSON values. Raises `CallError`; `ValueError` for arguments that are not JSON.
        """
        return await self._call(self._number(), service, function, args, kwargs)

    @property
    def own(self) -> Own:
        """Ask here for what this service does by itself, for everybody who may call it."""
        return Own(self)

    @property
    def caller(self) -> Caller | None:
        """Who made the call that is being answered; None in `main`, and in whatever `main` began."""
        found = caller()
        return found if found is not None and found.owner is self else None

    def answering(self, number: int, told: dict[str, Any]) -> Caller:
        """Who makes call `number`, as the kernel told; for the runtime."""
        return Caller(self, number, told, self._may)

    def _number(self) -> int:
        """Of the call that is being answered; 0: none is. Raises `CallError` where nobody can tell."""
        found = caller()
        if found is None:
            if not is_known():
                raise CallError(
                    "permission_denied",
                    "it is not known here whom this is asked for (a thread or a system task that is begun by hand forgets "
                    "it): use ctx.own.call to ask as the service itself, or trio.to_thread.run_sync and a nursery",
                )
            return 0
        if found.owner is not self:
            raise CallError("permission_denied", "this is done in a call of another service: use that service's ctx")
        return found.number

    async def _call(
        self, number: int, service: str, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        remaining = trio.current_effective_deadline() - trio.current_time()
        timeout_s = max(0.0, min(CALL_TIMEOUT_S, remaining))
        return await self._ask(number, service, function, plain(args, "args"), plain(kwargs, "kwargs"), timeout_s)

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
