"""A kernel that runs. Owns: the order of its start, the concrete classes that it is made of. Never: behaviour of its own.

The order is `lifecycle.md`'s: the data directory's lock, the tenants' locks (old services are gone), checks and replay, then
`system_started` and everything else.
"""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import trio
from attrs import evolve

from solo_trio import __version__
from solo_trio.bootstrap.audit import audit_check, audit_key_of, open_audit_of
from solo_trio.bootstrap.backup import make_backup, running_source
from solo_trio.bootstrap.backup_parts import sweep
from solo_trio.bootstrap.closing import close_journal
from solo_trio.bootstrap.directory import (
    LOCKS_DIRECTORY,
    LOGS_DIRECTORY,
    TAKE_OVER_TIMEOUT_S,
    environments_of,
    make_directory,
    tenant_files,
)
from solo_trio.bootstrap.master_key import master_key_of
from solo_trio.errors import Faulted, JournalFailed, SoloError
from solo_trio.journal.audit import AuditLog
from solo_trio.journal.lock import DataLock
from solo_trio.journal.sqlite import open_journal
from solo_trio.kernel.backups import Backups
from solo_trio.kernel.checkpoints import CheckpointRules, reducer_version
from solo_trio.kernel.core import Core, Parts
from solo_trio.kernel.recovery import replay
from solo_trio.kernel.staging import Submission
from solo_trio.model.capability import system_capability
from solo_trio.model.capability_requests import GrantSystem
from solo_trio.model.system import StartSystem
from solo_trio.operations.admission import Admission
from solo_trio.operations.auditing import Auditing
from solo_trio.operations.caller import SYSTEM_SCOPE, System, TokenFile
from solo_trio.operations.settings import Settings
from solo_trio.ports import Audit
from solo_trio.runtimes.process import ProcessRuntime, Sandboxing
from solo_trio.runtimes.task import TaskRuntime
from solo_trio.runtimes.tenant_lock import take_over
from solo_trio.runtimes.watchdog import watchdog
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.machine import OwnProcess
from solo_trio.telemetry.service_logs import ServiceLogFiles
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.vault.admin_token import ADMIN_TOKEN_FILE, drop_prepared, prepare_admin_token, put_admin_token
from solo_trio.vault.keyring import Keyring
from solo_trio.vault.secret import Secret
from solo_trio.vault.vault import Vault


@asynccontextmanager
async def running_system(
    data: Path, settings: Settings, *, callables: Mapping[str, object] | None = None
) -> AsyncIterator[System]:
    """A kernel on the data directory `data`; leaving it shuts down, cancelling it is a crash.

    Raises `Faulted`: data_in_use, data_unwritable, data_newer, data_damaged, services_alive.
    """
    data = data.absolute()  # noqa: ASYNC240 - reads no file; the zygotes work elsewhere
    with DataLock(data):
        master = await trio.to_thread.run_sync(partial(master_key_of, data, settings.master_key_command))
        locks = make_directory(data / LOCKS_DIRECTORY)
        make_directory(data / LOGS_DIRECTORY)
        await take_over(locks, TAKE_OVER_TIMEOUT_S)
        journal = await open_journal(data, master.derive("witness"))
        telemetry = Diagnostics()
        audit: AuditLog | None = None
        try:
            if journal.warning is not None:
                telemetry.note(journal.warning)
            clock, entropy = SystemClock(), SystemEntropy()
            keys = await journal.keys()
            keyring = Keyring(master, entropy, keys)
            keyring.check()
            tasks = TaskRuntime({} if callables is None else callables, settings.allowed_imports)
            processes = ProcessRuntime(locks, sandboxing_of(data, settings))
            logs = ServiceLogFiles(data / LOGS_DIRECTORY, clock, telemetry)
            audit_key = await audit_key_of(master, journal, keys)
            audit = await open_audit_of(data, audit_key, journal, telemetry, settings)
            backup_directory = data / settings.backup_dir
            await trio.to_thread.run_sync(sweep, backup_directory, data)
            parts = Parts(
                journal=journal,
                clock=clock,
                entropy=entropy,
                telemetry=telemetry,
                runtimes={"process": processes, "task": tasks},
                logs=logs,
                ceiling=settings.limits,
                machine=OwnProcess(data),
                pressure=settings.pressure,
                alerts=settings.alerts,
                checks=(partial(audit_check, audit),),
                egress_allowed=settings.egress_allowed,
                vault=Vault(master, entropy, keys),
                version=__version__,
                environments=environments_of(data),
                files=tenant_files(data),
                checkpoints=CheckpointRules(settings.checkpoint_interval_events, settings.checkpoint_interval_s),
                retention=settings.retention,
            )
            with watchdog(tasks.owners, telemetry), _bare_errors():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(logs.run)
                    likely = await journal.holds_artifacts()
                    async with _ready_beside(processes, likely), assemble(parts, keyring, settings, audit) as system:
                        _write_admin_token(data, system)
                        make = partial(make_backup, running_source(data, master, audit_key, journal), backup_directory)
                        system = evolve(system, token_file=_TokenFile(data), backups=Backups(system.core, make))
                        yield system
                    nursery.cancel_scope.cancel()
        finally:
            if audit is not None:
                await audit.close()
            await close_journal(journal, telemetry)


@asynccontextmanager
async def _ready_beside(processes: ProcessRuntime, likely: bool) -> AsyncIterator[None]:
    """What services are forked from gets ready beside the replay, on another processor, if there are `likely` to be any.

    The kernel closes its runtimes; one that fails before it runs has no time to.
    """
    try:
        async with trio.open_nursery() as nursery:
            if likely:
                nursery.start_soon(processes.warm_up)
            yield
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await processes.close(trio.current_time())


class _TokenFile(TokenFile):
    def __init__(self, data: Path) -> None:
        self._data = data

    async def prepare(self, token: Secret) -> None:
        await trio.to_thread.run_sync(prepare_admin_token, self._data, token)

    async def put(self, token: Secret) -> None:
        await trio.to_thread.run_sync(put_admin_token, self._data, token)

    async def drop(self) -> None:
        await trio.to_thread.run_sync(drop_prepared, self._data)


def start_of(settings: Settings, version: str) -> StartSystem:
    """What a start records first."""
    return StartSystem(
        version, platform.python_version(), settings.start_paused, boot_loop_starts=settings.boot_loop_starts
    )


@asynccontextmanager
async def assemble(
    parts: Parts, keyring: Keyring, settings: Settings, audit: Audit | None = None
) -> AsyncIterator[System]:
    """Replay the log of `parts.journal` and run a kernel on it until the body is left (shutdown) or cancelled (crash)."""
    start = start_of(settings, parts.version)
    recovery = await replay(
        parts.journal,
        parts.clock,
        parts.telemetry,
        reducer=reducer_version(),
        start=start,
        timeout_s=settings.recovery_timeout_ms / 1_000,
    )
    core = Core(parts, recovery, settled_after_s=settings.boot_loop_s)
    auditing = Auditing() if audit is None else Auditing(audit)
    core.removals.forgetting.append(keyring.forget_incarnation)
    system = System(core, keyring, settings, Admission(core, settings), parts.environments, audit=auditing)
    with _bare_errors():
        async with trio.open_nursery() as nursery:
            await nursery.start(core.run)
            if system_capability(core.loop.state) is None:
                key = keyring.new_key(SYSTEM_SCOPE)
                await core.loop.report(Submission(GrantSystem(keyring.new_id(), key)))
            nursery.start_soon(system.admission.run)
            yield system
            await core.shutdown(settings.shutdown_timeout_ms / 1_000, "closed")


@contextmanager
def _bare_errors() -> Iterator[None]:
    """The nursery here is nobody's business: what leaves it alone leaves it bare; what stopped the kernel goes first."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        stopping = [error for error in errors if isinstance(error, JournalFailed)]
        if stopping and all(isinstance(error, SoloError) for error in errors):
            raise stopping[0] from None
        if len(errors) == 1:
            raise errors[0] from None
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _write_admin_token(data: Path, system: System) -> None:
    """The system's token, for whoever may read the data directory; written again if it is missing, or is an old one."""
    capability = system_capability(system.core.loop.state)
    if capability is None:
        return
    try:
        put_admin_token(data, system.keyring.mint(capability.key_id, capability.capability_id))
    except Faulted as error:
        if not (data / ADMIN_TOKEN_FILE).exists():
            raise  # nobody could use it
        system.core.telemetry.note("the file with the system's token is not what it should be", error=error.detail)


def sandboxing_of(data: Path, settings: Settings) -> Sandboxing:
    return Sandboxing(
        level=settings.sandbox_level,
        hidden=(data.absolute(),),
        own_ancestors=settings.own_ancestors,
        spares=settings.spare_sandboxes,
        environments=environments_of(data),
    )
