"""Backups of the log, and logs that came out of one. Owns: their events, the decision of a restore. Never: files.

A log that was restored may have been cut: what happened after that is gone from it, but not from the world. So a restore
takes no right back that was revoked since, as far as the backup knows, and what its ids will name is something else than
before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from solo_trio.model.capability import without
from solo_trio.model.capability_events import CapabilityGranted, CapabilityRevoked, revoked_with
from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.evolving import evolve
from solo_trio.model.record import Attachment, StoredEvent
from solo_trio.model.repair import LostSecret, without_version

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState


@event("backup_written")
@frozen
class BackupWritten(Event):
    """A backup of the log up to event `event_id` was written and checked: the file `name`, `size_bytes` long, with that
    SHA-256."""

    name: str
    event_id: int
    size_bytes: int
    digest: str

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@event("log_restored")
@frozen
class LogRestored(Event):
    """This log came out of a backup, and goes on from here as another one than the one that was backed up: `log_id`.

    `backup_event_id`: the last event of the backup. `event_id`: the last one that was kept, the one before this.
    `secrets` and `sources` (digests) were there then, and were destroyed before the backup was written.
    """

    log_id: str
    event_id: int
    backup_event_id: int
    secrets: tuple[LostSecret, ...]
    sources: tuple[str, ...]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        for lost in self.secrets:
            state = without_version(state, lost)
        gone = {each[0]: each[1] for each in state.system.lost_sources} | dict.fromkeys(self.sources, stamp.id)
        # The life that the backup was taken in is not one that failed.
        system = evolve(
            state.system,
            clean=True,
            short_lives=0,
            log_id=self.log_id,
            restored_id=stamp.id,
            lost_sources=tuple(sorted(gone.items())),
        )
        return evolve(state, system=system)


@frozen
class RecordBackup:
    RESERVED: ClassVar[bool] = False

    name: str
    event_id: int
    size_bytes: int
    digest: str

    def decide(self, state: KernelState, now: Now) -> Decision:
        written = BackupWritten(self.name, self.event_id, self.size_bytes, self.digest)
        return Decision((Proposed(written),))


@frozen
class Revocation:
    """As in `CapabilityRevoked`."""

    capability_id: str
    attenuation_id: str | None
    expires_at_us: int | None


@frozen
class RestoreLog:
    """Begin another life of a log that was cut after event `event_id`.

    `revocations`: what the backup knows to have been revoked since. `secrets`, `sources`: as in `LogRestored`. `attachments`:
    drops rows that nothing names any more, and makes keys that are missing. The reply is how many revocations there were.
    """

    RESERVED: ClassVar[bool] = True

    log_id: str
    event_id: int
    backup_event_id: int
    revocations: tuple[Revocation, ...] = ()
    secrets: tuple[LostSecret, ...] = ()
    sources: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()

    def decide(self, state: KernelState, now: Now) -> Decision:
        restored = LogRestored(self.log_id, self.event_id, self.backup_event_id, self.secrets, self.sources)
        events = [Proposed(restored)]
        for tenant in state.tenants.values():  # cut between the two events of making a tenant
            if tenant.capability_id not in state.capabilities and tenant.removal is None:
                own = CapabilityGranted.of_its_own(tenant.capability_id, tenant.key_id, "tenant")
                events.append(Proposed(own, tenant.tenant_id, tenant.incarnation))
        begun, left = len(events), state
        for each in self.revocations:
            capability = left.capabilities.get(each.capability_id)
            if capability is None or each.attenuation_id in capability.revoked:
                continue
            gone = revoked_with(left, each.capability_id, each.attenuation_id)
            left = without(left, gone)
            revoked = CapabilityRevoked(each.capability_id, each.attenuation_id, each.expires_at_us, len(gone))
            events.append(Proposed(revoked, capability.tenant_id, capability.incarnation, each.capability_id))
        return Decision(tuple(events), self.attachments, reply=len(events) - begun)
