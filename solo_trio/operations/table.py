"""The operations table. Owns: what an operation is, the one table of them. Never: an operation's own words.

Gateways, the command line, reference pages are loops over `OPERATIONS`; adding an endpoint is one decorated function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, Protocol, TypeVar

from attrs import NOTHING, field, fields, frozen

from solo_trio.kernel.hub import Watch
from solo_trio.model.capability import EMBEDDER, Authority

Scope = Literal["open", "system", "tenant", "either"]
"""Who may: anybody; a system credential; a credential for one tenant (a system one names it); tenant or system."""
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Transport = Literal["http", "websocket"]


@frozen
class Answer:
    """What an operation comes to. `status` is in HTTP's terms, because every gateway has a mapping from those."""

    body: dict[str, Any] = field(repr=False)
    status: int = 200
    revision: int | None = None
    """Sent as an ETag where given."""


@frozen
class TextAnswer:
    """An answer that is no JSON: a page of something, and the `cursor` of the next."""

    text: str
    content_type: str
    next: str | None = None


@frozen
class EventStream:
    """An answer that does not end: what the cursor finds, until the kernel closes."""

    watch: Watch
    authority: Authority = EMBEDDER
    """Who opened it: it ends when that is no longer good."""


class Follow(Protocol):
    """Something to follow."""

    cursor: int
    """Everything up to this id was looked at."""
    over: bool
    """Nothing more will come."""

    @property
    def closing(self) -> bool:
        """Nothing more is recorded: what is left is to be told without delay."""
        ...

    async def wait(self) -> None:
        """Until there is something to look at, or it may be over."""
        ...

    async def take(self) -> list[Any]:
        """The next of what is there, perhaps nothing. May raise `hub.Compacted`."""
        ...


@frozen
class LogStream:
    """As `EventStream`, of log entries."""

    follow: Follow
    authority: Authority = EMBEDDER


Handler = Callable[[Any, Any], Awaitable[Any]]
"""(caller, input) -> `Answer`, `TextAnswer`, `EventStream` or `LogStream`."""


@frozen
class Operation:
    name: str
    method: Method
    path: str
    scope: Scope
    summary: str
    input: type
    handler: Handler
    mutates: bool
    stream: bool
    """Answers with an `EventStream` or `LogStream`; over HTTP chosen over its namesake by `Accept: text/event-stream`."""
    transport: Transport = "http"
    right: tuple[str, str] | Literal["holder"] | None = None
    """(resource, permission) that the credential must have. `{name}` in the resource is the input's; a kind of resource
    without a name ("service") is had by whoever has the permission for some of that kind, and what is shown follows from it.
    None: the whole tenant, or the whole system, with `read` for GET and `write` for the rest.
    "holder": whoever has a valid credential at all."""

    @property
    def offers_csv(self) -> bool:
        """Its input `format` may be "csv", which over HTTP `Accept: text/csv` asks for too."""
        return any(each.name == "format" and each.metadata["place"] == "query" for each in fields(self.input))

    @property
    def secret_fields(self) -> frozenset[str]:
        """The inputs that no record may be made of."""
        return frozenset(each.name for each in fields(self.input) if each.metadata.get("secret"))

    @property
    def resume_field(self) -> str:
        """The input that a `Last-Event-ID` stands for."""
        names = {each.name for each in fields(self.input)}
        return next(name for name in ("since_id", "since") if name in names)


OPERATIONS: Final[dict[str, Operation]] = {}
H = TypeVar("H", bound=Handler)


@frozen
class Nothing:
    """The input of an operation that takes none."""


def operation(
    method: Method,
    path: str,
    *,
    scope: Scope,
    input: type = Nothing,
    mutates: bool = False,
    stream: bool = False,
    transport: Transport = "http",
    right: tuple[str, str] | Literal["holder"] | None = None,
) -> Callable[[H], H]:
    """Put a function into the table under its own name; its docstring's first line is the summary."""

    def register(handler: H) -> H:
        name = handler.__name__
        if name in OPERATIONS:
            raise RuntimeError(f"operation {name} is registered twice")
        summary = (handler.__doc__ or "").strip().split("\n")[0]
        OPERATIONS[name] = Operation(
            name, method, path, scope, summary, input, handler, mutates, stream, transport, right
        )
        return handler

    return register


def path() -> Any:
    """A field of an input that comes from the route."""
    return field(metadata={"place": "path"}, kw_only=True)


def query(default: Any = NOTHING) -> Any:
    """A field of an input that comes from the query string."""
    return field(default=default, metadata={"place": "query"}, kw_only=True)


def body(default: Any = NOTHING, *, factory: Callable[[], Any] | None = None, secret: bool = False) -> Any:
    """A field of an input that comes from the JSON body. `secret`: it is shown and remembered nowhere, not even hashed."""
    metadata = {"place": "body", "secret": secret}
    if factory is not None:
        return field(factory=factory, metadata=metadata, kw_only=True, repr=not secret)
    return field(default=default, metadata=metadata, kw_only=True, repr=not secret)
