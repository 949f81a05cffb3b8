"""`solo serve --plan`. Owns: what a start on a data directory would find, and what would be in its way. Never: changes a byte.

The order is that of a start (`running`): the lock, the master key, what a killed kernel left, the checks, the log. What it does
then about services is rehearsed on the state (`kernel.planning`); nothing of a service runs for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from attrs import asdict, define, field

from solo_trio import __version__
from solo_trio.bootstrap.directory import DATABASE_FILE, LOCKS_DIRECTORY, RESTORING_FILE
from solo_trio.bootstrap.master_key import master_key_of
from solo_trio.bootstrap.running import sandboxing_of, start_of
from solo_trio.errors import Faulted, Rejected, SoloError
from solo_trio.journal.inspection import Inspection, open_inspection
from solo_trio.journal.lock import DataLock
from solo_trio.journal.opening import check_files, check_kinds
from solo_trio.journal.witness import WITNESS_FILE
from solo_trio.kernel.checkpoints import maybe_in_thread, reducer_version
from solo_trio.kernel.kernel_time import KernelTime
from solo_trio.kernel.planning import Rehearsal, Which, failure_of, rehearse
from solo_trio.kernel.recovery import folded
from solo_trio.model.ending import Ending
from solo_trio.model.service import ServiceState
from solo_trio.model.state import KernelState
from solo_trio.operations.explaining.outlook import outlook_of
from solo_trio.operations.settings import Settings
from solo_trio.runtimes.process import ProcessRuntime, check_level
from solo_trio.runtimes.task import TaskRuntime
from solo_trio.runtimes.tenant_lock import held_locks
from solo_trio.service.module import NotAService
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.vault.keyring import Keyring

CLOSE_S: Final = 10.0
"""For the process that found out about the sandbox to end."""
INLINE_SERVICES_MAX: Final = 16

Document = dict[str, Any]


@define
class _Notes(Diagnostics):
    """What a start would have noted."""

    notes: list[str] = field(factory=list)

    def note(self, message: str, **fields: Any) -> None:
        self.notes.append(" ".join((message, *(f"{name}={value}" for name, value in fields.items()))))


async def plan_start(data: Path, settings: Settings) -> Document:
    """What `solo serve` would do on `data`; `would_start`: whether it would, `problems`: why not. Never raises `SoloError`."""
    data = data.absolute()  # noqa: ASYNC240 - reads no file
    plan: Document = {"data": str(data), "would_start": True, "problems": [], "notes": []}
    try:
        if await trio.to_thread.run_sync(_is_new, data):
            return plan | {"first_start": True}
        with DataLock(data, still=True):
            return plan | {"first_start": False} | await _planned(data, settings)
    except SoloError as error:
        problem = {"code": error.code, "detail": error.detail}
        return plan | {"first_start": False, "would_start": False, "problems": [problem]}


def _is_new(data: Path) -> bool:
    """Whether there is nothing of a kernel; raises `Faulted` for files that a start would refuse."""
    if not data.exists():
        return True
    check_kinds(data)
    if any((data / name).exists() for name in (DATABASE_FILE, WITNESS_FILE, RESTORING_FILE)):
        return False
    check_files(data, None)
    return True


async def _planned(data: Path, settings: Settings) -> Document:
    master = await trio.to_thread.run_sync(
        partial(master_key_of, data, settings.master_key_command, create=False, settle=False)
    )
    telemetry, clock = _Notes(), SystemClock()
    alive = await trio.to_thread.run_sync(held_locks, data / LOCKS_DIRECTORY)
    async with open_inspection(data, master.derive("witness")) as log:
        Keyring(master, SystemEntropy(), await log.keys()).check()
        began = trio.current_time()
        state, checkpoint = await folded(log, telemetry, reducer_version())
        replay_s = trio.current_time() - began
        obstacles = await _obstacles(log, data, settings, state)
        time = KernelTime(clock, state.last_at_us, state.kernel_time, suspect=state.system.clock_held)
        now = time.now(state.last_at_us, state.kernel_time)
        start = start_of(settings, __version__)
        services = sum(len(tenant.services) for tenant in state.tenants.values())
        found = await maybe_in_thread(partial(rehearse, state, start, now, obstacles), services > INLINE_SERVICES_MAX)
        return _log_view(log, state, checkpoint, replay_s) | {
            "notes": telemetry.notes,
            "still_alive": alive,
            "hold": found.started.system.hold,
            "boot_loop": {
                "short_lives": state.system.short_lives_now,
                "starts_allowed": settings.boot_loop_starts,
                "holds": found.started.system.hold == "boot_loop",
            },
            "clock": {"held": time.held_s > 0, "ahead_s": round(time.held_s, 3)},
            **_services_view(state, found, settings),
        }


def _log_view(log: Inspection, state: KernelState, checkpoint: int | None, replay_s: float) -> Document:
    return {
        "last_event_id": state.last_id,
        "oldest_event_id": log.oldest_id,
        "checkpoint": checkpoint,
        "replayed": state.last_id - (checkpoint or 0),
        "replay_s": round(replay_s, 3),
        "shut_down_in_order": state.system.clean,
    }


# -- what is in the way of a service


async def _obstacles(log: Inspection, data: Path, settings: Settings, state: KernelState) -> dict[Which, Ending]:
    """Of every service that could be started, and of what it is to replace: what its start would be refused for."""
    found: dict[Which, Ending] = {}
    tasks = TaskRuntime({}, settings.allowed_imports)
    every = [
        (tenant.tenant_id, each)
        for tenant, service in state.services()
        for each in (service, service.previous)
        if each is not None and each.stop is None
    ]
    confined = any(each.spec.isolation == "process" for _, each in every)
    async with _process_runtime(data, settings, probe=confined) as (processes, fault):
        for tenant_id, service in every:
            try:
                if service.spec.isolation == "task":
                    tasks.check(service.spec.entry)
                else:
                    await _check_process(log, processes, fault, service)
            except NotAService as refusal:
                found[tenant_id, service.service_id, service.deployment] = Ending("load_failed", str(refusal))
            except (Faulted, Rejected) as error:
                found[tenant_id, service.service_id, service.deployment] = failure_of(error)
    return found


async def _check_process(
    log: Inspection, processes: ProcessRuntime, fault: Faulted | None, service: ServiceState
) -> None:
    await log.artifact(service.spec.digest)
    await processes.environment_of(service.spec.environment)
    if fault is not None:
        raise fault


@asynccontextmanager
async def _process_runtime(
    data: Path, settings: Settings, *, probe: bool
) -> AsyncIterator[tuple[ProcessRuntime, Faulted | None]]:
    """One that keeps nothing in `data`, and why it would run no service at all, if it is so."""
    fault: Faulted | None = None
    with tempfile.TemporaryDirectory(prefix="solo-plan-") as scratch:
        processes = ProcessRuntime(Path(scratch), sandboxing_of(data, settings))
        try:
            if probe:
                try:
                    check_level(await processes.probe(), settings.sandbox_level)
                except Faulted as error:
                    fault = error
            yield processes, fault
        finally:
            await processes.close(trio.current_time() + CLOSE_S)


# -- what is told


def _services_view(before: KernelState, found: Rehearsal, settings: Settings) -> Document:
    started = found.started
    gone = [
        {"tenant_id": tenant.tenant_id, "service_id": service.service_id}
        for tenant, service in before.services()
        if service.spec.ephemeral and started.service(tenant.tenant_id, service.service_id) is None
    ]
    touched = {(each.tenant_id, each.service_id) for each in found.starts}
    return {
        "start": [
            asdict(each) | {"events": found.events_of(each.tenant_id, each.service_id), "after": list(each.after)}
            for each in found.starts
        ],
        "waiting": [asdict(each) | {"missing": list(each.missing)} for each in found.waiting],
        "finish_stopping": [_named(*key, found) for key in found.finished],
        "forget_deployments": [_named(*key, found) | {"why": why} for key, why in found.failed],
        "forget_ephemeral": gone,
        "finish_removing": found.removed,
        "left_as_they_are": [
            {
                "tenant_id": tenant.tenant_id,
                "service_id": service.service_id,
                "status": str(service.status),
                "held": service.held,
                "why": outlook_of(tenant, service, started.system.hold, settings.limits).summary,
            }
            for tenant, service in started.services()
            if not service.wants_to_run
            and service.stop is None
            and (tenant.tenant_id, service.service_id) not in touched
        ],
    }


def _named(tenant_id: str, service_id: str, found: Rehearsal) -> Document:
    return {"tenant_id": tenant_id, "service_id": service_id, "events": found.events_of(tenant_id, service_id)}
