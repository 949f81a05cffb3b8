"""Inputs. Owns: turning a request's parts into an operation's input, strictly. Never: a meaning beyond types.

Nothing is coerced: "5" is not 5, 1 is not true. Whatever is wrong is named by its field.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, Literal, Union, get_args, get_type_hints
from typing import get_origin as _get_origin

import attrs
import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from solo_trio.errors import Rejected

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
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


def _object(value: Any, _: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError("must be an object")
    return dict(value)


def _array(value: Any, _: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("must be an array")
    return list(value)


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
    hints = get_type_hints(kind)
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
    try:
        return _converter.structure(values, kind)
    except cattrs.ClassValidationError as error:
        raise _first_problem(error) from None


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
        if not _INT_MIN <= number <= _INT_MAX:
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
    return name[:60].encode("ascii", "backslashreplace").decode()
