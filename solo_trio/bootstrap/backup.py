"""Making a backup. Owns: the order of its steps, its name, that nothing is left of one that failed. Never: its form, or
its parts.

1. The log is copied, then what lies beside it (`backup_parts`). 2. A process of its own checks the copies, packs them
into one file, forces it to the disk, and reads it back. 3. The file gets its name, durably. Until then all of it is in
one directory, which the next backup, or start of the kernel, removes if this process was killed.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from attrs import field, frozen

from solo_trio import __version__
from solo_trio.bootstrap import backup_parts
from solo_trio.bootstrap.audit import AUDIT_PURPOSE
from solo_trio.bootstrap.backup_file import new_key
from solo_trio.bootstrap.backup_process import Job, check_and_pack
from solo_trio.bootstrap.directory import DATABASE_FILE
from solo_trio.bootstrap.master_key import master_key_of
from solo_trio.errors import Faulted, SoloError, StorageFull
from solo_trio.journal import backups
from solo_trio.journal.audit import looking
from solo_trio.journal.inspection import open_inspection
from solo_trio.journal.library import means
from solo_trio.journal.lock import DataLock
from solo_trio.journal.sqlite import SqliteJournal
from solo_trio.journal.witness import Head
from solo_trio.kernel.loop import shutting_down
from solo_trio.model.instant import rfc3339
from solo_trio.model.record import KeyRow
from solo_trio.ports import BackupMade, BackupProgress
from solo_trio.telemetry.sources import SystemClock
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.secret import Secret
from solo_trio.vault.vault import NoKey, system_key

SUFFIX: Final = ".backup"
TRIES_MAX: Final = 3
"""A segment of the archive may be written anew while the log is copied; then the copy is made again."""
STEPS: Final = 4
"""Of about the same length: copying, checking, packing, reading back."""

OverConnection = Callable[[Callable[[Any], Head]], Awaitable[Head]]
"""Runs something over the connection to the log, in a thread."""


class _Stopped(Exception):
    """It is not to go on."""


@frozen
class Source:
    """What is copied: the data directory `data`, and how to come to its log. `stopping`: it is about to be closed."""

    data: Path
    master: MasterKey
    audit_key: Secret | None
    over_connection: OverConnection
    stopping: Callable[[], bool] = field(default=lambda: False)

    def witness_key(self) -> Secret:
        return Secret(self.master.derive("witness"))


def running_source(data: Path, master: MasterKey, audit_key: bytes, journal: SqliteJournal) -> Source:
    """The log that the kernel of this process writes."""
    return Source(data, master, Secret(audit_key), journal.beside_appends, lambda: journal.closing)


class _Watch:
    """How far it is, for who waits, and whether it goes on; also for threads."""

    def __init__(self, progress: BackupProgress, source: Source, directory: Path) -> None:
        self._progress = progress
        self._source = source
        self._directory = directory
        self.stopped = threading.Event()
        self._before = self._total = 0

    def check(self) -> None:
        if self.stopped.is_set() or self._source.stopping():
            raise _Stopped
        if backup_parts.free_bytes(self._directory) < 0:
            raise StorageFull(f"the backup would take the last space in {self._directory}: free disk space")

    def copied(self, done: int, total: int) -> None:
        self.check()
        self._before, self._total = done, total * STEPS
        self._progress(done, self._total)

    def went_on(self, done: int) -> None:
        self.check()
        self._progress(min(self._before + done, self._total), self._total)


async def make_backup(source: Source, directory: Path, progress: BackupProgress) -> BackupMade:
    """Write one into `directory`, which is made if it is missing. Whatever becomes of it, the log is as it was.

    Raises `StorageFull`, `Faulted` (backup_failed, data_damaged, shutting_down). Of one that failed or was cancelled
    nothing is left.
    """
    watch = _Watch(progress, source, directory)
    made: BackupMade | None = None
    failed: SoloError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_when_cancelled, watch.stopped)
        try:
            made = await _make(source, directory, watch)
        except SoloError as error:
            failed = error
        except OSError as error:
            failed = _failed(directory, error)
        except _Stopped:
            await trio.lowlevel.checkpoint()  # who was cancelled hears of that
            failed = shutting_down()
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    assert made is not None
    return made


async def _stop_when_cancelled(stopped: threading.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stopped.set()


async def _make(source: Source, directory: Path, watch: _Watch) -> BackupMade:
    began = trio.current_time()
    work = backup_parts.work_of(directory, source.data)
    try:
        await trio.to_thread.run_sync(backup_parts.prepare, source.data, directory)
        head, names = await _copied(source, work, watch)
        made_at = rfc3339(SystemClock().wall_us())
        about = {
            "solo": __version__,
            "made_at": made_at,
            "last_event_id": head[0],
            "chain": head[1].hex(),
            "environments": await trio.to_thread.run_sync(backup_parts.environment_names, source.data),
        }
        key, text = new_key(source.master)
        out = work / backup_parts.PACKED_FILE
        job = Job(work, out, source.witness_key(), source.audit_key, key, text, names, about)
        packed, warnings = await check_and_pack(job, watch.went_on)
        path = directory / f"solo-{made_at.replace(':', '').replace('-', '')}-{head[0]}{SUFFIX}"
        with trio.CancelScope(shield=True):  # from here on it is one
            await trio.to_thread.run_sync(backup_parts.put, work, path)
        return BackupMade(
            path.name,
            str(path),
            head[0],
            packed.size_bytes,
            packed.digest,
            trio.current_time() - began,
            tuple(warnings),
        )
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(shutil.rmtree, work, ignore_errors=True))


async def _copied(source: Source, work: Path, watch: _Watch) -> tuple[Head, list[str]]:
    witness_key = source.witness_key().reveal()
    audit_key = None if source.audit_key is None else source.audit_key.reveal()

    def copy(connection: Any) -> Head:
        return backups.copy_log(connection, work, witness_key, watch.copied)

    for _ in range(TRIES_MAX):
        head = await source.over_connection(copy)
        names = await trio.to_thread.run_sync(
            backup_parts.copy_rest, source.data, work, witness_key, audit_key, watch.check
        )
        if names is not None:
            return head, names
        await trio.to_thread.run_sync(backup_parts.start_again, work)
    raise Faulted("backup_failed", "the archive of the log is being written anew: try again in a moment")


def _failed(directory: Path, error: OSError) -> SoloError:
    if means(error) == "full":
        return StorageFull(f"no space for a backup in {directory}: free disk space, or name another backup_dir")
    return Faulted("backup_failed", f"the backup could not be written to {directory} ({error}): look at the disk")


async def backup_data(
    data: Path, directory: Path, progress: BackupProgress, key_command: Sequence[str] = ()
) -> BackupMade:
    """Of a data directory that no kernel uses; nothing is changed in it, unless `directory` is in it.

    Raises what `make_backup` does, `Faulted("data_in_use")`, and what a kernel would refuse to start with.
    """
    data, directory = data.absolute(), directory.absolute()  # noqa: ASYNC240 - reads no file
    if not (data / DATABASE_FILE).exists():
        raise Faulted("data_unwritable", f"{data} is no data directory: name the one that the kernel used")
    with DataLock(data), looking(data):
        master = await trio.to_thread.run_sync(partial(master_key_of, data, key_command, create=False, settle=False))
        async with open_inspection(data, master.derive("witness")) as log:
            audit_key = _audit_key(master, await log.keys())
            return await make_backup(Source(data, master, audit_key, log.in_reader), directory, progress)


def _audit_key(master: MasterKey, keys: Sequence[KeyRow]) -> Secret | None:
    try:
        return system_key(master, keys, AUDIT_PURPOSE)
    except NoKey:
        return None
