"""The audit of a data directory. Owns: opening it with its key, what its check says, reading it offline. Never: its form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import evolve

from solo_trio.errors import Faulted
from solo_trio.journal.audit import AUDIT_FILE, AuditLog, check_file, looking, open_audit, read_page
from solo_trio.journal.audit_head import AUDIT_HEAD_FILE
from solo_trio.journal.audit_shares import Detail
from solo_trio.journal.lock import DataLock
from solo_trio.journal.sqlite import SqliteJournal
from solo_trio.kernel.log_checks import Check
from solo_trio.model.audit import AuditFinding, AuditQuery, KeptEntry
from solo_trio.model.record import EventQuery, KeyRow
from solo_trio.operations.auditing import DENIALS, detail_operations
from solo_trio.operations.settings import Settings
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.vault import NoKey, new_system_key, system_key

AUDIT_PURPOSE: Final = "audit"
"""What the key of the audit's chain is for."""
AUDIT_CHECK_ENTRIES_MAX: Final = 200_000
"""So many entries are read by a running kernel; all of them by `solo verify` without one."""


async def audit_key_of(master: MasterKey, journal: SqliteJournal, keys: Sequence[KeyRow]) -> bytes:
    """The key of the audit's chain, made with the first start."""
    try:
        return system_key(master, keys, AUDIT_PURPOSE).reveal()
    except NoKey:
        made = new_system_key(master, SystemEntropy(), AUDIT_PURPOSE)
        await journal.append((), (made,), reserved=True)
        return system_key(master, [made], AUDIT_PURPOSE).reveal()


async def open_audit_of(
    data: Path, audit_key: bytes, journal: SqliteJournal, telemetry: Diagnostics, settings: Settings
) -> AuditLog:
    newest = await journal.read(EventQuery(newest=True, limit=1))
    return await open_audit(
        data,
        audit_key,
        telemetry,
        at_us=SystemClock().wall_us(),
        used=bool(newest),
        days=settings.audit_days,
        size_mb=settings.audit_mb,
        detail=Detail(detail_operations(), DENIALS),
    )


async def audit_check(audit: AuditLog) -> Check:
    """Of a kernel that goes on: bounded, so that nobody waits for minutes."""
    state, finding = audit.state, await audit.check(AUDIT_CHECK_ENTRIES_MAX)
    said = _audit_said(finding)
    if finding.fault is None and state.status != "ok":
        aside = "" if state.set_aside is None else f", and {state.set_aside} was set aside"
        return Check("audit", "warning", f"{said}; it is {state.status} since the kernel started{aside}")
    return Check("audit", "ok" if finding.fault is None else "failed", said)


def audit_check_offline(data: Path, master: MasterKey, keys: Sequence[KeyRow]) -> Check:
    there, known = (data / AUDIT_FILE).exists(), (data / AUDIT_HEAD_FILE).exists()
    try:
        audit_key = system_key(master, keys, AUDIT_PURPOSE).reveal()
    except NoKey:  # it is made before the first entry is
        if not there and not known:
            return Check("audit", "ok", "no kernel that keeps requests has used this data directory yet")
        return Check("audit", "failed", f"the key of {AUDIT_FILE if there else AUDIT_HEAD_FILE} is missing")
    except Faulted as fault:
        return Check("audit", "failed", f"the key of {AUDIT_FILE} cannot be opened: {fault.detail}")
    if not there:
        return Check(
            "audit", "warning", f"there is no {AUDIT_FILE}: what was kept of requests is lost, or nothing ever was"
        )
    with looking(data):
        finding = check_file(data, audit_key)
    return Check("audit", "ok" if finding.fault is None else "failed", _audit_said(finding))


def _audit_said(finding: AuditFinding) -> str:
    if finding.fault is not None:
        return finding.fault
    whole = "all" if finding.checked == finding.entries else f"the newest {finding.checked} of"
    return f"{whole} {finding.entries} entries of the audit follow from each other"


def read_audit(data: Path, query: AuditQuery, progress: Callable[[int, int], None]) -> Iterator[KeptEntry]:
    """The entries of a data directory that no kernel uses; nothing is changed in it. `progress`: the id it is at, the last one.

    Raises `Faulted`: data_in_use, data_unwritable, data_damaged.
    """
    if not (data / AUDIT_FILE).exists():
        raise Faulted("data_unwritable", f"there is no {AUDIT_FILE} in {data}: name the directory that a kernel used")
    with DataLock(data), looking(data):
        following: int | None = query.after
        while following is not None:
            page, last_id = read_page(data, evolve(query, after=following))
            yield from page.entries
            following = page.next
            progress(last_id if following is None else following, last_id)
