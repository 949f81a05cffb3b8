"""A copy of a data directory, checked. Owns: which findings a backup or a restore cannot be believed with. Never: copies,
packs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from solo_trio.errors import Faulted, SoloError
from solo_trio.journal.audit import check_file, looking
from solo_trio.journal.audit_reads import AUDIT_FILE
from solo_trio.journal.inspection import open_inspection
from solo_trio.kernel.log_checks import Check
from solo_trio.kernel.verification import refused_report, verify_log
from solo_trio.telemetry.sources import SystemClock

MUST_HOLD: Final = frozenset({"files", "keys", "chain", "fold"})
"""Checks without which nothing of a log can be believed; any other is a warning, for the log itself has it too."""
EVENT_BYTES: Final = 512
"""About what an event takes, for telling how far it is."""


def check_copy(
    directory: Path, witness_key: bytes, audit_key: bytes | None, progress: Callable[[int], None]
) -> list[str]:
    """Read all of a log that nobody uses, with every check of `solo verify`; what is to be said of it though it can be
    believed.

    Not for a thread that Trio runs in. Raises `Faulted("data_damaged")`.
    """
    checks = list(trio.run(_check_log, directory, witness_key, progress))
    if audit_key is not None and (directory / AUDIT_FILE).exists():
        with looking(directory):
            finding = check_file(directory, audit_key)
        if finding.fault is not None:
            checks.append(Check("audit", "warning", finding.fault))
    wrong = [check for check in checks if check.status == "failed" and check.name in MUST_HOLD]
    if wrong:
        raise Faulted("data_damaged", f"{wrong[0].name}: {wrong[0].detail}")
    return [f"{check.name}: {check.detail}" for check in checks if check.status != "ok"]


async def _check_log(directory: Path, key: bytes, progress: Callable[[int], None]) -> Sequence[Check]:
    at_us, told = SystemClock().wall_us(), 0

    def tell(done: int) -> None:
        nonlocal told
        progress((done - told) * EVENT_BYTES)
        told = done

    try:
        async with open_inspection(directory, key) as log:
            report = await verify_log(log, at_us, lambda known: [], (), tell)
    except SoloError as error:
        report = refused_report(error, at_us)
    return report.checks
