"""The machine's floors. Owns: the same work done with nothing of ours. Never: imports more of ours than which SQLite."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

from solo_trio.journal.library import driver

LOG_BYTES = 5 * 1_048_576
"""More than the thousand pages at which SQLite begins its log anew."""


class RawTable:
    """One table of the log's columns and nothing else: no index, no chain, no thread. WAL, and an fsync a transaction."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._connection = driver.connect(str(path), isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(f"CREATE TABLE events ({columns[0]} INTEGER PRIMARY KEY, {', '.join(columns[1:])})")
        self._warm_up()
        self._insert = f"INSERT INTO events VALUES ({', '.join('?' * len(columns))})"
        self._last = 0

    def _warm_up(self) -> None:
        """Let the log file grow to its size: from then on it is overwritten, which is cheaper to force out."""
        self._connection.execute("CREATE TABLE filler (content BLOB)")
        self._connection.execute(f"INSERT INTO filler VALUES (zeroblob({LOG_BYTES}))")
        self._connection.execute("PRAGMA wal_checkpoint(RESTART)")

    def write(self, rows: Sequence[tuple[Any, ...]], sizes: Sequence[int]) -> float:
        """Seconds to write transactions of these sizes, of the bytes of `rows`.

        In a thread that does nothing else, as the journal has one: on a busy machine the scheduler favours those.
        """
        transactions = []
        for size in sizes:
            ids = range(self._last + 1, self._last + size + 1)
            transactions.append([(number, *rows[number % len(rows)][1:]) for number in ids])
            self._last += size
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._timed_write, transactions).result()

    def _timed_write(self, transactions: list[list[tuple[Any, ...]]]) -> float:
        began = perf_counter()
        for each in transactions:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(self._insert, each)
            self._connection.execute("COMMIT")
        return perf_counter() - began

    def close(self) -> None:
        self._connection.close()


def read_all(database: Path) -> tuple[float, list[tuple[Any, ...]]]:
    """Seconds to read every row of the log raw, and the rows. Only while no kernel has the database open."""
    connection = driver.connect(str(database), isolation_level=None)
    try:
        began = perf_counter()
        rows = connection.execute("SELECT * FROM events ORDER BY id").fetchall()
        return perf_counter() - began, rows
    finally:
        connection.close()


def read_through(database: Path) -> float:
    """Seconds to read every row of the log raw, one after the other, keeping none."""
    connection = driver.connect(str(database), isolation_level=None)
    try:
        began = perf_counter()
        for _ in connection.execute("SELECT * FROM events ORDER BY id"):
            pass
        return perf_counter() - began
    finally:
        connection.close()


def fork_and_exec(times: int) -> list[float]:
    """Seconds for each new interpreter that does nothing."""
    return [_timed_exec() for _ in range(times)]


def _timed_exec() -> float:
    began = perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return perf_counter() - began


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child of a process with threads leaves at once
        return os.fork()


def fork(times: int) -> list[float]:
    """Seconds for each bare fork of this process and the wait for its end."""
    return [_timed_fork() for _ in range(times)]


def _timed_fork() -> float:
    began = perf_counter()
    pid = _fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return perf_counter() - began


def fork_together(count: int) -> float:
    """Seconds to fork so many, all alive at once, and to see the last one end."""
    began = perf_counter()
    reading, writing = os.pipe()
    pids = []
    for _ in range(count):
        pid = _fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        pids.append(pid)
    os.close(writing)
    for pid in pids:
        os.waitpid(pid, 0)
    os.close(reading)
    return perf_counter() - began
