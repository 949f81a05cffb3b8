"""A disk that is full, and one that fails: on a real file system, and with real errors put in by strace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from journal_samples import (
    KEY,
    SqliteJournal,
    artifact,
    checkpoint,
    child,
    event,
    events,
    idempotency_row,
    made,
    reopened,
    replayed,
    sql,
)

from solo_trio.errors import Faulted, JournalFailed, StorageFull
from solo_trio.journal.lock import DataLock
from solo_trio.journal.reserve import RESERVE_BYTES, RESERVE_BYTES_MIN, Reserve, reserve_bytes
from solo_trio.journal.sqlite import open_journal
from solo_trio.model.record import EventQuery

SIZES_KIB = (300, 512, 4_096)
APPENDS_MAX = 20_000


def mount(directory: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, str(directory)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"missing: permission to mount a small file system ({done.stderr.strip()})")


@pytest.fixture(params=SIZES_KIB, ids=lambda size: f"{size}KiB")
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("missing: permission to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs")
    try:
        yield disk
    finally:
        # Lazily: a test that failed may have left its journal open.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Somebody else's file takes all that is left."""
    path = disk / "somebody_elses"
    with path.open("ab", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4_096))
            except OSError:
                return path


async def append_until_full(journal: SqliteJournal, last: int) -> int:
    for _ in range(APPENDS_MAX):
        try:
            await journal.append(events(last + 1, last + 2), [artifact(os.urandom(900))])
        except StorageFull as error:
            assert error.retry_after_s
            return last
        last += 2
    raise AssertionError("the disk never became full")


async def test_a_full_disk_refuses_and_recovers(small_disk: Path) -> None:
    data = small_disk / "data"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(40 * 1_024))
    with DataLock(data):
        journal = await open_journal(data, KEY)
        last = await append_until_full(journal, 0)
        assert last >= 8

        # It keeps serving, nothing of the refused append is there, and it goes on refusing.
        assert await replayed(journal) == events(1, last)
        assert (await journal.read(EventQuery(newest=True, limit=1)))[0].id == last
        with pytest.raises(StorageFull):
            await journal.append(events(last + 1, last + 1), [artifact(bytes(20_000))])
        await journal.idempotency(10)

        # What is held back takes revocations and stops; ordinary work then is refused until it is held again.
        filling = fill(small_disk)
        while (data / "reserve").exists():
            last += 1
            await journal.append([event(last)], reserved=True)
        fill(small_disk)
        for _ in range(3):
            with pytest.raises(StorageFull):
                await journal.append([event(last + 1)])
        assert await replayed(journal) == events(1, last)

        filling.unlink()
        filler.unlink()
        await journal.append([event(last + 1)], [idempotency_row("k", 5)])
        assert (data / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES_MIN
        await journal.close()
        assert await reopened(data) == events(1, last + 1)


async def test_a_checkpoint_that_finds_no_space_changes_nothing(small_disk: Path) -> None:
    """It may not take what is held back for stops, and the one before it stays."""
    data = small_disk / "data"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(40 * 1_024))
    journal = await open_journal(data, KEY)
    await journal.append(events(1, 4))
    await journal.write_checkpoint(checkpoint(4))
    last = await append_until_full(journal, 4)
    filling = fill(small_disk)
    for _ in range(3):
        with pytest.raises(StorageFull):
            await journal.write_checkpoint(checkpoint(last, os.urandom(40_000)))
    assert await journal.checkpoint_ids() == [4]
    assert await journal.checkpoint(4) == checkpoint(4)
    assert (data / "reserve").exists()
    await journal.append([event(last + 1)], reserved=True)
    filling.unlink()
    filler.unlink()
    await journal.write_checkpoint(checkpoint(last))
    await journal.close()
    assert await reopened(data) == events(1, last + 1)


async def test_several_stops_fit_into_the_reserve(small_disk: Path) -> None:
    data = small_disk / "data"
    journal = await open_journal(data, KEY)
    last = await append_until_full(journal, 0)
    fill(small_disk)
    for _ in range(3):
        last += 1
        await journal.append([event(last)], reserved=True)
    assert await replayed(journal) == events(1, last)
    await journal.close()
    assert await reopened(data) == events(1, last)


async def test_a_kernel_starts_on_a_full_disk_to_stop_things(small_disk: Path) -> None:
    data = small_disk / "data"
    await made(data, 10)
    fill(small_disk)
    with DataLock(data):
        journal = await open_journal(data, KEY)
        assert await replayed(journal) == events(1, 10)
        with pytest.raises(StorageFull):
            await journal.append([event(11)])
        await journal.append([event(11)], reserved=True)
        await journal.close()
    assert await reopened(data) == events(1, 11)


async def test_a_directory_is_not_begun_on_a_full_disk(small_disk: Path) -> None:
    data = small_disk / "data"
    data.mkdir()
    filling = fill(small_disk)
    with pytest.raises(StorageFull):
        await open_journal(data, KEY)
    filling.unlink()
    journal = await open_journal(data, KEY)
    await journal.append([event(1)])
    await journal.close()
    assert await reopened(data) == [event(1)]


@pytest.mark.parametrize("small_disk", [512], indirect=True)
async def test_a_disk_that_cannot_be_written(small_disk: Path) -> None:
    data = small_disk / "data"
    await made(data, 3)
    mount(small_disk, "-o", "remount,ro")
    for path in (data, small_disk / "new"):
        with pytest.raises(Faulted, match=r"permissions|another directory") as caught:
            await open_journal(path, KEY)
        assert caught.value.code == "data_unwritable"
        with pytest.raises(Faulted) as caught, DataLock(path):
            pass
        assert caught.value.code == "data_unwritable"


def test_the_reserve_is_smaller_on_a_tiny_disk(tmp_path: Path) -> None:
    assert reserve_bytes(2**40) == RESERVE_BYTES
    assert reserve_bytes(1_024 * 1_024) == 131_072
    assert reserve_bytes(300 * 1_024) == reserve_bytes(0) == RESERVE_BYTES_MIN
    reserve = Reserve(tmp_path, 50_000)
    reserve.hold()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 50_000
    assert reserve.free() and not reserve.held
    assert not reserve.free()


# -- errors that are final


def outcome(directory: Path, *arguments: object, before: tuple[str, ...] = ()) -> tuple[list[str], int]:
    """What the writer said, and the last id it acknowledged."""
    writer = child(directory, "write_until_failure", *arguments, before=before)
    out, _ = writer.communicate()
    lines = out.decode().split("\n")[:-1]
    return lines, max((int(line) for line in lines if line.isdigit()), default=0)


async def test_a_file_that_may_not_grow_is_final(tmp_path: Path) -> None:
    """EFBIG says nothing about the disk: it is no full disk that recovers by itself, so the kernel stops."""
    await made(tmp_path, 4)
    limit = 300_000
    # The reserve is held already; of what the writer writes only the log can meet the limit.
    lines, last = outcome(tmp_path, 1_000, limit)
    assert lines[-1] == "failed", lines
    assert "an append was taken" not in " ".join(lines)
    assert last > 4
    assert (await reopened(tmp_path))[:last] == events(1, last)


def inject(calls: str, error: str, when: int, *files: Path) -> tuple[str, ...]:
    """The command that makes the n-th of these system calls fail, once in each thread, on these files if any are named."""
    paths = [word for path in files for word in ("-P", str(path))]
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("missing: strace")
    usable = subprocess.run([strace, "-f", "-o", "/dev/null", "true"], capture_output=True, check=False)
    if usable.returncode != 0:
        pytest.skip("missing: permission to trace a process")
    return (strace, "-f", "-qq", "-o", "/dev/null", *paths, "-e", f"inject={calls}:error={error}:when={when}")


@pytest.mark.slow
@pytest.mark.parametrize("when", [1, 2, 3, 4, 7, 12, *range(99, 106)])
async def test_an_fsync_that_fails_once_is_never_tried_again(tmp_path: Path, when: int) -> None:
    """The next fsync would report success for pages that the failed one dropped (there is but one error here).

    About the 100th is that of the first checkpoint, an error that SQLite's own checkpoints would overlook.
    """
    await made(tmp_path, 4)
    files = [tmp_path / name for name in ("kernel.db", "kernel.db-wal", "kernel.head")]
    lines, last = outcome(tmp_path, 130, 0, before=inject("fsync,fdatasync", "EIO", when, *files))
    assert "an append was taken" not in " ".join(lines)
    if "appending" in lines:
        assert lines[-1] == "failed", lines
        # Nothing was moved into the database and no log was deleted on the word of a later fsync.
        assert (tmp_path / "kernel.db-wal").exists()
    found = await reopened(tmp_path)
    assert len(found) >= last and found == events(1, len(found))


@pytest.mark.slow
@pytest.mark.parametrize("when", [1, 4, 9, 20, 33])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
async def test_a_write_that_fails(tmp_path: Path, when: int, error: str) -> None:
    await made(tmp_path, 4)
    lines, last = outcome(tmp_path, 20, 0, before=inject("pwrite64", error, when))
    assert "an append was taken" not in " ".join(lines)
    if "appending" in lines and error == "EIO":
        assert lines[-1] == "failed", lines
    found = await reopened(tmp_path)
    assert len(found) >= last and found == events(1, len(found))


async def test_a_failed_journal_says_so_for_ever(tmp_path: Path) -> None:
    """Another process changes the table under us: the commit cannot succeed, and no later one may."""
    journal = await open_journal(tmp_path, KEY)
    await journal.append([event(1)])
    sql(tmp_path, "ALTER TABLE events RENAME TO elsewhere")
    for _ in range(3):
        with pytest.raises(JournalFailed, match="nothing more is recorded"):
            await journal.append([event(2)])
    sql(tmp_path, "ALTER TABLE elsewhere RENAME TO events")
    with pytest.raises(JournalFailed):
        await journal.append([event(2)], reserved=True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.close()
    assert await reopened(tmp_path) == [event(1)]
