"""Taking secrets out of texts. Owns: the forms that a value is looked for in, texts that come in parts. Never: keeps a text.

What a service was given can turn up in what it says: in a log line, a traceback, the message of an error. Each value is looked
for as it is, as JSON and `repr` and URLs write it, in hex, and in base64 wherever it begins in what was encoded. That is help
against accidents. A service that wants to give a value away can: it has it.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

CHARACTERS_MIN: Final = 6
"""Shorter values are left alone: they would be found everywhere."""
BLOCK_BYTES: Final = 1_024
"""A longer value is looked for in blocks of this size."""
ENCODED_BYTES_MAX: Final = 4_096
"""A longer value is looked for only as it is, line by line and block by block."""
FORMS_MAX: Final = 512
"""Looked for at the same time; beyond it those of the values that were given first are not."""
EDGE_BYTES_MIN: Final = 8
"""Of a value at the very beginning or end of a text: so much of it is taken for it, because texts are cut to a length."""
CUT_CHARACTERS_MIN: Final = 200
"""A text shorter than this was not cut."""
DEPTH_MAX: Final = 100
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Redactor:
    """The values of one life of a service."""

    __slots__ = ("_forms", "_given")

    def __init__(self) -> None:
        self._given: dict[bytes, bytes] = {}
        self._forms: dict[bytes, bytes] = {}
        """What is looked for, and what stands there instead; longer ones first, those of `_given` in the order of giving."""

    def __bool__(self) -> bool:
        return bool(self._forms)

    def add(self, name: str, value: bytes) -> None:
        """From now on, `value` is shown as `[secret NAME]`."""
        mark = f"[secret {name}]".encode()
        forms = dict.fromkeys(forms_of(value), mark)
        if forms.keys() <= self._given.keys():
            return
        self._given = dict(list((self._given | forms).items())[-FORMS_MAX:])
        self._forms = dict(sorted(self._given.items(), key=lambda each: -len(each[0])))

    def text(self, text: str) -> str:
        """`text` without the values, also where one is cut off at its beginning or end."""
        if not self._forms:
            return text
        before = text.encode("utf-8", "surrogatepass")
        after = self.replaced(before)
        if len(text) >= CUT_CHARACTERS_MIN:
            after = self._without_edges(after)
        return text if after == before else after.decode("utf-8", "replace")

    def json(self, value: Any, depth: int = 0) -> Any:
        """A JSON value with every text in it, and every name, as `text` has it."""
        if not self._forms:
            return value
        if isinstance(value, str):
            return self.text(value)
        if depth >= DEPTH_MAX:
            return value
        if isinstance(value, dict):
            return {self.text(str(key)): self.json(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.json(each, depth + 1) for each in value]
        return value

    def replaced(self, data: bytes) -> bytes:
        for form, mark in self._forms.items():
            if form in data:
                data = data.replace(form, mark)
        return data

    def held_back(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of a value."""
        most = 0
        for form in self._forms:
            tail = data[-(len(form) - 1) :]
            at = tail.find(form[0])
            while at >= 0 and len(tail) - at > most:
                if form.startswith(tail[at:]):
                    most = len(tail) - at
                at = tail.find(form[0], at + 1)
        return most

    def _without_edges(self, data: bytes) -> bytes:
        for form, mark in self._forms.items():
            for size in range(min(len(form) - 1, len(data)), EDGE_BYTES_MIN - 1, -1):
                if data.endswith(form[:size]):
                    data = data[:-size] + mark
                    break
            for size in range(min(len(form) - 1, len(data)), EDGE_BYTES_MIN - 1, -1):
                if data.startswith(form[-size:]):
                    data = mark + data[size:]
                    break
        return data


class RedactedStream:
    """Bytes that come in parts: a value that lies across two of them is found too."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What can be told of all that came so far, and was not yet."""
        if not self._redactor and not self._rest:
            return data
        data = self._redactor.replaced(self._rest + data)
        held = self._redactor.held_back(data)
        self._rest = data[len(data) - held :]
        return data[: len(data) - held]

    def finish(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest


def forms_of(value: bytes) -> list[bytes]:
    """What `value` may look like; nothing for one that is too short."""
    found = [_blocks(each) for each in (value, *(value.splitlines() if b"\n" in value else ()))]
    forms = [form for each in found for form in each]
    if len(value) <= ENCODED_BYTES_MAX:
        forms += _encoded(value)
    return list(dict.fromkeys(form for form in forms if len(form) >= CHARACTERS_MIN))


def _blocks(value: bytes) -> list[bytes]:
    value = value.strip()
    if len(value) <= BLOCK_BYTES:
        return [value]
    blocks = [value[at : at + BLOCK_BYTES] for at in range(0, len(value), BLOCK_BYTES)]
    if len(blocks[-1]) < EDGE_BYTES_MIN:
        blocks[-2] += blocks.pop()
    return blocks


def _encoded(value: bytes) -> list[bytes]:
    if len(value) < CHARACTERS_MIN:
        return []
    found = [repr(value)[2:-1].encode(), value.hex().encode(), _url(value, b"%20"), _url(value, b"+")]
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text:
        found += [repr(text)[1:-1].encode("utf-8", "backslashreplace"), json.dumps(text)[1:-1].encode()]
        found.append(json.dumps(text, ensure_ascii=False)[1:-1].encode())
    for before in range(3):
        # What stands before it in what is encoded decides how it looks; its first and last characters mix with others.
        coded = base64.b64encode(bytes(before) + value).rstrip(b"=")
        first = (before * 8 + 5) // 6
        last = len(coded) - (1 if (before + len(value)) % 3 else 0)
        found += [coded[first:last], coded[first:last].translate(bytes.maketrans(b"+/", b"-_"))]
    return [form for each in found for form in _blocks(each)]


def _url(value: bytes, space: bytes) -> bytes:
    out = bytearray()
    for byte in value:
        out += bytes([byte]) if byte in _UNRESERVED else space if byte == 32 else b"%%%02X" % byte
    return bytes(out)
