"""A log that came out of a backup, begun anew. Owns: what beside its events must fit what was kept of them. Never: cuts,
or copies.

Where the log was cut, the rows beside it are those of its old end: keys and secrets that were made since are dropped;
what was shredded since stays shredded, so secrets whose value is gone are revoked, and a token whose key is gone is
replaced; what was revoked since is revoked again. All of that is recorded behind `log_restored`, in one transaction.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import trio
from attrs import field, frozen

from solo_trio import __version__
from solo_trio.bootstrap.closing import close_journal
from solo_trio.bootstrap.directory import TAKE_OVER_TIMEOUT_S
from solo_trio.errors import SoloError
from solo_trio.journal import backups
from solo_trio.journal.sqlite import SqliteJournal, open_journal
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.kernel_time import KernelTime
from solo_trio.kernel.recovery import replay
from solo_trio.kernel.staging import Draft, Submission, stage
from solo_trio.model import codec
from solo_trio.model.backup import RestoreLog, Revocation
from solo_trio.model.capability import system_capability
from solo_trio.model.capability_events import CapabilityRevoked
from solo_trio.model.capability_requests import RotateToken
from solo_trio.model.record import Attachment, DropKey, DropSecrets, KeyRow, StoredEvent
from solo_trio.model.state import KernelState
from solo_trio.model.system import StartSystem
from solo_trio.operations.caller import SYSTEM_SCOPE
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.vault.keyring import PURPOSE as TOKEN_PURPOSE
from solo_trio.vault.keyring import Keyring
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.vault import PURPOSE as SECRET_PURPOSE


@frozen
class Begun:
    """What had to be done. `rotated`: tenants (None: the system) whose token is another one; `sources`: what is missing."""

    log_id: str
    revoked: int = 0
    shredded: tuple[tuple[str, str], ...] = ()
    rotated: tuple[str | None, ...] = ()
    sources: tuple[str, ...] = ()


@frozen
class _Fitting:
    """What does not fit the events that were kept."""

    drops: tuple[Attachment, ...] = ()
    shredded: tuple[tuple[str, str], ...] = ()
    keyless: tuple[tuple[str | None, str | None], ...] = field(default=())
    """(tenant, incarnation) of whoever has a token that nothing can check."""


async def begin_anew(
    data: Path, master: MasterKey, event_id: int, backup_event_id: int, taken: Sequence[StoredEvent]
) -> Begun:
    """Record what the log in `data` is from here on. It was cut after `event_id`; `taken`: what took rights away since."""
    journal = await open_journal(data, master.derive("witness"))
    clock, telemetry = SystemClock(), Diagnostics()
    try:
        keys = await journal.keys()
        keyring = Keyring(master, SystemEntropy(), keys)
        recovery = await replay(
            journal,
            clock,
            telemetry,
            reducer=reducer_version(),
            start=StartSystem(__version__, platform.python_version()),
            timeout_s=TAKE_OVER_TIMEOUT_S,
        )
        state = recovery.state
        time = KernelTime(clock, state.last_at_us, state.kernel_time, suspect=state.system.clock_held)
        now = time.now(state.last_at_us, state.kernel_time)
        found = _Fitting()
        if event_id < backup_event_id:
            found = _fitting(state, keys, await journal.in_reader(backups.secret_rows))
        log_id = keyring.new_id()
        command = RestoreLog(log_id, event_id, backup_event_id, _revocations(taken), found.shredded, found.drops)
        draft, revoked = stage(Draft(state), Submission(command), now)
        for tenant_id, incarnation in found.keyless:
            key = keyring.new_key(incarnation or SYSTEM_SCOPE)
            rotate = RotateToken(tenant_id, incarnation, keyring.new_id(), key, keep=True)
            draft, _ = stage(draft, Submission(rotate), now)
        await journal.append([record.stored for record in draft.records], draft.attachments, reserved=True)
        rotated = tuple(tenant_id for tenant_id, _ in found.keyless)
        return Begun(log_id, revoked, found.shredded, rotated, await _without_source(journal, draft.state))
    finally:
        await close_journal(journal, telemetry)


def _revocations(taken: Iterable[StoredEvent]) -> tuple[Revocation, ...]:
    events = [codec.to_record(stored).event for stored in taken]
    return tuple(
        Revocation(each.capability_id, each.attenuation_id, each.expires_at_us)
        for each in events
        if isinstance(each, CapabilityRevoked)
    )


def _fitting(state: KernelState, keys: Sequence[KeyRow], secrets: Sequence[tuple[str, str, int]]) -> _Fitting:
    live = {tenant.incarnation: tenant for tenant in state.tenants.values()}
    sealed_under = {row.incarnation for row in keys if row.purpose == SECRET_PURPOSE}
    drops: list[Attachment] = []
    left: set[tuple[str, str, int]] = set()
    for incarnation, name, version in secrets:
        tenant = live.get(incarnation)
        known = None if tenant is None else tenant.secrets.get(name)
        if known is None or known.version(version) is None or incarnation not in sealed_under:
            drops.append(DropSecrets(incarnation, name, version))
        else:
            left.add((incarnation, name, version))
    shredded: list[tuple[str, str]] = []
    for tenant in live.values():
        for name in tenant.secrets:
            if (tenant.incarnation, name, tenant.secrets[name].newest.version) not in left:
                shredded.append((tenant.tenant_id, name))
                drops.append(DropSecrets(tenant.incarnation, name))

    in_use = {capability.key_id for capability in state.capabilities.values()}
    for row in keys:
        if (row.purpose == TOKEN_PURPOSE and row.key_id not in in_use) or (
            row.purpose == SECRET_PURPOSE and row.incarnation not in live
        ):
            drops.append(DropKey(row.key_id))
    there = {row.key_id for row in keys}
    keyless: list[tuple[str | None, str | None]] = []
    own = system_capability(state)
    if own is not None and own.key_id not in there:
        keyless.append((None, None))
    for tenant in live.values():
        if tenant.removal is None and state.capabilities[tenant.capability_id].key_id not in there:
            keyless.append((tenant.tenant_id, tenant.incarnation))
    return _Fitting(tuple(drops), tuple(sorted(shredded)), tuple(sorted(keyless, key=lambda each: each[0] or "")))


async def _without_source(journal: SqliteJournal, state: KernelState) -> tuple[str, ...]:
    """Services that cannot be started, because what they were made of is gone."""
    missing: set[str] = set()
    for digest in sorted(state.sources):
        try:
            await journal.artifact(digest)
        except SoloError:
            missing.add(digest)
    return tuple(
        f"{tenant.tenant_id}/{service.service_id}" for tenant, service in state.services() if service.digests & missing
    )


def begun_anew(
    data: Path, master: MasterKey, event_id: int, backup_event_id: int, taken: Sequence[StoredEvent]
) -> Begun:
    """`begin_anew`, for who runs no Trio."""
    return trio.run(partial(begin_anew, data, master, event_id, backup_event_id, taken))
