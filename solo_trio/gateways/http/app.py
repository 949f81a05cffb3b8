"""The HTTP API. Owns: routes made from the operations table, and what HTTP adds (headers, JSON, ETags). Never: decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import orjson
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from solo_trio.errors import CODES, Faulted, KernelBug, Rejected, SoloError
from solo_trio.gateways.http.asgi import ASGIApp, Receive, Scope, Send
from solo_trio.gateways.http.body import SYSTEM, UNKNOWN, Sender
from solo_trio.gateways.http.docs_page import HEADERS, docs_page
from solo_trio.gateways.http.encoded import Encodings
from solo_trio.gateways.http.limits import StreamLimits
from solo_trio.gateways.http.problems import TYPE_PREFIX, error_page, problem_response
from solo_trio.gateways.http.requests import bearer, certificate_of, check_once, peer_of, single
from solo_trio.gateways.http.sockets import Sockets
from solo_trio.gateways.http.sse import EventFrames, LogFrames, stream_response
from solo_trio.gateways.http.streams import OpenStreams
from solo_trio.operations import strict_json
from solo_trio.operations.auditing import Attempt
from solo_trio.operations.caller import System, authenticate, left_s
from solo_trio.operations.perform import OPERATIONS, Request, admit, attempt, perform
from solo_trio.operations.table import Answer, EventStream, LogStream, Operation, TextAnswer

JSON_TYPE: Final = "application/json"
_STREAM_TYPE: Final = "text/event-stream"
CSV_TYPE: Final = "text/csv"
_FRAMEWORK_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}


def build_app(system: System, limits: StreamLimits | None = None) -> ASGIApp:
    """The ASGI application over `system`; every route is a row of the operations table, save the pages of the error codes."""
    streams = OpenStreams(limits or _stream_limits(system), left_s=partial(left_s, system))
    system.core.on_revoked.append(streams.look_again)
    encodings = Encodings(system.core.hub)
    http, sockets = _http_app(system, streams, encodings), Sockets(system, streams, encodings)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await sockets(scope, receive, send)
        else:
            await http(scope, receive, send)  # type: ignore[arg-type]

    return app


def sender_of(system: System, scope: Scope) -> Sender:
    """Whom the head of a request names, before anything is spent on it. Nothing is counted: the request itself does that."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) > 1:  # which is refused
        return UNKNOWN
    token = bearer(given[0].decode("latin-1")) if given else None
    try:
        authority = authenticate(system, token, certificate_of(scope))
    except Rejected:
        return UNKNOWN
    return SYSTEM if authority.incarnation is None else Sender("tenant", authority.incarnation)


def _stream_limits(system: System) -> StreamLimits:
    settings = system.settings
    return StreamLimits(streams_max=settings.max_streams, per_tenant_max=settings.max_streams_per_tenant)


def _http_app(system: System, streams: OpenStreams, encodings: Encodings) -> QuartTrio:
    app = QuartTrio("solo", static_folder=None)
    app.config["RESPONSE_TIMEOUT"] = None  # streams last; the server bounds writes
    app.config["BODY_TIMEOUT"] = None  # the server has read the whole body, within its own bound
    app.config["MAX_CONTENT_LENGTH"] = None
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map.strict_slashes = False
    app.url_map.redirect_defaults = False
    app.url_map.merge_slashes = False
    routes: dict[tuple[str, str], list[Operation]] = {}
    for operation in OPERATIONS.values():
        routes.setdefault((operation.method, operation.path), []).append(operation)
    for (method, path), operations in routes.items():
        rule = path.replace("{", "<string:").replace("}", ">")
        name = "+".join(operation.name for operation in operations)
        app.add_url_rule(
            rule,
            name,
            _view(system, operations, streams, encodings),
            methods=[method],
            provide_automatic_options=False,
        )
    app.add_url_rule("/docs", "docs_page", _docs_page, methods=["GET"], provide_automatic_options=False)
    app.add_url_rule(
        TYPE_PREFIX + "<string:code>", "error_page", _error_page, methods=["GET"], provide_automatic_options=False
    )
    app.register_error_handler(Exception, _failed(system))
    return app


def _view(
    system: System, operations: list[Operation], streams: OpenStreams, encodings: Encodings
) -> Callable[..., Awaitable[Response]]:
    async def view(**route: str) -> Response:
        operation = _choose(operations)
        with attempt(system, operation, route, request_id(), peer_of(request.scope)) as followed:
            return await answered(operation, route, followed)

    async def answered(operation: Operation, route: dict[str, str], followed: Attempt) -> Response:
        check_once(request.headers.getlist)
        token = bearer(request.headers.get("Authorization"))
        admit(system, operation, token, followed, certificate_of(request.scope))
        given = await _request(operation, route, followed)
        answer = await perform(system, operation, given)
        if operation.transport == "websocket":
            raise Rejected("upgrade_required", "open a WebSocket here; server-sent events are on /events")
        if isinstance(answer, EventStream):
            frames = EventFrames(encodings, streams.limits.keep_alive_s)
            return stream_response(answer.watch, frames, streams, answer.authority)
        if isinstance(answer, LogStream):
            frames = LogFrames(encodings, streams.limits.keep_alive_s)
            return stream_response(answer.follow, frames, streams, answer.authority)
        if isinstance(answer, TextAnswer):
            return _text_response(answer)
        return _response(operation, answer)

    return view


async def _docs_page() -> Response:
    return Response(docs_page(), 200, headers=HEADERS, content_type="text/html; charset=utf-8")


async def _error_page(code: str) -> Response:
    if code not in CODES:
        raise Rejected("not_found", "there is no such error code; the documentation lists them")
    response = Response(error_page(code), 200, content_type="text/plain; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    return response


def _choose(operations: list[Operation]) -> Operation:
    wants_stream = request.method != "HEAD" and _STREAM_TYPE in request.headers.get("Accept", "")
    for operation in operations:
        if operation.stream == wants_stream:
            return operation
    return operations[0]


async def _request(operation: Operation, route: dict[str, str], followed: Attempt) -> Request:
    headers = request.headers
    query = single(request.args.items(multi=True))
    if operation.stream and "Last-Event-ID" in headers:
        query[operation.resume_field] = headers["Last-Event-ID"]
    if operation.offers_csv and CSV_TYPE in headers.get("Accept", ""):
        query.setdefault("format", "csv")
    return Request(
        token=bearer(headers.get("Authorization")),
        tenant_id=headers.get("X-Tenant-ID"),
        route=route,
        query=query,
        body=await _body(),
        idempotency_key=headers.get("Idempotency-Key"),
        if_match=headers.get("If-Match"),
        request_id=request_id(),
        certificate=certificate_of(request.scope),
        attempt=followed,
    )


async def _body() -> Any:
    data = await request.get_data(cache=False)  # JSON whatever Content-Type says: `curl -d` must work
    assert isinstance(data, bytes)
    if not data:
        return None
    return strict_json.parse(data)


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


def _text_response(answer: TextAnswer) -> Response:
    response = Response(answer.text, 200, content_type=answer.content_type)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if answer.next is not None:
        response.headers["X-Next-Cursor"] = answer.next
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
