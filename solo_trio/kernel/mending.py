"""What a verification mends when it is asked to. Owns: which differences are mended and how, saying so in the log. Never:
touches anything that the state names, or anything at all where the log itself is not sound.

Three things are safe: to make somebody look again at a service, to write a checkpoint as the log says it must be, and to
remove what nothing names. Each is an event `inconsistency_fixed`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from solo_trio.errors import Faulted, SoloError
from solo_trio.kernel.checkpoints import encoded
from solo_trio.kernel.log_checks import Check
from solo_trio.model import snapshot
from solo_trio.model.record import Checkpoint
from solo_trio.model.repair import RecordFix, Removable, RemoveUnnamed
from solo_trio.model.state import KernelState

REMOVED_AT_ONCE_MAX: Final = 500
"""In one transaction."""
SOUND: Final = ("chain", "fold")
"""Where one of these failed nobody knows what is named: nothing is removed or rewritten."""

Submit = Callable[[Any], Awaitable[Any]]
"""Decides a command and makes it durable; answers with its reply."""


def log_is_sound(checks: Sequence[Check]) -> bool:
    said = {name: {check.status for check in checks if check.name == name} for name in SOUND}
    return all(statuses == {"ok"} for statuses in said.values())


async def remove_unnamed(found: Sequence[Removable], submit: Submit) -> list[str]:
    """Remove what stands beside the log and nothing names."""
    count = 0
    for first in range(0, len(found), REMOVED_AT_ONCE_MAX):
        count += await submit(RemoveUnnamed("orphans", tuple(found[first : first + REMOVED_AT_ONCE_MAX])))
    return [f"removed {count} rows that nothing named"] if count else []


async def rewrite_checkpoints(
    wrong: Mapping[int, KernelState], reducer: str, write: Callable[[Checkpoint], Awaitable[None]], submit: Submit
) -> list[str]:
    """Write each as the events up to it come to."""
    done = []
    for event_id, state in sorted(wrong.items()):
        body = await encoded(state)
        try:
            await write(Checkpoint(event_id, state.last_at_us, reducer, snapshot.FORMAT, body))
        except Faulted as fault:
            if fault.code != "data_damaged":
                raise
            continue  # its page cannot be written either: that is a repair's
        done.append(f"the checkpoint after event {event_id}")
    if not done:
        return []
    await submit(RecordFix("checkpoints", "rewritten", tuple(done)))
    return [f"wrote anew: {', '.join(done)}"]


async def converge(
    names: Sequence[tuple[str, str]], look: Callable[[str, set[str]], None], submit: Submit
) -> list[str]:
    """Make whoever supervises these services compare what is wanted with what runs."""
    by_tenant: dict[str, set[str]] = defaultdict(set)
    for tenant_id, service_id in names:
        by_tenant[tenant_id].add(service_id)
    for tenant_id, service_ids in sorted(by_tenant.items()):
        look(tenant_id, service_ids)
    if not names:
        return []
    said = tuple(sorted({f"{tenant_id}/{service_id}" for tenant_id, service_id in names}))
    await submit(RecordFix("services", "converged", said))
    return [f"looked again at {', '.join(said)}"]


async def remove_files(
    names: Sequence[str], remove: Callable[[Sequence[str]], Awaitable[Sequence[str]]], submit: Submit
) -> list[str]:
    """Delete what tenants left that are gone."""
    try:
        done = tuple(await remove(names)) if names else ()
    except (OSError, SoloError):
        return []  # they are found again, and told of
    if not done:
        return []
    await submit(RecordFix("leftovers", "removed", done))
    return [f"removed {len(done)} files of tenants that are gone"]
