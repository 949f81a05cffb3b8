"""What stands beside the log. Owns: whether it is what the state names, all of it and nothing else. Never: writes, opens a
row.

A missing row is damage: what was acknowledged cannot be had. One that nothing names any more does no harm, and can be
removed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from attrs import frozen

from solo_trio.kernel.checkpoints import is_small, maybe_in_thread
from solo_trio.kernel.log_checks import Check, named
from solo_trio.model.record import DropArtifact, DropIdempotency, DropKey, DropSecrets, Inventory, KeyRow
from solo_trio.model.repair import Removable, by_incarnation, is_named
from solo_trio.model.state import KernelState

SYSTEM = "system"
"""Whose keys and requests are no tenant's."""
SECRET = "secret"


@frozen
class Rows:
    """What differs: `missing` by check, and what can be removed."""

    missing: frozenset[tuple[str, str]]
    unnamed: tuple[Removable, ...]


def compare_rows(state: KernelState, found: Inventory) -> Rows:
    """Hold the inventory against the state of the same moment."""
    missing = (
        set(_missing_secrets(state, found)) | set(_missing_keys(state, found)) | set(_wrong_requests(state, found))
    )
    return Rows(frozenset(missing), tuple(_unnamed(state, found)))


def _missing_secrets(state: KernelState, found: Inventory) -> Iterable[tuple[str, str]]:
    rows = {(row.incarnation, row.name, row.version): row for row in found.secrets}
    keys = {row.key_id for row in found.keys if row.purpose == SECRET}
    for tenant in state.tenants.values():
        for secret in tenant.secrets.values():
            for each in secret.versions:
                row = rows.get((tenant.incarnation, secret.name, each.version))
                what = f"version {each.version} of the secret {tenant.tenant_id}/{secret.name}"
                if row is None:
                    yield "secrets", f"{what} has no sealed row"
                elif row.version_id != each.version_id:
                    yield "secrets", f"{what} has the sealed row of another"
                elif row.key_id not in keys:
                    yield "secrets", f"{what} is sealed under a key that is missing"


def _missing_keys(state: KernelState, found: Inventory) -> Iterable[tuple[str, str]]:
    rows = {row.key_id: row for row in found.keys}
    needed = {tenant.key_id: (tenant.incarnation, tenant.tenant_id) for tenant in state.tenants.values()}
    for held in state.capabilities.values():
        needed[held.key_id] = (held.incarnation or SYSTEM, held.tenant_id or "the system")
    for key_id, (incarnation, whose) in sorted(needed.items()):
        row = rows.get(key_id)
        if row is None:
            yield "key_rows", f"the key {key_id} of {whose} is missing: tokens that were made with it open nothing"
        elif row.incarnation != incarnation:
            yield "key_rows", f"the key {key_id} of {whose} is said to be another's"


def _wrong_requests(state: KernelState, found: Inventory) -> Iterable[tuple[str, str]]:
    for row in found.requests:
        if not 0 < row.event_id <= state.last_id:
            yield (
                "requests",
                f"a request of {row.scope} is said to have caused event {row.event_id}, which there is not",
            )


def _unnamed(state: KernelState, found: Inventory) -> Iterable[Removable]:
    rows = [Removable(f"source {digest}", DropArtifact(digest)) for digest in sorted(found.artifacts)]
    rows += [
        Removable(
            f"version {row.version} of a secret {row.name} of {row.incarnation}",
            DropSecrets(row.incarnation, row.name, row.version),
            row.incarnation,
        )
        for row in found.secrets
    ]
    rows += [
        Removable(f"key {row.key_id} of {row.incarnation}", DropKey(row.key_id), row.incarnation)
        for row in found.keys
        if row.incarnation != SYSTEM
    ]
    scopes = sorted({row.scope for row in found.requests} - {SYSTEM})
    rows += [Removable(f"requests of {scope}", DropIdempotency(scope), scope) for scope in scopes]
    tenants = by_incarnation(state)
    return (row for row in rows if not is_named(state, tenants, row))


async def lasting_rows(
    state: Callable[[], KernelState],
    inventory: Callable[[], Awaitable[Inventory]],
    again: Callable[[], Awaitable[None]],
    looks: int,
) -> Rows:
    """What differs at every look: between the state and the rows of one look, something may have been committed."""
    found = await _compared(state, inventory)
    for _ in range(looks):
        if not found.missing and not found.unnamed:
            break
        await again()
        later = await _compared(state, inventory)
        found = Rows(found.missing & later.missing, tuple(each for each in found.unnamed if each in later.unnamed))
    return found


async def _compared(state: Callable[[], KernelState], inventory: Callable[[], Awaitable[Inventory]]) -> Rows:
    """In a thread where it takes a while: meanwhile the kernel goes on."""
    found = await inventory()
    now = state()
    return await maybe_in_thread(partial(compare_rows, now, found), not is_small(now))


def row_checks(rows: Rows) -> list[Check]:
    """As a report shows them."""
    fine = {
        "secrets": "every version of every secret has its sealed row",
        "key_rows": "every key that the state names is there",
        "requests": "every remembered request has its event",
    }
    checks = []
    for name, said in fine.items():
        wrong = sorted(what for check, what in rows.missing if check == name)
        checks.append(Check(name, "failed", named(wrong)) if wrong else Check(name, "ok", said))
    names = [each.name for each in rows.unnamed]
    checks.append(
        Check("orphans", "warning", f"nothing names any more: {named(names)}")
        if names
        else Check("orphans", "ok", "nothing is kept that nothing names")
    )
    return checks


def key_check(keys: Iterable[KeyRow], opens: Callable[[KeyRow], bool]) -> Check:
    """Whether the master key opens each of them."""
    rows = list(keys)
    wrong = [f"key {row.key_id} of {row.incarnation}" for row in rows if not opens(row)]
    if wrong:
        return Check("keys", "failed", f"the master key does not open: {named(wrong)}")
    return Check("keys", "ok", f"the master key opens all {len(rows)} keys")


def lost_sources(state: KernelState) -> frozenset[str]:
    """What a repair did not find, and no later deployment has brought back."""
    gone = {digest for digest, _ in state.system.lost_sources}
    back = {
        digest
        for _, service in state.services()
        for digest in service.digests & gone
        if not state.system.is_lost(digest, service.deployment)
    }
    return frozenset(gone - back)


def loss_checks(state: KernelState) -> list[Check]:
    """What repairs could not save, until it is accepted."""
    losses = state.system.losses
    if not losses:
        return []
    return [Check("losses", "warning", f"lost, and not accepted yet: {named([each.said() for each in losses])}")]
