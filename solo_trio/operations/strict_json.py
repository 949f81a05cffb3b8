"""JSON from outside. Owns: which bytes are acceptable JSON (RFC 8259, and narrower). Never: knows what they mean.

Narrower, because parsers disagree there and disagreement is an attack: no duplicate keys, no lone surrogates, no
integers that need more than 64 bits, no floats that become infinite, no deep nesting, no byte order mark.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn

from solo_trio.errors import Rejected

DEPTH_MAX: Final = 64
"""Levels of arrays and objects; `[]` is one."""
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
_INT_CHARACTERS_MAX: Final = len(str(INT_MIN))
_SHOWN_CHARACTERS_MAX: Final = 40

_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
"""A string (an unclosed one runs to the end, so the scan stays linear) or a bracket."""
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def parse(body: bytes, *, what: str = "body") -> Any:
    """The value of a JSON text. Raises `Rejected("invalid_json")` that says what to do and where in the `what`."""
    if body.startswith(_BYTE_ORDER_MARK):
        raise _rejected(f"send the {what} without a byte order mark")
    try:
        text = body.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise _rejected(f"send the {what} in UTF-8; the byte at offset {error.start} is not") from None
    if not text.strip(" \t\r\n"):
        raise _rejected(f"send a JSON value; the {what} is empty")
    _check_depth(body, what)
    try:
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: _object(pairs, what),
            parse_int=lambda digits: _int(digits, what),
            parse_float=lambda digits: _float(digits, what),
            parse_constant=lambda name: _constant(name, what),
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise _rejected(f"correct the {what} at {place}: {_lower_first(error.msg)}") from None
    if _SURROGATE_ESCAPE.search(body):
        _check_surrogates(value, what)
    return value


def _check_depth(body: bytes, what: str) -> None:
    """Before the parser, which recurses."""
    if body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return
    depth = 0
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise _rejected(
                    f"nest arrays and objects at most {DEPTH_MAX} deep in the {what};"
                    f" the bracket at offset {token.start()} is deeper"
                )
        elif first in b"]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _rejected(f"give each key once; {_shown(key)} is twice in one object of the {what}")
            seen.add(key)
    return made


def _int(digits: str, what: str) -> int:
    if len(digits) <= _INT_CHARACTERS_MAX:
        number = int(digits)
        if INT_MIN <= number <= INT_MAX:
            return number
    raise _rejected(f"use integers of at most 64 bits with sign in the {what}, or text; not {_shown(digits)}")


def _float(digits: str, what: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _rejected(f"use numbers that a 64-bit float can hold in the {what}; not {_shown(digits)}")
    return number


def _constant(name: str, what: str) -> NoReturn:
    raise _rejected(f"use null or text in the {what}; {name} is not JSON")


def _check_surrogates(value: Any, what: str) -> None:
    """Recursion is bounded by `DEPTH_MAX`."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _rejected(f"write surrogates in pairs; {_shown(value)} in the {what} has a lone one") from None
    elif isinstance(value, list):
        for each in value:
            _check_surrogates(each, what)
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_surrogates(key, what)
            _check_surrogates(each, what)


def _shown(text: str) -> str:
    """As ASCII JSON, cut: safe to print, whatever it holds."""
    cut = text[:_SHOWN_CHARACTERS_MAX]
    return json.dumps(cut) + ("..." if cut != text else "")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _rejected(detail: str) -> Rejected:
    return Rejected("invalid_json", detail)
