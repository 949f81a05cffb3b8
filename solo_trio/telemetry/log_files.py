"""Services' log files. Owns: appending whole lines to bounded files, reading them from their ends. Never: Trio.

A service has one file of JSON lines, `<hex of its id>.jsonl`, and its predecessor, `.1`. The ids in a file ascend. Whoever
reads opens a file for each block and closes it again, so that a tenant's hundreds of files never are open at once; what was
renamed meanwhile is found again by its inode.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson
from attrs import frozen

from solo_trio.ports import LogQuery

FILE_BYTES_MAX: Final = 1_048_576
"""A service keeps at most two files of this size."""
FILES_PER_TENANT_MAX: Final = 400
OVERVIEW_BYTES_MAX: Final = 8 * 1_048_576
"""Looked at, in all, when the logs of all services are asked for at once: the same share of the end of each service's."""
BLOCK_BYTES: Final = 65_536
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

Entry = dict[str, Any]


def file_of(directory: Path, service_id: str) -> Path:
    return directory / f"{service_id.encode().hex()}.jsonl"


# -- writing


def append(path: Path, lines: Sequence[bytes]) -> None:
    """Append lines; a file that would grow beyond its bound becomes the predecessor. Raises OSError."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _drop_oldest(path.parent)
    waiting = deque(lines)
    while waiting:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            # A line that a crash cut must not take the next one with it.
            data = bytearray(b"\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else b"")
            count = len(waiting)
            while waiting and (size + len(data) + len(waiting[0]) <= FILE_BYTES_MAX or not size + len(data)):
                data += waiting.popleft()
            if len(waiting) < count:
                _write_all(descriptor, bytes(data), size)
        finally:
            os.close(descriptor)
        if waiting:
            path.replace(path.with_suffix(".1"))


def _write_all(descriptor: int, data: bytes, size: int) -> None:
    """All of it or, as far as that can be done, nothing: what stands behind `size` after an error is taken back."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _drop_oldest(directory: Path) -> None:
    """Make room for one more service's files, so that ever new service ids cannot fill the disk."""
    ages: dict[str, float] = {}
    for path in directory.iterdir():
        ages[path.stem] = max(ages.get(path.stem, 0.0), path.stat().st_mtime)
    for stem in sorted(ages, key=lambda stem: ages[stem])[: max(0, len(ages) + 1 - FILES_PER_TENANT_MAX)]:
        for suffix in (".jsonl", ".1"):
            (directory / stem).with_suffix(suffix).unlink(missing_ok=True)


def delete_all(directory: Path) -> None:
    """Delete a tenant's files. Raises OSError."""
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


# -- reading


def newest_id(directory: Path) -> int:
    """The highest id in the files of `directory`; 0 if there is none."""
    return max(
        (_id(entry) for path in _all_files(directory) for entry in islice(_backward(_spans(path), 0), 1)), default=0
    )


def read(directory: Path, query: LogQuery, newest: int) -> list[Entry]:
    """What the query asks for of the files in `directory`, up to the id `newest`, ascending by id.

    Of all services together only the newest `OVERVIEW_BYTES_MAX` are looked at, of one service everything.
    """
    if query.service_id is not None:
        services = [_spans(file_of(directory, query.service_id))]
    else:
        services = [_spans(path) for path in _all_files(directory)]
        services = _shared_out(services, OVERVIEW_BYTES_MAX)
    lowest = LEVELS.get(query.level or "", 0)

    def wanted(entry: Entry) -> bool:
        return bool(entry["id"] <= newest and LEVELS[entry["level"]] >= lowest)

    if query.tail:
        backward = merge(*(_backward(spans, query.after) for spans in services), key=_descending)
        found = list(islice(filter(wanted, backward), query.tail))
    else:
        forward = merge(*(_forward(spans, query.after) for spans in services), key=_id)
        found = list(islice(filter(wanted, forward), query.limit))
    return sorted(found, key=_id)


def _id(entry: Entry) -> int:
    return int(entry["id"])


def _descending(entry: Entry) -> int:
    return -int(entry["id"])


@frozen
class _Span:
    """The bytes of one file that may be looked at."""

    path: Path
    inode: int
    start: int
    end: int

    def pread(self, start: int, end: int) -> bytes:
        for path in (self.path, self.path.with_suffix(".1")):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:  # gone, or no file: there is nothing to show of it
                continue
            try:
                if os.fstat(descriptor).st_ino == self.inode:
                    return os.pread(descriptor, end - start, start)
            except OSError:
                continue
            finally:
                os.close(descriptor)
        return b""


def _all_files(directory: Path) -> list[Path]:
    try:
        return sorted({path.with_suffix(".jsonl") for path in directory.iterdir()})
    except (FileNotFoundError, NotADirectoryError):
        return []


def _spans(path: Path) -> list[_Span]:
    """One service's files, the older first."""
    found = []
    for each in (path.with_suffix(".1"), path):
        with suppress(OSError):
            status = each.stat()
            found.append(_Span(each, status.st_ino, 0, status.st_size))
    return found


def _shared_out(services: list[list[_Span]], bytes_max: int) -> list[list[_Span]]:
    """The end of each service's files: what those do not need that have little is for those that have much."""
    sizes = [sum(span.end for span in spans) for spans in services]
    shares, left = dict.fromkeys(range(len(services)), 0), bytes_max
    for done, index in enumerate(sorted(shares, key=lambda index: sizes[index])):
        shares[index] = min(sizes[index], left // (len(services) - done))
        left -= shares[index]
    return [_last(spans, shares[index]) for index, spans in enumerate(services)]


def _last(spans: list[_Span], bytes_max: int) -> list[_Span]:
    kept: list[_Span] = []
    for span in reversed(spans):
        size = min(bytes_max, span.end)
        bytes_max -= size
        if size:
            kept.insert(0, _Span(span.path, span.inode, span.end - size, span.end))
    return kept


def _backward(spans: list[_Span], after: int) -> Iterator[Entry]:
    """Entries with id > `after`, the newest first, a block at a time."""
    for span in reversed(spans):
        rest, end = b"", span.end
        while end > span.start:
            start = max(span.start, end - BLOCK_BYTES)
            first, newline, whole = (span.pread(start, end) + rest).partition(b"\n")
            if start == 0:
                whole = first + newline + whole
            rest, end = (first + newline if newline else first), start
            for line in reversed(whole.splitlines()):
                entry = _entry(line)
                if entry is None:
                    continue
                if entry["id"] <= after:
                    return
                yield entry


def _forward(spans: list[_Span], after: int) -> Iterator[Entry]:
    """Entries with id > `after`, the oldest first, a block at a time."""
    if after and next(_backward(spans, after), None) is None:
        return
    for index, start in _places(spans, after):
        span, rest = spans[index], b""
        while start < span.end:
            end = min(span.end, start + BLOCK_BYTES)
            whole, newline, rest = (rest + span.pread(start, end)).rpartition(b"\n")
            start = end
            for line in (whole + newline).splitlines():
                entry = _entry(line)
                if entry is not None and entry["id"] > after:
                    yield entry


def _places(spans: list[_Span], after: int) -> list[tuple[int, int]]:
    """Where to begin in which files: from their ends back to the first block that begins with what was seen already."""
    places: list[tuple[int, int]] = []
    for index in range(len(spans) - 1, -1, -1):
        span, start = spans[index], spans[index].end
        seen = False
        while after and start > span.start and not seen:
            start = max(span.start, start - BLOCK_BYTES)
            seen = any(0 < id_ <= after for id_ in _first_id(span, start))
        places.insert(0, (index, start if after else span.start))
        if seen:
            break
    return places


def _first_id(span: _Span, start: int) -> Iterator[int]:
    """The id of the first whole line behind `start`, if there is one in a block."""
    lines = span.pread(start, min(span.end, start + BLOCK_BYTES)).split(b"\n", 2)
    for line in lines[: 1 if start == 0 else 2][-1:]:
        entry = _entry(line)
        if entry is not None:
            yield _id(entry)


def _entry(line: bytes) -> Entry | None:
    """None for a line cut by a crash or by the bounds, and for what was never ours."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(entry, dict) or type(entry.get("id")) is not int:
        return None
    return entry if isinstance(entry.get("level"), str) and entry["level"] in LEVELS else None
