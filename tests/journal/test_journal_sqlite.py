from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from journal_contract import JournalContract
from journal_samples import (
    KEY,
    SqliteJournal,
    artifact,
    event,
    events,
    idempotency_row,
    key_row,
    made,
    reopened,
    replayed,
    sql,
)

from solo_trio.errors import Faulted, KernelBug
from solo_trio.journal import reads
from solo_trio.journal.library import driver
from solo_trio.journal.opening import close_store, open_store
from solo_trio.journal.schema import BUSY_TIMEOUT_MS, MIGRATIONS, connect_reader, connect_writer
from solo_trio.journal.sqlite import open_journal
from solo_trio.journal.writer import WRITER_QUEUE_JOBS_MAX
from solo_trio.model.record import DropArtifact, DropSecrets, EventQuery, SecretRow


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    journal = await open_journal(tmp_path / "data", KEY)
    yield journal
    await journal.close()


class TestSqliteJournal(JournalContract):
    pass


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name == "solo-journal"}


async def test_everything_is_there_after_closing(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path, KEY)
    await journal.append(events(1, 5), [artifact(b"source"), key_row("a")])
    await journal.close()
    journal = await open_journal(tmp_path, KEY)
    assert await replayed(journal) == events(1, 5)
    assert await journal.artifact(artifact(b"source").digest) == artifact(b"source")
    assert await journal.keys() == [key_row("a")]
    await journal.append(events(6, 6))
    await journal.close()
    assert await reopened(tmp_path) == events(1, 6)


async def test_closing_ends_the_thread_and_empties_the_wal(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path, KEY)
    await journal.append(events(1, 5))
    assert threads()
    assert (tmp_path / "kernel.db-wal").stat().st_size > 0
    await journal.close()
    await journal.close()
    assert not threads()
    assert names(tmp_path) == ["kernel.db", "kernel.head", "reserve"]
    with pytest.raises(KernelBug):
        await journal.append(events(6, 6))
    with pytest.raises(KernelBug):
        await journal.read(EventQuery())


async def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path, KEY)
    async with trio.open_nursery() as nursery:
        for id_ in range(1, 31):
            nursery.start_soon(journal.append, [event(id_)])
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await journal.close()
    found = await reopened(tmp_path)
    assert found == events(1, len(found))


async def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    before = os.umask(0)
    try:
        journal = await open_journal(directory, KEY)
        await journal.append(events(1, 3))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        await journal.close()
    finally:
        os.umask(before)
    assert set(modes) == {"kernel.db", "kernel.db-wal", "kernel.db-shm", "kernel.head", "reserve"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    await made(tmp_path, 3)
    sql(tmp_path, "PRAGMA user_version = 99")
    with pytest.raises(Faulted, match="install a newer version") as caught:
        await open_journal(tmp_path, KEY)
    assert caught.value.code == "data_newer"
    sql(tmp_path, f"PRAGMA user_version = {len(MIGRATIONS)}")
    assert await reopened(tmp_path) == events(1, 3)


async def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Faulted) as caught:
            await open_journal(path, KEY)
        assert caught.value.code == "data_unwritable"


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "new"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("kernel.db", "data_damaged"),
        ("kernel.db-wal", "data_damaged"),
        ("kernel.head", "data_damaged"),
        ("kernel.new", "data_unwritable"),
        ("reserve", "data_unwritable"),
    ],
)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.parent)])
async def test_what_is_no_plain_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], name: str, code: str, begun: bool
) -> None:
    if begun:
        await made(tmp_path, 3)
    path = tmp_path / name
    if path.exists():
        path.rename(tmp_path / "aside")
    make(path)
    with pytest.raises(Faulted, match=f"{name} is not a plain file") as caught:
        await open_journal(tmp_path, KEY)
    assert caught.value.code == code
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
    if (tmp_path / "aside").exists():
        (tmp_path / "aside").rename(path)
    assert await reopened(tmp_path) == (events(1, 3) if begun else [])


async def test_the_promised_pragmas_hold(tmp_path: Path) -> None:
    """On the file what is kept in it; `secure_delete` by its effect, as it belongs to a connection."""
    journal = await open_journal(tmp_path, KEY)
    rows = [idempotency_row(f"canary-{at_us}", at_us) for at_us in range(100)]
    await journal.append([event(1)], rows)
    assert len(await journal.idempotency(50)) == 50
    reader = connect_reader(tmp_path)
    assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(driver.OperationalError):
        reader.execute("DELETE FROM events")
    reader.close()
    await journal.close()
    data = (tmp_path / "kernel.db").read_bytes()
    assert b"canary-60" in data
    assert b"canary-40" not in data


async def test_a_dropped_artifact_leaves_no_trace_of_its_content(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path, KEY)
    kept, dropped = artifact(b"canary-kept" * 2_000), artifact(b"canary-dropped" * 2_000)
    await journal.append([event(1)], [kept, dropped])
    await journal.append([event(2)], [DropArtifact(dropped.digest)])
    await journal.close()
    data = (tmp_path / "kernel.db").read_bytes()
    assert b"canary-kept" in data
    assert b"canary-dropped" not in data
    assert await reopened(tmp_path) == events(1, 2)


async def test_appends_that_wait_for_the_writer_keep_their_order(tmp_path: Path) -> None:
    """More than the queue holds are waiting, and slots become free several at a time."""
    journal = await open_journal(tmp_path, KEY)
    blocker = connect_writer(tmp_path)
    blocker.execute("BEGIN IMMEDIATE")
    count = 6 * WRITER_QUEUE_JOBS_MAX
    async with trio.open_nursery() as nursery:
        for id_ in range(1, count + 1):
            nursery.start_soon(journal.append, [event(id_)])
            await trio.testing.wait_all_tasks_blocked()
        blocker.execute("ROLLBACK")
        # Keep Trio from running until the thread has done all it holds, so that it hears of all of them in one step.
        while (blocker.execute("SELECT max(id) FROM events").fetchone()[0] or 0) < WRITER_QUEUE_JOBS_MAX:
            pass
    blocker.close()
    assert await replayed(journal) == events(1, count)
    await journal.close()


async def test_replay_beside_appends_sees_a_whole_prefix(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path, KEY)
    await journal.append(events(1, 5_000))
    pages = journal.replay()
    found = list(await pages.__anext__())
    await journal.append(events(5_001, 5_010))
    async for page in pages:
        found.extend(page)
    await journal.close()
    assert found == events(1, 5_010)


async def test_the_wal_is_moved_into_the_database_as_it_grows(tmp_path: Path) -> None:
    """Without checkpoints this would leave a WAL of some 4,000 pages."""
    journal = await open_journal(tmp_path, KEY)
    for first in range(1, 801):
        await journal.append([event(first)])
    assert (tmp_path / "kernel.db-wal").stat().st_size < 2_000 * 4_096
    assert (tmp_path / "kernel.db").stat().st_size > 20 * 4_096
    await journal.close()


async def test_a_payload_that_is_gone_without_an_erasure_is_damage(tmp_path: Path) -> None:
    await made(tmp_path, 6)
    sql(tmp_path, "UPDATE events SET payload = NULL, salt = NULL WHERE id IN (2, 5)")
    with pytest.raises(Faulted, match="event 2: its payload is gone"):
        await reopened(tmp_path)


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ("tenant_id = 'acme' AND id > 5", "events_tenant"),
        ("tenant_id = 'acme' AND subject = 's' AND id > 5", "events_subject"),
        ("tenant_id = 'acme' AND type IN ('a') AND id > 5", "events_tenant"),
        ("id > 5", "PRIMARY KEY"),
    ],
)
async def test_reads_use_an_index_and_sort_nothing(tmp_path: Path, where: str, index: str) -> None:
    await made(tmp_path, 3)
    reader = connect_reader(tmp_path)
    for order in ("ASC", "DESC"):
        rows = reader.execute(f"EXPLAIN QUERY PLAN SELECT * FROM events WHERE {where} ORDER BY id {order} LIMIT 9")
        plan = " ".join(str(row[-1]) for row in rows)
        assert index in plan and "TEMP B-TREE" not in plan
    reader.close()


async def test_what_a_reader_kept_in_the_log_file_is_out_of_it_after_the_next_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foreign tool that reads may be in the way of emptying the WAL; that is made up for."""
    monkeypatch.setattr("solo_trio.journal.schema.BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr("solo_trio.journal.store.SHRED_RETRY_S", 0.0)
    content = os.urandom(3_000)
    journal = await open_journal(tmp_path, KEY)
    try:
        await journal.append([event(1)], [SecretRow("acme-1", "a", 1, "v", "k", content)])
        reader = connect_reader(tmp_path)
        try:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM events").fetchone()
            await journal.append([event(2)], [DropSecrets("acme-1")])
            assert content[100:200] in read_elsewhere(tmp_path, "kernel.db-wal")
        finally:
            reader.close()
        await journal.append([event(3)])
        await journal.append([event(4)])  # what follows an append is done when the next one is
        for name in ("kernel.db", "kernel.db-wal"):
            assert content[100:200] not in read_elsewhere(tmp_path, name)
    finally:
        await journal.close()


async def test_appends_do_not_wait_for_who_reads_while_the_log_file_is_to_be_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the one that asked for it does; the others try now and then, and briefly."""
    await made(tmp_path, 3)
    store, readers = open_store(tmp_path, KEY)
    tried: list[float] = []

    def trace(statement: str) -> None:
        if "wal_checkpoint" in statement:
            tried.append(time.monotonic())

    try:
        store.append([event(4)], [SecretRow("acme-1", "a", 1, "v", "k", b"sealed")], reserved=False)
        readers.scans[0].execute("BEGIN")
        readers.scans[0].execute("SELECT * FROM events").fetchone()
        began = time.monotonic()
        assert not store.change([("DELETE FROM secrets", [()])], shred=True)
        assert time.monotonic() - began < BUSY_TIMEOUT_MS / 1000 / 2
        (usual_ms,) = store.beside_appends(lambda connection: connection.execute("PRAGMA busy_timeout").fetchone())
        assert usual_ms == BUSY_TIMEOUT_MS
        monkeypatch.setattr(store, "_shred_again_at", time.monotonic() + 3_600)
        store.beside_appends(lambda connection: connection.set_trace_callback(trace))
        for id_ in range(5, 10):
            store.append([event(id_)], [], reserved=False)
            store.tidy()
        assert tried == [] and store.to_be_shredded
        monkeypatch.setattr(store, "_shred_again_at", time.monotonic())
        store.tidy()
        assert len(tried) == 1 and store.to_be_shredded
        readers.scans[0].execute("ROLLBACK")
        monkeypatch.setattr(store, "_shred_again_at", time.monotonic())
        store.tidy()
        assert not store.to_be_shredded
    finally:
        close_store(store, readers)


async def test_a_check_of_the_tables_gives_way_to_what_is_to_be_in_no_file(tmp_path: Path) -> None:
    await made(tmp_path, 5_000, group=5_000)
    journal = await open_journal(tmp_path, KEY)
    content = os.urandom(3_000)
    await journal.append([event(5_001)], [SecretRow("acme-1", "a", 1, "v", "k", content)])
    whole = journal._retaining.whole()
    assert whole.in_the_way is not None and not whole.in_the_way()
    begun, asked = threading.Event(), []

    def in_the_way() -> bool:
        """The check is under way: let the secret be deleted now, and hear that it is in the way of that."""
        begun.set()
        for _ in range(1_000):
            asked.append(whole.in_the_way())
            if asked[-1]:
                return True
            time.sleep(0.005)
        return False

    gave_way: list[bool] = []

    async def check() -> None:
        gave_way.append(not await journal.in_reader(partial(reads.check_tables, in_the_way=in_the_way)))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check)
            await trio.to_thread.run_sync(begun.wait)
            await journal.append([event(5_002)], [DropSecrets("acme-1")])
        assert gave_way == [True]
        for name in ("kernel.db", "kernel.db-wal"):
            assert content[100:200] not in read_elsewhere(tmp_path, name)
        assert await replayed(journal) == events(1, 5_002), "it ends when nothing is in its way"
    finally:
        await journal.close()


def read_elsewhere(directory: Path, name: str) -> bytes:
    """By another process: to close the file here would drop SQLite's locks."""
    return subprocess.run(["cat", directory / name], capture_output=True, check=True).stdout
