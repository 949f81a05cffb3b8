"""A disk that forgets. Owns: what is on the platter, what only in the cache, what a crash leaves. Never: the kernel's.

A write is in the cache at once and on the platter when it was forced out, or whenever the disk likes. A kill of the process
leaves the cache as it is. A loss of power leaves any part of what was not forced out: nothing, all, or sectors in any order.
"""

from __future__ import annotations

import errno
import random
from typing import Final

from attrs import define, field

SECTOR_BYTES: Final = 512
PENDING_KEPT_MAX: Final = 64
"""Writes that are not forced out; beyond these the disk writes the oldest ones by itself."""


class Dead(Exception):
    """Whoever asked is no process any more."""


@define
class _File:
    platter: bytearray = field(factory=bytearray)
    cache: bytearray = field(factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(factory=list)
    """In order: at which offset what; None: the file was cut there."""


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class SimDisk:
    """The files of one data directory. `process` counts the processes that had it; only the newest may use it."""

    def __init__(self, chance: random.Random) -> None:
        self.process = 0
        self.full = False
        self.lent = False
        """While it is full: the space that was held back is given out."""
        self.failing_writes = 0
        """So many writes from now on fail."""
        self.failing_syncs = 0
        self.marked = self.synced_mark = 0
        """What `write` was told that it completes; the same as of the newest write that is surely on the platter."""
        self._chance = chance
        self._files: dict[str, _File] = {}
        self._marks: dict[str, int] = {}

    # -- what a process asks; `process` says which one it is

    def read(self, name: str) -> bytes:
        """What a process sees: the cache. A file that is not there has nothing in it."""
        return bytes(self._file(name).cache)

    def write(self, process: int, name: str, offset: int, data: bytes, *, mark: int | None = None) -> None:
        """Raises OSError. `mark`: a number that this write completes (the id of an event)."""
        self._check(process)
        file = self._file(name)
        if self.full and not self.lent and offset + len(data) > len(file.cache):
            raise OSError(errno.ENOSPC, "the simulated disk is full")
        if self.failing_writes:
            self.failing_writes -= 1
            raise OSError(errno.EIO, "the simulated disk fails")
        _apply(file.cache, offset, data)
        file.pending.append((offset, data))
        if len(file.pending) > PENDING_KEPT_MAX and name == "kernel.head":
            _apply(file.platter, *file.pending.pop(0))
        if mark is not None:
            self.marked = self._marks[name] = mark

    def cut(self, process: int, name: str, size: int) -> None:
        self._check(process)
        file = self._file(name)
        _apply(file.cache, size, None)
        file.pending.append((size, None))

    def sync(self, process: int, name: str) -> None:
        """Raises OSError: then what was to be forced out is in the cache, and nobody will ever write it again."""
        self._check(process)
        file = self._file(name)
        if self.failing_syncs:
            self.failing_syncs -= 1
            self._lose(file)
            self._marks.pop(name, None)
            raise OSError(errno.EIO, "the simulated disk does not force out")
        self.force(name)

    def force(self, name: str) -> None:
        file = self._file(name)
        for offset, data in file.pending:
            _apply(file.platter, offset, data)
        file.pending.clear()
        if name in self._marks:
            self.synced_mark = max(self.synced_mark, self._marks.pop(name))

    # -- what happens to it

    def crash(self, *, power: bool) -> None:
        """The process is gone, and with `power` what was not forced out is as the disk had it."""
        self.process += 1
        self.full, self.lent, self.failing_writes, self.failing_syncs = False, False, 0, 0
        self._marks.clear()
        if power:
            for name in sorted(self._files):
                self._lose_power(self._files[name])

    def _lose_power(self, file: _File) -> None:
        how = self._chance.random()
        if how < 0.3:
            kept = [(offset, data) for offset, data in file.pending]
        elif how < 0.5:
            kept = []
        elif how < 0.7:  # in order, and the last one torn
            count = self._chance.randrange(len(file.pending) + 1)
            kept = list(file.pending[:count])
            if count < len(file.pending):
                offset, data = file.pending[count]
                if data is not None and len(data) > SECTOR_BYTES:  # less is there or not
                    kept.append((offset, data[: self._chance.randrange(len(data) + 1)]))
        else:
            kept = self._scattered(file.pending)
        for offset, data in kept:
            _apply(file.platter, offset, data)
        file.pending.clear()
        file.cache = bytearray(file.platter)

    def _scattered(self, pending: list[tuple[int, bytes | None]]) -> list[tuple[int, bytes | None]]:
        """Any sectors, in any order of the writes; a write of less than a sector is there or not."""
        kept: list[tuple[int, bytes | None]] = []
        for offset, data in pending:
            if data is None or len(data) <= SECTOR_BYTES:
                if self._chance.random() < 0.5:
                    kept.append((offset, data))
                continue
            for start in range(0, len(data), SECTOR_BYTES):
                if self._chance.random() < 0.5:
                    kept.append((offset + start, data[start : start + SECTOR_BYTES]))
        return kept

    def _lose(self, file: _File) -> None:
        """As after a failed fsync on Linux: the pages count as clean, the cache has them, the platter never will."""
        file.pending = [each for each in file.pending if self._chance.random() < 0.3]

    def _file(self, name: str) -> _File:
        return self._files.setdefault(name, _File())

    def _check(self, process: int) -> None:
        if process != self.process:
            raise Dead
