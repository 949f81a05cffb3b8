"""JSON values. Owns: which Python values may cross the border of a service, and their plain copy. Never: encodes bytes."""

from __future__ import annotations

from typing import Any, Final

VALUE_DEPTH_MAX: Final = 100
"""Levels of nesting; below the encoder's own bound of 254."""
INTEGER_MAX: Final = 2**64 - 1
INTEGER_MIN: Final = -(2**63)
"""The integers that every reader of the wire takes."""
REPR_CHARS_MAX: Final = 1_000


class NotJson(ValueError):
    """The value has no JSON form; the message says where and why."""


def plain(value: Any, what: str = "result") -> Any:
    """Copy `value` as None, bool, int, float, str, list and dict, or raise `NotJson`.

    Tuples become lists and subclasses (an IntEnum, say) their base. NaN, infinities, keys that are no strings, lone
    surrogates and integers beyond 64 bits are refused: JSON could not give back what was put in.
    """
    return _plain(value, what, 0)


def _plain(value: Any, where: str, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise NotJson(f"{where}: an integer beyond 64 bits")
        return int.__int__(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise NotJson(f"{where}: {value!r} is not JSON")
        return float.__float__(value)
    if depth >= VALUE_DEPTH_MAX:
        raise NotJson(f"{where[:REPR_CHARS_MAX]}: nested deeper than {VALUE_DEPTH_MAX} levels")
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {_key(key, where): _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    raise NotJson(f"{where}: {type(value).__name__} is not JSON")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise NotJson(f"{where}: a key of type {type(key).__name__}; JSON objects have string keys")
    return _text(key, where)


def _text(value: str, where: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotJson(f"{where}: a string with a lone surrogate") from None
    return str.__str__(value)


def printable(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a log line, with the bounded `repr` in place of what is not JSON: logging never raises."""
    done: dict[str, Any] = {}
    for key, value in fields.items():
        try:
            done[key] = _plain(value, key, 0)
        except NotJson:
            try:
                text = repr(value)
            except Exception as error:  # noqa: BLE001 - a broken __repr__ must not turn a log line into a crash
                text = f"<repr raised {type(error).__name__}>"
            done[key] = text[:REPR_CHARS_MAX].encode("utf-8", "backslashreplace").decode()
    return done
