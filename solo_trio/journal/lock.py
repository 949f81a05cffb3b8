"""The data directory. Owns: making it, and the lock that keeps a second kernel out. Never: reads what is in it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from solo_trio.errors import Faulted
from solo_trio.journal.library import no_space

LOCK_FILE: Final = "lock"
LOCK_TEXT_BYTES_MAX: Final = 256
BUSY: Final = (errno.EWOULDBLOCK, errno.EACCES)
INHERITED_S_MAX: Final = 2.0
"""So long is waited for the lock of a kernel that is gone: what it was just forking has it, until it is another program."""
INHERITED_POLL_S: Final = 0.01


def prepare_directory(directory: Path) -> None:
    """Make the directory (0700) if it is missing, durably; raises `Faulted("data_unwritable")`."""
    try:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(path.parent)
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(directory))
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable", str(directory))
    except OSError as error:
        raise _unwritable(directory, error) from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive power loss."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unwritable(directory: Path, error: OSError) -> Faulted:
    return Faulted(
        "data_unwritable",
        f"{directory} cannot be used as data directory ({error.strerror}): correct it, or name another directory",
    )


class DataLock:
    """`with DataLock(directory):` holds `lock` in it; raises `Faulted` with `data_in_use` or `data_unwritable`.

    The lock is a `flock`: it ends with the process that holds it, however that ends. The file is never removed, because a
    kernel that waits with the old file open would then hold a lock on nothing. Its text is for people only.
    `still`: to look at a directory that is there without changing a byte in it, the text of the lock included.
    """

    def __init__(self, directory: Path, *, still: bool = False) -> None:
        self._directory = directory
        self._still = still
        self._fd: int | None = None

    def __enter__(self) -> DataLock:
        if self._fd is not None:
            raise RuntimeError("a DataLock is entered once at a time")
        if not self._still:
            prepare_directory(self._directory)
        flags = os.O_RDONLY if self._still else os.O_RDWR | os.O_CREAT
        try:
            fd = os.open(self._directory / LOCK_FILE, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if self._still and isinstance(error, FileNotFoundError):
                return self  # a copy without it: no kernel has ever used this very directory
            raise _unwritable(self._directory, error) from error
        try:
            _take(fd)
        except OSError as error:
            holder = _holder(fd)
            os.close(fd)
            if error.errno not in BUSY:
                raise _unwritable(self._directory, error) from error
            who = "of unknown pid" if holder is None else f"pid {holder}"
            raise Faulted(
                "data_in_use",
                f"another kernel ({who}) uses {self._directory}: stop it, or name another directory",
            ) from error
        self._fd = fd
        if not self._still:
            _describe(fd, f"{os.getpid()}\nThe Solo kernel with this process id uses this directory.\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            if not self._still:
                _describe(fd, "")
        finally:
            os.close(fd)


def _take(fd: int) -> None:
    """Raises OSError, one of `BUSY` if somebody else has it."""
    until = time.monotonic() + INHERITED_S_MAX
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in BUSY or not _is_gone(_holder(fd)) or time.monotonic() >= until:
                raise
        time.sleep(INHERITED_POLL_S)


def _is_gone(pid: int | None) -> bool:
    """Whether it runs no more; one of unknown id does, for all that is known."""
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] in ("Z", "X")
    except OSError:
        return True


def _holder(fd: int) -> int | None:
    text = os.pread(fd, LOCK_TEXT_BYTES_MAX, 0).split(b"\n", 1)[0]
    return int(text) if text.isdigit() else None


def _describe(fd: int, text: str) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
    except OSError as error:
        # A kernel must be able to start on a full disk; the lock holds without its text.
        if not no_space(error):
            raise
