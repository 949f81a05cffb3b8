"""`solo verify` without a server. Owns: reading a data directory with every check there is; mending what is safe, if it is
asked.

Without that nothing in the directory changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio
from attrs import evolve

from solo_trio.bootstrap.audit import audit_check_offline
from solo_trio.bootstrap.closing import close_journal
from solo_trio.bootstrap.directory import DATABASE_FILE, RESTORING_FILE, tenant_files
from solo_trio.bootstrap.master_key import master_key_of
from solo_trio.errors import Faulted, SoloError
from solo_trio.journal.inspection import open_inspection
from solo_trio.journal.lock import DataLock
from solo_trio.journal.repair import interrupted
from solo_trio.journal.sqlite import open_journal
from solo_trio.kernel import mending
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.kernel_time import KernelTime
from solo_trio.kernel.log_checks import Check
from solo_trio.kernel.row_checks import key_check
from solo_trio.kernel.staging import Draft, Submission, stage
from solo_trio.kernel.verification import Looked, VerificationReport, look_at, refused_report, report_of
from solo_trio.model.record import KeyRow
from solo_trio.model.repair import AcceptLoss
from solo_trio.model.state import KernelState
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock
from solo_trio.vault.keys import MasterKey, associated

Progress = Callable[[int, int], None]


async def verify_data(
    data: Path,
    progress: Progress,
    key_command: Sequence[str] = (),
    *,
    fix: bool = False,
    accept_loss: bool = False,
) -> VerificationReport:
    """Check a data directory that no kernel uses. `progress`: events done, and of how many.

    `fix`: mend what can be mended safely; `accept_loss`: no more warnings of what a repair could not save. Without them
    nothing in the directory changes. Raises `Faulted`: data_in_use, data_unwritable; whatever is wrong with the data is in
    the report.
    """
    known = any((data / name).exists() for name in (DATABASE_FILE, RESTORING_FILE))
    if not known and not interrupted(data):
        raise Faulted("data_unwritable", f"{data} is no data directory: name the one that the kernel used")
    with DataLock(data):
        report, looked, state = await _verified(data, progress, key_command)
        if state is None or not (fix or accept_loss):
            return report
        try:
            fixed = await _mended(data, looked, state, key_command, fix=fix, accept_loss=accept_loss)
        except SoloError as error:
            return evolve(report, recommendations=(*report.recommendations, f"it could not be mended: {error.detail}"))
        if fixed:
            report, _, _ = await _verified(data, progress, key_command)
        return evolve(report, fixed=tuple(fixed))


async def verified(data: Path, progress: Progress, key_command: Sequence[str] = ()) -> VerificationReport:
    """As `verify_data`, for whoever holds the lock."""
    return (await _verified(data, progress, key_command))[0]


async def _verified(
    data: Path, progress: Progress, key_command: Sequence[str]
) -> tuple[VerificationReport, Looked, KernelState | None]:
    """`KernelState` None: it could not even be opened."""
    at_us, began = SystemClock().wall_us(), trio.current_time()
    try:
        master = await _master_key(data, key_command)
        async with open_inspection(data, master.derive("witness")) as log:
            keys = await log.keys()
            opened = [
                Check("files", "ok", "the database, its log file and the witness agree"),
                key_check(keys, partial(opens, master)),
                await trio.to_thread.run_sync(audit_check_offline, data, master, keys),
            ]
            last_id = log.last_id
            looked, state = await look_at(log, tenant_files(data).leftovers, lambda done: progress(done, last_id))
    except SoloError as error:
        return refused_report(error, at_us), Looked((), ()), None
    report = report_of([*opened, *looked.checks], state, (), True, at_us, trio.current_time() - began)
    return report, looked, state


def opens(master: MasterKey, row: KeyRow) -> bool:
    """Whether `master` wraps the key of `row`, for the place that it is in."""
    try:
        master.unwrap(row.wrapped, associated(row.purpose, row.incarnation, row.key_id))
    except (Faulted, TypeError, AttributeError):
        return False
    return True


async def _master_key(data: Path, key_command: Sequence[str]) -> MasterKey:
    return await trio.to_thread.run_sync(partial(master_key_of, data, key_command, create=False, settle=False))


async def _mended(
    data: Path, looked: Looked, state: KernelState, key_command: Sequence[str], *, fix: bool, accept_loss: bool
) -> list[str]:
    master = await _master_key(data, key_command)
    journal = await open_journal(data, master.derive("witness"))
    clock, telemetry = SystemClock(), Diagnostics()
    try:

        async def submit(command: Any) -> Any:
            nonlocal state
            time = KernelTime(clock, state.last_at_us, state.kernel_time, suspect=state.system.clock_held)
            draft, reply = stage(Draft(state), Submission(command), time.now(state.last_at_us, state.kernel_time))
            await journal.append([record.stored for record in draft.records], draft.attachments)
            state = draft.state
            return reply

        files = tenant_files(data)

        async def remove(names: Sequence[str]) -> Sequence[str]:
            known = frozenset(tenant.incarnation for tenant in state.tenants.values())
            return await files.remove(names, known)

        done: list[str] = []
        if accept_loss and (count := await submit(AcceptLoss())):
            done.append(f"accepted {count} losses")
        if fix and mending.log_is_sound(looked.checks):
            done += await mending.rewrite_checkpoints(
                looked.checkpoints, reducer_version(), journal.write_checkpoint, submit
            )
            done += await mending.remove_unnamed(looked.unnamed, submit)
            done += await mending.remove_files(looked.files, remove, submit)
        return done
    finally:
        await close_journal(journal, telemetry)
