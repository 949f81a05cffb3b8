"""A log that came out of a backup, begun anew. Owns: what beside its events must fit what was kept of them. Never: cuts, or
copies.

Where the log was cut, the rows beside it are those of its old end: what nothing names any more is dropped; what was shredded
since stays shredded, so secrets and sources that are gone are recorded as lost, and a key that is gone is replaced by another
one, with which no old token opens anything; what was revoked since is revoked again. All of it in one transaction.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import evolve, frozen

from solo_trio import __version__
from solo_trio.bootstrap.closing import close_journal
from solo_trio.bootstrap.directory import TAKE_OVER_TIMEOUT_S
from solo_trio.errors import Rejected
from solo_trio.journal.inventory import inventory
from solo_trio.journal.sqlite import open_journal
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.kernel_time import KernelTime
from solo_trio.kernel.recovery import replay
from solo_trio.kernel.repairing import sources_named, whose_tokens
from solo_trio.kernel.row_checks import compare_rows
from solo_trio.kernel.staging import Draft, Submission, stage
from solo_trio.model import codec
from solo_trio.model.backup import RestoreLog, Revocation
from solo_trio.model.capability_events import CapabilityRevoked
from solo_trio.model.record import Inventory, KeyRow, StoredEvent
from solo_trio.model.repair import LostSecret
from solo_trio.model.state import KernelState
from solo_trio.model.system import StartSystem
from solo_trio.operations.caller import SYSTEM_SCOPE
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.vault.keyring import PURPOSE as TOKEN_PURPOSE
from solo_trio.vault.keyring import ROOT_KEY_BYTES, Keyring
from solo_trio.vault.keys import MasterKey, associated
from solo_trio.vault.secret import Secret
from solo_trio.vault.vault import PURPOSE as SECRET_PURPOSE

LOST_SECRETS_MAX: Final = 5_000
"""Recorded in one event."""


@frozen
class Begun:
    """What had to be done. `rekeyed`: whose tokens are worthless; `sources`: services that have lost some of their source."""

    log_id: str
    revoked: int = 0
    secrets: tuple[LostSecret, ...] = ()
    rekeyed: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


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
        log_id = keyring.new_id()
        command = RestoreLog(log_id, event_id, backup_event_id, _revocations(taken))
        begun = Begun(log_id)
        if event_id < backup_event_id:
            found = await journal.in_reader(inventory)
            secrets, digests, keys = _lost(state, found)
            made = tuple(fresh_key(row, master) for row in keys)
            drops = tuple(each.drop for each in compare_rows(state, found).unnamed)
            command = evolve(command, secrets=secrets, sources=digests, attachments=(*drops, *made))
            begun = Begun(log_id, 0, secrets, tuple(whose_tokens(state, keys)), tuple(sources_named(state, digests)))
        draft, revoked = stage(Draft(state), Submission(command), now)
        await journal.append([record.stored for record in draft.records], draft.attachments, reserved=True)
        return evolve(begun, revoked=revoked)
    finally:
        await close_journal(journal, telemetry)


def _revocations(taken: Iterable[StoredEvent]) -> tuple[Revocation, ...]:
    events = [codec.to_record(stored).event for stored in taken]
    return tuple(
        Revocation(each.capability_id, each.attenuation_id, each.expires_at_us)
        for each in events
        if isinstance(each, CapabilityRevoked)
    )


def _lost(state: KernelState, found: Inventory) -> tuple[tuple[LostSecret, ...], tuple[str, ...], list[KeyRow]]:
    """What the state names and is not there: versions of secrets, sources, keys of tokens (without what they wrapped)."""
    sealing = {row.key_id for row in found.keys if row.purpose == SECRET_PURPOSE}
    sealed = {
        (row.incarnation, row.name, row.version, row.version_id) for row in found.secrets if row.key_id in sealing
    }
    secrets = [
        LostSecret(tenant.tenant_id, name, each.version)
        for tenant in state.tenants.values()
        for name in tenant.secrets
        for each in tenant.secrets[name].versions
        if (tenant.incarnation, name, each.version, each.version_id) not in sealed
    ]
    needed = {tenant.key_id: tenant.incarnation for tenant in state.tenants.values()}
    needed |= {each.key_id: each.incarnation or SYSTEM_SCOPE for each in state.capabilities.values()}
    there = {row.key_id for row in found.keys}
    keys = [
        KeyRow(key_id, whose, TOKEN_PURPOSE, b"") for key_id, whose in sorted(needed.items()) if key_id not in there
    ]
    if len(secrets) > LOST_SECRETS_MAX:
        raise Rejected(
            "invalid_field", f"{len(secrets)} versions of secrets are gone that there were: name a later event"
        )
    digests = tuple(each for each in sorted(state.sources) if each not in found.artifacts)
    return tuple(sorted(secrets, key=lambda each: (each.tenant_id, each.name, each.version))), digests, keys


def fresh_key(row: KeyRow, master: MasterKey) -> KeyRow:
    """Another key in the place of one that is gone."""
    root = Secret(SystemEntropy().token(ROOT_KEY_BYTES))
    return evolve(row, wrapped=master.wrap(root, associated(row.purpose, row.incarnation, row.key_id)))


def begun_anew(
    data: Path, master: MasterKey, event_id: int, backup_event_id: int, taken: Sequence[StoredEvent]
) -> Begun:
    """`begin_anew`, for who runs no Trio."""
    return trio.run(partial(begin_anew, data, master, event_id, backup_event_id, taken))
