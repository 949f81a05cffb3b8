"""Who reads when: nobody's scans stand before the kernel's own reads, nor before another tenant's for long."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from journal_samples import KEY, SqliteJournal, artifact, event, events, idempotency_row, key_row

from solo_trio.errors import KernelBug
from solo_trio.journal.opening import SCAN_READERS
from solo_trio.journal.reads import SCAN_ROWS_MAX
from solo_trio.journal.sqlite import open_journal
from solo_trio.model.record import EventQuery

PATIENCE_S = 60


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    journal = await open_journal(tmp_path, KEY)
    yield journal
    await journal.close()


@asynccontextmanager
async def scans_held(journal: SqliteJournal, count: int) -> AsyncIterator[None]:
    """So many connections for scans are in use until the body is left."""
    release = threading.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(journal.in_reader, lambda _: release.wait(2 * PATIENCE_S))
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield
        finally:
            release.set()


async def test_the_kernels_own_reads_wait_for_no_scan(journal: SqliteJournal) -> None:
    source = artifact(b"source")
    await journal.append(events(1, 40), [source, key_row("a"), idempotency_row("k", 5)])
    found: list[str] = []

    async def scan(tenant_id: str) -> None:
        await journal.read(EventQuery(tenant_id=tenant_id))
        found.append(tenant_id)

    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE_S):
            async with scans_held(journal, SCAN_READERS):
                for _ in range(100):
                    nursery.start_soon(scan, "acme")
                await trio.testing.wait_all_tasks_blocked()
                assert await journal.artifact(source.digest) == source
                assert await journal.keys() == [key_row("a")]
                assert await journal.idempotency(0) == [idempotency_row("k", 5)]
                assert await journal.read(EventQuery(after=6, limit=1)) == [event(7)]
                assert (await journal.scan(EventQuery(after=6, limit=1))).events == [event(7)]
                assert not found
    assert len(found) == 100


async def test_tenants_are_served_in_turn(journal: SqliteJournal) -> None:
    """One connection serves all, so that what comes after what is plain to see."""
    await journal.append(events(1, 40))
    served: list[str | None] = []

    async def scan(tenant_id: str | None) -> None:
        await journal.scan(EventQuery(tenant_id=tenant_id, limit=1_000))
        served.append(tenant_id)

    async with scans_held(journal, SCAN_READERS - 1), trio.open_nursery() as nursery, scans_held(journal, 1):
        for tenant_id in [*["acme"] * 5, *["blau"] * 2, None, None]:
            nursery.start_soon(scan, tenant_id)
            await trio.testing.wait_all_tasks_blocked()
    assert served == ["acme", "blau", None, "acme", "blau", None, "acme", "acme", "acme"]


async def test_a_read_makes_way_between_its_scans(journal: SqliteJournal) -> None:
    """One connection serves all: the small read gets its turn before the ones that take several scans are through."""
    await journal.append(events(1, 2 * SCAN_ROWS_MAX + 5))
    served: list[str] = []

    async def read(name: str, query: EventQuery) -> None:
        assert await journal.read(query) == []
        served.append(name)

    async with scans_held(journal, SCAN_READERS - 1), trio.open_nursery() as nursery, scans_held(journal, 1):
        for name, query in (
            ("long", EventQuery(incarnation="nobody")),
            ("long", EventQuery(incarnation="nobody", newest=True)),
            ("small", EventQuery(tenant_id="nobody")),
        ):
            nursery.start_soon(read, name, query)
            await trio.testing.wait_all_tasks_blocked()
    assert served == ["small", "long", "long"]


async def test_a_scan_that_is_cancelled_in_its_queue_leaves_it(journal: SqliteJournal) -> None:
    await journal.append(events(1, 40))
    async with scans_held(journal, SCAN_READERS):
        for tenant_id in ("acme", "acme", None):
            with trio.move_on_after(0) as scope:
                await journal.read(EventQuery(tenant_id=tenant_id, limit=1_000))
            assert scope.cancelled_caught
    assert len(await journal.read(EventQuery(tenant_id="acme"))) == 10
    assert len(await journal.read(EventQuery(limit=1_000))) == 40


async def test_closing_waits_for_what_is_read(journal: SqliteJournal) -> None:
    await journal.append(events(1, 40))
    refused: list[bool] = []

    async def read() -> None:
        try:
            await journal.read(EventQuery(tenant_id="acme"))
        except KernelBug:
            refused.append(True)

    async with trio.open_nursery() as nursery, scans_held(journal, SCAN_READERS):
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(journal.close)
        await trio.testing.wait_all_tasks_blocked()
    assert refused == [True]
