"""Restoring a backup. Owns: the order of its steps, and that a directory is restored as a whole or not at all. Never: a
backup's form.

Everything in the backup is checked before anything is written; then it is unpacked, and the log checked as `solo verify`
does. While that goes on a file says so in the directory, which no kernel starts on then; the same command, given again,
begins anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from attrs import frozen

from solo_trio.bootstrap.audit import AUDIT_PURPOSE
from solo_trio.bootstrap.backup_check import check_copy
from solo_trio.bootstrap.backup_file import Opened, members_of, open_backup
from solo_trio.bootstrap.directory import DATABASE_FILE, RESTORING_FILE
from solo_trio.bootstrap.master_key import MASTER_KEY_FILE
from solo_trio.bootstrap.restored_log import Begun, begun_anew
from solo_trio.errors import Faulted, Rejected, SoloError, StorageFull
from solo_trio.journal import backups
from solo_trio.journal.library import no_space
from solo_trio.journal.lock import LOCK_FILE, DataLock, prepare_directory, sync_directory
from solo_trio.vault.keys import MASTER_KEY_VARIABLE, MasterKey
from solo_trio.vault.vault import NoKey, system_key

MARKER: Final = b"A backup is being restored here. If no solo restore runs: do it once more.\n"
MARGIN_BYTES: Final = 4 * 1_048_576
"""Of space, beside what the backup holds."""

Progress = Callable[[int, int], None]
"""Told how many bytes were dealt with so far, and of about how many (0: that is not known yet)."""


@frozen
class Restored:
    """A directory that a kernel can start on. `event_id`: the last event of the backup that was kept."""

    data: Path
    event_id: int
    backup_event_id: int
    made_at: str
    begun: Begun
    environments: tuple[str, ...]
    """What the data directory that was backed up had; they are not in a backup."""
    warnings: tuple[str, ...]


class _Telling:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0
        self.total = 0

    def more(self, count: int) -> None:
        self._done += count
        self._progress(self._done, max(self.total, self._done) if self.total else 0)


def restore_backup(
    backup: Path,
    data: Path,
    progress: Progress,
    *,
    at: int | None = None,
    key_file: Path | None = None,
    key_command: Sequence[str] = (),
) -> Restored:
    """Restore `backup` into the new or empty directory `data`; with `at` the log up to that event.

    The master key: of `key_file`, which is then put into the directory, or from a variable or `key_command`, as a kernel
    has it. Raises `SoloError`: file_exists, backup_damaged, master_key_wrong, data_newer, invalid_field, storage_full,
    data_unwritable. What was written is removed then. Not for a thread that Trio runs in.
    """
    data, found = data.absolute(), []
    _check_empty(data)

    def master() -> MasterKey:
        found.append(_master_key(data, key_file, key_command))
        return found[0]

    telling = _Telling(progress)
    opened = open_backup(backup, master)
    manifest = opened.read(None, telling.more)
    backup_event_id = int(manifest["last_event_id"])
    if at is not None and not 1 <= at <= backup_event_id:
        raise Rejected(
            "invalid_field", f"the backup holds the log up to event {backup_event_id}: name one of its events"
        )
    telling.total = 3 * sum(member.size_bytes for member in members_of(manifest))
    try:
        with _place(data):
            event_id = backup_event_id if at is None else at
            restored = _restore(opened, data, found[0], event_id, telling)
            if key_file is not None:
                MasterKey.create(data / MASTER_KEY_FILE, found[0])
    except OSError as error:
        if no_space(error):
            raise StorageFull(f"no space to restore into {data}: free disk space, or name another directory") from error
        raise Faulted("data_unwritable", f"{data} cannot be written ({error}): correct that") from error
    return restored


def _restore(opened: Opened, data: Path, master: MasterKey, event_id: int, telling: _Telling) -> Restored:
    manifest = opened.read(_Sink(data, opened).put, telling.more)
    for directory in directories_of(data, [member.name for member in members_of(manifest)]):
        sync_directory(directory)
    last_id, chain = int(manifest["last_event_id"]), str(manifest["chain"])
    witness_key = master.derive("witness")
    warnings = _check(opened, data, master, telling)
    if backups.head_of(data) != (last_id, bytes.fromhex(chain)):
        raise Faulted("backup_damaged", f"{opened.path}: {DATABASE_FILE} does not end as its manifest says")
    taken = backups.cut(data, witness_key, event_id) if event_id < last_id else []
    begun = begun_anew(data, master, event_id, last_id, taken)
    if event_id < last_id:
        warnings = _check(opened, data, master, telling)
    return Restored(
        data, event_id, last_id, str(manifest["made_at"]), begun, tuple(manifest["environments"]), tuple(warnings)
    )


def directories_of(data: Path, names: Sequence[str]) -> list[Path]:
    """Those with one of these files, or with a directory on the way to one, the innermost first."""
    found = {data / parent for name in names for parent in Path(name).parents} | {data}
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def _check(opened: Opened, data: Path, master: MasterKey, telling: _Telling) -> list[str]:
    try:
        audit_key = system_key(master, backups.key_rows(data), AUDIT_PURPOSE).reveal()
    except NoKey:
        audit_key = None
    try:
        return check_copy(data, master.derive("witness"), audit_key, telling.more)
    except Faulted as fault:
        raise Faulted("backup_damaged", f"{opened.path}: {fault.detail}") from fault


def _master_key(data: Path, key_file: Path | None, command: Sequence[str]) -> MasterKey:
    """Fails closed: without the key nothing of a backup can be read."""
    try:
        if key_file is not None:
            return MasterKey.read(key_file)
        if MASTER_KEY_VARIABLE in os.environ or command:
            return MasterKey.load_or_create(data / MASTER_KEY_FILE, command=command)
    except SoloError as error:
        raise Faulted("master_key_wrong", f"the master key cannot be read: {error.detail}") from error
    raise Faulted(
        "master_key_wrong",
        "a backup does not hold the master key that it was written with: give that with --master-key FILE (it was"
        f" {MASTER_KEY_FILE} in the data directory), {MASTER_KEY_VARIABLE}, or security.master_key_command",
    )


class _Sink:
    """The directory that members are written to."""

    def __init__(self, data: Path, opened: Opened) -> None:
        self._data = data
        self._opened = opened

    def put(self, name: str, size: int) -> BinaryIO:
        status = os.statvfs(self._data)
        if status.f_bavail * status.f_frsize < size + MARGIN_BYTES:
            raise StorageFull(f"{self._data} needs {size} bytes more for {name}: free disk space")
        path = self._data / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb")


# -- the directory


def _check_empty(data: Path) -> None:
    """Raises `Rejected("file_exists")`."""
    try:
        names = {path.name for path in data.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise Faulted("data_unwritable", f"{data} cannot be used ({error.strerror}): name a new directory") from None
    if names - {LOCK_FILE} and not _is_marked(data):
        raise Rejected("file_exists", f"{data} is not empty: name a directory that is new, or empty")


@contextmanager
def _place(data: Path) -> Iterator[None]:
    """The directory, locked, with nothing in it but what is made in the body; nothing is left of a body that raises."""
    made = [path for path in (data, *data.parents) if not path.exists()]
    prepare_directory(data)
    try:
        with DataLock(data):
            _check_empty(data)
            try:
                _write_marker(data)
                _clear(data, keep={LOCK_FILE, RESTORING_FILE})
                yield
                sync_directory(data)
            except BaseException:
                _clear(data, keep={LOCK_FILE, RESTORING_FILE})
                (data / RESTORING_FILE).unlink(missing_ok=True)
                raise
            (data / RESTORING_FILE).unlink()
            sync_directory(data)
    except BaseException:
        if made:
            (data / LOCK_FILE).unlink(missing_ok=True)
            for path in made:
                path.rmdir()
        raise


def _is_marked(data: Path) -> bool:
    """Whether a restore began here, and did not come to its end: what lies here is its own, and may be thrown away."""
    try:
        fd = os.open(data / RESTORING_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    with open(fd, "rb") as file:
        return file.read(len(MARKER) + 1) == MARKER


def _write_marker(data: Path) -> None:
    fd = os.open(data / RESTORING_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, MARKER)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(data)


def _clear(data: Path, keep: set[str]) -> None:
    for path in data.iterdir():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
