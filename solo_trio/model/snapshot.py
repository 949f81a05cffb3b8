"""The state as bytes and back. Owns: the form of a checkpoint's body. Never: files, or a list by hand of what is in the
state.

The form follows from the classes of the state, so it holds only for the reducer that wrote it: whoever keeps these bytes
keeps the reducer's version beside them, and drops them where it differs. The state is frozen: encoding it may take place in a
thread. The same state gives the same bytes in every process: maps are written in the order of their keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, get_args, get_origin

import attrs
import cattrs
import orjson
from rpds import HashTrieMap

from solo_trio.errors import Faulted
from solo_trio.model.state import KernelState

FORMAT: Final = "json/1"

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class _Map(Generic[K, V]):
    """What the annotation of a `HashTrieMap` is read as, because that class itself takes no parameters."""


def encode(state: KernelState) -> bytes:
    """The bytes of `state`: compact JSON with sorted keys, a map as a list of pairs."""
    return orjson.dumps(_converter.unstructure(state, KernelState), option=orjson.OPT_SORT_KEYS)


def decode(body: bytes) -> KernelState:
    """The state of `body`. Raises `Faulted("data_damaged")` for what is not of its form."""
    try:
        return from_document(orjson.loads(body))
    except Exception as error:  # whatever the bytes are, they are not ours to crash on
        raise Faulted("data_damaged", f"the state of a checkpoint cannot be decoded: {error}") from error


def from_document(document: Any, kind: type[T] = KernelState) -> T:  # type: ignore[assignment]
    """What the JSON value that `encode` writes stands for, or a part of it of another kind; raises whatever is raised."""
    return _converter.structure(document, kind)


def to_document(value: Any, kind: Any) -> Any:
    """A part of the state as it is in what `encode` writes."""
    return _converter.unstructure(value, kind)


def _resolve(cls: type[Any], seen: set[type[Any]]) -> None:
    """Turn the annotations of a class of the state, and of all classes in it, into types."""
    seen.add(cls)
    attrs.resolve_types(cls, localns={"HashTrieMap": _Map})
    waiting = [attribute.type for attribute in attrs.fields(cls)]
    while waiting:
        kind: Any = waiting.pop()
        waiting += get_args(kind)
        if isinstance(kind, type) and attrs.has(kind) and kind not in seen:
            _resolve(kind, seen)


def _is_map(kind: Any) -> bool:
    return get_origin(kind) is _Map


def _map_out(kind: Any) -> Callable[[HashTrieMap[Any, Any]], list[tuple[Any, Any]]]:
    key_kind, value_kind = get_args(kind)
    key_out, value_out = _converter.get_unstructure_hook(key_kind), _converter.get_unstructure_hook(value_kind)
    return lambda found: [(key_out(key), value_out(found[key])) for key in sorted(found)]


def _map_in(kind: Any) -> Callable[[Any, Any], HashTrieMap[Any, Any]]:
    key_kind, value_kind = get_args(kind)
    key_in, value_in = _converter.get_structure_hook(key_kind), _converter.get_structure_hook(value_kind)

    def structure(pairs: Any, _: Any) -> HashTrieMap[Any, Any]:
        return HashTrieMap({key_in(key, key_kind): value_in(value, value_kind) for key, value in pairs})

    return structure


_converter: Final = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
_converter.register_structure_hook_func(lambda kind: kind == dict[str, Any], lambda value, _: dict(value))
# A tenant's own JSON, of any shape: it is written as it is, for a walk through its values takes long.
_converter.register_unstructure_hook_func(lambda kind: kind == dict[str, Any], lambda value: value)
_converter.register_unstructure_hook_factory(_is_map, _map_out)
_converter.register_structure_hook_factory(_is_map, _map_in)
_resolve(KernelState, set())
