"""Defects to be planted into a kernel, to see that the tests find them. Each changes code of the running process only."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import trio

from solo_trio.journal import opening, schema, sqlite, store, writer
from solo_trio.model.record import IdempotencyRow, KeyRow, SecretRow
from solo_trio.vault import admin_token, keys

SLOW_DISK_S = 0.05
BUGS: dict[str, Callable[[], None]] = {}


def bug(plant: Callable[[], None]) -> Callable[[], None]:
    BUGS[plant.__name__] = plant
    return plant


def plant(name: str) -> None:
    """`none` plants none."""
    if name != "none":
        BUGS[name]()


def _synchronous(how: str) -> None:
    real = schema.connect_writer

    def connect(directory: Any) -> Any:
        connection = real(directory)
        connection.execute(f"PRAGMA synchronous = {how}")
        return connection

    schema.connect_writer = connect


class _Without:
    """`os`, but for one function."""

    def __init__(self, **other: Any) -> None:
        self.__dict__.update(other)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@bug
def synchronous_normal() -> None:
    """A commit is not forced out."""
    _synchronous("NORMAL")


@bug
def synchronous_off() -> None:
    """Nothing ever is."""
    _synchronous("OFF")


@bug
def master_key_not_forced_out() -> None:
    keys.os = _Without(fsync=lambda fd: None)  # type: ignore[attr-defined]


@bug
def token_not_forced_out() -> None:
    admin_token.os = _Without(fsync=lambda fd: None)  # type: ignore[attr-defined]


@bug
def token_written_in_place() -> None:
    def put(data: Any, token: Any) -> None:
        with (data / admin_token.ADMIN_TOKEN_FILE).open("wb") as file:
            file.write(token.reveal() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    import solo_trio.bootstrap.running as running

    running.put_admin_token = put


@bug
def names_not_forced_out() -> None:
    """No fsync of a directory by us; SQLite makes that of its own log."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            real(fd)

    os.fsync = fsync


@bug
def witness_before_the_commit() -> None:
    real = store.Store._write

    def write(self: Any, statements: Any, dispensable: bool = False) -> None:
        rows = [row for statement, rows in statements if statement is store.EVENT for row in rows]
        if rows:
            self._witness.write((rows[-1][0], rows[-1][-1]))
        real(self, statements, dispensable)

    store.Store._write = write  # type: ignore[method-assign]


@bug
def told_before_durable() -> None:
    """An append is over once it is handed over."""

    async def append(self: Any, events: Any, attachments: Any = (), *, reserved: bool = False) -> None:
        def work() -> None:
            time.sleep(SLOW_DISK_S)
            self._store.append(tuple(events), tuple(attachments), reserved)

        self._writer._jobs.put(writer._Job(work, self._store.tidy))
        await trio.lowlevel.checkpoint()

    sqlite.SqliteJournal.append = append  # type: ignore[method-assign]


def _later(kind: type) -> None:
    """Rows of that kind are written in a transaction of their own, after the one of the events."""
    real = store.Store.append

    @wraps(real)
    def append(self: Any, events: Any, attachments: Any, reserved: bool) -> None:
        held = getattr(self, "held", ())
        later = tuple(each for each in attachments if isinstance(each, kind))
        if held:
            real(self, (), held, reserved)
        self.held = later
        real(self, events, tuple(each for each in attachments if not isinstance(each, kind)), reserved)

    store.Store.append = append  # type: ignore[method-assign]


@bug
def idempotency_in_the_next_transaction() -> None:
    _later(IdempotencyRow)


@bug
def secrets_in_the_next_transaction() -> None:
    _later(SecretRow)


@bug
def keys_in_the_next_transaction() -> None:
    _later(KeyRow)


@bug
def log_moved_without_forcing_out_the_database() -> None:
    """The log is emptied before what it held is safe."""
    real = store.Store._checkpoint

    def checkpoint(self: Any, mode: str) -> bool:
        self._connection.execute("PRAGMA synchronous = OFF")
        try:
            return real(self, mode)
        finally:
            self._connection.execute("PRAGMA synchronous = FULL")

    store.Store._checkpoint = checkpoint  # type: ignore[method-assign]


@bug
def last_transaction_cut_off_at_the_start() -> None:
    """A start that takes the newest frames of the log for a torn tail. (Of who opens, not of who writes.)"""
    real = opening.check_files

    def check(directory: Any, known: Any) -> None:
        log = directory / schema.WAL_FILE
        if log.exists() and log.stat().st_size > 32:
            os.truncate(log, log.stat().st_size - 24 - 4_096)
        real(directory, known)

    opening.check_files = check


@bug
def witness_lost_is_not_noticed_and_events_go() -> None:
    """A start that removes the log file that it does not understand. (Of who opens.)"""
    real = opening.check_files

    def check(directory: Any, known: Any) -> None:
        (directory / schema.WAL_FILE).unlink(missing_ok=True)
        real(directory, known)

    opening.check_files = check


AT_OPENING = frozenset({"last_transaction_cut_off_at_the_start", "witness_lost_is_not_noticed_and_events_go"})
"""These are planted into who opens what a crash left."""
