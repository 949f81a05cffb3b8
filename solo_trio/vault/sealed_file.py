"""Sealed files. Owns: a file that nobody reads, changes, cuts or lengthens without its key. Never: where the key is from.

After the head, which is in the clear and has its SHA-256 behind it, the content is sealed in chunks (AES-256-GCM). A chunk's
nonce is its number, and whether it is the last one (the STREAM construction: Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO
2015); each is bound to the head. So a chunk that was changed, moved, left out, or cut off behind does not open. A key is for
one file alone: nonces begin at 0 in each.
"""

from __future__ import annotations

import hashlib
import io
import struct
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from solo_trio.vault.secret import Secret

MAGIC: Final = b"solobk1\n"
HEAD_BYTES_MAX: Final = 65_536
CHUNK_BYTES: Final = 262_144
TAG_BYTES: Final = 16
_LENGTH: Final = struct.Struct(">I")
_NONCE: Final = struct.Struct(">IQ")
"""1 for the last chunk, then its number."""


class NotSealed(Exception):
    """It is no such file, or not whole, or was changed. The message says which."""


def write_head(file: BinaryIO, head: bytes) -> bytes:
    """Begin a file; returns what its chunks are bound to."""
    if len(head) > HEAD_BYTES_MAX:
        raise ValueError("the head of a sealed file is too long")
    begun = MAGIC + _LENGTH.pack(len(head)) + head
    bound = hashlib.sha256(begun).digest()
    file.write(begun + bound)
    return bound


def read_head(file: BinaryIO) -> tuple[bytes, bytes]:
    """The head, and what the chunks are bound to; nothing says yet that it is authentic. Raises `NotSealed`."""
    begun = file.read(len(MAGIC) + _LENGTH.size)
    if not begun.startswith(MAGIC) or len(begun) != len(MAGIC) + _LENGTH.size:
        raise NotSealed("it does not begin as a backup does")
    (size,) = _LENGTH.unpack(begun[len(MAGIC) :])
    head = file.read(size) if size <= HEAD_BYTES_MAX else b""
    bound = hashlib.sha256(begun + head).digest()
    if len(head) != size or file.read(len(bound)) != bound:
        raise NotSealed("its head is not whole")
    return head, bound


class SealedWriter(io.RawIOBase):
    """What is written goes on behind the head; `close` writes the last chunk, and leaves the file open."""

    def __init__(self, file: BinaryIO, key: Secret, bound: bytes) -> None:
        self._file = file
        self._aead = AESGCM(key.reveal())
        self._bound = bound
        self._waiting = bytearray()
        self._number = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        given = memoryview(data).cast("B")  # type: ignore[arg-type]
        self._waiting += given
        while len(self._waiting) > CHUNK_BYTES:  # not what may be the last one
            self._seal(bytes(self._waiting[:CHUNK_BYTES]), last=False)
            del self._waiting[:CHUNK_BYTES]
        return len(given)

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        nonce = _NONCE.pack(last, self._number)
        self._file.write(self._aead.encrypt(nonce, chunk, self._bound))
        self._number += 1

    def close(self) -> None:
        if not self.closed:
            self._seal(bytes(self._waiting), last=True)
            self._waiting.clear()
        super().close()


class SealedReader(io.RawIOBase):
    """The content behind the head. Raises `NotSealed` before it gives out a byte that was not written with the key."""

    def __init__(self, file: BinaryIO, key: Secret, bound: bytes) -> None:
        self._file = file
        self._aead = AESGCM(key.reveal())
        self._bound = bound
        self._open = b""
        self._ahead = self._file.read(CHUNK_BYTES + TAG_BYTES)
        self._number = 0
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        while not self._open and not self._over:
            self._unseal()
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        count = min(len(view), len(self._open))
        view[:count] = self._open[:count]
        self._open = self._open[count:]
        return count

    def _unseal(self) -> None:
        sealed, self._ahead = self._ahead, self._file.read(CHUNK_BYTES + TAG_BYTES)
        last = not self._ahead
        try:
            self._open = self._aead.decrypt(_NONCE.pack(last, self._number), sealed, self._bound)
        except (InvalidTag, ValueError):
            where = "its end is missing, or was changed" if last else f"it was changed near byte {self._where()}"
            raise NotSealed(where) from None
        self._number += 1
        self._over = last

    def _where(self) -> int:
        return self._number * (CHUNK_BYTES + TAG_BYTES)
