"""The witness. Owns: `kernel.head`, what the last commit was, outside the database. Never: fsyncs on the way of an append.

The witness is written after each commit, so the database is never behind it unless acknowledged rows were lost or the
file was rolled back. Being behind itself is normal: a kill between commit and witness, or power loss, since its pages
are not forced out. One `pwrite` of less than a sector is whole or absent.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from pathlib import Path
from typing import Final

from solo_trio.journal.chain import GENESIS, HASH_BYTES
from solo_trio.journal.library import damaged, no_space
from solo_trio.journal.lock import sync_directory

WITNESS_FILE: Final = "kernel.head"
NEW_WITNESS_FILE: Final = "kernel.new"
_MAGIC: Final = b"solohd1\0"
_BODY: Final = struct.Struct(f">8sq{HASH_BYTES}s")
_MAC_BYTES: Final = 32
WITNESS_BYTES: Final = _BODY.size + _MAC_BYTES

Head = tuple[int, bytes]
"""The id of the last event and its chain hash."""

NO_EVENTS: Final[Head] = (0, GENESIS)


def encode(head: Head, key: bytes) -> bytes:
    body = _BODY.pack(_MAGIC, *head)
    return body + hmac.digest(key, body, hashlib.sha256)


def decode(data: bytes, key: bytes) -> Head:
    """Raises `Faulted("data_damaged")` for anything that `encode` did not make with this key."""
    body, mac = data[: _BODY.size], data[_BODY.size :]
    if len(data) != WITNESS_BYTES or not hmac.compare_digest(mac, hmac.digest(key, body, hashlib.sha256)):
        raise damaged(
            f"{WITNESS_FILE} is not authentic: it was changed, or the master key is not the one of this directory; if"
            " a rotation of it was interrupted, run the same solo keys rotate once more, with the key from before it"
        )
    magic, id_, hash_ = _BODY.unpack(body)
    if magic != _MAGIC or id_ < 0:
        raise damaged(f"{WITNESS_FILE} has an unknown form")
    return id_, hash_


def read(directory: Path, key: bytes) -> Head | None:
    """What the file says, or None if there is none."""
    try:
        data = (directory / WITNESS_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return decode(data, key)


class Witness:
    """The file, open for writing; `open` makes it durably if it is missing."""

    def __init__(self, fd: int, key: bytes) -> None:
        self._fd = fd
        self._key = key

    @classmethod
    def open(cls, directory: Path, key: bytes) -> Witness:
        path = directory / WITNESS_FILE
        if not path.exists():
            _create(path, encode(NO_EVENTS, key))
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), key)

    def write(self, head: Head) -> None:
        """Raises OSError; the commit it reports stands all the same."""
        data = encode(head, self._key)
        try:
            written = os.pwrite(self._fd, data, 0)
        except OSError as error:
            # Only on a file system that copies on write. A witness that stays behind is sound; it is written again.
            if no_space(error):
                return
            raise
        if written != len(data):
            raise OSError(f"{WITNESS_FILE}: {written} of {len(data)} bytes were written")

    def settle(self, head: Head) -> None:
        """Have it say no less than `head`, also after power loss. Raises OSError, also where there is no space."""
        if os.pwrite(self._fd, encode(head, self._key), 0) != WITNESS_BYTES:
            raise OSError(f"{WITNESS_FILE} was written in part only")
        self.sync()

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def replace(directory: Path, head: Head, key: bytes) -> None:
    """Write it anew, whole or not at all, while nobody has it open. Raises OSError."""
    _create(directory / WITNESS_FILE, encode(head, key))


def _create(path: Path, data: bytes) -> None:
    """Under another name first, so that a half-made witness is never taken for a damaged one."""
    new = path.with_name(NEW_WITNESS_FILE)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(f"{new} was written in part only")
        os.fsync(fd)
    finally:
        os.close(fd)
    new.rename(path)
    sync_directory(path.parent)
