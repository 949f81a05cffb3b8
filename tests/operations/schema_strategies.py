"""Values that a JSON Schema accepts, as far as the schemas of inputs go, and what decides whether it does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.protocols import Validator

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    """As ECMA 262 means it: Python's `$` is also before a line feed at the end."""
    if isinstance(value, str) and re.search(ecma(pattern), value) is None:
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def ecma(pattern: str) -> str:
    return pattern.removesuffix("$") + r"\Z" if pattern.endswith("$") else pattern


Draft = validators.extend(Draft202012Validator, {"pattern": _pattern})


def validator(schema: dict[str, Any]) -> Validator:
    """That knows a whole float for a number, as the requests' strict reader does."""
    Draft202012Validator.check_schema(schema)
    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict: Validator = validators.extend(Draft, type_checker=checker)(schema)
    return strict


def accepted(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Raises NotImplementedError for a schema that it does not understand: nothing is left untried by oversight."""
    known = set(schema) - {"description", "default", "not", "writeOnly"}
    if not known:
        return ANY
    made = _accepted(schema, known)
    return made.filter(validator({"not": schema["not"]}).is_valid) if "not" in schema else made


def _accepted(schema: dict[str, Any], known: set[str]) -> st.SearchStrategy[Any]:
    if known == {"anyOf"}:
        return st.one_of([accepted(each) for each in schema["anyOf"]])
    if "enum" in known:
        assert known <= {"type", "enum"}
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            assert known <= {"type", "minimum", "maximum"}
            return st.integers(int(schema["minimum"]), int(schema["maximum"]))
        case "number":
            assert known <= {"type", "minimum", "maximum", "exclusiveMinimum"}
            low = schema.get("minimum", schema.get("exclusiveMinimum"))
            floats = st.floats(
                low,
                schema.get("maximum"),
                exclude_min="exclusiveMinimum" in known,
                allow_nan=False,
                allow_infinity=False,
            )
            whole = st.integers(int(low) + 1, int(schema["maximum"])) if {"maximum"} <= known else st.integers(0, 9)
            return floats | whole
        case "string":
            assert known <= {"type", "pattern", "minLength", "maxLength"}
            if "pattern" in known:
                made = st.from_regex(ecma(schema["pattern"])).map(lambda text: text[: schema.get("maxLength")])
                return made.filter(lambda text: len(text) >= schema.get("minLength", 0))
            return TEXT.filter(lambda text: len(text) >= schema.get("minLength", 0))
        case "array":
            assert known <= {"type", "items", "minItems", "maxItems", "uniqueItems"}
            items = accepted(schema.get("items", {}))
            least, most = schema.get("minItems", 0), min(3, schema.get("maxItems", 3))
            return st.lists(items, min_size=least, max_size=most, unique="uniqueItems" in known)
        case "object" if "properties" in known:
            assert known <= {"type", "properties", "required", "additionalProperties"}
            assert schema["additionalProperties"] is False
            each = {name: accepted(inner) for name, inner in schema["properties"].items()}
            required = {name: each.pop(name) for name in schema.get("required", ())}
            return st.fixed_dictionaries(required, optional=each)
        case "object":
            assert known <= {"type", "additionalProperties"}
            return st.dictionaries(TEXT, accepted(schema.get("additionalProperties", {})), max_size=3)
    raise NotImplementedError(schema)


def near(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """An accepted value in which something was changed, most often into what is refused."""
    if schema.get("type") != "object" or "properties" not in schema:
        return ANY | accepted(schema)
    each = {name: near(inner) for name, inner in schema["properties"].items()}
    changed = st.fixed_dictionaries({}, optional=each)
    surplus = st.dictionaries(TEXT, ANY, max_size=1)
    return st.builds(lambda whole, change, more: more | whole | change, accepted(schema), changed, surplus) | ANY
