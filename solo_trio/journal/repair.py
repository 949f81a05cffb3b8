"""A repaired journal in the place of a damaged one. Owns: writing it beside, the order in which the two change places,
going on after a crash. Never: decides what is kept, or deletes what was there: that goes to `damaged/` as it is.

1. The new files are written into `repair.new/`, forced out, and checked by whoever called. Until then nothing in the
   directory has changed, and what a killed repair left there is thrown away by the next one.
2. `kernel.repair` is written: which files leave, and which come. From here on there is no way back: no kernel starts on a
   directory that has it, and the next repair goes on (`finish`).
3. The old files are moved to `damaged/TIME/`, the new ones to their places, `kernel.repair` is removed. Each move is made
   once, whoever makes it: `test_repair_kill.py`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson
from attrs import asdict, frozen

from solo_trio.errors import Faulted
from solo_trio.journal import chain, checkpoints, erasing, schema, witness
from solo_trio.journal.chain import SALT_BYTES
from solo_trio.journal.library import driver
from solo_trio.journal.lock import sync_directory
from solo_trio.journal.statements import EVENT, statements_of
from solo_trio.journal.witness import NO_EVENTS, WITNESS_FILE, Head
from solo_trio.model.record import Attachment, Checkpoint, StoredEvent

NEW_DIRECTORY: Final = "repair.new"
MARK_FILE: Final = "kernel.repair"
DAMAGED_DIRECTORY: Final = "damaged"
JOURNAL_FILES: Final = (schema.DATABASE_FILE, schema.WAL_FILE, schema.SHARED_MEMORY_FILE, WITNESS_FILE)
_NEW_MARK_FILE: Final = f"{MARK_FILE}.new"


@frozen
class Mark:
    """What changes places: `old` files of the data directory go to `damaged`, `new` ones come from `repair.new/`."""

    damaged: str
    old: tuple[str, ...]
    new: tuple[str, ...]


def interrupted(directory: Path) -> bool:
    """Whether a repair of this directory was begun that must be brought to its end."""
    return (directory / MARK_FILE).exists()


class Rebuilding:
    """A new journal in `repair.new/`: events in order, then what stands beside them; nothing counts before `close`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NEW_DIRECTORY
        discard(directory)
        self.path.mkdir(mode=0o700)
        schema.create_file(self.path)
        self._connection = schema.connect_writer(self.path)
        self._connection.execute("PRAGMA journal_mode = OFF").fetchall()  # a half of it is thrown away, not rolled back
        self._connection.execute("PRAGMA synchronous = OFF")
        schema.migrate(self._connection)
        self.head: Head = NO_EVENTS
        self._connection.execute("BEGIN")

    def keep(self, rows: Sequence[tuple[Any, ...]], erased: erasing.Mask = erasing.NOTHING) -> None:
        """Rows as they were, which follow the head; without what was erased."""
        self._connection.executemany(EVENT, [erasing.blank(row, erased) for row in rows])
        self.head = (rows[-1][0], rows[-1][-1])

    def add(self, events: Iterable[StoredEvent]) -> None:
        """Events that follow the head, sealed anew."""
        for event in events:
            self.keep([chain.seal(self.head[1], event, os.urandom(SALT_BYTES))])

    def attach(self, attachments: Sequence[Attachment]) -> None:
        for statement, rows in statements_of(attachments):
            self._connection.executemany(statement, rows)

    def keep_checkpoint(self, checkpoint: Checkpoint, key: bytes) -> None:
        """One that is about an event of this log, bound to the hash that it has here."""
        (hash_,) = self._connection.execute("SELECT chain FROM events WHERE id = ?", (checkpoint.event_id,)).fetchone()
        row = checkpoints.row_of(checkpoint, hash_, checkpoints.key_of(key))
        self._connection.execute(checkpoints.WRITE, row)

    def close(self, key: bytes) -> None:
        """Force it out, with its witness."""
        # Tenants that were removed without their events having been erased: the next kernel sees to it.
        self._connection.execute(erasing.ASK_FOR_REMOVED)
        self._connection.execute("COMMIT")
        self._connection.close()
        _sync(self.path / schema.DATABASE_FILE)
        witness.replace(self.path, self.head, key)
        sync_directory(self.path)

    def abandon(self) -> None:
        try:
            self._connection.close()
        except driver.Error:
            return


def discard(directory: Path) -> None:
    """Throw away what a repair left that did not come to its mark."""
    if (directory / NEW_DIRECTORY).exists():
        shutil.rmtree(directory / NEW_DIRECTORY)


def change_places(directory: Path, damaged: str, old: Sequence[str], new: Sequence[str]) -> None:
    """Put the journal in `repair.new/` in the place of the one in `directory`. Interrupted after its mark, `finish` goes on.

    `damaged`: a directory that is not there yet, below the data directory; `old`: those files of it that are to leave, if
    they are there. Raises OSError: before the mark nothing has changed.
    """
    place = directory / damaged
    place.parent.mkdir(mode=0o700, exist_ok=True)
    place.mkdir(mode=0o700)
    sync_directory(place.parent)
    sync_directory(directory)
    there = tuple(name for name in old if os.path.lexists(directory / name))
    mark = Mark(damaged, there, tuple(new))
    path = directory / _NEW_MARK_FILE
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(orjson.dumps(asdict(mark)))
        file.flush()
        os.fsync(file.fileno())
    path.rename(directory / MARK_FILE)
    sync_directory(directory)
    finish(directory)


def finish(directory: Path) -> Mark:
    """Make every move that the mark says and that was not made. Raises OSError, `Faulted("data_damaged")`."""
    mark = _read(directory / MARK_FILE)
    place, new = directory / mark.damaged, directory / NEW_DIRECTORY
    for name in mark.old:
        if not os.path.lexists(place / name):
            (directory / name).rename(place / name)
        _keep_private(place / name)
    sync_directory(place)
    sync_directory(directory)
    for name in mark.new:
        if (new / name).exists():
            (new / name).rename(directory / name)
    if new.exists():
        sync_directory(new)
    sync_directory(directory)
    (directory / MARK_FILE).unlink()
    sync_directory(directory)
    discard(directory)
    return mark


def _keep_private(path: Path) -> None:
    if path.is_symlink():
        return
    with suppress(OSError):  # a disk that fails on what is damaged anyway keeps nobody from what was saved
        path.chmod(0o700 if path.is_dir() else 0o600)
        _sync(path)


def _read(path: Path) -> Mark:
    try:
        said = orjson.loads(path.read_bytes())
        mark = Mark(said["damaged"], tuple(said["old"]), tuple(said["new"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Faulted(
            "data_damaged", f"{path} cannot be read ({error}): restore the whole directory from a backup"
        ) from error
    return mark


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
