"""Ids. Owns: what an id may look like. Never: turns one into a path."""

from __future__ import annotations

import re
from typing import Any, Final

from solo_trio.errors import Rejected

ID_PATTERN: Final = "[a-z0-9][a-z0-9_-]{0,62}"
"""Of the whole id; in a form that regular expressions of every kind read the same way."""
FUNCTION_PATTERN: Final = "[A-Za-z_][A-Za-z0-9_]{0,127}"
SECRET_NAME_PATTERN: Final = "[A-Za-z0-9_.-]{1,128}"
_SECRET_NAME: Final = re.compile(SECRET_NAME_PATTERN, re.ASCII)
_ID: Final = re.compile(ID_PATTERN, re.ASCII)
_FUNCTION: Final = re.compile(FUNCTION_PATTERN, re.ASCII)


def check_id(what: str, value: Any) -> str:
    """Return `value` if it is an acceptable tenant or service id, else raise `Rejected("invalid_id")`."""
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise Rejected(
            "invalid_id",
            f"{what} must be 1 to 63 characters of a-z, 0-9, '_' and '-', beginning with a letter or digit",
        )
    return value


def check_function(value: Any) -> str:
    """Return `value` if it can be the name of an exported function, else raise `Rejected("invalid_id")`."""
    if not isinstance(value, str) or _FUNCTION.fullmatch(value) is None:
        raise Rejected("invalid_id", "a function's name must be an ASCII Python identifier of at most 128 characters")
    return value


def check_secret_name(value: Any) -> str:
    """Return `value` if it can be the name of a secret, else raise `Rejected("invalid_id")`."""
    if not isinstance(value, str) or _SECRET_NAME.fullmatch(value) is None:
        raise Rejected("invalid_id", "a secret's name must be 1 to 128 characters of A-Z, a-z, 0-9, '_', '.' and '-'")
    return value
