"""Operations on the kernel itself. Owns: health, readiness, the system's view of itself, asking for a report. Never: a file."""

from __future__ import annotations

import os
import platform
from typing import Any

from attrs import asdict, frozen

from solo_trio import __version__
from solo_trio.errors import Rejected
from solo_trio.model.codec import rfc3339
from solo_trio.model.repair import AcceptLoss
from solo_trio.model.service import count_services
from solo_trio.model.system import PauseSystem, RecordClockJump, ResumeSystem
from solo_trio.operations.caller import Caller
from solo_trio.operations.compaction import archive_view
from solo_trio.operations.table import Answer, Nothing, body, operation
from solo_trio.operations.views import counts_view, pressure_view


@operation("GET", "/health", scope="open")
async def health(caller: Caller, given: Nothing) -> Answer:
    """Whether the kernel does its work: 200, or 503 with each component's state."""
    core = caller.core
    components = {
        "journal": "storage_full" if core.loop.storage_full else "ok",
        "kernel": "closing" if core.closing else "ok",
    }
    healthy = all(state == "ok" for state in components.values())
    # Pressure is told, but the kernel works: restarting it for that would help nobody.
    components["pressure"] = core.pressure.pressure.level
    components["audit"] = caller.system.audit.log.state.status
    components["sandbox"] = _sandbox_level(caller)
    return Answer({"status": "ok" if healthy else "failing", "components": components}, 200 if healthy else 503)


@operation("GET", "/health/ready", scope="open")
async def health_ready(caller: Caller, given: Nothing) -> Answer:
    """Whether recovery is over: 200, or 503 while wanted services are still being started."""
    ready = caller.core.recovery.done.is_set() and not caller.core.closing
    return Answer({"status": "ready" if ready else "recovering"}, 200 if ready else 503)


@operation("GET", "/system", scope="system")
async def show_system(caller: Caller, given: Nothing) -> Answer:
    """Show the kernel: version, start, services in each state, the last recovery and verification."""
    core = caller.core
    state = core.loop.state
    report = core.recovery.report
    verified = core.verification.report
    view = {
        "version": __version__,
        "python": platform.python_version(),
        "pid": os.getpid(),
        "started_at": rfc3339(state.system.started_at_us),
        "starts": state.system.starts,
        "paused": state.system.hold is not None,
        "paused_because": state.system.hold,
        "held": _held(caller),
        "last_event_id": state.last_id,
        "clock_ahead_s": round(core.loop.held_s, 3),
        "kernel_time_s": core.loop.now().kernel_time,
        "tenants": len(state.tenants),
        "services": counts_view(count_services(service for _, service in state.services())),
        "queued": core.loop.queued,
        "pressure": pressure_view(core.pressure.pressure),
        "sandbox": _sandbox(caller),
        "use": caller.system.admission.view(),
        "audit": asdict(caller.system.audit.log.state),
        "backup": None if caller.system.backups is None else caller.system.backups.state.view(),
        "log": {"id": state.system.log_id, "restored_id": state.system.restored_id},
        "archive": await archive_view(core.compaction),
        "recovery": None if report is None else asdict(report) | {"complete": report.complete},
        "verification": None if verified is None else verified.view(),
    }
    return Answer(view)


def _sandbox_level(caller: Caller) -> str:
    """Of deployed code, in a word."""
    process = caller.core.runtimes.get("process")
    level = None if process is None else process.confinement().get("level")
    return "unknown" if level is None else f"level {level}"


def _sandbox(caller: Caller) -> dict[str, Any] | None:
    process = caller.core.runtimes.get("process")
    return None if process is None else process.confinement()


def _held(caller: Caller) -> int:
    return sum(service.held for _, service in caller.core.loop.state.services())


@operation("POST", "/system/pause", scope="system", mutates=True)
async def pause_system(caller: Caller, given: Nothing) -> Answer:
    """Pause the kernel: every service that runs is ended and held back; answered once that is recorded."""
    await caller.submit(PauseSystem())
    return Answer({"paused": True, "held": _held(caller)})


@operation("POST", "/system/resume", scope="system", mutates=True)
async def resume_system(caller: Caller, given: Nothing) -> Answer:
    """Resume the kernel: every service that was held back is started; answered once that is recorded."""
    held = _held(caller)
    await caller.submit(ResumeSystem())
    return Answer({"paused": False, "held": _held(caller), "resumed": held})


@operation("POST", "/system/accept-clock", scope="system", mutates=True)
async def accept_clock(caller: Caller, given: Nothing) -> Answer:
    """Believe the machine's clock although it leapt ahead: what it says has expired expires now."""
    ahead_s = caller.core.loop.held_s
    if ahead_s:
        caller.core.loop.accept_clock()
        await caller.submit(RecordClockJump(ahead_s, accepted=True))
    return Answer({"accepted_s": round(ahead_s, 3), "at": rfc3339(caller.core.loop.now().at_us)})


@frozen
class VerifyInput:
    fix: bool = body(False)
    accept_loss: bool = body(False)


@operation("POST", "/system/verify", scope="system", input=VerifyInput)
async def verify(caller: Caller, given: VerifyInput) -> Answer:
    """Compare what is wanted with what runs, read the whole log and every source, and answer with the report."""
    if given.accept_loss:
        await caller.submit(AcceptLoss())
    return Answer((await caller.core.verification.verify(full=True, fix=given.fix)).view())


@operation("POST", "/system/backup", scope="system")
async def backup(caller: Caller, given: Nothing) -> Answer:
    """Write a backup of the whole log into the directory of backups, check it, and answer what it is called."""
    backups = caller.system.backups
    if backups is None:
        raise Rejected("not_found", "this kernel keeps its log in memory: there is nothing to back up")
    made = await backups.write(caller.request_id)
    return Answer(
        {
            "name": made.name,
            "path": made.path,
            "event_id": made.event_id,
            "bytes": made.size_bytes,
            "digest": made.digest,
            "duration_ms": round(made.duration_s * 1_000, 3),
            "warnings": list(made.warnings),
        }
    )


@operation("POST", "/system/checkpoint", scope="system")
async def checkpoint(caller: Caller, given: Nothing) -> Answer:
    """Keep the state now, so that the next start reads only the events after it."""
    written = await caller.core.checkpoints.write()
    return Answer(
        {
            "event_id": written.event_id,
            "bytes": written.size_bytes,
            "duration_ms": round(written.duration_s * 1_000, 3),
        }
    )
