"""The API described by itself (OpenAPI 3.1). Owns: the document, made of the table. Never: a route's name.

What is the same for all operations is derived from what a row of the table says; only the codes that an operation has for
itself stand in `_OWN_CODES`.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from solo_trio import __version__
from solo_trio.errors import CODES
from solo_trio.model.ids import ID_PATTERN
from solo_trio.operations.caller import Caller
from solo_trio.operations.schemas import Schema, body_schema, parameters
from solo_trio.operations.table import OPERATIONS, Answer, Nothing, Operation, operation

OPENAPI: Final = "3.1.0"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
PROBLEM_TYPE: Final = "application/problem+json"
_SCOPES: Final = {
    "open": "Open to anybody.",
    "system": "Needs a system credential.",
    "tenant": "For a tenant's credential, or a system credential that names the tenant.",
    "either": "For a tenant's credential, or a system credential: for the tenant it names, else for all.",
}
_ALWAYS: Final = frozenset(
    (
        "invalid_json",
        "invalid_field",
        "unknown_field",
        "invalid_header",
        "host_not_allowed",
        "too_large",
        "kernel_bug",
        "overloaded",
        "shutting_down",
        "kernel_stopped",
    )
)
_OF_SCOPE: Final = {
    "open": frozenset[str](),
    "system": frozenset(("unauthenticated", "rate_limited", "permission_denied")),
    "tenant": frozenset(
        [
            "unauthenticated",
            "rate_limited",
            "permission_denied",
            "invalid_id",
            "tenant_mismatch",
            "tenant_not_found",
            "tenant_required",
        ]
    ),
    "either": frozenset(
        [
            "unauthenticated",
            "rate_limited",
            "permission_denied",
            "invalid_id",
            "tenant_mismatch",
            "tenant_not_found",
        ]
    ),
}
_OF_FIELD: Final = {
    "service_id": "service_not_found",
    "tenant_id": "tenant_not_found",
    "function": "function_not_found",
}
_OF_MUTATION: Final = frozenset(["idempotency_conflict", "storage_full", "revision_mismatch"])
_OF_START: Final = frozenset(
    [
        "dependency_not_running",
        "service_start_failed",
        "service_deleted",
        "service_stopping",
        "quota_exceeded",
        "runtime_unavailable",
    ]
)
_OWN_CODES: Final[dict[str, frozenset[str]]] = {
    "deploy": _OF_START
    | {"archive_refused", "egress_refused", "environment_not_found", "environment_unusable"}
    | {"code_refused", "service_exists", "dependency_not_found", "dependency_cycle"},
    "restart_service": _OF_START | {"wrong_status", "service_not_running"},
    "resume_service": _OF_START | {"wrong_status", "service_not_running"},
    "delete_service": frozenset(("service_required", "service_stopping")),
    "pause_service": frozenset(("wrong_status", "service_not_running", "service_stopping")),
    "update_service": frozenset(("egress_refused", "service_not_running", "service_stopping")),
    "set_secret": frozenset(("quota_exceeded", "secret_not_found")),
    "reveal_secret": frozenset(("secret_not_found", "secret_access_denied", "storage_full")),
    "show_secret": frozenset(["secret_not_found"]),
    "delete_secret": frozenset(["secret_not_found"]),
    "list_secrets": frozenset(["invalid_id"]),
    "explain_service": frozenset(["service_not_found"]),
    "show_state": frozenset(["event_not_found", "tenant_not_found"]),
    "create_tenant": frozenset(("tenant_exists", "quota_exceeded")),
    "backup": frozenset(("storage_full", "backup_failed", "data_damaged")),
    "call": frozenset(
        (
            "call_failed",
            "call_interrupted",
            "call_timeout",
            "circuit_open",
            "result_not_serialisable",
            "service_not_running",
            "service_stopping",
        )
    ),
}
"""A new operation's own codes; what is missing here is still in `default`."""


def codes_of(operation: Operation) -> frozenset[str]:
    """The error codes that the operation is documented to answer with."""
    places = {each.name for each in parameters(operation) if each.place == "path"}
    codes = _ALWAYS | _OF_SCOPE[operation.scope] | _OWN_CODES.get(operation.name, frozenset())
    codes |= {code for name, code in _OF_FIELD.items() if name in places}
    if {"service_id", "tenant_id"} & {each.name for each in parameters(operation)} or places:
        codes |= {"invalid_id"}
    if operation.scope == "system" and body_schema(operation) is not None:
        codes |= {"invalid_id"}
    if operation.transport == "websocket":
        codes |= {"upgrade_required"}
    if operation.mutates and "service_id" in places:
        codes |= {"wrong_status"}
    return codes | _OF_MUTATION if operation.mutates else codes


@functools.cache
def document() -> dict[str, Any]:
    """The whole of it, as JSON-able data."""
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS.values():
        path = paths.setdefault(each.path, {})
        method = each.method.lower()
        if each.transport == "websocket":
            path[method] = _websocket(each)
        elif each.stream and method in path:
            _add_stream(path[method], each)
        else:
            path[method] = _operation(each)
    return {
        "openapi": OPENAPI,
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "Solo",
            "version": __version__,
            "summary": "Deploy, supervise and recover small Python services.",
            "description": "Every answer has `X-Request-ID`. Integers are written without a fraction; unknown fields,"
            " duplicate names and anything that is not strict JSON are refused.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": _problem(sorted(CODES))},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "In the header only: a token in a URL is refused.",
                }
            },
            "headers": {"request_id": {"description": "Names the request in logs and events.", "schema": _TEXT}},
        },
    }


_TEXT: Final[Schema] = {"type": "string"}
_TABLE: Final = {"text/csv": {"schema": _TEXT}}
_STREAMED: Final = {"text/event-stream": {"schema": _TEXT}}


def _operation(each: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": each.name,
        "tags": [each.handler.__module__.rpartition(".")[2]],
        "summary": each.summary,
        "description": _SCOPES[each.scope],
        "parameters": [
            {"name": one.name, "in": one.place, "required": one.required, "schema": one.schema}
            for one in parameters(each)
        ]
        + _headers(each),
        "security": [] if each.scope == "open" else [{"token": []}],
        "responses": _responses(each),
    }
    schema = body_schema(each)
    if schema is not None:
        made["requestBody"] = {
            "required": bool(schema.get("required")),
            "content": {"application/json": {"schema": schema}},
        }
    if each.stream and each.transport == "http":
        _add_stream(made, each)
    return made


def _websocket(each: Operation) -> dict[str, Any]:
    """What OpenAPI can say of one: the request that opens it."""
    made = _operation(each)
    made["description"] += " A WebSocket: what follows the 101 is text frames, each a JSON object."
    made["parameters"].append(_header("Upgrade", "`websocket`, as in RFC 6455.", {}) | {"required": True})
    made["responses"].pop("2XX")
    made["responses"]["101"] = {"description": each.summary}
    return made


def _add_stream(made: dict[str, Any], each: Operation) -> None:
    """The stream is the same path, asked for by `Accept`: OpenAPI knows one operation for both."""
    made["responses"]["2XX"]["content"] |= _STREAMED
    made["description"] += f" As `text/event-stream` ({each.name}): {each.summary}"
    known = {one["name"] for one in made["parameters"]}
    made["parameters"] += [
        {"name": one.name, "in": one.place, "required": one.required, "schema": one.schema}
        for one in parameters(each)
        if one.name not in known
    ]
    made["parameters"].append(
        _header("Last-Event-ID", "Resume a stream after this event.", {"pattern": "^[0-9]{1,19}$"})
    )


def _headers(each: Operation) -> list[dict[str, Any]]:
    made = []
    if each.scope in ("tenant", "either"):
        text = "The tenant that a system credential acts for."
        made.append(_header("X-Tenant-ID", text, {"pattern": f"^{ID_PATTERN}$"}))
    if each.mutates:
        text = "The same key and body get the first answer again."
        made.append(_header("Idempotency-Key", text, {"minLength": 1, "maxLength": 255, "pattern": "^[ -~]*$"}))
        made.append(_header("If-Match", "The revision that is to be changed, where one was given.", {}))
    return made


def _header(name: str, description: str, more: Schema) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": _TEXT | more}


def _responses(each: Operation) -> dict[str, Any]:
    """Statuses of success differ with what came of it; those of errors are the codes'."""
    headers = {"X-Request-ID": {"$ref": "#/components/headers/request_id"}}
    made: dict[str, Any] = {
        "2XX": {
            "description": each.summary,
            "headers": headers,
            "content": {"application/json": {"schema": {"type": "object"}}} | (_TABLE if each.offers_csv else {}),
        }
    }
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes_of(each)):
        by_status.setdefault(CODES[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        schema: Schema = {
            "allOf": [{"$ref": "#/components/schemas/Problem"}, {"properties": {"code": {"enum": codes}}}]
        }
        made[str(status)] = {
            "description": "; ".join(f"`{code}`: {CODES[code].title}" for code in codes),
            "headers": headers,
            "content": {PROBLEM_TYPE: {"schema": schema}},
        }
    anything = {"schema": {"$ref": "#/components/schemas/Problem"}}
    made["default"] = {"description": "Any other error.", "headers": headers, "content": {PROBLEM_TYPE: anything}}
    return made


def _problem(codes: list[str]) -> Schema:
    return {
        "type": "object",
        "description": "RFC 9457. `code` is stable for ever, and has a page in the documentation.",
        "required": ["type", "title", "status", "code", "detail", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": _TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "code": {"type": "string", "enum": codes},
            "detail": {"type": "string", "description": "A sentence that says what to do."},
            "request_id": _TEXT,
        },
    }


@operation("GET", "/openapi.json", scope="open")
async def openapi(caller: Caller, given: Nothing) -> Answer:
    """Describe every route, its inputs and its errors (OpenAPI 3.1)."""
    return Answer(document())
