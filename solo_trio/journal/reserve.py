"""The reserve. Owns: disk space held back for revocations and stops on a full disk. Never: decides who may use it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

RESERVE_FILE: Final = "reserve"
RESERVE_BYTES: Final = 1_048_576
PAGE_BYTES: Final = 4_096
TINY_DISK_SHARE: Final = 8
"""On a disk too small for the usual sizes, the reserve and the WAL may each take one part in this many."""
RESERVE_BYTES_MIN: Final = 16 * PAGE_BYTES
"""Half is for the shared memory file, without which a kernel cannot start on a full disk; half for one transaction."""


def disk_bytes(directory: Path) -> int:
    """The size of the file system, in bytes."""
    status = os.statvfs(directory)
    return status.f_blocks * status.f_frsize


def reserve_bytes(disk: int) -> int:
    """How much to hold back on a file system of `disk` bytes."""
    share = disk // TINY_DISK_SHARE // PAGE_BYTES * PAGE_BYTES
    return max(RESERVE_BYTES_MIN, min(RESERVE_BYTES, share))


class Reserve:
    """A preallocated file; freeing it makes room, holding it again is asked for before any ordinary append."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._path = directory / RESERVE_FILE
        self._size = size_bytes
        self.held = False

    def hold(self) -> None:
        """Take the space; raises OSError, with nothing taken."""
        if self.held:
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._size)
            # Another size than a former kernel took: the disk was made larger or smaller.
            os.ftruncate(fd, self._size)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(fd)
        self.held = True

    def free(self) -> bool:
        """Give the space back; says whether there was any."""
        self.held = False
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
