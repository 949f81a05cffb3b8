"""The WAL before SQLite reads it. Owns: telling a torn tail from lost commits. Never: opens a file, or repairs.

SQLite reads a WAL up to the first frame that does not check and drops the rest without a word. After power loss that
is right: the rest was never acknowledged. If a commit of a *later* transaction stands behind the bad frame it is wrong:
a transaction begins only after its predecessor was forced out, so the bad frame was whole once, and what SQLite would
drop was acknowledged. Format: sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import struct
import sys
from typing import Final

from attrs import frozen

WAL_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
PAGE_BYTES: Final = 4_096
"""The page size of our databases, taken when a header is too damaged to say."""
TRANSACTIONS_MIN: Final = 2
"""What has fewer can have lost none but its last."""
_MAGIC_LITTLE: Final = 0x377F0682
_MAGIC_BIG: Final = 0x377F0683
_MASK: Final = 0xFFFFFFFF

Sums = tuple[int, int]


@frozen
class WalDamage:
    """Frame numbers count from 1; 0 is the header of the file."""

    bad_frame: int
    lost_commit: int
    """The first frame known to commit a transaction later than the bad frame's."""


@frozen
class _Frame:
    page_number: int
    commits: bool
    salts: bytes
    stored: Sums
    summed: memoryview
    """The first 8 bytes of the header."""
    page: memoryview


@frozen
class _Header:
    sound: bool
    words: str
    """The struct code of one checksum word, with its byte order."""
    page_bytes: int
    salts: bytes
    sums: Sums


def checksum(data: bytes | memoryview, words: str, seed: Sums) -> Sums:
    """SQLite's running sum over pairs of 32-bit words."""
    s0, s1 = seed
    values = struct.unpack(f"{words[0]}{len(data) // 4}{words[1]}", data)
    pairs = iter(values)
    for x0, x1 in zip(pairs, pairs, strict=True):
        s0 = (s0 + x0 + s1) & _MASK
        s1 = (s1 + x1 + s0) & _MASK
    return s0, s1


def find_damage(data: bytes) -> WalDamage | None:
    """None for a whole WAL, and for one whose tail is torn."""
    if len(data) < WAL_HEADER_BYTES + FRAME_HEADER_BYTES:
        return None
    view = memoryview(data)
    header = _header(view)
    frames = _frames(view, header)
    if not frames:
        return None
    salts = header.salts if header.sound else frames[0].salts

    commits = [index for index, frame in enumerate(frames) if frame.commits and frame.salts == salts]
    if len(commits) < TRANSACTIONS_MIN:
        return None
    # A frame behind the last but one is of the last transaction, or of none. That may be the whole database, written anew.
    bad, running = _first_bad(frames[: commits[-TRANSACTIONS_MIN] + 1], header)
    if bad is None:
        return None
    own_commit = bad >= 0 and frames[bad].salts == salts and frames[bad].commits
    for index in commits:
        if index <= bad:
            continue
        frame = frames[index]
        seeds = [frames[index - 1].stored] if index else []
        if index == bad + 1:
            seeds.append(running)  # The bad frame may be bad in nothing but its own stored sum.
        if not any(_sum(frame, header.words, seed) == frame.stored for seed in seeds):
            continue
        if own_commit:
            return WalDamage(bad_frame=bad + 1, lost_commit=index + 1)
        own_commit = True  # This one commits the transaction that the bad frame is part of.
    return None


def logged_pages(data: bytes) -> tuple[list[tuple[int, memoryview]], int]:
    """Page numbers and pages, oldest first, bad ones among them; and how many of them are known to have been committed.

    A frame behind a bad one is judged by the sum that its predecessor carries; so is whether it commits.
    """
    if len(data) < WAL_HEADER_BYTES + FRAME_HEADER_BYTES:
        return [], 0
    view = memoryview(data)
    header = _header(view)
    frames = _frames(view, header)
    if not frames:
        return [], 0
    salts = header.salts if header.sound else frames[0].salts
    found, committed = [], 0
    for index, frame in enumerate(frames):
        seed = header.sums if index == 0 else frames[index - 1].stored
        found.append((frame.page_number, frame.page))
        if frame.salts == salts and frame.commits and _sum(frame, header.words, seed) == frame.stored:
            committed = len(found)
        elif frame.salts != salts and not any(later.salts == salts for later in frames[index + 1 :]):
            found.pop()
            break  # what an earlier log of this file has left
    return found, committed


def _header(view: memoryview) -> _Header:
    magic, _version, page_bytes, _, salt0, salt1, sum0, sum1 = struct.unpack_from(">8I", view)
    native = "<I" if sys.byteorder == "little" else ">I"
    words = {_MAGIC_LITTLE: "<I", _MAGIC_BIG: ">I"}.get(magic, native)
    sums = checksum(view[: WAL_HEADER_BYTES - 8], words, (0, 0))
    power_of_two = 512 <= page_bytes <= 65_536 and page_bytes & (page_bytes - 1) == 0
    sound = magic in (_MAGIC_LITTLE, _MAGIC_BIG) and power_of_two and sums == (sum0, sum1)
    return _Header(
        sound=sound,
        words=words,
        page_bytes=page_bytes if sound else PAGE_BYTES,
        salts=struct.pack(">2I", salt0, salt1),
        sums=sums,
    )


def _frames(view: memoryview, header: _Header) -> list[_Frame]:
    size = FRAME_HEADER_BYTES + header.page_bytes
    frames = []
    for start in range(WAL_HEADER_BYTES, len(view) - size + 1, size):
        number, pages_after, salt0, salt1, sum0, sum1 = struct.unpack_from(">6I", view, start)
        frames.append(
            _Frame(
                page_number=number,
                commits=pages_after != 0,
                salts=struct.pack(">2I", salt0, salt1),
                stored=(sum0, sum1),
                summed=view[start : start + 8],
                page=view[start + FRAME_HEADER_BYTES : start + size],
            )
        )
    return frames


def _sum(frame: _Frame, words: str, seed: Sums) -> Sums:
    return checksum(frame.page, words, checksum(frame.summed, words, seed))


def _first_bad(frames: list[_Frame], header: _Header) -> tuple[int | None, Sums]:
    """The index of the first frame that does not check (-1: the header), and the sum it should have had."""
    running = header.sums
    if not header.sound:
        return -1, running
    for index, frame in enumerate(frames):
        running = _sum(frame, header.words, running)
        if frame.salts != header.salts or frame.stored != running:
            return index, running
    return None, running
