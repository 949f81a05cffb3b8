"""Entries for tests of the audit, and a way into its file that is not the product's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from solo_trio.journal.audit import AuditLog, open_audit
from solo_trio.journal.audit_shares import Detail
from solo_trio.journal.library import driver
from solo_trio.journal.lock import prepare_directory
from solo_trio.model.audit import AuditEntry, AuditQuery, KeptEntry

KEY = bytes(range(32))
START_US = 1_767_225_600_000_000


class Notes:
    """Implements `ports.Telemetry`."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.bugs: list[str] = []

    def bug(self, where: str, error: BaseException) -> None:
        self.bugs.append(f"{where}: {error!r}")

    def note(self, message: str, **fields: Any) -> None:
        self.notes.append(f"{message} {fields}")


def entry(number: int, **more: Any) -> AuditEntry:
    """One of everything, told apart by its number."""
    fields: dict[str, Any] = {
        "at_us": START_US + number * 1_000_000,
        "operation": ("deploy", "call", "list_events")[number % 3],
        "outcome": ("201", "200", "permission_denied")[number % 3],
        "duration_us": number,
        "tenant_id": f"t{number % 2}",
        "incarnation": f"life{number % 2}",
        "credential": f"cap_{number % 4}",
        "subject": f"svc-{number}",
        "request_id": f"r{number}",
        "peer": "127.0.0.1",
    }
    return AuditEntry(**fields | more)


def entries(first: int, last: int) -> list[AuditEntry]:
    return [entry(number) for number in range(first, last + 1)]


@asynccontextmanager
async def opened(
    directory: Path,
    notes: Notes | None = None,
    *,
    used: bool = False,
    days: int = 36_500,
    size_mb: int = 1_000,
    detail: Detail | None = None,
) -> AsyncIterator[AuditLog]:
    prepare_directory(directory)
    audit = await open_audit(
        directory, KEY, notes or Notes(), at_us=START_US, used=used, days=days, size_mb=size_mb, detail=detail
    )
    try:
        yield audit
    finally:
        await audit.close()


async def kept(audit: AuditLog, **query: Any) -> list[KeptEntry]:
    """All that match, over all pages."""
    found: list[KeptEntry] = []
    after: int | None = 0
    while after is not None:
        page = await audit.page(AuditQuery(**{"limit": 500, "after": after} | query))
        found += page.entries
        after = page.next
    return found


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def written(directory: Path, count: int) -> None:
    """A file with its first entry and `count` more, closed in order."""
    async with opened(directory) as audit:
        for each in entries(1, count):
            audit.record(each)


def sql(directory: Path, *statements: str) -> list[Any]:
    """What somebody else does to the file while no kernel has it open; the rows of the last statement."""
    connection = driver.connect(str(directory / "audit.db"), isolation_level=None)
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        return rows
    finally:
        connection.close()
