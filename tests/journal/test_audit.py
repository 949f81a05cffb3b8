"""The audit as a whole: what is recorded is there, in order; what is too old or too much goes, and is not hidden by that."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio
from audit_samples import KEY, START_US, Notes, entries, entry, kept, names, opened, sql, written

from solo_trio.journal import audit as audit_module
from solo_trio.journal import audit_reads
from solo_trio.journal.audit import QUEUE_ENTRIES_MAX, check_file
from solo_trio.model.audit import AuditQuery

SECOND_US = 1_000_000
DAY_S = 86_400


async def test_what_is_recorded_is_there_in_order_and_whole(tmp_path: Path) -> None:
    given = entries(1, 2_500)  # more than one transaction
    async with opened(tmp_path) as audit:
        for each in given:
            audit.record(each)
        found = await kept(audit)  # what was recorded before a question is in its answer
        assert [each.id for each in found] == list(range(1, len(given) + 2))
        assert [each.entry for each in found[1:]] == given
        assert audit.state.newest_id == len(given) + 1 and audit.state.dropped == 0
        assert (await audit.check()).fault is None
    async with opened(tmp_path) as audit:
        assert [each.entry for each in (await kept(audit))[1:]] == given
        audit.record(entry(1, at_us=5))  # a clock that went back
        last = (await kept(audit))[-1]
        assert (last.id, last.entry.at_us) == (len(given) + 2, given[-1].at_us), "times follow the ids"
    assert names(tmp_path) == {"audit.db", "audit.head"}, "closed in order, all is in one file"
    assert check_file(tmp_path, KEY).entries == len(given) + 2


async def test_questions(tmp_path: Path) -> None:
    async with opened(tmp_path) as audit:
        for each in entries(1, 60):
            audit.record(each)

        async def numbers(**query: object) -> list[int]:
            return [each.id - 1 for each in await kept(audit, **query)]

        assert await numbers(operation="deploy") == list(range(3, 61, 3))
        assert await numbers(outcome="permission_denied") == list(range(2, 61, 3))
        assert await numbers(credential="cap_2", operation="deploy") == [6, 18, 30, 42, 54]
        assert await numbers(tenant_id="t1", incarnation="life1") == list(range(1, 61, 2))
        assert await numbers(tenant_id="t1", incarnation="life0") == [], "a namesake's"
        assert await numbers(since_us=START_US + 58 * SECOND_US) == [58, 59, 60]
        assert await numbers(since_us=START_US + 10 * SECOND_US, until_us=START_US + 12 * SECOND_US) == [10, 11]
        assert await numbers(until_us=START_US + SECOND_US) == [0]
        assert await numbers(since_us=START_US + 61 * SECOND_US) == []
        assert await numbers(until_us=-(2**60)) == [] and len(await numbers(since_us=-(2**60))) == 61
        assert await numbers(operation="' OR 1 --") == []
        for limit in (1, 7, 20):
            assert await numbers(operation="deploy", limit=limit) == list(range(3, 61, 3))
        page = await audit.page(AuditQuery(limit=10, after=51))
        assert [each.id for each in page.entries] == list(range(52, 62)) and page.next is None
        assert await audit.page(AuditQuery(after=2**60)) == await audit.page(AuditQuery(after=61))


async def test_a_page_looks_at_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_reads, "SCAN_ROWS_MAX", 10)
    async with opened(tmp_path) as audit:
        for each in entries(1, 95):
            audit.record(each)
        audit.record(entry(0, at_us=START_US + 96 * SECOND_US, operation="rare"))
        page = await audit.page(AuditQuery(operation="rare"))
        assert (page.entries, page.next) == ((), 10)
        [found] = await kept(audit, operation="rare")
        assert found.id == 97


async def test_a_full_queue_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording never waits: what has no place is counted, and the count is an entry."""
    held, go_on = threading.Event(), threading.Event()
    write = audit_module.AuditLog._write

    def slow(self: audit_module.AuditLog, batch: list[object]) -> None:
        held.set()
        go_on.wait(30)
        write(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(audit_module.AuditLog, "_write", slow)
    async with opened(tmp_path) as audit:
        audit.record(entry(1))
        await trio.to_thread.run_sync(held.wait)
        for number in range(QUEUE_ENTRIES_MAX + 7):
            audit.record(entry(number))
        audit.skip()
        assert audit.state.dropped == 8
        go_on.set()
        found = await kept(audit)
        gaps = [each.entry for each in found if each.entry.operation == "audit_gap"]
        assert [each.outcome for each in gaps] == ["8"]
        assert len(found) == 1 + 1 + QUEUE_ENTRIES_MAX + 1
    assert check_file(tmp_path, KEY).fault is None


async def test_the_oldest_go_when_they_are_too_old(tmp_path: Path) -> None:
    async with opened(tmp_path) as audit:
        for number in range(10):
            audit.record(entry(number * DAY_S))
    async with opened(tmp_path, days=3) as audit:
        audit.record(entry(10 * DAY_S))
        found = await kept(audit)
        assert [(each.entry.at_us - START_US) // (DAY_S * SECOND_US) for each in found] == [7, 8, 9, 10]
        assert (await audit.check()).fault is None
        assert audit.state.oldest_id == found[0].id > 1
    assert check_file(tmp_path, KEY).fault is None
    sql(tmp_path, f"DELETE FROM audit WHERE id = {found[0].id}")
    assert "oldest were deleted" in (check_file(tmp_path, KEY).fault or ""), "one more is one too many"


async def test_the_oldest_go_when_it_is_too_much(tmp_path: Path) -> None:
    size_mb = 1
    async with opened(tmp_path, size_mb=size_mb) as audit:
        for round_ in range(15):
            for number in range(1_000):
                audit.record(entry(round_ * 1_000 + number))
            await audit.flush()
        assert audit.state.bytes <= size_mb * 1_048_576
        assert audit.state.newest_id == 15_001 and audit.state.entries > 1_000
        found = await kept(audit)
        assert [each.id for each in found] == list(range(audit.state.oldest_id, 15_002)), "a whole prefix went"
        assert (await audit.check()).fault is None
    assert check_file(tmp_path, KEY).fault is None
    assert (tmp_path / "audit.db").stat().st_size < 2 * size_mb * 1_048_576, "what is free is given back"


async def test_the_newest_entry_stays_whatever_its_age(tmp_path: Path) -> None:
    async with opened(tmp_path) as audit:
        audit.record(entry(0))
    async with opened(tmp_path, days=1) as audit:
        audit.record(entry(400 * DAY_S))
        assert [each.id for each in await kept(audit)] == [3]


@pytest.mark.parametrize("harm", ["DELETE FROM audit WHERE id = 100", "UPDATE audit SET peer = 'x' WHERE id = 100"])
async def test_damage_is_not_forgotten_with_what_was_damaged(tmp_path: Path, harm: str) -> None:
    """Retention must not hide that somebody deleted a row, nor be stopped by it."""
    await written(tmp_path, 3_000)
    sql(tmp_path, harm)
    notes = Notes()
    async with opened(tmp_path, notes, days=1) as audit:
        assert audit.state.status == "ok", "a start looks at the newest only"
        for number in range(1_000):
            audit.record(entry(99 * DAY_S + number))
        found = await kept(audit)
        [damaged] = [each.entry for each in found if each.entry.operation == "audit_damaged"]
        assert "entry 100" in (damaged.subject or "") and "entry 100" in notes.notes[0]
        assert audit.state.oldest_id == 3_002
        assert (await audit.check()).fault is None, "what is left is sound"


async def test_entries_that_come_after_the_end_do_no_harm(tmp_path: Path) -> None:
    notes = Notes()
    async with opened(tmp_path, notes) as audit:
        pass
    audit.record(entry(1))
    audit.skip()
    await audit.close()
    assert audit.state.dropped == 2 and not notes.bugs


async def test_what_cannot_be_kept_does_not_end_the_thread(tmp_path: Path) -> None:
    notes = Notes()
    async with opened(tmp_path, notes) as audit:
        audit.record(entry(1, subject="half a character: \ud800"))
        await audit.flush()
        assert len(notes.bugs) == 1
        audit.record(entry(2))
        assert [each.entry.operation for each in await kept(audit)] == ["audit_begun", "audit_gap", "list_events"]
        assert audit.state.dropped == 1
