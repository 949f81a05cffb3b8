"""A look at a data directory that no kernel uses. Owns: what its log came to, at any event. Never: changes a byte in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from solo_trio.bootstrap.directory import DATABASE_FILE
from solo_trio.bootstrap.master_key import master_key_of
from solo_trio.errors import Faulted, Rejected
from solo_trio.journal.inspection import Inspection, open_inspection
from solo_trio.journal.lock import DataLock
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.past import past_state
from solo_trio.operations.state_view import counts_of, head_view, whole_of
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.vault.keys import MasterKey


@asynccontextmanager
async def looked_at(data: Path, key_command: Sequence[str]) -> AsyncIterator[tuple[MasterKey, Inspection]]:
    """The log of `data`, which nobody else uses meanwhile. Raises `Faulted` as a start on it would."""
    if not (data / DATABASE_FILE).exists():
        raise Faulted("data_unwritable", f"{data} is no data directory: name the one that the kernel used")
    with DataLock(data, still=True):
        master = await trio.to_thread.run_sync(partial(master_key_of, data, key_command, create=False, settle=False))
        async with open_inspection(data, master.derive("witness")) as log:
            yield master, log


async def look_back(
    data: Path, event_id: int | None = None, tenant_id: str | None = None, key_command: Sequence[str] = ()
) -> dict[str, Any]:
    """What the events up to `event_id` (None: all) come to, as `GET /system/state` has it, on one page.

    Raises `Rejected`: event_not_found, tenant_not_found; `Faulted` for a directory that no kernel would start on.
    """
    async with looked_at(data, key_command) as (_, log):
        wanted = log.last_id if event_id is None else event_id
        past = await past_state(log, Diagnostics(), reducer_version(), wanted, log.last_id)
        state = past.state
        if tenant_id is not None and tenant_id not in state.tenants:
            raise Rejected("tenant_not_found", f"there was no tenant '{tenant_id}' at event {wanted}")
        ends = {"oldest_event_id": log.oldest_id, "last_event_id": log.last_id}
        counts = {"counts": counts_of(state, tenant_id)}
        return head_view(state) | ends | counts | whole_of(state, tenant_id) | {"next": None}
