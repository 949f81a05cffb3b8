"""Taking secrets out of texts. Owns: the forms that a value is looked for in, texts that come in parts. Never: keeps a text.

What a service was given can turn up in what it says: in a log line, a traceback, the message of an error. Each value is looked
for as it is, as JSON and `repr` and URLs write it, in hex, and in base64 wherever it begins in what was encoded. That is help
against accidents. A service that wants to give a value away can: it has it.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
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
TOO_DEEP: Final = "[left out: too deep]"
TEXT_CHARACTERS_MAX: Final = 65_536
"""No text is kept that is longer."""
MISSES_MAX: Final = 1_000
"""Places in one text, or one part of a stream, where a value may begin and none does: as many are nobody's accident."""
WITHHELD: Final = b"[left out: too much of it begins like a secret]"
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Redactor:
    """The values of one life of a service."""

    __slots__ = ("_begins", "_ends", "_given")

    def __init__(self) -> None:
        self._given: dict[bytes, bytes] = {}
        """What is looked for, and what stands there instead; in the order of giving."""
        self._begins = self._ends = _Beginnings(())

    def __bool__(self) -> bool:
        return bool(self._given)

    def add(self, name: str, value: bytes) -> None:
        """From now on, `value` is shown as `[secret NAME]`."""
        mark = f"[secret {name}]".encode()
        forms = dict.fromkeys(forms_of(value), mark)
        if forms.keys() <= self._given.keys():
            return
        self._given = dict(list((self._given | forms).items())[-FORMS_MAX:])
        self._begins = _Beginnings(self._given)
        self._ends = _Beginnings(form[::-1] for form in self._given)

    def text(self, text: str) -> str:
        """`text` without the values, also where one is cut off at its beginning or end; no more than is kept of any."""
        if not self._given:
            return text
        text = text[:TEXT_CHARACTERS_MAX]
        before = text.encode("utf-8", "surrogatepass")
        after = self.replaced(before)
        if len(text) >= CUT_CHARACTERS_MIN:
            after = self._without_edges(after)
        return text if after == before else after.decode("utf-8", "replace")

    def json(self, value: Any, depth: int = 0) -> Any:
        """A JSON value with every text in it, and every name, as `text` has it."""
        if not self._given:
            return value
        if isinstance(value, str):
            return self.text(value)
        if depth >= DEPTH_MAX:
            return TOO_DEEP
        if isinstance(value, dict):
            return {self.text(str(key)): self.json(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.json(each, depth + 1) for each in value]
        return value

    def replaced(self, data: bytes) -> bytes:
        return self.taken(data, 0)[0]

    def taken(self, data: bytes, held: int) -> tuple[bytes, bytes]:
        """`data` without the values that begin before its last `held` bytes, and what is left behind that."""
        begins, cut = self._begins, len(data) - held
        shown, done, misses = [], 0, 0
        for at in begins.places(data):
            if at >= max(done, cut):
                break
            form = begins.found(data, at)
            if (
                form is not None and at + len(form) > done
            ):  # one that begins within another and goes on is taken as well
                shown += [data[done:at], self._given[form]]
                done = at + len(form)
                continue
            misses += 1
            if misses > MISSES_MAX:
                shown += [data[done:at], WITHHELD]
                done = max(done, cut)
                break
        return b"".join([*shown, data[done:cut]]), data[max(done, cut) :]

    def held_back(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of a value."""
        return self._begins.last(data, 1)[0]

    def _without_edges(self, data: bytes) -> bytes:
        size, form = self._begins.last(data, EDGE_BYTES_MIN)
        if form is not None:
            data = data[:-size] + self._given[form]
        size, form = self._ends.last(data[: self._ends.longest][::-1], EDGE_BYTES_MIN)
        if form is not None:
            data = self._given[form[::-1]] + data[size:]
        return data


class _Beginnings:
    """Where forms begin in bytes. In order, those that begin like something stand together: none is asked by itself."""

    __slots__ = ("_anchors", "_chains", "_forms", "longest")

    def __init__(self, forms: Iterable[bytes]) -> None:
        self._forms = sorted(forms)
        self._anchors = {form[:CHARACTERS_MIN] for form in self._forms}
        self._chains: list[tuple[bytes, ...]] = []
        """Of each form: those that it begins with, shorter ones first, itself last."""
        self.longest = max(map(len, self._forms), default=0)
        chain: list[bytes] = []
        for form in self._forms:
            while chain and not form.startswith(chain[-1]):
                chain.pop()
            chain.append(form)
            self._chains.append(tuple(chain))

    def places(self, data: bytes) -> list[int]:
        """Where one may begin."""
        anchors = self._anchors
        return [at for at in range(len(data) - CHARACTERS_MIN + 1) if data[at : at + CHARACTERS_MIN] in anchors]

    def found(self, data: bytes, at: int) -> bytes | None:
        """The longest that stands there."""
        here = data[at : at + self.longest]
        index = bisect_right(self._forms, here) - 1  # whatever `here` begins with, this one begins with too
        if index < 0:
            return None
        chain = self._chains[index]
        count = bisect_left(chain, True, key=lambda form: not here.startswith(form))
        return chain[count - 1] if count else None

    def last(self, data: bytes, least: int) -> tuple[int, bytes | None]:
        """The longest end of `data`, of `least` bytes or more, that one begins with, but not all of it; and which one."""
        for size in range(min(self.longest - 1, len(data)), least - 1, -1):
            end = data[len(data) - size :]
            if size >= CHARACTERS_MIN and end[:CHARACTERS_MIN] not in self._anchors:
                continue
            index = bisect_right(self._forms, end)  # of those that begin with `end` and go on, the first
            if index < len(self._forms) and self._forms[index].startswith(end):
                return size, self._forms[index]
        return 0, None


class RedactedStream:
    """Bytes that come in parts: a value that lies across two of them is found too."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What can be told of all that came so far, and was not yet."""
        if not self._redactor and not self._rest:
            return data
        data = self._rest + data
        shown, self._rest = self._redactor.taken(data, self._redactor.held_back(data))
        return shown

    def finish(self) -> bytes:
        rest, self._rest = self._rest, b""
        return self._redactor.replaced(rest)


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
