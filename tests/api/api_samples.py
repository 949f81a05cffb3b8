"""Requests for any operation, made of its schema: a new one has them by being in the table."""

from __future__ import annotations

import re
from typing import Any

from solo_trio.operations.perform import OPERATIONS
from solo_trio.operations.schemas import body_schema
from solo_trio.operations.table import Operation

KNOWN = {"service_id": "calc", "function": "add", "tenant_id": "t1"}
"""What the parts of a path are called, and what is there by that name."""
TEXTS = ["fresh", "x = 1", "1", "a-1", "aaaaaaaa", "1.0", "service:calc"]
"""One of them fits, whatever a text must look like; if none does, give `sample` another."""


def sample(schema: dict[str, Any]) -> Any:
    """The least that the schema accepts."""
    if "anyOf" in schema:
        return sample(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: sample(schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return []
        case "integer" | "number":
            return max(schema.get("minimum", 0), 1)
        case "boolean":
            return True
        case "string":
            return next(text for text in TEXTS if re.search(schema.get("pattern", ""), text))
    return None


def path_of(operation: Operation, **known: str) -> str:
    path = operation.path
    for name in re.findall(r"\{(\w+)\}", path):
        path = path.replace("{" + name + "}", (KNOWN | known).get(name, "1"))
    return path


def required_bodies() -> dict[str, Any]:
    """The least body of each operation that takes one."""
    schemas = {name: body_schema(each) for name, each in OPERATIONS.items()}
    return {name: sample(schema) for name, schema in schemas.items() if schema is not None}
