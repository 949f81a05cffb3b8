"""The audit's witness. Owns: `audit.head`, what the last commit was, outside the database. Never: fsyncs an entry.

It is written after each commit. As long as the machine has not been started anew since, or the last kernel closed the file
in order, the database cannot be behind it unless somebody put an older copy in its place. After a loss of power it can: the
audit's commits are not forced to the disk one by one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from pathlib import Path
from typing import Final

from attrs import frozen

from solo_trio.journal.audit_chain import HASH_BYTES, End
from solo_trio.journal.library import no_space

AUDIT_HEAD_FILE: Final = "audit.head"
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_MAGIC: Final = b"soloah1\0"
_BOOT_BYTES: Final = 16
CLOSED: Final = bytes(_BOOT_BYTES)
"""In the place of a boot: the file was closed in order, everything of it is on the disk."""
_BODY: Final = struct.Struct(f">8s{_BOOT_BYTES}sq{HASH_BYTES}s")
_MAC_BYTES: Final = 32


@frozen
class Seen:
    """What the witness says. `binding`: the database must not be behind it."""

    head: End
    binding: bool


def this_boot() -> bytes | None:
    """What tells this start of the machine from others; None where nothing does."""
    try:
        return bytes.fromhex(Path(BOOT_ID).read_text().strip().replace("-", ""))[:_BOOT_BYTES].ljust(_BOOT_BYTES, b"\1")
    except (OSError, ValueError):
        return None


def read(directory: Path, key: bytes) -> Seen | None:
    """None if there is none. Raises ValueError for one that is not authentic, OSError."""
    try:
        data = (directory / AUDIT_HEAD_FILE).read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < _BODY.size + _MAC_BYTES or not any(data):
        return None  # a crash may come before the first one is written; with a second entry it counts as missing
    body, mac = data[: _BODY.size], data[_BODY.size :]
    if not hmac.compare_digest(mac, hmac.digest(key, body, hashlib.sha256)) or len(body) != _BODY.size:
        raise ValueError(f"{AUDIT_HEAD_FILE} is not authentic: it was changed, or the master key is another one")
    magic, boot, id_, hash_ = _BODY.unpack(body)
    if magic != _MAGIC:
        raise ValueError(f"{AUDIT_HEAD_FILE} has an unknown form")
    return Seen((id_, hash_), boot in (CLOSED, this_boot()))


def was_written(directory: Path) -> bool:
    """Whether there ever was a first entry; one that is empty is of a start that was interrupted before."""
    try:
        return (directory / AUDIT_HEAD_FILE).stat().st_size > 0
    except FileNotFoundError:
        return False


class HeadFile:
    """Open for writing, in the thread that writes the audit."""

    def __init__(self, directory: Path, key: bytes) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(directory / AUDIT_HEAD_FILE, flags, 0o600)
        self._key = key
        self._boot = this_boot() or b"\1" * _BOOT_BYTES

    def write(self, head: End, *, closed: bool = False) -> None:
        """Raises OSError; a witness that stays behind because the disk is full is sound."""
        body = _BODY.pack(_MAGIC, CLOSED if closed else self._boot, *head)
        try:
            os.pwrite(self._fd, body + hmac.digest(self._key, body, hashlib.sha256), 0)
        except OSError as error:
            if not no_space(error):
                raise

    def sync(self) -> None:
        """Once, after the first write: later ones change one sector, which is as it was or as it is to be."""
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
