"""Segments of the log outside the database. Owns: their form, writing and reading one. Never: decides what goes in.

A segment is `archive/FIRST-LAST.N.jsonl.gz`: a line that says what it is, then a line for each event, columns in the order of
`chain.COLUMNS`. Its file is never changed: what is erased from it makes another one, with the next N. Which file counts, and
the digest that it must have, is in the database (`pruning`); so a file that nobody names is no part of the log.

A segment is forced out, and the name of it too, before the database names it: `test_archive_kill.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson
from attrs import frozen

from solo_trio.journal.chain import COLUMNS
from solo_trio.journal.library import damaged
from solo_trio.journal.lock import sync_directory

ARCHIVE_DIRECTORY: Final = "archive"
FORMAT: Final = "solo/segment/1"
SEGMENT_EVENTS_MAX: Final = 10_000
"""In one segment: some tenths of a second to write, and to read when one of its events is needed again."""
SEGMENT_BYTES_MAX: Final = 32 * 1_048_576
"""Of payloads; a segment has at least one event."""
COMPRESSION_LEVEL: Final = 6
_TEMPORARY: Final = ".tmp"
_UNPACKED_BYTES: Final = 512
_NAME: Final = re.compile(r"(\d{20})-(\d{20})\.(\d{1,9})\.jsonl\.gz", re.ASCII)
_BYTES: Final = frozenset(COLUMNS.index(name) for name in ("salt", "payload_digest", "chain"))
_PAYLOAD: Final = COLUMNS.index("payload")

Row = tuple[Any, ...]


@frozen
class Segment:
    """What the database says of one: the events `first_id` to `last_id`, which follow `previous` and end at `chain`."""

    first_id: int
    last_id: int
    previous: bytes
    chain: bytes
    file: str
    digest: bytes
    size_bytes: int


def name_of(first_id: int, last_id: int, number: int) -> str:
    return f"{first_id:020}-{last_id:020}.{number}.jsonl.gz"


def next_name(file: str) -> str:
    """The name for what takes the place of a segment."""
    found = _NAME.fullmatch(file)
    if found is None:
        raise damaged(f"a segment of the archive has the name {file!r}")
    return name_of(int(found[1]), int(found[2]), int(found[3]) + 1)


def encode(first_id: int, rows: Iterable[Row]) -> bytes:
    """The same rows give the same bytes."""
    lines = [orjson.dumps({"format": FORMAT, "first_id": first_id, "columns": COLUMNS})]
    lines += [orjson.dumps([_out(place, cell) for place, cell in enumerate(row)]) for row in rows]
    return gzip.compress(b"\n".join(lines) + b"\n", COMPRESSION_LEVEL, mtime=0)


def _out(place: int, cell: Any) -> Any:
    if not isinstance(cell, bytes):
        return cell
    if place in _BYTES:
        return cell.hex()
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return {"hex": cell.hex()}


def decode(data: bytes) -> list[Row]:
    """Raises ValueError for what `encode` did not make."""
    try:
        head, *lines = gzip.decompress(data).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it cannot be unpacked ({error})") from error
    if orjson.loads(head).get("format") != FORMAT:
        raise ValueError("its form is not known")
    return [_row(orjson.loads(line)) for line in lines]


def readable(data: bytes) -> list[Row]:
    """The rows that can still be had of a file that may be damaged; what they are worth the chain says."""
    unpacking, text = zlib.decompressobj(wbits=31), b""
    for at in range(0, len(data), _UNPACKED_BYTES):  # in pieces, so that what is before the damage is had
        try:
            text += unpacking.decompress(data[at : at + _UNPACKED_BYTES])
        except zlib.error:
            break
    found = []
    for line in text.splitlines()[1:]:
        with suppress(ValueError, TypeError, AttributeError, IndexError):
            found.append(_row(orjson.loads(line)))
    return found


def named(path: Path) -> tuple[int, int, int, Path] | None:
    """The first and last event of a segment, which one for them it is, by its name; and the name."""
    found = _NAME.fullmatch(path.name)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]), path)


def _row(cells: list[Any]) -> Row:
    for place in _BYTES:
        if cells[place] is not None:
            cells[place] = bytes.fromhex(cells[place])
    payload = cells[_PAYLOAD]
    if payload is not None:
        cells[_PAYLOAD] = bytes.fromhex(payload["hex"]) if isinstance(payload, dict) else payload.encode()
    return tuple(cells)


class Archive:
    """The directory of segments in the data directory `data`; it is made when the first one is written."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._directory = data / ARCHIVE_DIRECTORY

    def write(self, name: str, data: bytes) -> None:
        """Durable on return; read back and compared. Raises OSError, leaving nothing behind that counts."""
        if not self._directory.exists():
            self._directory.mkdir(mode=0o700)
            sync_directory(self._data)
        temporary = self._directory / (name + _TEMPORARY)
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if temporary.read_bytes() != data:
                raise OSError(f"{temporary} is not what was written")
            temporary.rename(self._directory / name)
        except BaseException:
            with suppress(OSError):  # it takes space that events need
                temporary.unlink()
            raise
        sync_directory(self._directory)

    def rows(self, segment: Segment) -> list[Row]:
        """Raises FileNotFoundError, or `Faulted("data_damaged")` for a file that is not the one that the database names."""
        data = (self._directory / segment.file).read_bytes()
        if hashlib.sha256(data).digest() != segment.digest:
            raise damaged(f"{ARCHIVE_DIRECTORY}/{segment.file} does not have its digest: it was changed")
        try:
            rows = decode(data)
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise damaged(f"{ARCHIVE_DIRECTORY}/{segment.file}: {error}") from error
        if len(rows) != segment.last_id - segment.first_id + 1:
            raise damaged(f"{ARCHIVE_DIRECTORY}/{segment.file} holds {len(rows)} events")
        return rows

    def remove(self, name: str) -> None:
        """Durably; one that is not there is a no-op. Raises OSError."""
        try:
            (self._directory / name).unlink()
        except FileNotFoundError:
            return
        sync_directory(self._directory)

    def keep_only(self, names: Collection[str]) -> None:
        """Remove every other file, durably; nobody uses the directory. Raises OSError."""
        if not self._directory.exists():
            return
        for path in self._directory.iterdir():
            if path.name not in names:
                path.unlink()
        sync_directory(self._directory)

    def sweep(self, known: Sequence[Segment]) -> None:
        """Remove what a kernel left that was killed: halves, and segments that the database does not name or no longer does.

        Only those that are certainly no part of the log: others in the place of which there is a segment, or which begin
        where the next one will.
        """
        if not self._directory.exists():
            return
        counting = {segment.file for segment in known}
        firsts = {segment.first_id for segment in known} | {known[-1].last_id + 1 if known else 1}
        stale = []
        for path in self._directory.iterdir():
            found = _NAME.fullmatch(path.name.removesuffix(_TEMPORARY))
            if found is None or path.name in counting:
                continue
            if path.name.endswith(_TEMPORARY) or int(found[1]) in firsts:
                stale.append(path)
        for path in stale:
            path.unlink(missing_ok=True)
        if stale:
            sync_directory(self._directory)
