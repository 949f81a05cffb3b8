"""Events to bytes and back. Owns: the stored form, its versions. Never: files.

A stored payload is JSON of the event's fields. Reading an old schema runs its upcasters first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cattrs
import orjson
from cattrs.gen import make_dict_structure_fn

from solo_trio.errors import Faulted
from solo_trio.model import catalogue  # noqa: F401  (fills KINDS)
from solo_trio.model.event import KINDS, UPCASTERS, Event, Record
from solo_trio.model.instant import rfc3339 as rfc3339
from solo_trio.model.record import StoredEvent

_converter: Final = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
_converter.register_structure_hook_func(lambda kind: kind == dict[str, Any], lambda value, _: dict(value))
# A tenant's own JSON, of any shape: it is written as it is, for a walk through its values takes long.
_converter.register_unstructure_hook_func(lambda kind: kind == dict[str, Any], lambda value: value)
_hooks: Final[dict[type[Event], Callable[[Any, Any], Any]]] = {}
"""What decodes each kind, found once: a long log is decoded event by event."""


def encode(event: Event) -> bytes:
    """The stored payload: compact JSON with sorted keys. Raises TypeError on what JSON cannot hold."""
    return orjson.dumps(_converter.unstructure(event), option=orjson.OPT_SORT_KEYS)


def decode(type_: str, schema: int, payload: bytes) -> Event:
    """The event of a stored payload. Raises `Faulted`: data_newer (not ours yet), data_damaged (not decodable)."""
    cls = KINDS.get(type_)
    if cls is None or schema > cls.SCHEMA:
        raise Faulted("data_newer", f"event type {type_} version {schema} is not known; use the version that wrote it")
    try:
        fields: dict[str, Any] = orjson.loads(payload)
        for version in range(schema, cls.SCHEMA):
            fields = UPCASTERS[type_, version](fields)
        hook = _hooks.get(cls)
        if hook is None:
            hook = _hooks[cls] = make_dict_structure_fn(cls, _converter)
        event: Event = hook(fields, cls)
    except Exception as error:  # whatever the payload is, it is not ours to crash on
        raise Faulted("data_damaged", f"an event of type {type_} cannot be decoded: {error}") from error
    return event


def to_record(stored: StoredEvent) -> Record:
    if stored.payload is None:
        return Record(stored)
    return Record(stored, decode(stored.type, stored.schema, stored.payload))


def public(stored: StoredEvent) -> dict[str, Any]:
    """The event as gateways show it (`contract.md`)."""
    return {
        "id": stored.id,
        "at": rfc3339(stored.at_us),
        "type": stored.type,
        "tenant_id": stored.tenant_id,
        "subject": stored.subject,
        "payload": None if stored.payload is None else orjson.loads(stored.payload),
        "causation_id": stored.causation_id,
        "correlation_id": stored.correlation_id,
    }
