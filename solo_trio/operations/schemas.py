"""JSON Schema (draft 2020-12) of what operations take. Owns: deriving it from the input classes. Never: checks a request.

The types are read off the classes as `inputs` reads them, so a new operation has its schema by being in the table. What the
classes do not say (ranges, the form of an id) stands in `_FIELDS` and `_MEMBERS`, made of the constants that the checks use.
`tests/operations/test_schemas.py` holds both directions against the real checks. Some rules no schema says: an integer is
written without a fraction (`1.0` is none), sizes are counted in bytes, a resource has not all the permissions that there are.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

from solo_trio.model.caveat import RATE_LEAST, RATE_MAX
from solo_trio.model.ids import FUNCTION_PATTERN, ID_PATTERN, SECRET_NAME_PATTERN
from solo_trio.model.limits import RANGES, Limits
from solo_trio.model.rights import ALL, PERMISSIONS, resource_pattern
from solo_trio.model.spec import (
    DEPENDENCIES_MAX,
    RESTART_SECONDS_MAX,
    RESTARTS_MAX,
    SECRETS_MAX,
    SOURCE_BYTES_MAX,
    RestartLimits,
)
from solo_trio.model.tenant import TenantLimits
from solo_trio.operations.audit import CREDENTIAL_PATTERN, CURSOR_PATTERN, TIME_PATTERN, WORD_PATTERN
from solo_trio.operations.capabilities import TTL_S_MAX, RateLimit
from solo_trio.operations.changing import GRACE_MS_MAX, RestartLimitsChange
from solo_trio.operations.paging import PAGE_MAX
from solo_trio.operations.settings import KEEP_EVENTS_MAX
from solo_trio.operations.states import CURSOR_PATTERN as STATE_CURSOR
from solo_trio.operations.strict_json import INT_MAX, INT_MIN
from solo_trio.operations.table import Operation
from solo_trio.operations.tenants import TENANT_RANGES
from solo_trio.policy.egress import ENTRIES_MAX
from solo_trio.vault.sealing import AGENT_KEY_CHARACTERS_MAX, VALUE_BYTES_MAX

Schema = dict[str, Any]
Place = Literal["path", "query", "body"]

_ID: Final[Schema] = {"pattern": f"^{ID_PATTERN}$", "maxLength": 63}
_PAGE: Final[Schema] = {"minimum": 1, "maximum": PAGE_MAX}
_SECRET_TEXT: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": VALUE_BYTES_MAX}
_SECRET_BYTES: Final[Schema] = {
    "type": "object",
    "properties": {
        "base64": {
            "type": "string",
            "minLength": 4,
            "maxLength": (VALUE_BYTES_MAX + 2) // 3 * 4,
            "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        }
    },
    "required": ["base64"],
    "additionalProperties": False,
}
_FIELDS: Final[dict[str, Schema]] = {
    "service_id": _ID,
    "tenant_id": _ID,
    "cursor": _ID | {"description": "The `next` of the page before."},
    "function": {"pattern": f"^{FUNCTION_PATTERN}$", "maxLength": 128},
    "code": {"pattern": "[^ \\t\\n\\r\\f\\v]", "maxLength": SOURCE_BYTES_MAX},
    "depends_on": {"items": {"type": "string", **_ID}, "maxItems": DEPENDENCIES_MAX, "uniqueItems": True},
    "egress": {"items": {"type": "string"}, "maxItems": ENTRIES_MAX},
    "isolation": {"not": {"const": "task"}},
    "environment": _ID,
    "limit": _PAGE,
    "tail": _PAGE,
    "since": {"minimum": 0},
    "at": {"minimum": 0},
    "since_id": {"minimum": 0},
    "grace_ms": {"minimum": 0, "maximum": GRACE_MS_MAX},
    "keep_events": {"minimum": 0, "maximum": KEEP_EVENTS_MAX},
    "name": {"pattern": f"^{SECRET_NAME_PATTERN}$", "maxLength": 128},
    "value": {"writeOnly": True, "anyOf": [_SECRET_TEXT, _SECRET_BYTES]},
    "key": {"writeOnly": True, "minLength": 1, "maxLength": AGENT_KEY_CHARACTERS_MAX},
    "secrets": {
        "items": {"type": "string", "pattern": f"^{SECRET_NAME_PATTERN}$", "maxLength": 128},
        "maxItems": SECRETS_MAX,
        "uniqueItems": True,
    },
    "capability_id": {"pattern": "^[0-9a-f]{32}$"},
    "resource": {"pattern": f"^({resource_pattern()})$"},
    "permissions": {"items": {"type": "string", "enum": [*sorted(PERMISSIONS), ALL]}, "minItems": 1},
    "permission": {"enum": [*sorted(PERMISSIONS), ALL]},
    "ttl_s": {"exclusiveMinimum": 0, "maximum": TTL_S_MAX},
    "token": {"writeOnly": True},
    "service": _ID,
    "type": {"description": "Event types, separated by commas."},
}
"""What is narrower than the type of a field of an input, by the field's name: a name means one thing in all operations."""
_TIME: Final[Schema] = {"format": "date-time", "pattern": f"^{TIME_PATTERN}$"}
_OF_ITS_OWN: Final[dict[tuple[str, str], Schema]] = {
    ("list_audit", "cursor"): {"pattern": f"^{CURSOR_PATTERN}$", "description": "The `next` of the page before."},
    ("list_secrets", "cursor"): {
        "pattern": f"^{SECRET_NAME_PATTERN}$",
        "maxLength": 128,
        "description": "The `next` of the page before.",
    },
    ("show_state", "cursor"): {"pattern": f"^{STATE_CURSOR}$", "description": "The `next` of the page before."},
    ("list_capabilities", "cursor"): {"pattern": "^[0-9a-f]{32}$", "description": "The `next` of the page before."},
    ("list_audit", "since"): _TIME,
    ("list_audit", "until"): _TIME,
    ("list_audit", "operation"): {"pattern": f"^{WORD_PATTERN}$"},
    ("list_audit", "outcome"): {"pattern": f"^{WORD_PATTERN}$"},
    ("list_audit", "credential"): {"pattern": f"^{CREDENTIAL_PATTERN}$"},
}
"""The same for a name that means something else in one operation."""
_RESTARTS: Final[dict[str, Schema]] = {
    "max_restarts": {"minimum": 0, "maximum": RESTARTS_MAX},
    "max_seconds": {"exclusiveMinimum": 0, "maximum": RESTART_SECONDS_MAX},
}
_MEMBERS: Final[dict[type, dict[str, Schema]]] = {
    Limits: {name: {"minimum": low, "maximum": high} for name, (low, high) in RANGES.items()},
    RestartLimits: _RESTARTS,
    RestartLimitsChange: _RESTARTS,
    RateLimit: {
        "requests_per_second": {"minimum": RATE_LEAST, "maximum": RATE_MAX},
        "burst": {"minimum": 1, "maximum": RATE_MAX},
    },
    TenantLimits: {name: {"minimum": low, "maximum": high} for name, (low, high) in TENANT_RANGES.items()},
}
"""The same for the members of a nested object."""
_SIMPLE: Final[dict[Any, Schema]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": INT_MIN, "maximum": INT_MAX},
    float: {"type": "number"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
}


@frozen
class Parameter:
    """One part of a request that is not its body."""

    name: str
    place: Place
    required: bool
    schema: Schema


def body_schema(operation: Operation) -> Schema | None:
    """Of the JSON body; None if the operation takes none. A system credential may name the tenant in it."""
    fields = _placed(operation.input, "body")
    if not fields:
        return None
    schema = _object(operation.input, fields, partial(_narrower, operation))
    if operation.scope in ("tenant", "either"):
        schema["properties"].setdefault("tenant_id", _narrowed(schema_of(str | None), _ID))
    return schema


def parameters(operation: Operation) -> list[Parameter]:
    """Of the route and the query; in the query `true`, `false`, `1` and `0` are booleans, and integers decimal."""
    hints = get_type_hints(operation.input)
    found = []
    for place in ("path", "query"):
        for attribute in _placed(operation.input, place):
            required = attribute.default is attrs.NOTHING
            narrower = _narrower(operation, attribute.name)
            schema = _with_default(_narrowed(schema_of(_given(hints[attribute.name])), narrower), attribute)
            found.append(Parameter(attribute.name, place, required, schema))
    return found


def _narrower(operation: Operation, name: str) -> Schema | None:
    return _OF_ITS_OWN.get((operation.name, name), _FIELDS.get(name))


def schema_of(kind: Any) -> Schema:
    """Of a type that an input may have. Raises TypeError for one that no JSON is."""
    if kind is Any:
        return {}
    origin = get_origin(kind)
    arguments = get_args(kind)
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is Union or type(kind).__name__ == "UnionType":
        return {"anyOf": [schema_of(each) for each in arguments]}
    if origin in (list, tuple):
        inner = schema_of(arguments[0]) if arguments else {}
        return {"type": "array"} | ({"items": inner} if inner else {})
    if origin is dict:
        inner = schema_of(arguments[1])
        return {"type": "object"} | ({"additionalProperties": inner} if inner else {})
    if attrs.has(kind):
        return _object(kind, list(attrs.fields(kind)), _MEMBERS.get(kind, {}).get)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"type": "string", "enum": [each.value for each in kind]}
    if kind in _SIMPLE:
        return dict(_SIMPLE[kind])
    raise TypeError(f"no schema for {kind!r}")


def _object(kind: type, fields: list[attrs.Attribute[Any]], narrower: Callable[[str], Schema | None]) -> Schema:
    hints = get_type_hints(kind)
    properties = {
        each.name: _with_default(_narrowed(schema_of(hints[each.name]), narrower(each.name)), each) for each in fields
    }
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [each.name for each in fields if each.default is attrs.NOTHING]
    if required:
        schema["required"] = required
    said = _sentence(kind)
    return schema | ({"description": said} if said else {})


def _placed(kind: type, place: str) -> list[attrs.Attribute[Any]]:
    return [each for each in attrs.fields(kind) if each.metadata["place"] == place]


def _narrowed(schema: Schema, more: Schema | None) -> Schema:
    """In a choice with null, whatever is narrower is so for the other."""
    if more is None:
        return schema
    if "anyOf" in schema:
        null = _SIMPLE[type(None)]
        return {"anyOf": [each if each == null else _narrowed(each, more) for each in schema["anyOf"]]}
    return schema | more


def _with_default(schema: Schema, attribute: attrs.Attribute[Any]) -> Schema:
    if isinstance(attribute.default, bool | int | float | str):
        return schema | {"default": attribute.default}
    return schema


def _given(kind: Any) -> Any:
    """The type of a parameter that is there: null means that it is not."""
    some = [each for each in get_args(kind) if each is not type(None)]
    return some[0] if type(None) in get_args(kind) and len(some) == 1 else kind


def _sentence(kind: type) -> str:
    said = (kind.__doc__ or "").strip().partition("\n\n")[0]
    return "" if said.startswith("Method generated by attrs") else " ".join(said.split())
