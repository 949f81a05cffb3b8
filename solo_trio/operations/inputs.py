"""Inputs. Owns: turning a request's parts into an operation's input, strictly. Never: a meaning beyond types.

Nothing is coerced: "5" is not 5, 1 is not true. Whatever is wrong is named by its field.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_type_hints
from typing import get_origin as _get_origin

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from solo_trio.errors import Rejected
from solo_trio.operations import strict_json

T = TypeVar("T")
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_DEPTH_MAX: Final = strict_json.DEPTH_MAX - 2
"""Of a value in a field: the body and the value itself are levels too."""
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}

_converter: Final = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)


def _strict(kind: type, name: str) -> None:
    def structure(value: Any, _: type) -> Any:
        if type(value) is not kind:
            raise ValueError(f"must be {name}")
        return value

    _converter.register_structure_hook(kind, structure)


_strict(str, "a string")
_strict(bool, "true or false")
_strict(int, "an integer")


@_converter.register_structure_hook
def _float(value: Any, _: type) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("must be a finite number")
    return float(value)


def get_origin(kind: Any) -> Any:
    return _get_origin(kind)


def _object(value: Any, kind: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError("must be an object")
    return {name: _member(f"member '{_shown(name)}'", each, get_args(kind)[1:]) for name, each in value.items()}


def _array(value: Any, kind: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("must be an array")
    return [_member(f"item {number}", each, get_args(kind)) for number, each in enumerate(value)]


def _member(what: str, value: Any, kinds: Any) -> Any:
    if not kinds or kinds[0] is Any:
        return value
    try:
        return _converter.structure(value, kinds[0])
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None


def _literal(value: Any, kind: Any) -> Any:
    allowed = get_args(kind)
    if type(value) is not str or value not in allowed:
        raise ValueError("must be one of " + ", ".join(str(each) for each in allowed))
    return value


def _optional(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    inner = [each for each in get_args(kind) if each is not type(None)]
    return _converter.structure(value, inner[0])


def _record(kind: Any) -> Any:
    structure = make_dict_structure_fn(
        kind, _converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True
    )

    def checked(value: Any, cls: Any) -> Any:
        if type(value) is not dict:
            raise ValueError("must be an object")
        return structure(value, cls)

    return checked


_converter.register_structure_hook_factory(attrs.has, _record)
_converter.register_structure_hook_func(lambda kind: get_origin(kind) is dict, _object)
_converter.register_structure_hook_func(lambda kind: get_origin(kind) is list, _array)
_converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _literal)
_converter.register_structure_hook_func(
    lambda kind: type(None) in get_args(kind) and (get_origin(kind) is Union or type(kind).__name__ == "UnionType"),
    _optional,
)


def structure(kind: type, *, route: dict[str, str], query: dict[str, str], body: Any) -> Any:
    """The input of type `kind`. Raises `Rejected`: invalid_field, unknown_field."""
    places: dict[str, set[str]] = {"path": set(), "query": set(), "body": set()}
    hints = _hints(kind)
    for attribute in attrs.fields(kind):
        places[attribute.metadata["place"]].add(attribute.name)
    if body is None:
        body = {}
    if type(body) is not dict:
        raise Rejected("invalid_field", "the body must be a JSON object")
    if not places["body"] and body:
        raise Rejected("unknown_field", "this request takes no body")
    for name in query:
        if name not in places["query"]:
            raise Rejected(
                "unknown_field", f"the query parameter '{_shown(name)}' is not known here; {_known(places['query'])}"
            )
    values: dict[str, Any] = {name: value for name, value in route.items() if name in places["path"]}
    for name, text in query.items():
        values[name] = _from_text(name, text, hints[name])
    for name, value in body.items():
        if name not in places["body"]:
            raise Rejected("unknown_field", f"the field '{_shown(name)}' is not known here; {_known(places['body'])}")
        values[name] = value
    for attribute in attrs.fields(kind):
        if attribute.name not in values and attribute.default is attrs.NOTHING:
            raise Rejected("invalid_field", f"the field '{attribute.name}' is missing")
    return _structure(kind, values)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Its annotations as types: to read them takes longer than all the rest."""
    return get_type_hints(kind)


def checked(kind: type[T], **values: Any) -> T:
    """The input of type `kind` from values of Python, under the same rules as `structure`; raises the same."""
    for name, value in values.items():
        values[name] = plain_json(name, value)
    result: T = _structure(kind, values)
    return result


def _structure(kind: type, values: dict[str, Any]) -> Any:
    try:
        return _converter.structure(values, kind)
    except cattrs.ClassValidationError as error:
        raise _first_problem(error) from None


def plain_json(name: str, value: Any, depth: int = 0) -> Any:
    """`value` as JSON would bring it: tuples are lists, mappings objects. Raises `Rejected("invalid_field")` for anything
    that `strict_json` would not have let through."""
    if depth > _DEPTH_MAX and isinstance(value, list | tuple | Mapping):
        raise Rejected("invalid_field", f"{name} must be nested less deep: {_DEPTH_MAX} levels below it")
    if value is None or type(value) is bool:
        return value
    if isinstance(value, str):
        return _plain_text(name, value)
    if type(value) is int and strict_json.INT_MIN <= value <= strict_json.INT_MAX:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [plain_json(name, each, depth + 1) for each in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise Rejected("invalid_field", f"{name} must be JSON: the names in an object are strings")
        return {_plain_text(name, key): plain_json(name, each, depth + 1) for key, each in value.items()}
    if type(value) in (int, float):
        raise Rejected("invalid_field", f"{name} must be JSON: numbers are finite, integers have at most 64 bits")
    raise Rejected("invalid_field", f"{name} must be JSON: a value of type {type(value).__name__[:60]} is not")


def _plain_text(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Rejected("invalid_field", f"{name} must be text without lone surrogates") from None
    return str.__str__(text)  # of a subclass too: what it holds


def _from_text(name: str, text: str, kind: Any) -> Any:
    kinds = get_args(kind) or (kind,)
    if bool in kinds:
        if text not in _BOOLEANS:
            raise Rejected("invalid_field", f"{name} must be true or false")
        return _BOOLEANS[text]
    if int in kinds:
        if _INTEGER.fullmatch(text) is None:
            raise Rejected("invalid_field", f"{name} must be an integer")
        number = int(text)
        if not strict_json.INT_MIN <= number <= strict_json.INT_MAX:
            raise Rejected("invalid_field", f"{name} must be an integer of at most 64 bits with sign")
        return number
    return text


def _first_problem(error: BaseExceptionGroup[Any], where: str = "") -> Rejected:
    """The first thing that is wrong, with the path to its field."""
    problem = error.exceptions[0]
    for note in getattr(problem, "__notes__", ()):
        if type(note).__name__ == "AttributeValidationNote":
            where = f"{where}.{note.name}" if where else note.name
            break
    if isinstance(problem, ForbiddenExtraKeysError):
        names = ", ".join(sorted(_shown(name) for name in problem.extra_fields))
        return Rejected("unknown_field", f"not known{f' in {where}' if where else ''}: {names}")
    if isinstance(problem, BaseExceptionGroup):
        return _first_problem(problem, where)
    if isinstance(problem, KeyError):
        return Rejected("invalid_field", f"the field '{where or problem.args[0]}' is missing")
    return Rejected("invalid_field", f"{where or 'the body'} {problem}")


def _known(names: set[str]) -> str:
    return "known are " + ", ".join(sorted(names)) if names else "none is"


def _shown(name: str) -> str:
    return ascii(name[:60])[1:-1]
