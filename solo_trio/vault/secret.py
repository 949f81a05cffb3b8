"""Bytes that must not show. Owns: the one type that carries them. Never: prints, copies, pickles or serialises them."""

from __future__ import annotations

import hmac
from typing import Any, ClassVar, Final, NoReturn, final

SHOWN: Final = "Secret(...)"


@final
class Secret:
    """Immutable bytes, shown only by `reveal`. Equality takes constant time; not hashable, so never a key of a map.

    repr, str and format give `SHOWN` whatever they are asked for. JSON encoders refuse it like any unknown object,
    pickling and copying are refused here, and it has no `__dict__` for a generic encoder to walk.
    """

    __slots__ = ("_value",)
    __hash__: ClassVar[None]  # type: ignore[assignment]

    _value: bytes

    def __init__(self, value: bytes | str) -> None:
        object.__setattr__(self, "_value", value.encode() if isinstance(value, str) else bytes(value))

    def reveal(self) -> bytes:
        """The bytes. Grep for the callers: there should be few."""
        return self._value

    def reveal_text(self) -> str:
        return self._value.decode()

    def __repr__(self) -> str:
        return SHOWN

    def __format__(self, spec: str) -> str:
        return SHOWN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")
