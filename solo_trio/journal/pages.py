"""Pages of a SQLite file without SQLite. Owns: which pages there are, the rows in their leaves. Never: writes, believes a
row.

A damaged file is read as it lies: each page by itself, so that one that is lost takes no other with it, and nothing in the
directory is touched. What is found is believed only by what it proves itself (the chain, a digest, a seal): a stale copy
of a row is one candidate more. Format: sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from attrs import frozen

from solo_trio.journal.reserve import PAGE_BYTES

Cell = int | float | str | bytes | None

_FILE_HEADER_BYTES: Final = 100
_LEAF_HEADER_BYTES: Final = 8
_LOCAL_MAX: Final = PAGE_BYTES - 35
_LOCAL_MIN: Final = (PAGE_BYTES - 12) * 32 // 255 - 23
_OVERFLOW_BYTES: Final = PAGE_BYTES - 4
ROW_BYTES_MAX: Final = 256 * 1_048_576
"""A cell that says it is longer is damaged: a checkpoint of the largest state is far below."""
_INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Serial type -> bytes."""


class Bytes(Protocol):
    """A file as it lies: bytes, or what is mapped."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: slice, /) -> bytes: ...


@frozen
class Row:
    """Where a row lies: in which page version, where in it; and its rowid."""

    page: int
    offset: int
    rowid: int


class Pages:
    """Every version of every page: those of the database, then those of its log, oldest first."""

    def __init__(self, database: Bytes, logged: Sequence[tuple[int, memoryview]], committed: int) -> None:
        self._database = database
        self._count = len(database) // PAGE_BYTES
        self._logged = [(number, bytes(page).ljust(PAGE_BYTES, b"\0")[:PAGE_BYTES]) for number, page in logged]
        self._newest = {number: index for index, (number, _) in enumerate(self._logged)}
        self.committed = self._count + committed
        """Versions from this one on belong to no transaction that is known to have been committed."""

    def rows(self) -> Iterator[Row]:
        """All that leaves say they hold, the newest version of a page last."""
        for index in range(self._count + len(self._logged)):
            number, page = self._version(index)
            start = _FILE_HEADER_BYTES if number == 1 else 0
            if not page[start]:  # any other may be a leaf whose type is what was damaged
                continue
            (count,) = struct.unpack_from(">H", page, start + 3)
            pointers = start + _LEAF_HEADER_BYTES
            if pointers + 2 * count > PAGE_BYTES:
                count = (PAGE_BYTES - pointers) // 2
            for offset in struct.unpack_from(f">{count}H", page, pointers):
                found = _head(page, offset)
                if found is not None:
                    yield Row(index, offset, found[1])

    def shape(self, row: Row) -> tuple[int, ...] | None:
        """The serial types of its columns, if they can be read where it lies."""
        _, page = self._version(row.page)
        found = _head(page, row.offset)
        return None if found is None else _types(page[found[2] : found[2] + min(found[0], _LOCAL_MAX)])

    def contents(self, row: Row) -> Iterator[tuple[Cell, ...]]:
        """What the row may be: its overflowing part is looked for in the newest version of its pages, then in the
        database."""
        _, page = self._version(row.page)
        found = _head(page, row.offset)
        if found is None:
            return
        size, _, start = found
        local = _local(size)
        if local == size:
            payloads = [page[start : start + size]]
        else:
            (first,) = struct.unpack_from(">I", page[start + local : start + local + 4].ljust(4, b"\0"))
            kept = page[start : start + local]
            rests = [self._overflow(first, size - local, newest=newest) for newest in (True, False)]
            payloads = list(dict.fromkeys(kept + rest for rest in rests if rest is not None))
        for payload in payloads:
            values = _values(payload) if len(payload) == size else None
            if values is not None:
                yield values

    def _version(self, index: int) -> tuple[int, bytes]:
        if index < self._count:
            return index + 1, self._database[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
        return self._logged[index - self._count]

    def _overflow(self, number: int, size: int, *, newest: bool) -> bytes | None:
        parts = []
        for _ in range(-(-size // _OVERFLOW_BYTES)):
            if newest and number in self._newest:
                page = self._logged[self._newest[number]][1]
            elif 0 < number <= self._count:
                page = self._version(number - 1)[1]
            else:
                return None
            parts.append(page[4:])
            (number,) = struct.unpack_from(">I", page)
        return b"".join(parts)[:size]


def _head(page: bytes, offset: int) -> tuple[int, int, int] | None:
    """The size of a cell's payload, its rowid, and where the payload begins."""
    if offset < _LEAF_HEADER_BYTES or offset >= PAGE_BYTES - 2:
        return None
    size, at = _varint(page, offset)
    rowid, at = _varint(page, at)
    if not 0 < size <= ROW_BYTES_MAX or at >= PAGE_BYTES:
        return None
    return size, rowid - (1 << 64) if rowid >> 63 else rowid, at


def _local(size: int) -> int:
    """How many bytes of a payload lie in the leaf itself."""
    if size <= _LOCAL_MAX:
        return size
    local = _LOCAL_MIN + (size - _LOCAL_MIN) % _OVERFLOW_BYTES
    return local if local <= _LOCAL_MAX else _LOCAL_MIN


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index] if at + index < len(data) else 0
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | (data[at + 8] if at + 8 < len(data) else 0), at + 9


def _types(payload: bytes) -> tuple[int, ...] | None:
    size, at = _varint(payload, 0)
    if not at <= size <= len(payload):
        return None
    types = []
    while at < size:
        type_, at = _varint(payload, at)
        types.append(type_)
    return tuple(types) if at == size else None


def _values(payload: bytes) -> tuple[Cell, ...] | None:
    """The columns of a record; None if it is none."""
    types = _types(payload)
    if types is None:
        return None
    at, _ = _varint(payload, 0)
    found: list[Cell] = []
    for type_ in types:
        if type_ in (10, 11):
            return None
        size = _INTEGERS.get(type_, 8 if type_ == 7 else 0) if type_ < 12 else (type_ - 12) // 2
        content = payload[at : at + size]
        at += size
        if len(content) != size:
            return None
        if type_ == 0:
            found.append(None)
        elif type_ in _INTEGERS:
            found.append(int.from_bytes(content, "big", signed=True))
        elif type_ == 7:
            found.append(struct.unpack(">d", content)[0])
        elif type_ in (8, 9):
            found.append(type_ - 8)
        elif type_ % 2 == 0:
            found.append(content)
        else:
            try:
                found.append(content.decode())
            except UnicodeDecodeError:
                return None
    return tuple(found) if at == len(payload) else None
