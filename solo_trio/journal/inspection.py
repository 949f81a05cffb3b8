"""A look at a data directory that no kernel uses. Owns: reading it with every check there is. Never: writes to it.

What `open_journal` does beside checking (migrating, emptying the WAL, making what is missing) is left out: the database is
opened for reading only, and its files stay byte for byte as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import trio

from solo_trio.errors import Faulted
from solo_trio.journal import checkpoints, pruning, reads, schema, shape, witness
from solo_trio.journal.archive import Archive
from solo_trio.journal.inventory import inventory
from solo_trio.journal.library import READ_ERRORS, at_open, driver
from solo_trio.journal.opening import check_files, check_kinds, check_witness
from solo_trio.journal.sqlite import Replay
from solo_trio.journal.turns import Lane
from solo_trio.journal.witness import Head
from solo_trio.model.record import Artifact, Checkpoint, Inventory, KeyRow, StoredEvent

T = TypeVar("T")


@asynccontextmanager
async def open_inspection(directory: Path, key: bytes) -> AsyncIterator[Inspection]:
    """Open the journal in `directory`, which the caller has locked. Raises `Faulted` as `open_journal` does."""
    made = [
        directory / name for name in (schema.WAL_FILE, schema.SHARED_MEMORY_FILE) if not (directory / name).exists()
    ]
    try:
        inspection = await trio.to_thread.run_sync(_open, directory, key)
        try:
            yield inspection
        finally:
            await inspection.close()
    finally:
        for path in made:  # SQLite makes them for reading too; they hold nothing
            with suppress(FileNotFoundError):
                path.unlink()


def _open(directory: Path, key: bytes) -> Inspection:
    try:
        check_kinds(directory)
        known = witness.read(directory, key)
        check_files(directory, known)
        if not (directory / schema.DATABASE_FILE).exists():
            raise Faulted("data_damaged", f"there is no {schema.DATABASE_FILE} in {directory}: name a data directory")
        connection = schema.connect_onlooker(directory)
        try:
            version = schema.version(connection)
            shape.check(connection)
            head = reads.head(connection) if version else witness.NO_EVENTS
            oldest_id = reads.oldest_id(connection) if version else 1
            check_witness(connection, known, head)
            checkpoint_key = checkpoints.key_of(key)
            archive = None
            if version >= schema.ARCHIVE_SINCE:
                archive = (Archive(directory), pruning.key_of(key))
                pruning.check(connection, archive[1])
                oldest_id = 1  # what was moved to the archive is read from there
            if version >= schema.CHECKPOINTS_SINCE:
                checkpoints.check_not_ahead(connection, head, checkpoint_key)
        except BaseException:
            connection.close()
            raise
    except (*READ_ERRORS, OSError) as error:
        raise at_open(error, directory) from error
    return Inspection(
        connection, head, oldest_id, checkpoint_key, archive, keeps_checkpoints=version >= schema.CHECKPOINTS_SINCE
    )


class Inspection:
    """The reading part of `ports.Journal`."""

    def __init__(
        self,
        connection: driver.Connection,
        head: Head,
        oldest_id: int,
        checkpoint_key: bytes,
        archive: tuple[Archive, bytes] | None,
        *,
        keeps_checkpoints: bool,
    ) -> None:
        self.oldest_id = oldest_id
        self._connection = connection
        self._lane = Lane([connection])
        self._head = head
        self._checkpoint_key = checkpoint_key
        self._archive = archive
        self._keeps_checkpoints = keeps_checkpoints

    @property
    def last_id(self) -> int:
        return self._head[0]

    def replay(self, after: int = 0) -> AsyncIterator[Sequence[StoredEvent]]:
        return Replay(self, self._head, after, None if self._archive is None else reads.Whole(*self._archive))

    async def checkpoint_ids(self) -> list[int]:
        return await self._lane.run(checkpoints.ids) if self._keeps_checkpoints else []

    async def checkpoint(self, event_id: int) -> Checkpoint:
        def query(connection: driver.Connection) -> Checkpoint:
            chain = reads.hash_at(connection, event_id)
            return checkpoints.read(connection, event_id, chain, self._checkpoint_key)

        return await self._lane.run(query)

    async def artifact(self, digest: str) -> Artifact:
        return await self._lane.run(lambda connection: reads.artifact(connection, digest))

    async def keys(self) -> list[KeyRow]:
        return await self._lane.run(reads.keys)

    async def inventory(self) -> Inventory:
        return await self._lane.run(inventory)

    async def in_reader(self, query: Callable[[driver.Connection], T]) -> T:
        return await self._lane.run(query)

    async def close(self) -> None:
        await self._lane.wait_closed()
        self._connection.close()
