"""Putting it together. Owns: naming the concrete classes, the order of a start. Never: behaviour of its own.

The order is `lifecycle.md`'s: the data directory's lock, the tenants' locks (old services are gone), checks and replay, then
`system_started` and everything else.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import evolve

from solo_trio import __version__
from solo_trio.errors import Faulted, JournalFailed, Rejected, SoloError
from solo_trio.journal.audit import AUDIT_FILE, AuditLog, check_file, looking, open_audit, read_page
from solo_trio.journal.audit_head import AUDIT_HEAD_FILE
from solo_trio.journal.inspection import open_inspection
from solo_trio.journal.library import driver, warning_for
from solo_trio.journal.lock import DataLock, sync_directory
from solo_trio.journal.rotation import change_over
from solo_trio.journal.rotation import settle as settle_keys
from solo_trio.journal.sqlite import SqliteJournal, open_journal
from solo_trio.kernel.checkpoints import CheckpointRules, reducer_version
from solo_trio.kernel.core import Core, Parts
from solo_trio.kernel.kernel_time import KernelTime
from solo_trio.kernel.log_checks import Check
from solo_trio.kernel.recovery import replay
from solo_trio.kernel.staging import Draft, Submission, stage
from solo_trio.kernel.verification import VerificationReport, refused_report, verify_log
from solo_trio.model.audit import AuditFinding, AuditQuery, KeptEntry
from solo_trio.model.capability import system_capability
from solo_trio.model.capability_requests import GrantSystem, RotateToken
from solo_trio.model.record import EventQuery, KeyRow
from solo_trio.model.system import StartSystem
from solo_trio.model.tenant import tenant_of
from solo_trio.operations.admission import Admission
from solo_trio.operations.auditing import Auditing
from solo_trio.operations.caller import SYSTEM_SCOPE, System, TokenFile
from solo_trio.operations.settings import Settings
from solo_trio.ports import Audit
from solo_trio.runtimes.cgroups import Cgroups, Hierarchies
from solo_trio.runtimes.cgroups import find as find_cgroups
from solo_trio.runtimes.environments import DIRECTORY as ENVIRONMENTS_DIRECTORY
from solo_trio.runtimes.environments import ENVIRONMENTS_MAX as ENVIRONMENTS_MAX
from solo_trio.runtimes.environments import Environments as Environments
from solo_trio.runtimes.environments import read_environment as read_environment
from solo_trio.runtimes.process import ProcessRuntime, Sandboxing
from solo_trio.runtimes.sandbox.layers import LEVEL_FILTERED as LEVEL_FILTERED
from solo_trio.runtimes.sandbox.layers import LEVEL_FULL as LEVEL_FULL
from solo_trio.runtimes.sandbox.root import unreachable as unreachable
from solo_trio.runtimes.sandbox.system import PR_SET_DUMPABLE, prctl
from solo_trio.runtimes.task import TaskRuntime
from solo_trio.runtimes.tenant_files import TenantFiles
from solo_trio.runtimes.tenant_lock import take_over
from solo_trio.runtimes.watchdog import watchdog
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.machine import OwnProcess
from solo_trio.telemetry.service_logs import ServiceLogFiles
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.vault.admin_token import ADMIN_TOKEN_FILE as ADMIN_TOKEN_FILE
from solo_trio.vault.admin_token import drop_prepared, prepare_admin_token, put_admin_token
from solo_trio.vault.keyring import Keyring
from solo_trio.vault.keys import MASTER_KEY_VARIABLE, MasterKey
from solo_trio.vault.secret import Secret
from solo_trio.vault.vault import NoKey, Vault, new_system_key, rewrapped, system_key

TAKE_OVER_TIMEOUT_S: Final = 10.0
MASTER_KEY_FILE: Final = "master.key"
NEW_MASTER_KEY_FILE: Final = "master.key.new"
"""While the master key is being rotated."""
DATABASE_FILE: Final = "kernel.db"
LOCKS_DIRECTORY: Final = "tenants"
AUDIT_PURPOSE: Final = "audit"
"""What the key of the audit's chain is for."""
AUDIT_CHECK_ENTRIES_MAX: Final = 200_000
"""So many entries are read by a running kernel; all of them by `solo verify` without one."""
LOGS_DIRECTORY: Final = "logs"


@asynccontextmanager
async def running_system(
    data: Path, settings: Settings, *, callables: Mapping[str, object] | None = None
) -> AsyncIterator[System]:
    """A kernel on the data directory `data`; leaving it shuts down, cancelling it is a crash.

    Raises `Faulted`: data_in_use, data_unwritable, data_newer, data_damaged, services_alive.
    """
    data = data.absolute()  # noqa: ASYNC240 - reads no file; the zygotes work elsewhere
    with DataLock(data):
        master = await trio.to_thread.run_sync(partial(_master_key, data, settings.master_key_command))
        locks = _make_directory(data / LOCKS_DIRECTORY)
        _make_directory(data / LOGS_DIRECTORY)
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
            sandboxing = _sandboxing(data, settings)
            logs = ServiceLogFiles(data / LOGS_DIRECTORY, clock, telemetry)
            audit = await _open_audit(data, await _audit_key(master, journal, keys), journal, telemetry, settings)
            parts = Parts(
                journal=journal,
                clock=clock,
                entropy=entropy,
                telemetry=telemetry,
                runtimes={"process": ProcessRuntime(locks, sandboxing), "task": tasks},
                logs=logs,
                ceiling=settings.limits,
                machine=OwnProcess(data),
                pressure=settings.pressure,
                alerts=settings.alerts,
                checks=(partial(_audit_check, audit),),
                egress_allowed=settings.egress_allowed,
                vault=Vault(master, entropy, keys),
                version=__version__,
                environments=environments_of(data),
                files=tenant_files(data),
                checkpoints=CheckpointRules(settings.checkpoint_interval_events, settings.checkpoint_interval_s),
            )
            with watchdog(tasks.owners, telemetry), _bare_errors():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(logs.run)
                    async with assemble(parts, keyring, settings, audit) as system:
                        _write_admin_token(data, system)
                        system = evolve(system, token_file=_TokenFile(data))
                        yield system
                    nursery.cancel_scope.cancel()
        finally:
            if audit is not None:
                await audit.close()
            await _close(journal, telemetry)


class _TokenFile(TokenFile):
    def __init__(self, data: Path) -> None:
        self._data = data

    async def prepare(self, token: Secret) -> None:
        await trio.to_thread.run_sync(prepare_admin_token, self._data, token)

    async def put(self, token: Secret) -> None:
        await trio.to_thread.run_sync(put_admin_token, self._data, token)

    async def drop(self) -> None:
        await trio.to_thread.run_sync(drop_prepared, self._data)


async def rotate_token(data: Path, tenant_id: str | None, *, keep: bool, key_command: Sequence[str] = ()) -> Secret:
    """Replace the token of a tenant, or of the system (None), in a data directory that no kernel uses.

    Raises `SoloError`: tenant_not_found, and whatever keeps a kernel from starting.
    """
    data = data.absolute()  # noqa: ASYNC240 - reads no file
    with DataLock(data):
        master = await trio.to_thread.run_sync(partial(_master_key, data, key_command, create=False))
        journal = await open_journal(data, master.derive("witness"))
        clock, telemetry = SystemClock(), Diagnostics()
        try:
            keyring = Keyring(master, SystemEntropy(), await journal.keys())
            start = StartSystem(__version__, platform.python_version())
            recovery = await replay(
                journal, clock, telemetry, reducer=reducer_version(), start=start, timeout_s=TAKE_OVER_TIMEOUT_S
            )
            state = recovery.state
            tenant = None if tenant_id is None else tenant_of(state, tenant_id)
            incarnation = None if tenant is None else tenant.incarnation
            key = keyring.new_key(incarnation or SYSTEM_SCOPE)
            command = RotateToken(tenant_id, incarnation, keyring.new_id(), key, keep)
            time = KernelTime(clock, state.last_at_us, state.kernel_time, suspect=state.system.clock_held)
            now = time.now(state.last_at_us, state.kernel_time)
            draft, capability_id = stage(Draft(state), Submission(command), now)
            token = keyring.mint(key.key_id, capability_id)
            if tenant_id is None:
                await trio.to_thread.run_sync(prepare_admin_token, data, token)
            await journal.append([record.stored for record in draft.records], draft.attachments, reserved=True)
            if tenant_id is None:
                await trio.to_thread.run_sync(put_admin_token, data, token)
        finally:
            await _close(journal, telemetry)
        return token


def harden_process() -> None:
    """Keys are in the memory of this process: no core file of it, and no other process of its user may look into it.

    For a process that is a kernel and nothing else; services are started with their own limits.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_DUMPABLE, 0)


def control_groups() -> Hierarchies:
    """Which cgroup controllers a kernel of this process would have for its services. Nothing is left of finding out."""
    found = find_cgroups(f"doctor-{os.getpid()}")
    Cgroups(found).remove()
    return found


def environments_of(data: Path) -> Environments:
    """The environments of the data directory `data`, which need not exist."""
    return Environments(data / ENVIRONMENTS_DIRECTORY)


def tenant_files(data: Path) -> TenantFiles:
    """What the data directory `data` has of each tenant."""
    return TenantFiles(data, (LOCKS_DIRECTORY, LOGS_DIRECTORY))


def storage_library() -> tuple[str, str | None]:
    """The version of SQLite that would be used, and what the operator must be told about it, if anything."""
    return driver.sqlite_version, warning_for(driver.sqlite_version_info)


def check_unused(data: Path) -> None:
    """Raises `Faulted("data_in_use")` if another kernel uses `data`; a directory that is not there is not made."""
    if data.is_dir():
        with DataLock(data):
            pass


@asynccontextmanager
async def assemble(
    parts: Parts, keyring: Keyring, settings: Settings, audit: Audit | None = None
) -> AsyncIterator[System]:
    """Replay the log of `parts.journal` and run a kernel on it until the body is left (shutdown) or cancelled (crash)."""
    start = StartSystem(
        parts.version, platform.python_version(), settings.start_paused, boot_loop_starts=settings.boot_loop_starts
    )
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


async def verify_data(
    data: Path, progress: Callable[[int, int], None], key_command: Sequence[str] = ()
) -> VerificationReport:
    """Check a data directory that no kernel uses, and change nothing in it. `progress`: events done, and of how many.

    Raises `Faulted`: data_in_use, data_unwritable; whatever is wrong with the data is in the report.
    """
    if not (data / DATABASE_FILE).exists():
        raise Faulted("data_unwritable", f"{data} is no data directory: name the one that the kernel used")
    with DataLock(data):
        at_us = SystemClock().wall_us()
        try:
            master = await trio.to_thread.run_sync(partial(_master_key, data, key_command, create=False, settle=False))
            async with open_inspection(data, master.derive("witness")) as log:
                keys = await log.keys()
                Keyring(master, SystemEntropy(), keys).check()
                opened = [
                    Check("files", "ok", "the database, its log file and the witness agree"),
                    Check("keys", "ok", f"the master key opens all {len(keys)} keys"),
                ]
                opened.append(await trio.to_thread.run_sync(_audit_check_offline, data, master, keys))
                last_id = log.last_id
                return await verify_log(
                    log, at_us, tenant_files(data).leftovers, opened, lambda done: progress(done, last_id)
                )
        except SoloError as error:
            return refused_report(error, at_us)


async def _audit_key(master: MasterKey, journal: SqliteJournal, keys: Sequence[KeyRow]) -> bytes:
    """The key of the audit's chain, made with the first start."""
    try:
        return system_key(master, keys, AUDIT_PURPOSE).reveal()
    except NoKey:
        made = new_system_key(master, SystemEntropy(), AUDIT_PURPOSE)
        await journal.append((), (made,), reserved=True)
        return system_key(master, [made], AUDIT_PURPOSE).reveal()


async def _open_audit(
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
    )


async def _audit_check(audit: AuditLog) -> Check:
    """Of a kernel that goes on: bounded, so that nobody waits for minutes."""
    state, finding = audit.state, await audit.check(AUDIT_CHECK_ENTRIES_MAX)
    said = _audit_said(finding)
    if finding.fault is None and state.status != "ok":
        aside = "" if state.set_aside is None else f", and {state.set_aside} was set aside"
        return Check("audit", "warning", f"{said}; it is {state.status} since the kernel started{aside}")
    return Check("audit", "ok" if finding.fault is None else "failed", said)


def _audit_check_offline(data: Path, master: MasterKey, keys: Sequence[KeyRow]) -> Check:
    there, known = (data / AUDIT_FILE).exists(), (data / AUDIT_HEAD_FILE).exists()
    try:
        audit_key = system_key(master, keys, AUDIT_PURPOSE).reveal()
    except NoKey:  # it is made before the first entry is
        if not there and not known:
            return Check("audit", "ok", "no kernel that keeps requests has used this data directory yet")
        return Check("audit", "failed", f"the key of {AUDIT_FILE if there else AUDIT_HEAD_FILE} is missing")
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


def _make_directory(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Faulted("data_unwritable", f"{path} must be a directory that can be written: {error.strerror}") from error
    return path


def _master_key(data: Path, command: Sequence[str] = (), *, create: bool = True, settle: bool = True) -> MasterKey:
    """The master key that holds. A rotation that was interrupted is brought to an end, or refused without `settle`."""
    path = data / MASTER_KEY_FILE
    if _is_elsewhere(command):
        return MasterKey.load_or_create(path, command=command)
    if not create and not path.exists():
        raise Faulted("data_damaged", f"{path} is missing: restore it, or set {MASTER_KEY_VARIABLE}")
    if not path.exists() and (data / DATABASE_FILE).exists():
        raise Faulted(
            "data_damaged", f"{path} is missing, but there is a database made with it: restore it, and start again"
        )
    if settle:
        for unused in data.glob(f".{MASTER_KEY_FILE}*"):  # what a process was killed over, before it had its name
            unused.unlink()
    master = MasterKey.load_or_create(path)
    if not (data / NEW_MASTER_KEY_FILE).exists():
        return master
    if not settle:
        raise Faulted(
            "data_damaged",
            "a rotation of the master key was interrupted: start the kernel, or run solo keys rotate again",
        )
    return _settled(data, master)


def _is_elsewhere(command: Sequence[str]) -> bool:
    """Whether the master key comes from outside of the data directory."""
    return MASTER_KEY_VARIABLE in os.environ or bool(command)


def _settled(data: Path, old: MasterKey) -> MasterKey:
    """After a rotation that was interrupted: the key that holds, in its file."""
    new = MasterKey.read(data / NEW_MASTER_KEY_FILE)
    if not settle_keys(data, old.derive("witness"), new.derive("witness"), partial(_are_of, new)):
        (data / NEW_MASTER_KEY_FILE).unlink()
        sync_directory(data)
        return old
    _put_new_key(data)
    return new


def _are_of(master: MasterKey, rows: Sequence[KeyRow]) -> bool:
    found = {master.wraps(row.wrapped) for row in rows}
    if len(found) > 1:
        raise Faulted("data_damaged", "some stored keys are of another master key: restore the directory from a backup")
    return found == {True}


def _put_new_key(data: Path) -> None:
    try:
        (data / NEW_MASTER_KEY_FILE).replace(data / MASTER_KEY_FILE)
        sync_directory(data)
    except OSError as error:
        raise Faulted("data_unwritable", f"{data / MASTER_KEY_FILE} cannot be written: {error.strerror}") from error


def rotate_master_key(data: Path, new_key_file: Path | None = None, key_command: Sequence[str] = ()) -> int:
    """Put another master key in the place of the one of a data directory that no kernel uses; how many keys it wraps.

    `new_key_file`: the new one, as 64 hex digits; without it one is made. It must be given where the old one comes from
    a variable or a command, which the operator then changes. Interrupted anywhere, the directory opens as before or as after
    it; where the key comes from elsewhere, the same call brings it to an end. Raises `SoloError`.
    """
    data = data.absolute()
    if not (data / DATABASE_FILE).exists():
        raise Faulted("data_unwritable", f"{data} is no data directory: name the one that the kernel used")
    with DataLock(data):
        old = _master_key(data, key_command, create=False)
        elsewhere = _is_elsewhere(key_command)
        if elsewhere and new_key_file is None:
            raise Rejected(
                "invalid_field",
                "name a file with the new key: the old one comes from elsewhere, where you will put the new one",
            )
        given = None if new_key_file is None else MasterKey.read(new_key_file)
        if given is not None and given.wraps(old.wrap(Secret(b""), b"")):
            raise Rejected("invalid_field", "the new master key is the one that is used already")
        if elsewhere:
            assert given is not None
            new = given
            if settle_keys(data, old.derive("witness"), new.derive("witness"), partial(_are_of, new)):
                return 0  # it was interrupted after the keys were wrapped anew
        else:
            new = MasterKey.create(data / NEW_MASTER_KEY_FILE, given)
        count = change_over(data, old.derive("witness"), new.derive("witness"), lambda row: rewrapped(row, old, new))
        if not elsewhere:
            _put_new_key(data)
        return count


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


def _sandboxing(data: Path, settings: Settings) -> Sandboxing:
    return Sandboxing(
        level=settings.sandbox_level,
        hidden=(data.absolute(),),
        own_ancestors=settings.own_ancestors,
        spares=settings.spare_sandboxes,
        environments=environments_of(data),
    )


async def _close(journal: SqliteJournal, telemetry: Diagnostics) -> None:
    try:
        await journal.close()
    except JournalFailed as error:
        telemetry.note("the journal could not be closed in order; nothing acknowledged is lost", error=error)
