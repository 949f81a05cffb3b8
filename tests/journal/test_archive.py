"""The archive: what leaves the database is found there, in one chain with the rest; what is erased is nowhere any more."""

from __future__ import annotations

import gzip
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from journal_samples import KEY, SqliteJournal, artifact, checkpoint, event, events, flip, made, replayed, sql

from solo_trio.errors import Faulted, SoloError, StorageFull
from solo_trio.journal import archive as segments_module
from solo_trio.journal import backups, pruning, reads, retaining
from solo_trio.journal.archive import Archive
from solo_trio.journal.chain import GENESIS
from solo_trio.journal.inspection import open_inspection
from solo_trio.journal.memory import MemoryJournal
from solo_trio.journal.opening import close_store, open_store
from solo_trio.journal.rotation import change_over
from solo_trio.journal.sqlite import open_journal
from solo_trio.model.record import ERASED_TYPE, EraseEvents, Erasure, EventQuery, StoredEvent

CANARY = b"a canary that nobody else sings"


def canary(id_: int, tenant: str = "acme", life: str = "acme-1", size: int = 0) -> StoredEvent:
    payload = b'{"config": "%s %s"}' % (CANARY, b"." * size)
    return evolve(event(id_), tenant_id=tenant, incarnation=life, payload=payload)


def erasing(id_: int, tenant: str = "acme", life: str = "acme-1") -> tuple[StoredEvent, EraseEvents]:
    told = evolve(event(id_), tenant_id=tenant, incarnation=life, subject=None, type=ERASED_TYPE, payload=b"{}")
    return told, EraseEvents(tenant, life, id_, told.at_us)


def blanked(found: list[StoredEvent], life: str, before: int) -> list[StoredEvent]:
    return [evolve(each, payload=None) if each.incarnation == life and each.id < before else each for each in found]


async def compact(journal: Any, upto: int) -> None:
    while await journal.archive(upto):
        pass
    oldest = 0
    while journal.oldest_id != oldest:
        oldest = journal.oldest_id
        await journal.prune(upto)


async def erased(journal: Any) -> None:
    for erasure in await journal.erasures():
        while not await journal.erase(erasure):
            pass
    assert await journal.sweep()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "archive").iterdir())


def bytes_of(directory: Path) -> bytes:
    """Everything that is in the files of a directory, what is compressed unpacked."""
    found = b""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found += gzip.decompress(data) if path.name.endswith(".gz") else data
    return found


@pytest.fixture(params=["durable", "memory"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    journal: Any = MemoryJournal() if request.param == "memory" else await open_journal(tmp_path, KEY)
    yield journal
    await journal.close()


# -- of every journal


async def test_what_was_moved_is_still_part_of_the_log(journal: Any) -> None:
    await journal.append(events(1, 3_000))
    await compact(journal, 2_500)
    assert journal.oldest_id == 2_501 and (await journal.archive_state()).last_id == 2_500
    assert await replayed(journal) == events(1, 3_000)
    for after in (1, 2_499, 2_500, 2_501, 2_999, 3_000):
        assert await replayed(journal, after=after) == events(after + 1, 3_000)
    await journal.append(events(3_001, 3_002))
    assert await replayed(journal) == events(1, 3_002)
    assert (await journal.scan(EventQuery(limit=2))).events == events(2_501, 2_502)


async def test_nothing_is_deleted_that_is_not_in_the_archive_and_never_the_last(journal: Any) -> None:
    await journal.append(events(1, 20))
    assert await journal.prune(10) == 1
    await compact(journal, 10)
    assert await journal.prune(15) == 11
    await compact(journal, 1_000)
    assert journal.oldest_id == 20
    assert await replayed(journal) == events(1, 20)
    await journal.append(events(21, 21))


async def test_few_events_are_no_segment(journal: Any) -> None:
    await journal.append(events(1, 20))
    assert await journal.archive(9, fewest=10) is None
    made = await journal.archive(10, fewest=10)
    assert made is not None and (made.first_id, made.last_id) == (1, 10)


async def test_the_newest_of_one_subject_are_found_in_the_archive_too(journal: Any) -> None:
    many = [evolve(event(id_), subject="quiet" if id_ in (7, 300, 700) else "loud") for id_ in range(1, 1_001)]
    await journal.append(many)
    for upto in (200, 600, 900):
        await compact(journal, upto)
    tenant = [many[id_ - 1] for id_ in (7, 300, 700) if many[id_ - 1].tenant_id == many[6].tenant_id]
    query = EventQuery(
        tenant_id=many[6].tenant_id, incarnation=many[6].incarnation, subject="quiet", newest=True, limit=10
    )
    assert await journal.read(query) == tenant
    assert await journal.read(evolve(query, limit=1)) == tenant[-1:]
    loud = [each for each in many if each.incarnation == many[6].incarnation and each.subject == "loud"]
    assert await journal.read(evolve(query, subject="loud", limit=60)) == loud[-60:]


async def test_no_segment_is_opened_that_a_query_is_not_about(tmp_path: Path) -> None:
    """Whoever would open one finds it missing."""
    many = [evolve(event(id_), tenant_id="acme", incarnation="acme-1", subject="s") for id_ in range(1, 41)]
    query = EventQuery(tenant_id="acme", incarnation="acme-1", subject="s", newest=True, limit=100)
    journal = await open_journal(tmp_path, KEY)
    await journal.append(many)
    for upto in (10, 20, 30):
        await compact(journal, upto)
    first, second, third = files(tmp_path)
    (tmp_path / "archive" / first).unlink()
    assert await journal.read(evolve(query, after=10)) == many[10:]
    assert await journal.read(evolve(query, segments_max=2)) == many[10:]
    (tmp_path / "archive" / second).unlink()
    (tmp_path / "archive" / third).unlink()
    assert await journal.read(evolve(query, after=30)) == many[30:]
    assert await journal.read(evolve(query, after=35, subject="nobody")) == []
    assert await journal.read(evolve(query, segments_max=0)) == many[30:]
    with pytest.raises(Faulted):
        await journal.read(query)
    await journal.close()


async def test_an_erased_incarnation_is_read_without_its_payloads(journal: Any) -> None:
    await journal.append(events(1, 100))
    await compact(journal, 40)
    told, asked = erasing(101)
    await journal.append([told, *events(102, 110)], [asked])
    expected = blanked([*events(1, 100), told, *events(102, 110)], "acme-1", 101)
    assert await replayed(journal) == expected, "from the transaction on"
    assert await journal.erasures() == [Erasure("acme", "acme-1", 101, told.at_us)]
    assert all(each.payload is None for each in await journal.read(EventQuery(after=50, incarnation="acme-1", limit=9)))
    await erased(journal)
    assert await replayed(journal) == expected
    assert await journal.erasures() == []
    await compact(journal, 105)
    assert await replayed(journal) == expected


async def test_checkpoints_from_before_an_erasure_go_with_it(journal: Any) -> None:
    await journal.append(events(1, 10))
    await journal.write_checkpoint(checkpoint(10))
    told, asked = erasing(11)
    await journal.append([told], [asked])
    await journal.write_checkpoint(checkpoint(11))
    await erased(journal)
    assert await journal.checkpoint_ids() == [11]


async def test_random_prunes_and_erasures_leave_the_same_log(journal: Any) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance, expected = random.Random(seed), []
    lives = {"acme": 1, "blau": 1, "crux": 1}
    for _ in range(60):
        what = chance.random()
        if what < 0.5:
            fresh = []
            for _ in range(chance.choice((1, 5, 40))):
                id_ = len(expected) + len(fresh) + 1
                tenant = chance.choice(list(lives))
                fresh.append(evolve(event(id_), tenant_id=tenant, incarnation=f"{tenant}-{lives[tenant]}"))
            await journal.append(fresh)
            expected += fresh
        elif what < 0.6:
            tenant = chance.choice(list(lives))
            told, asked = erasing(len(expected) + 1, tenant, f"{tenant}-{lives[tenant]}")
            await journal.append([told], [asked])
            expected = blanked([*expected, told], f"{tenant}-{lives[tenant]}", told.id)
            lives[tenant] += 1
        elif what < 0.7:
            for erasure in await journal.erasures():
                await journal.erase(erasure)
        elif what < 0.85:
            await journal.archive(chance.randint(0, len(expected)))
        else:
            await journal.prune(chance.randint(0, len(expected)))
        assert await replayed(journal) == expected
    await erased(journal)
    assert await replayed(journal) == expected


# -- of the durable one


async def reopened(directory: Path) -> tuple[list[StoredEvent], int]:
    journal = await open_journal(directory, KEY)
    try:
        return await replayed(journal), journal.oldest_id
    finally:
        await journal.close()


async def refusal(directory: Path) -> str:
    """What an inspection says, and that a kernel says it too."""
    told = []
    for look in (_inspected, reopened):
        with pytest.raises(Faulted) as caught:
            await look(directory)
        assert caught.value.code == "data_damaged"
        told.append(caught.value.detail)
    assert told[0] == told[1]
    return told[0]


async def _inspected(directory: Path) -> list[StoredEvent]:
    async with open_inspection(directory, KEY) as log:
        return [each async for page in log.replay() for each in page]


async def moved(directory: Path, count: int = 60, upto: int = 40, each: int = 15) -> None:
    """A closed directory with some of its events in segments of `each`."""
    await made(directory, count)
    journal = await open_journal(directory, KEY)
    for to in range(each, upto + each, each):
        await compact(journal, min(to, upto))
    await journal.close()


async def test_it_is_all_there_after_a_restart_and_offline(tmp_path: Path) -> None:
    await moved(tmp_path)
    assert len(files(tmp_path)) == 3
    assert await reopened(tmp_path) == (events(1, 60), 41)
    assert await _inspected(tmp_path) == events(1, 60)
    assert oct((tmp_path / "archive").stat().st_mode)[-3:] == "700"
    assert {oct((tmp_path / "archive" / name).stat().st_mode)[-3:] for name in files(tmp_path)} == {"600"}


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_changed_or_missing_segment_is_found(tmp_path: Path, which: int) -> None:
    await moved(tmp_path)
    path = tmp_path / "archive" / files(tmp_path)[which]
    kept = path.read_bytes()
    for offset in (0, 9, len(kept) // 2, len(kept) - 1):
        flip(path, offset)
        assert "does not have its digest" in await refusal(tmp_path)
        path.write_bytes(kept)
    path.write_bytes(kept[:-9])
    assert "does not have its digest" in await refusal(tmp_path)
    path.unlink()
    assert "is missing, and with it event" in await refusal(tmp_path)
    path.write_bytes(kept)
    assert await reopened(tmp_path) == (events(1, 60), 41)


async def test_segments_in_each_others_place(tmp_path: Path) -> None:
    await moved(tmp_path)
    one, two, _ = (tmp_path / "archive" / name for name in files(tmp_path))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    assert "does not have its digest" in await refusal(tmp_path)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE anchor SET event_id = 30", "where the database's part of the log begins was changed"),
        ("UPDATE anchor SET chain = zeroblob(32)", "where the database's part of the log begins was changed"),
        ("UPDATE anchor SET mac = NULL", "where the database's part of the log begins was changed"),
        ("DELETE FROM anchor", "event 1 is missing"),
        ("DELETE FROM segments", "nothing says where it is"),
        ("DELETE FROM segments WHERE first_id = 1", "lacks what must be before event 16"),
        ("DELETE FROM segments WHERE first_id = 16", "lacks what must be before event 31"),
        ("DELETE FROM segments WHERE first_id = 31", "nothing says where it is"),
        ("UPDATE segments SET digest = zeroblob(32) WHERE first_id = 16", "events from 16 on was changed"),
        ("UPDATE segments SET last_id = 29 WHERE first_id = 16", "events from 16 on was changed"),
        ("UPDATE segments SET file = 'x' WHERE first_id = 16", "events from 16 on was changed"),
        ("DELETE FROM events WHERE id = 41", "event 41 is missing"),
        ("DELETE FROM events WHERE id < 45", "event 41 is missing"),
        ("DELETE FROM events WHERE id = 50", "event 50 is missing"),
    ],
)
async def test_what_is_said_of_the_archive_is_proved(tmp_path: Path, statement: str, says: str) -> None:
    await moved(tmp_path)
    sql(tmp_path, statement)
    assert says in await refusal(tmp_path)


async def test_an_older_anchor_put_back_is_found(tmp_path: Path) -> None:
    """It is authentic; but what is behind it is no longer there."""
    await moved(tmp_path, upto=15)
    keep = "CREATE TABLE old AS SELECT * FROM anchor"
    sql(tmp_path, keep)
    journal = await open_journal(tmp_path, KEY)
    await compact(journal, 40)
    await journal.close()
    sql(tmp_path, "DELETE FROM anchor", "INSERT INTO anchor SELECT * FROM old")
    assert "event 16 is missing" in await refusal(tmp_path)


async def test_an_erasure_that_nobody_recorded_is_found(tmp_path: Path) -> None:
    """The table says that a tenant was erased, but no event does."""
    await moved(tmp_path)
    sql(
        tmp_path,
        "INSERT INTO erasures (incarnation, tenant_id, event_id, removed_at_us, done) VALUES ('acme-1','acme',60,0,1)",
    )
    assert "no event says that their tenant was" in await refusal(tmp_path)
    sql(tmp_path, "UPDATE events SET payload = NULL, salt = NULL WHERE incarnation = 'acme-1'")
    assert "no event says that their tenant was" in await refusal(tmp_path)
    sql(tmp_path, "DELETE FROM erasures")
    assert "its payload is gone" in await refusal(tmp_path)


async def test_an_erased_tenant_is_in_no_file(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path, KEY)
    sizes = [0, 30, 900, 4_000, 9_000, 40_000]
    last = 0
    for round_ in range(12):
        for id_ in range(last + 1, last + 60):
            fresh = canary(id_, size=sizes[id_ % len(sizes)]) if id_ % 3 else event(id_)
            await journal.append([fresh], [artifact(b"x = %d" % id_)])
        last += 59
        if round_ in (3, 6, 9):
            await compact(journal, last - 70)
        await journal.write_checkpoint(checkpoint(last, CANARY * 1_000))
    assert bytes_of(tmp_path).count(CANARY) > last // 2
    before = await replayed(journal)
    told, asked = erasing(last + 1)
    await journal.append([told], [asked])
    await journal.write_checkpoint(checkpoint(last + 1))
    await erased(journal)
    assert CANARY not in bytes_of(tmp_path)
    assert await replayed(journal) == [*blanked(before, "acme-1", told.id), told]
    assert await journal.checkpoint_ids() == [last + 1]
    await journal.close()
    assert CANARY not in bytes_of(tmp_path)
    assert len(await _inspected(tmp_path)) == last + 1


async def test_a_sweep_leaves_no_copy_between_the_rows(tmp_path: Path) -> None:
    """What SQLite leaves in pages that nothing names, put there as plainly as it can be."""
    journal = await open_journal(tmp_path, KEY)
    await journal.append(events(1, 20))
    told, erasure = erasing(21, life="acme-1")
    await journal.append([told], [erasure])
    await journal.close()
    row = f"INSERT INTO artifacts VALUES ('{'0' * 64}', CAST('{CANARY.decode() * 100}' AS BLOB))"
    sql(tmp_path, "PRAGMA secure_delete = OFF", row, "DELETE FROM artifacts", "PRAGMA wal_checkpoint(TRUNCATE)")
    assert CANARY in (tmp_path / "kernel.db").read_bytes()
    journal = await open_journal(tmp_path, KEY)
    for each in await journal.erasures():
        while not await journal.erase(each):
            pass
    assert CANARY in bytes_of(tmp_path), "it is the sweep that this is about"
    assert await journal.sweep()
    assert CANARY not in bytes_of(tmp_path)
    await journal.close()


async def test_a_tenant_that_is_erased_while_the_log_is_read(tmp_path: Path) -> None:
    """At the worst moment: between the last rows and what is known of erasures."""
    await made(tmp_path, 20)
    store, readers = open_store(tmp_path, KEY)
    reader, whole = readers.points[0], reads.Whole(Archive(tmp_path), pruning.key_of(KEY))
    told, asked = erasing(21)

    def meanwhile(statement: str) -> None:
        if "FROM erasures" in statement and store.head[0] < told.id:
            store.append([told], [asked], reserved=False)

    reader.set_trace_callback(meanwhile)
    try:
        page = reads.page(reader, (0, GENESIS), store.head, whole)
        whole.proofs.check()
        assert page.events == events(1, 20) and page.last
        assert store.head[0] == told.id
    finally:
        close_store(store, readers)
    assert await reopened(tmp_path) == ([*blanked(events(1, 20), "acme-1", 21), told], 1)


async def test_tenants_removed_before_there_was_erasing_are_known(tmp_path: Path) -> None:
    """A directory of the version before: the migration finds them; nothing is taken for erased until an event says so."""
    await made(tmp_path, 8)
    gone = evolve(event(9), tenant_id="acme", incarnation="acme-1", type="tenant_removed", subject=None)
    journal = await open_journal(tmp_path, KEY)
    await journal.append([gone])
    await journal.close()
    drops = [f"DROP TABLE {name}" for name in ("segments", "segment_subjects", "anchor", "erasures")]
    sql(tmp_path, *drops, "PRAGMA user_version = 3")
    assert await _inspected(tmp_path) == [*events(1, 8), gone]
    journal = await open_journal(tmp_path, KEY)
    assert await journal.erasures() == [Erasure("acme", "acme-1", None, gone.at_us)]
    assert await replayed(journal) == [*events(1, 8), gone]
    told, asked = erasing(10)
    await journal.append([told], [asked])
    await erased(journal)
    assert await replayed(journal) == [*blanked([*events(1, 8), gone], "acme-1", 10), told]
    await journal.close()


async def test_a_log_that_was_cut_leaves_no_segment_behind_that_nobody_names(tmp_path: Path) -> None:
    """What is in such a file no erasure would ever find."""
    journal = await open_journal(tmp_path, KEY)
    for last in (100, 200, 300):
        await journal.append([canary(id_) for id_ in range(last - 99, last + 1)])
        await journal.archive(last)
    await journal.append(events(301, 301))
    await journal.close()
    (kept, *_) = files(tmp_path)
    backups.cut(tmp_path, KEY, 150)
    assert files(tmp_path) == [kept]
    journal = await open_journal(tmp_path, KEY)
    assert len(await replayed(journal)) == 150
    told, asked = erasing(151)
    await journal.append([told], [asked])
    await erased(journal)
    await journal.close()
    assert CANARY not in bytes_of(tmp_path)


@pytest.mark.parametrize("at", [8, 9])
async def test_a_removal_that_is_cut_away_erases_nothing(tmp_path: Path, at: int) -> None:
    """A copy from before there was erasing: to migrate it asks for what its events say, which is cut away then."""
    await made(tmp_path, 8)
    gone = evolve(event(9), tenant_id="acme", incarnation="acme-1", type="tenant_removed", subject=None)
    journal = await open_journal(tmp_path, KEY)
    await journal.append([gone, event(10)])
    await journal.close()
    drops = [f"DROP TABLE {name}" for name in ("segments", "segment_subjects", "anchor", "erasures")]
    sql(tmp_path, *drops, "PRAGMA user_version = 3")
    backups.cut(tmp_path, KEY, at)
    journal = await open_journal(tmp_path, KEY)
    assert await journal.erasures() == ([Erasure("acme", "acme-1", None, gone.at_us)] if at >= gone.id else [])
    await journal.close()


async def test_another_master_key(tmp_path: Path) -> None:
    await moved(tmp_path)
    change_over(tmp_path, KEY, b"another witness key, 32 bytes...", lambda row: row)
    with pytest.raises(Faulted):
        await open_journal(tmp_path, KEY)
    journal = await open_journal(tmp_path, b"another witness key, 32 bytes...")
    assert await replayed(journal) == events(1, 60) and journal.oldest_id == 41
    await compact(journal, 50)
    assert await replayed(journal) == events(1, 60)
    await journal.close()


async def test_a_witness_that_was_left_behind_is_written_before_anything_is_deleted(tmp_path: Path) -> None:
    """After a loss of power it may be older than the log; once its event is deleted it could no longer be compared."""
    await made(tmp_path, 10)
    behind = (tmp_path / "kernel.head").read_bytes()
    journal = await open_journal(tmp_path, KEY)
    await journal.append(events(11, 60))
    await journal.close()
    (tmp_path / "kernel.head").write_bytes(behind)
    journal = await open_journal(tmp_path, KEY)
    await compact(journal, 40)
    await journal.close()
    assert await reopened(tmp_path) == (events(1, 60), 41)


async def test_a_full_disk_while_a_segment_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await made(tmp_path, 60)
    journal = await open_journal(tmp_path, KEY)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(segments_module.os, "fsync", full)
        with pytest.raises(StorageFull):
            await journal.archive(40)
    assert files(tmp_path) == [] and await replayed(journal) == events(1, 60)
    await journal.append(events(61, 61))
    await compact(journal, 40)
    assert await replayed(journal) == events(1, 61)
    await journal.close()


async def test_a_segment_that_cannot_be_forced_out_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(tmp_path, 60)
    journal = await open_journal(tmp_path, KEY)

    def failing(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(segments_module.os, "fsync", failing)
        with pytest.raises(Faulted) as caught:
            await journal.archive(40)
    assert caught.value.code == "data_unwritable"
    assert await journal.prune(40) == 1
    await journal.append(events(61, 61))
    await compact(journal, 40)
    assert await replayed(journal) == events(1, 61)
    await journal.close()


async def test_nothing_is_deleted_once_its_segment_is_damaged(tmp_path: Path) -> None:
    await made(tmp_path, 60)
    journal = await open_journal(tmp_path, KEY)
    assert await journal.archive(40)
    flip(tmp_path / "archive" / files(tmp_path)[0], 20)
    with pytest.raises(SoloError, match="does not have its digest"):
        await journal.prune(40)
    assert journal.oldest_id == 1 and await replayed(journal) == events(1, 60)
    await journal.close()


async def test_what_nobody_names_is_swept_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    await moved(tmp_path)
    directory = tmp_path / "archive"
    known = files(tmp_path)
    shutil.copy(directory / known[0], directory / known[0].replace(".0.", ".7."))
    shutil.copy(directory / known[0], directory / segments_module.name_of(41, 50, 0))
    (directory / (known[1] + ".tmp")).write_bytes(b"half")
    foreign = ["notes.txt", segments_module.name_of(900, 950, 0)]
    for name in foreign:
        (directory / name).write_bytes(b"")
    assert await _inspected(tmp_path) == events(1, 60)
    assert len(files(tmp_path)) == 8, "to look changes nothing"
    await reopened(tmp_path)
    assert files(tmp_path) == sorted(known + foreign)


def test_a_segment_keeps_every_value(tmp_path: Path) -> None:
    ends = (b"\x01" * 16, b"\x02" * 32, None, "", b"\x03" * 32)
    row = (2**62, -5, 0.1 + 0.2, "ä\0\u2028ö", None, "s\r\n", "t", 1, b"\x00\xff\n", *ends)
    rows = [
        row,
        (*row[:8], b'{"a": "\xc3\xa4\\n"}', *row[9:]),
        (*row[:8], None, None, None, *row[11:]),
        (*row[:8], b"", *row[9:]),
    ]
    assert segments_module.decode(segments_module.encode(1, rows)) == rows


def test_what_is_no_segment() -> None:
    for data in (b"", b"{}", gzip.compress(b""), gzip.compress(b'{"format": "other"}\n'), os.urandom(100)):
        with pytest.raises(ValueError):
            segments_module.decode(data)


async def test_appends_go_on_beside_it(tmp_path: Path) -> None:
    import trio

    await made(tmp_path, 3_000, group=500)
    journal: SqliteJournal = await open_journal(tmp_path, KEY)
    last = 3_000
    async with trio.open_nursery() as nursery:
        done = trio.Event()

        async def write() -> None:
            nonlocal last
            while not done.is_set():
                await journal.append(events(last + 1, last + 3))
                last += 3

        async def read() -> None:
            while not done.is_set():
                found = await replayed(journal)
                assert found == events(1, len(found))

        nursery.start_soon(write)
        nursery.start_soon(read)
        for upto in (700, 1_500, 2_900):
            await compact(journal, upto)
        done.set()
    assert await replayed(journal) == events(1, last) and last > 3_000
    await journal.close()
    assert retaining.PRUNE_EVENTS_MAX < 3_000
