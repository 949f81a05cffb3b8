"""What is done to a data directory that no kernel uses. Owns: `solo token rotate` without a server."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from solo_trio import __version__
from solo_trio.bootstrap.closing import close_journal
from solo_trio.bootstrap.directory import TAKE_OVER_TIMEOUT_S
from solo_trio.bootstrap.master_key import master_key_of
from solo_trio.journal.lock import DataLock
from solo_trio.journal.sqlite import open_journal
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.kernel_time import KernelTime
from solo_trio.kernel.recovery import replay
from solo_trio.kernel.staging import Draft, Submission, stage
from solo_trio.model.capability_requests import RotateToken
from solo_trio.model.system import StartSystem
from solo_trio.model.tenant import tenant_of
from solo_trio.operations.caller import SYSTEM_SCOPE
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.vault.admin_token import prepare_admin_token, put_admin_token
from solo_trio.vault.keyring import Keyring
from solo_trio.vault.secret import Secret


async def rotate_token(data: Path, tenant_id: str | None, *, keep: bool, key_command: Sequence[str] = ()) -> Secret:
    """Replace the token of a tenant, or of the system (None), in a data directory that no kernel uses.

    Raises `SoloError`: tenant_not_found, and whatever keeps a kernel from starting.
    """
    data = data.absolute()  # noqa: ASYNC240 - reads no file
    with DataLock(data):
        master = await trio.to_thread.run_sync(partial(master_key_of, data, key_command, create=False))
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
            await close_journal(journal, telemetry)
        return token
