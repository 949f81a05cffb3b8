"""The HTTP API. Owns: routes made from the operations table, and what HTTP adds (headers, JSON, ETags). Never: decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from solo_trio.errors import Faulted, KernelBug, Rejected, SoloError
from solo_trio.gateways.http.problems import problem_response
from solo_trio.gateways.http.sse import OpenStreams, event_stream
from solo_trio.operations import strict_json
from solo_trio.operations.caller import System, authenticate
from solo_trio.operations.perform import OPERATIONS, Request, admit, perform
from solo_trio.operations.table import Answer, EventStream, Operation

JSON_TYPE: Final = "application/json"
_STREAM_TYPE: Final = "text/event-stream"
_ONCE: Final = ("Authorization", "X-Tenant-ID", "Idempotency-Key", "If-Match", "Last-Event-ID")
"""Headers that decide who may do what to what: given twice, a proxy may have looked at the other one."""
_FRAMEWORK_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def build_app(system: System) -> QuartTrio:
    """The ASGI application over `system`; every route is a row of the operations table."""
    app = QuartTrio("solo", static_folder=None)
    app.config["RESPONSE_TIMEOUT"] = None  # streams last; the server bounds writes
    app.config["BODY_TIMEOUT"] = None  # the server has read the whole body, within its own bound
    app.config["MAX_CONTENT_LENGTH"] = None
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.strict_slashes = False
    app.url_map.redirect_defaults = False
    app.url_map.merge_slashes = False
    streams = OpenStreams()
    routes: dict[tuple[str, str], list[Operation]] = {}
    for operation in OPERATIONS.values():
        routes.setdefault((operation.method, operation.path), []).append(operation)
    for (method, path), operations in routes.items():
        rule = path.replace("{", "<string:").replace("}", ">")
        name = "+".join(operation.name for operation in operations)
        app.add_url_rule(
            rule, name, _view(system, operations, streams), methods=[method], provide_automatic_options=False
        )
    app.register_error_handler(Exception, _failed(system))
    return app


def _view(system: System, operations: list[Operation], streams: OpenStreams) -> Callable[..., Awaitable[Response]]:
    async def view(**route: str) -> Response:
        operation = _choose(operations)
        _check_headers()
        admit(system, operation, _bearer(request.headers.get("Authorization")))
        given = await _request(operation, route)
        answer = await perform(system, operation, given)
        if isinstance(answer, EventStream):
            return event_stream(answer.watch, streams, authenticate(system, given.token))
        return _response(operation, answer)

    return view


def _choose(operations: list[Operation]) -> Operation:
    wants_stream = request.method != "HEAD" and _STREAM_TYPE in request.headers.get("Accept", "")
    for operation in operations:
        if operation.stream == wants_stream:
            return operation
    return operations[0]


def _check_headers() -> None:
    for name in _ONCE:
        if len(request.headers.getlist(name)) > 1:
            raise Rejected("invalid_header", f"give the header {name} once")


async def _request(operation: Operation, route: dict[str, str]) -> Request:
    headers = request.headers
    query = _single(request.args)
    if operation.stream and "Last-Event-ID" in headers:
        query["since_id"] = headers["Last-Event-ID"]
    return Request(
        token=_bearer(headers.get("Authorization")),
        tenant_id=headers.get("X-Tenant-ID"),
        route=route,
        query=query,
        body=await _body(),
        idempotency_key=headers.get("Idempotency-Key"),
        if_match=headers.get("If-Match"),
        request_id=request_id(),
    )


async def _body() -> Any:
    data = await request.get_data(cache=False)  # JSON whatever Content-Type says: `curl -d` must work
    assert isinstance(data, bytes)
    if not data:
        return None
    return strict_json.parse(data)


def _single(args: Any) -> dict[str, str]:
    """The query parameters; one given twice is refused, because its meaning would be anybody's guess."""
    repeated = [name for name, count in Counter(name for name, _ in args.items(multi=True)).items() if count > 1]
    if repeated:
        raise Rejected("invalid_field", f"give the query parameter '{repeated[0][:60]}' once")
    return {str(name): str(value) for name, value in args.items()}


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _response(operation: Operation, answer: Answer) -> Response:
    try:
        encoded = orjson.dumps(answer.body)
    except orjson.JSONEncodeError as error:
        if operation.name != "call":
            raise
        raise Faulted("result_not_serialisable", f"the result must be JSON that can be sent: {error}") from None
    response = Response(encoded, answer.status, content_type=JSON_TYPE)
    response.headers["Cache-Control"] = "no-store"
    if answer.revision is not None:
        response.headers["ETag"] = f'"{answer.revision}"'
    return response


def request_id() -> str:
    """The id that the server gave this request (or took over from the client); it sends it back itself."""
    return str(request.scope["state"]["request_id"])


def _failed(system: System) -> Callable[[Exception], Awaitable[Response]]:
    async def failed(error: Exception) -> Response:
        response = _problem(_as_solo_error(system, error))
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        return response

    return failed


def _as_solo_error(system: System, error: Exception) -> SoloError:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, SoloError):
        return error
    if isinstance(error, HTTPException):
        code = _FRAMEWORK_CODES.get(error.code or 500, "not_found")
        if code == "method_not_allowed":
            return Rejected(code, f"{request.method} is not a method of this route")
        return Rejected(code, "look at the list of routes in the documentation")
    system.core.telemetry.bug(f"answering {request.method} {request.path}", error)
    return KernelBug("the request met a defect; it is recorded under this request_id")


def _problem(error: SoloError) -> Response:
    status, headers, body = problem_response(error, request_id())
    response = Response(body, status)
    for name, value in headers:
        response.headers[name.decode()] = value.decode()
    return response
