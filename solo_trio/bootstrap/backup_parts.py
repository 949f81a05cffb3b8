"""What a backup is made of. Owns: which files are in one, copying each, the space that takes. Never: the order of a
backup's steps.

These functions block. What they copy is in use: databases are copied by `journal.backups`; segments of the archive are
never changed; of the rest each file is replaced as a whole by whoever changes it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from solo_trio.bootstrap.backup_file import is_safe
from solo_trio.bootstrap.directory import DATABASE_FILE, environments_of
from solo_trio.errors import Faulted, StorageFull
from solo_trio.journal import backups
from solo_trio.journal.archive import ARCHIVE_DIRECTORY
from solo_trio.journal.audit_head import AUDIT_HEAD_FILE
from solo_trio.journal.audit_reads import AUDIT_FILE
from solo_trio.journal.lock import prepare_directory, sync_directory
from solo_trio.journal.reserve import disk_bytes
from solo_trio.journal.witness import WITNESS_FILE
from solo_trio.vault.certificate_files import DIRECTORY as CERTIFICATES_DIRECTORY

WORK_PREFIX: Final = ".writing-"
PACKED_FILE: Final = "packed"
CONFIGURATION_FILE: Final = "solo.toml"
SIDE_BYTES_MAX: Final = 128 * 1_048_576
"""Of configuration and certificates together."""
FREE_BYTES_KEPT: Final = 67_108_864
"""Of the disk that the backup is written to, for whoever else writes there; on a tiny disk one part in:"""
TINY_DISK_SHARE: Final = 8
MARGIN_BYTES: Final = 262_144

Check = Callable[[], None]
"""Raises if it is not to go on."""


def work_of(directory: Path, data: Path) -> Path:
    """Where the backups of this data directory are made: others may have theirs in the same place."""
    return directory / (WORK_PREFIX + hashlib.sha256(bytes(data.absolute())).hexdigest()[:16])


def prepare(data: Path, directory: Path) -> Path:
    """The empty directory to make it in. Raises `StorageFull`, `Faulted("backup_failed")`."""
    try:
        prepare_directory(directory)  # durably: the name of a backup is worth nothing in one that is lost
    except Faulted as fault:
        cause = fault.__cause__
        why = cause.strerror if isinstance(cause, OSError) else cause
        raise Faulted("backup_failed", f"{directory} cannot be used ({why}): name another backup_dir") from None
    work = work_of(directory, data)
    shutil.rmtree(work, ignore_errors=True)
    # The copies, and what they are packed into, which is not larger.
    needed = 2 * sum(_size(path) for path in _large(data)) + MARGIN_BYTES
    free = free_bytes(directory)
    if free < needed:
        raise StorageFull(
            f"a backup needs up to {needed} bytes in {directory}, where {max(free, 0)} may be taken: free disk space,"
            " or name another backup_dir"
        )
    work.mkdir(mode=0o700)
    return work


def _large(data: Path) -> Iterator[Path]:
    for name in (DATABASE_FILE, AUDIT_FILE):
        yield data / name
        yield data / f"{name}-wal"
    yield from (data / ARCHIVE_DIRECTORY).glob("*")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def free_bytes(directory: Path) -> int:
    """What a backup may take there."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize - min(FREE_BYTES_KEPT, disk_bytes(directory) // TINY_DISK_SHARE)


def copy_rest(data: Path, work: Path, witness_key: bytes, audit_key: bytes | None, check: Check) -> list[str] | None:
    """All but the log, of which there is a copy; the names of what is to be packed. None: make that copy anew.

    Raises OSError, `StorageFull`, `Faulted`, and what `check` does.
    """
    names = [DATABASE_FILE, WITNESS_FILE]
    if audit_key is not None and (data / AUDIT_FILE).exists() and _copy_audit(data, work, audit_key, check):
        names += [AUDIT_FILE, AUDIT_HEAD_FILE]
    for name in backups.segments_of(work, witness_key):
        check()
        try:
            _link(data / name, work / name)
        except FileNotFoundError:  # what is erased from a segment makes another one, which the log names from then on
            return None
        names.append(name)
    left = SIDE_BYTES_MAX
    for name in _beside(data):
        check()
        with suppress(FileNotFoundError):
            content = _content(data / name, left)
            left -= len(content)
            (work / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (work / name).write_bytes(content)
            names.append(name)
    return names


def _copy_audit(data: Path, work: Path, key: bytes, check: Check) -> bool:
    """Whether it could be copied: an audit that cannot is no reason to have no backup of the log."""
    try:
        backups.copy_audit(data, work, key, lambda done, total: check())
    except Faulted as fault:
        if fault.code != "backup_failed":
            raise
        for name in (AUDIT_FILE, AUDIT_HEAD_FILE):
            (work / name).unlink(missing_ok=True)
        return False
    return True


def _beside(data: Path) -> Iterator[str]:
    """What is needed to run again, beside the databases: also keys of certificates, for all of it is sealed."""
    if (data / CONFIGURATION_FILE).is_file():
        yield CONFIGURATION_FILE
    for path in sorted((data / CERTIFICATES_DIRECTORY).rglob("*")):
        name = str(path.relative_to(data))
        if path.is_file() and is_safe(name):
            yield name


def _content(path: Path, bytes_max: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise Faulted("backup_failed", f"{path} is too large for a backup: move it out of the data directory")
    return content


def _link(file: Path, copy: Path) -> None:
    """A second name for it, where the file system has that."""
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        os.link(file, copy)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(file, copy)


def environment_names(data: Path) -> list[str]:
    """Those that services may need: they are named, and not copied."""
    return environments_of(data).names()


def start_again(work: Path) -> None:
    shutil.rmtree(work)
    work.mkdir(mode=0o700)


def put(work: Path, path: Path) -> None:
    """Give what was packed its name, durably, and never that of another one. Raises OSError."""
    os.link(work / PACKED_FILE, path)
    sync_directory(path.parent)


def sweep(directory: Path, data: Path) -> None:
    """Remove what is left of a backup that was being written when its process was killed; never raises."""
    shutil.rmtree(work_of(directory, data), ignore_errors=True)
