"""`solo repair`. Owns: finding out what is wrong and what can be saved, asking, and doing it. Never: chooses a loss by
itself.

Nothing in the directory changes before `confirm` has seen the plan. What is written then is checked like any other log,
from its first event on, before it takes the place of the damaged one (`journal.repair`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import evolve, frozen

from solo_trio.bootstrap.directory import DATABASE_FILE, RESTORING_FILE
from solo_trio.bootstrap.master_key import master_key_of
from solo_trio.bootstrap.rebuilding import Saved, erased_by, written
from solo_trio.bootstrap.verifying import opens, verified
from solo_trio.errors import Faulted, KernelBug, Rejected
from solo_trio.journal import damage, repair
from solo_trio.journal.archive import ARCHIVE_DIRECTORY
from solo_trio.journal.audit_file import FILES as AUDIT_FILES
from solo_trio.journal.damage import Way
from solo_trio.journal.erasing import masked
from solo_trio.journal.inspection import open_inspection
from solo_trio.journal.lock import DataLock
from solo_trio.journal.repair import DAMAGED_DIRECTORY, JOURNAL_FILES, Rebuilding
from solo_trio.journal.salvage import Salvage
from solo_trio.journal.witness import WITNESS_FILE
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.log_checks import check_log, worst
from solo_trio.kernel.repairing import (
    RepairPlan,
    about,
    find_beside,
    folded,
    sources_named,
    whose_tokens,
)
from solo_trio.kernel.row_checks import compare_rows, row_checks
from solo_trio.kernel.verification import VerificationReport
from solo_trio.model import snapshot
from solo_trio.model.instant import rfc3339
from solo_trio.model.record import KeyRow
from solo_trio.model.repair import restoring as restoring_events
from solo_trio.model.state import KernelState
from solo_trio.telemetry.sources import SystemClock
from solo_trio.vault.keys import MasterKey

MENDED_BY_REPAIR: Final = frozenset({"checkpoints"})
"""A warning of these is a reason to repair, though the kernel would start."""
TEXT_CHARACTERS_MAX: Final = 300
EVENT_LOST_MAX: Final = 1_000
"""Made at once."""

Confirm = Callable[[RepairPlan], bool]
Told = Callable[[str], None]


@frozen
class Outcome:
    """`repaired`: what was planned was done. `plan` None: there was nothing to repair, or an earlier repair was brought to
    its end (`finished`: where it put the damaged files)."""

    repaired: bool
    plan: RepairPlan | None = None
    finished: str | None = None
    event_id: int | None = None
    """Of the `log_repaired`."""


async def repair_data(
    data: Path, confirm: Confirm, told: Told, *, way: str | None = None, key_command: Sequence[str] = ()
) -> Outcome:
    """Repair a data directory that no kernel uses. `told`: what is being done; `way`: which, where there are several.

    Raises `SoloError`: data_in_use; data_damaged where nothing can be saved, or nothing proven; data_newer.
    """
    data = data.absolute()  # noqa: ASYNC240 - reads no file
    if not data.is_dir() or not any(
        (data / name).exists() for name in (*JOURNAL_FILES, repair.MARK_FILE, RESTORING_FILE)
    ):
        raise Faulted("data_unwritable", f"{data} is no data directory: name the one that the kernel used")
    with DataLock(data):
        if repair.interrupted(data):
            told("going on with the repair that was interrupted")
            mark = await trio.to_thread.run_sync(repair.finish, data)
            return Outcome(repaired=True, finished=mark.damaged)
        repair.discard(data)
        master = await trio.to_thread.run_sync(partial(_master_key, data, key_command))
        told("looking for what is wrong")
        report = await verified(data, lambda done, total: None, key_command)
        if not _needed(report):
            return Outcome(repaired=False)
        told("reading what can be read")
        planning = await trio.to_thread.run_sync(partial(_Planning, data, master, report))
        saved = await trio.to_thread.run_sync(planning.choose, way)
        plan = planning.plan(saved)
        if not confirm(plan):
            return Outcome(repaired=False, plan=plan)
        told("writing what was saved")
        event_id = await _do(planning, saved, plan, told)
        return Outcome(repaired=True, plan=plan, event_id=event_id)


def _master_key(data: Path, key_command: Sequence[str]) -> MasterKey:
    try:
        return master_key_of(data, key_command, create=False, settle=False)
    except Faulted as fault:
        raise Faulted(
            fault.code,
            f"{fault.detail}; without the master key nothing in the directory can be proven or opened, so nothing is repaired",
        ) from fault


def _needed(report: VerificationReport) -> bool:
    return any(
        check.status == "failed" or (check.status == "warning" and check.name in MENDED_BY_REPAIR)
        for check in report.checks
    )


class _Planning:
    """What lies in a damaged directory, and what can be made of it."""

    def __init__(self, data: Path, master: MasterKey, report: VerificationReport) -> None:
        self.data = data
        self.master = master
        self.key = master.derive("witness")
        self.found = [
            check.detail
            for check in report.checks
            if check.status == "failed" or (check.name in MENDED_BY_REPAIR and check.status == "warning")
        ]
        self.audit_is_damaged = any(check.name == "audit" and check.status == "failed" for check in report.checks)
        self.salvage = Salvage(data, self.key)
        self.keys = self.salvage.keys()
        self._check_master_key()
        self.ways = damage.ways(self.salvage, reducer_version(), snapshot.FORMAT)
        stamp = rfc3339(SystemClock().wall_us()).split(".")[0].replace(":", "").replace("-", "") + "Z"
        number = 0
        while (data / DAMAGED_DIRECTORY / f"{stamp}{f'-{number}' if number else ''}").exists():
            number += 1
        self.damaged = f"{DAMAGED_DIRECTORY}/{stamp}{f'-{number}' if number else ''}"

    def _check_master_key(self) -> None:
        """Something must prove that it is the right one: with another, everything would look damaged."""
        if self.keys and all(self.master.is_of_another(row.wrapped) for row in self.keys):
            raise Faulted(
                "data_damaged",
                "all stored keys are under another master key, and a repair would throw them away: if a rotation was"
                " interrupted, run the same solo keys rotate once more, with the key from before it; else give the other key",
            )
        if self.salvage.witness is not None or self.salvage.checkpoints or any(map(self._opens, self.keys)):
            return
        raise Faulted(
            "data_damaged",
            "nothing in the directory is sealed with this master key: it is another directory's, or all is lost;"
            " restore the key, or the whole directory from a backup",
        )

    def choose(self, name: str | None) -> Saved:
        """The way of that name, or the best one; folded to its end."""
        offered = {way.name: way for way in self.ways}
        if not [way for way in self.ways if way.name != "unproven"] and name is None:
            what = "no event in it is proven"
            if offered:
                what += ": with --way unproven it is believed as it is, after you have made sure of it"
            raise Faulted("data_damaged", f"{what}; restore the whole directory from a backup")
        if name is not None and name not in offered:
            there = ", ".join(sorted(offered)) or "none"
            raise Rejected("invalid_field", f"there is no way {name} to repair this directory; there is: {there}")
        return self._saved(self.ways[0] if name is None else offered[name])

    def _saved(self, way: Way) -> Saved:
        prefix = next((each for each in self.ways if each.name == "log"), None) if way.kept is not None else None
        erased = erased_by(self.salvage, [way] if prefix is None else [prefix, way])
        mask = erased.mask(self.salvage.last_id)
        kept = None if way.kept is None else snapshot.decode(way.kept.checkpoint.body)
        state = KernelState() if kept is None else kept
        for page in self.salvage.follow(way.base, way.head[0]):
            state = folded(state, [masked(event, mask) for _, event in page])
        state = folded(evolve(state, last_id=self.salvage.last_id), erased.said_again(state, self.salvage.last_id))
        beside = find_beside(
            state,
            self.salvage.artifact,
            self.keys,
            self.salvage.secrets(),
            [row for row in self.salvage.idempotency() if row.event_id <= way.head[0]],
            self._opens,
        )
        lost = (way.head[0] + 1, self.salvage.last_id) if way.head[0] < self.salvage.last_id else None
        if kept is None:
            return Saved(way, None, (), 0, state, beside, erased, lost, None)
        # A place for each event that says what the checkpoint held: the last of them has its place.
        restoring = tuple(restoring_events(kept))
        upto = min(0 if prefix is None else prefix.head[0], way.base[0] - len(restoring))
        if upto < 0:
            raise KernelBug("a checkpoint holds more tenants than there were events before it")
        before = None if prefix is None or not upto else evolve(prefix, head=(upto, b""))
        return Saved(way, before, restoring, kept.last_at_us, state, beside, erased, lost, (upto + 1, way.base[0]))

    def _opens(self, row: KeyRow) -> bool:
        return opens(self.master, row)

    def plan(self, saved: Saved) -> RepairPlan:
        way, state, beside = saved.way, saved.state, saved.beside
        lost_rows = ((row[3], row[5], row[6]) for row in self.salvage.readable_after(way.head[0]))
        notes = []
        if self.salvage.witness is None:
            notes.append(
                f"{self.salvage.witness_fault}: whether there were events after event {self.salvage.last_id} nobody can tell"
            )
        foreign = damage.foreign_checkpoint(self.salvage, way.head[0], reducer_version(), snapshot.FORMAT)
        if foreign is not None:
            notes.append(
                f"the checkpoint after event {foreign} is whole, but of another version of this program: with that version more"
                " can be saved"
            )
        if self.salvage.archived:
            notes.append("the events of the archive are put back into the database; it is made anew by policy")
        if self.audit_is_damaged:
            notes.append("the audit of requests is put aside as a whole; a new one is begun by the next start")
        return RepairPlan(
            way=way.name,
            others=[_said(each) for each in self.ways if each is not way],
            found=self.found,
            last_id=self.salvage.last_id,
            kept_to=way.head[0],
            lost=saved.lost,
            unread=saved.unread,
            state_at_us=state.last_at_us,
            services=[
                (tenant.tenant_id, service.service_id, str(service.status)) for tenant, service in state.services()
            ],
            tenants=len(state.tenants),
            secrets=sum(len(tenant.secrets) for tenant in state.tenants.values()),
            lost_about=about(lost_rows) if saved.lost is not None else [],
            lost_secrets=[f"{each.tenant_id}/{each.name} version {each.version}" for each in beside.lost_secrets],
            lost_sources=sources_named(state, beside.lost_sources),
            lost_tokens=whose_tokens(state, beside.lost_keys),
            notes=notes,
            damaged=self.damaged,
        )


def _said(way: Way) -> str:
    if way.name == "unproven":
        return (
            f"--way unproven: believe all {way.head[0]} events as they lie, although {WITNESS_FILE} or a checkpoint says"
            " that they are not the ones that were written"
        )
    if way.name == "checkpoint":
        return f"--way checkpoint: the state of the checkpoint after event {way.base[0]}, and the events up to {way.head[0]}"
    return f"--way log: the events up to {way.head[0]}, and what they come to"


async def _do(planning: _Planning, saved: Saved, plan: RepairPlan, told: Told) -> int:
    rebuilding = Rebuilding(planning.data)
    try:
        write = partial(
            written, rebuilding, planning.salvage, planning.master, saved, plan, last_at_us=SystemClock().wall_us()
        )
        state = await trio.to_thread.run_sync(write)
    except BaseException:
        rebuilding.abandon()
        repair.discard(planning.data)
        raise
    told("checking what was written")
    async with open_inspection(rebuilding.path, planning.key) as log:
        found = await check_log(log, reducer_version())
        checks = [*found.checks, *row_checks(compare_rows(found.state, await log.inventory()))]
    if worst(checks) == "failed" or found.state != state:
        repair.discard(planning.data)
        failed = "; ".join(check.detail for check in checks if check.status == "failed")
        raise KernelBug(f"what was written is not what was meant, so nothing was changed: {failed or 'another state'}")
    old = [*JOURNAL_FILES, *(AUDIT_FILES if planning.audit_is_damaged else ())]
    if planning.salvage.archived:  # its events are in the database again, as far as they could be read
        old.append(ARCHIVE_DIRECTORY)
    await trio.to_thread.run_sync(
        repair.change_places, planning.data, planning.damaged, old, [DATABASE_FILE, WITNESS_FILE]
    )
    return state.last_id
