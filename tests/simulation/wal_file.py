"""A write-ahead log on the simulated disk, in SQLite's format. Owns: frames, commits, moving them on. Never: what is in a row.

The order of writes and forcings out is SQLite's with `synchronous=FULL`: frames, then one fsync for a commit; into the database
before the log begins anew, its new header forced out before any frame behind it. The product's own reading of a log
(`journal.wal`) judges it at the opening.
"""

from __future__ import annotations

import hashlib
import random
import struct
from typing import Final

from simulation.disk import SimDisk
from solo_trio.errors import Faulted
from solo_trio.journal import wal

DATABASE: Final = "kernel.db"
LOG: Final = "kernel.db-wal"
PAGE_BYTES: Final = 512
_MAGIC: Final = 0x377F0682
_VERSION: Final = 3_007_000
_RECORD: Final = struct.Struct(">I8s")
"""In the database: the length of a transaction, and the beginning of its digest."""


class Torn(Exception):
    """What is left of the database does not go together."""


def damaged(what: str) -> Faulted:
    return Faulted("data_damaged", f"on the simulated disk {what}")


class WalFile:
    """The two files, open. `transactions`: how many there are."""

    def __init__(self, disk: SimDisk, process: int, chance: random.Random) -> None:
        self._disk = disk
        self._process = process
        self._chance = chance
        self._unmoved: list[bytes] = []
        """Transactions that are only in the log."""
        self._database_bytes = 0
        self._offset = 0
        self._frame = 0
        self._sums = (0, 0)
        self._salts = b""
        self.transactions = 0

    def open(self) -> list[bytes]:
        """Every committed transaction, in order; what was not yet forced out is, and the log begins anew.

        Raises `Faulted("data_damaged")`, OSError.
        """
        database, log = self._disk.read(DATABASE), self._disk.read(LOG)
        bad = wal.find_damage(log)
        if bad is not None:
            raise damaged(f"frame {bad.bad_frame} is bad, with the commit of frame {bad.lost_commit} behind it")
        found = _records(database)
        behind = self.read_log(log)
        for number, content in behind:
            if number > len(found) + 1:
                raise damaged(f"transaction {len(found) + 1} is missing before {number}")
            if number == len(found) + 1:
                found.append(content)
            else:  # the log counts: what is in the database may be half written
                found[number - 1] = content
        self.transactions = len(found)
        # Whatever the log has is written anew, also what the database seems to have: a former process may have failed to
        # force it out, and the cache would not say so.
        first = min((number for number, _ in behind), default=self.transactions + 1) - 1
        self._database_bytes = sum(_RECORD.size + len(each) for each in found[:first])
        self._unmoved = found[first:]
        self.move(cut=True)
        return found

    def read_log(self, log: bytes) -> list[tuple[int, bytes]]:
        """What SQLite would find: up to the first frame that does not check, and of that up to the last commit."""
        if len(log) < wal.WAL_HEADER_BYTES:
            return []
        magic, _, page_bytes, _, _, _, *sums = struct.unpack_from(">8I", log)
        running = wal.checksum(log[: wal.WAL_HEADER_BYTES - 8], "<I", (0, 0))
        if magic != _MAGIC or page_bytes != PAGE_BYTES or running != tuple(sums):
            return []
        salts, found, pages = log[16:24], [], bytearray()
        size = wal.FRAME_HEADER_BYTES + PAGE_BYTES
        for start in range(wal.WAL_HEADER_BYTES, len(log) - size + 1, size):
            _, commit, _, _, *stored = struct.unpack_from(">6I", log, start)
            page = log[start + wal.FRAME_HEADER_BYTES : start + size]
            running = wal.checksum(page, "<I", wal.checksum(log[start : start + 8], "<I", running))
            if log[start + 8 : start + 16] != salts or running != tuple(stored):
                break
            pages += page
            if commit:
                number, length = struct.unpack_from(">QI", pages)
                found.append((number, bytes(pages[12 : 12 + length])))
                pages.clear()
        return found

    def commit(self, content: bytes, *, mark: int | None) -> None:
        """Write one transaction; it is there when `force` has returned. Raises OSError."""
        number = self.transactions + 1
        data = struct.pack(">QI", number, len(content)) + content
        pages = [data[at : at + PAGE_BYTES].ljust(PAGE_BYTES, b"\0") for at in range(0, len(data), PAGE_BYTES)]
        sums, offset, frames = self._sums, self._offset, []
        for index, page in enumerate(pages, start=1):
            head = struct.pack(">2I", self._frame + index, number if index == len(pages) else 0)
            sums = wal.checksum(page, "<I", wal.checksum(head, "<I", sums))
            frames.append(head + self._salts + struct.pack(">2I", *sums) + page)
        for index, frame in enumerate(frames, start=1):
            self._disk.write(self._process, LOG, offset, frame, mark=mark if index == len(frames) else None)
            offset += len(frame)
        # What of this was written before an error is behind the end, and is written over.
        self._sums, self._offset, self._frame = sums, offset, self._frame + len(frames)
        self.transactions = number
        self._unmoved.append(content)

    def force(self) -> None:
        """Raises OSError."""
        self._disk.sync(self._process, LOG)

    @property
    def log_bytes(self) -> int:
        return self._offset

    def move(self, *, cut: bool) -> None:
        """Into the database, forced out; then the log begins anew. Raises OSError."""
        content = b"".join(_record(each) for each in self._unmoved)
        if content:
            self._disk.write(self._process, DATABASE, self._database_bytes, content)
        self.sync_database()
        self._database_bytes += len(content)
        self._unmoved.clear()
        self.begin_anew(cut=cut)

    def sync_database(self) -> None:
        self._disk.sync(self._process, DATABASE)

    def begin_anew(self, *, cut: bool) -> None:
        if cut:
            self._disk.cut(self._process, LOG, 0)
        self._salts = self._chance.randbytes(8)
        header = struct.pack(">4I", _MAGIC, _VERSION, PAGE_BYTES, 0) + self._salts
        self._sums = wal.checksum(header, "<I", (0, 0))
        self._disk.write(self._process, LOG, 0, header + struct.pack(">2I", *self._sums))
        self._disk.sync(self._process, LOG)
        self._offset, self._frame = wal.WAL_HEADER_BYTES, 0


def _record(content: bytes) -> bytes:
    return _RECORD.pack(len(content), hashlib.sha256(content).digest()[:8]) + content


def _records(database: bytes) -> list[bytes]:
    """Up to the first that is not whole."""
    found, at = [], 0
    while at + _RECORD.size <= len(database):
        length, digest = _RECORD.unpack_from(database, at)
        content = database[at + _RECORD.size : at + _RECORD.size + length]
        if len(content) < length or hashlib.sha256(content).digest()[:8] != digest:
            break
        found.append(content)
        at += _RECORD.size + length
    return found
