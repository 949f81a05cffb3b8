"""Another master key for a journal. Owns: the order in which rows and witness change over, going on after a crash. Never: keys
of its own, or the file of the master key.

One transaction wraps all keys anew and drops the checkpoints, whose MACs are under a key of the old one; then the witness is
written again. Whoever comes after a crash tells by the rows which master key holds, and brings the witness to it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from solo_trio.errors import Faulted
from solo_trio.journal import reads, schema, shape, witness
from solo_trio.journal.library import READ_ERRORS, at_open
from solo_trio.journal.opening import check_files, check_kinds, check_witness, close_store, open_store
from solo_trio.journal.witness import NO_EVENTS, Head
from solo_trio.model.record import KeyRow


def change_over(directory: Path, old_key: bytes, new_key: bytes, rewrap: Callable[[KeyRow], KeyRow]) -> int:
    """Wrap every key with `rewrap`; how many there were. The keys are the witness's; the caller has locked the directory.

    Raises what opening raises, `StorageFull` (nothing changed), `JournalFailed`, and what `rewrap` raises (nothing changed).
    """
    store, readers = open_store(directory, old_key)
    try:
        count = store.rewrap(rewrap, old_key, new_key)
        head = store.head
    finally:
        close_store(store, readers)
    witness.replace(directory, head, new_key)
    return count


def settle(directory: Path, old_key: bytes, new_key: bytes, is_new: Callable[[list[KeyRow]], bool]) -> bool:
    """After a change over that may have been interrupted: whether the new key holds; the witness then is under it.

    `is_new`: whether these rows, at least one, are wrapped by the new one.
    """
    check_kinds(directory)
    known, under_new = _witness(directory, old_key, new_key)
    try:
        check_files(directory, known)
        if not (directory / schema.DATABASE_FILE).exists():
            return under_new
        head, rows = _look(directory, known)
    except (*READ_ERRORS, OSError) as error:
        raise at_open(error, directory) from error
    new = is_new(rows) if rows else under_new
    if new and not under_new:
        witness.replace(directory, head if known is None else known, new_key)
    if under_new and not new:
        raise Faulted("data_damaged", "the witness is of another master key than the stored keys; restore a backup")
    return new


def _witness(directory: Path, old_key: bytes, new_key: bytes) -> tuple[Head | None, bool]:
    try:
        return witness.read(directory, old_key), False
    except Faulted:
        return witness.read(directory, new_key), True


def _look(directory: Path, known: Head | None) -> tuple[Head, list[KeyRow]]:
    connection = schema.connect_reader(directory)
    try:
        version = schema.version(connection)
        shape.check(connection)
        if not version:
            return NO_EVENTS, []
        head = reads.head(connection)
        check_witness(connection, known, head)
        return head, reads.keys(connection)
    finally:
        connection.close()
