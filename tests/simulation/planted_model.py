"""Bugs of what is decided and believed. Owns: those planted in the pure rooms. Never: imported but by `planted`."""

from __future__ import annotations

from typing import Any

import trio
from attrs import evolve

from simulation.planted import Undo, both, bug, replace
from solo_trio.kernel import loop, staging
from solo_trio.model import service_events, service_reports, snapshot
from solo_trio.model.capability import Authority
from solo_trio.model.capability_events import CapabilityRevoked
from solo_trio.model.secret import SecretStored
from solo_trio.model.service import Status
from solo_trio.model.system import SystemStarted
from solo_trio.policy import restart


@bug()
def reducer_reads_the_clock() -> Undo:
    """When a service became ready is taken from the clock, and not from the event."""
    was = service_events.ServiceReady.change

    def change(self: Any, service: Any, stamp: Any) -> Any:
        return evolve(was(self, service, stamp), ready_at_us=round(trio.current_time() * 1e6))

    return replace(service_events.ServiceReady, "change", change)


@bug()
def crash_counts_twice() -> Undo:
    """A crash is in the restart window twice."""
    was = restart.count_crash

    def count_crash(window: Any, now: float, **limits: Any) -> Any:
        once, _ = was(window, now, **limits)
        return was(once, now, **limits)

    return both(*(replace(where, "count_crash", count_crash) for where in (service_reports, service_events)))


@bug()
def restart_limit_is_ignored() -> Undo:
    """A service that crashes is started again, however often it did."""
    was = restart.count_crash

    def count_crash(window: Any, now: float, **limits: Any) -> Any:
        return was(window, now, **limits)[0], False

    return replace(service_reports, "count_crash", count_crash)


@bug(first=95, seeds=60)
def window_is_lost_at_a_start() -> Undo:
    """A start of the kernel empties the restart windows."""
    was = SystemStarted.apply

    def apply(self: Any, state: Any, stamp: Any) -> Any:
        state = was(self, state, stamp)
        for tenant, service in state.services():
            state = state.put(tenant.tenant_id, evolve(service, window=()))
        return state

    return replace(SystemStarted, "apply", apply)


@bug(seeds=80)
def revocation_is_not_looked_up_in_the_draft() -> Undo:
    """Whoever was let in is not looked at again when it is decided."""
    return replace(Authority, "check", lambda self, state, at_us: None)


@bug()
def revocation_is_not_applied() -> Undo:
    """A revoked capability stays."""
    return replace(CapabilityRevoked, "apply", lambda self, state, stamp: state)


@bug()
def late_outcome_is_applied() -> Undo:
    """What is reported of an older generation counts as if it were of the current one."""
    return replace(service_reports, "_is_running", lambda service, generation: True)


@bug()
def checkpoint_lacks_something() -> Undo:
    """A checkpoint has no restart windows."""
    was = snapshot.encode

    def encode(state: Any) -> bytes:
        for tenant, service in state.services():
            state = state.put(tenant.tenant_id, evolve(service, window=(), attempt=0, revision=0))
        return was(state)

    return replace(snapshot, "encode", encode)


@bug()
def key_is_not_remembered() -> Undo:
    """An Idempotency-Key is forgotten."""
    was = staging.stage

    def stage(draft: Any, submission: Any, now: Any) -> Any:
        return was(draft, evolve(submission, idempotency=None), now)

    return replace(loop, "stage", stage)


@bug()
def secret_of_before_stays() -> Undo:
    """A new version of a secret is recorded, and the state goes on with the old one."""
    was = SecretStored.apply

    def apply(self: Any, state: Any, stamp: Any) -> Any:
        after = was(self, state, stamp)
        tenant = after.tenants[stamp.tenant_id]
        secret = tenant.secrets[self.name]
        older = evolve(secret, versions=(*secret.versions[1:], secret.versions[0]))
        changed = evolve(tenant, secrets=tenant.secrets.insert(self.name, older))
        return evolve(after, tenants=after.tenants.insert(stamp.tenant_id, changed))

    return replace(SecretStored, "apply", apply)


@bug(seeds=40)
def given_up_is_started_again() -> Undo:
    """A start of the kernel starts what had been given up."""
    was = SystemStarted.apply

    def apply(self: Any, state: Any, stamp: Any) -> Any:
        state = was(self, state, stamp)
        for tenant, service in state.services():
            if service.status is Status.GIVEN_UP:
                state = state.put(tenant.tenant_id, evolve(service, status=Status.STARTING, next_cause="recovery"))
        return state

    return replace(SystemStarted, "apply", apply)
