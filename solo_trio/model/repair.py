"""Repairs in the log. Owns: the events that say what was mended or lost, and what they take out of the state. Never: mends.

`log_repaired` is the last event of a repair. What the log had promised and the files no longer have (sealed
versions, sources) it takes back, so that the state never promises what is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from attrs import frozen
from rpds import HashTrieMap

from solo_trio.model.capability import Capability
from solo_trio.model.event import Decision, Event, Now, Proposed, event
from solo_trio.model.evolving import evolve
from solo_trio.model.record import DropArtifact, DropIdempotency, DropKey, DropSecrets, StoredEvent
from solo_trio.model.tenant import TenantState

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

LOSSES_MAX: Final = 20
"""So many are told of until they are accepted; of more, the newest."""
LOST_SOURCES_MAX: Final = 4_096
"""So many are known as lost; of more, the newest."""
ITEMS_MAX: Final = 20
"""Named in one event; `count` has all."""


@frozen
class LostSecret:
    """A version of a secret whose sealed row is gone."""

    tenant_id: str
    name: str
    version: int


@frozen
class Loss:
    """What a repair could not save, until somebody accepts it. `event_id`: of the `log_repaired` that says all of it."""

    event_id: int
    lost: tuple[int, int] | None
    unread: tuple[int, int] | None
    secrets: int
    sources: int
    tokens: tuple[str, ...]

    def said(self) -> str:
        """In words."""
        parts = []
        if self.lost is not None:
            parts.append("events {} to {}".format(*self.lost))
        if self.unread is not None:
            parts.append("what events {} to {} said (what they did is kept)".format(*self.unread))
        if self.secrets:
            parts.append(f"{self.secrets} versions of secrets")
        if self.sources:
            parts.append(f"{self.sources} sources of services")
        if self.tokens:
            parts.append(f"the tokens of {', '.join(self.tokens[:ITEMS_MAX])}")
        return f"{', '.join(parts)} (the repair that event {self.event_id} tells of)"


@event("event_lost")
@frozen
class EventLost(Event):
    """Here was an event that a repair could not save. Its id is not given again."""

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@event("state_restored")
@frozen
class StateRestored(Event):
    """Here the log could not be read, but a checkpoint could: `state` is what all events up to this one came to, without
    its tenants.

    Each of those follows in an event of its own, so that it can be erased like whatever else is a tenant's. `form`: of
    `state`; see `snapshot`: where a later version of the program has another one, this event has a next schema.
    """

    form: str
    state: dict[str, Any]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        restored: KernelState = _of_form(self.form).from_document(self.state)
        return restored


@event("tenant_restored")
@frozen
class TenantRestored(Event):
    """A tenant as a checkpoint had it, behind a `state_restored`. `held`: its capabilities, each with the one it descends
    from."""

    form: str
    tenant: dict[str, Any]
    capabilities: tuple[dict[str, Any], ...]
    held: dict[str, Any]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        snapshot = _of_form(self.form)
        tenant = snapshot.from_document(self.tenant, TenantState)
        if tenant.tenant_id != stamp.tenant_id or tenant.incarnation != stamp.incarnation:
            raise LookupError(f"it is not the tenant {stamp.tenant_id}")
        capabilities, held, sources = state.capabilities, state.held, state.sources
        for document in self.capabilities:
            each = snapshot.from_document(document, Capability)
            capabilities = capabilities.insert(each.capability_id, each)
        if self.held:
            held = held.insert(tenant.incarnation, HashTrieMap(self.held))
        for service in tenant.services.values():
            for digest in service.digests:
                sources = sources.insert(digest, sources.get(digest, 0) + 1)
        tenants = state.tenants.insert(tenant.tenant_id, tenant)
        return evolve(state, tenants=tenants, capabilities=capabilities, held=held, sources=sources)


def _of_form(form: str) -> Any:
    from solo_trio.model import snapshot  # it imports the state, which imports this

    if form != snapshot.FORMAT:
        raise LookupError(f"a state of the form {form} is not known")
    return snapshot


def restoring(state: KernelState) -> list[Proposed]:
    """The events that come to `state`: one, and one for each tenant."""
    from solo_trio.model import snapshot

    own = {each.capability_id: each for each in state.capabilities.values() if each.incarnation is None}
    bare = evolve(
        state,
        tenants=HashTrieMap(),
        capabilities=HashTrieMap(own),
        held=HashTrieMap({name: state.held[name] for name in state.held if not name}),
        sources=HashTrieMap(),
    )
    found = [Proposed(StateRestored(snapshot.FORMAT, snapshot.to_document(bare, type(bare))))]
    for tenant_id in sorted(state.tenants):
        tenant = state.tenants[tenant_id]
        theirs = sorted(
            (each for each in state.capabilities.values() if each.incarnation == tenant.incarnation),
            key=lambda each: each.capability_id,
        )
        held = state.held.get(tenant.incarnation)
        restored = TenantRestored(
            snapshot.FORMAT,
            snapshot.to_document(tenant, TenantState),
            tuple(snapshot.to_document(each, Capability) for each in theirs),
            {} if held is None else {name: held[name] for name in sorted(held)},
        )
        found.append(Proposed(restored, tenant_id, tenant.incarnation))
    return found


IN_PLACE_OF_LOST: Final = frozenset({EventLost.TYPE, StateRestored.TYPE, TenantRestored.TYPE})
"""What stands in the log under the ids of events that were not saved."""


@event("log_repaired")
@frozen
class LogRepaired(Event):
    """The operator repaired the data directory. `lost`: the events (first, last) that could not be saved, null if none; in
    their places are `event_lost`.

    `way`: what the state was taken from: log, checkpoint, or unproven. `unread`: the events (first, last) whose effect the
    state of a checkpoint has, and that are not in the log any more. `damaged`: where the files are as they were. `found`:
    what was wrong. `secrets`, `sources`: what was promised and is gone; `tokens`: whose tokens are worthless, because the
    key that they were made with is gone.
    """

    way: str
    lost: tuple[int, int] | None
    unread: tuple[int, int] | None
    damaged: str
    found: tuple[str, ...]
    secrets: tuple[LostSecret, ...]
    sources: tuple[str, ...]
    tokens: tuple[str, ...]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        for lost in self.secrets:
            state = without_version(state, lost)
        losses = state.system.losses
        if self.lost or self.unread or self.secrets or self.sources or self.tokens:
            loss = Loss(stamp.id, self.lost, self.unread, len(self.secrets), len(self.sources), self.tokens)
            losses = (*losses, loss)[-LOSSES_MAX:]
        # Whether anybody still has them must not count: what a tenant recorded may be erased, and this is folded again.
        before = [each for each in state.system.lost_sources if each[0] not in self.sources]
        gone = (*before, *((digest, stamp.id) for digest in self.sources))[-LOST_SOURCES_MAX:]
        return evolve(state, system=evolve(state.system, losses=losses, lost_sources=gone))


def without_version(state: KernelState, lost: LostSecret) -> KernelState:
    """The same state if there is no such secret: what its tenant recorded may have been erased since, this event not."""
    tenant = state.tenants.get(lost.tenant_id)
    secret = None if tenant is None else tenant.secrets.get(lost.name)
    if tenant is None or secret is None:
        return state
    versions = tuple(each for each in secret.versions if each.version != lost.version)
    secrets = tenant.secrets.remove(lost.name)
    if versions:
        secrets = tenant.secrets.insert(lost.name, evolve(secret, versions=versions))
    return evolve(state, tenants=state.tenants.insert(tenant.tenant_id, evolve(tenant, secrets=secrets)))


@event("loss_accepted")
@frozen
class LossAccepted(Event):
    """Somebody accepted what repairs could not save, up to the one that event `event_id` tells of: no more warnings of it."""

    event_id: int

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        losses = tuple(each for each in state.system.losses if each.event_id > self.event_id)
        return evolve(state, system=evolve(state.system, losses=losses))


@event("inconsistency_fixed")
@frozen
class InconsistencyFixed(Event):
    """A verification that was asked to mended something. `check`: what had found it; `action`: what was done, `count` times:
    removed (what nothing names any more), rewritten (a checkpoint), converged (somebody was made to look at a service again).

    `items`: the first of them.
    """

    check: str
    action: str
    count: int
    items: tuple[str, ...]

    def apply(self, state: KernelState, stamp: StoredEvent) -> KernelState:
        return state


@frozen
class AcceptLoss:
    """No more warnings of what was lost so far. The reply is how many there were."""

    RESERVED: ClassVar[bool] = False

    def decide(self, state: KernelState, now: Now) -> Decision:
        losses = state.system.losses
        if not losses:
            return Decision(reply=0)
        return Decision((Proposed(LossAccepted(losses[-1].event_id)),), reply=len(losses))


@frozen
class Removable:
    """Something beside the log that nothing named when it was looked at; `name`: for people."""

    name: str
    drop: DropArtifact | DropSecrets | DropKey | DropIdempotency
    incarnation: str = ""
    """Whose it is."""


@frozen
class RemoveUnnamed:
    """Remove what nothing names: looked at again here, against the draft. The reply is how many there were."""

    RESERVED: ClassVar[bool] = False

    check: str
    found: tuple[Removable, ...]

    def decide(self, state: KernelState, now: Now) -> Decision:
        tenants = by_incarnation(state)
        unnamed = [each for each in self.found if not is_named(state, tenants, each)]
        if not unnamed:
            return Decision(reply=0)
        fixed = InconsistencyFixed(
            self.check, "removed", len(unnamed), tuple(each.name for each in unnamed[:ITEMS_MAX])
        )
        return Decision((Proposed(fixed),), tuple(each.drop for each in unnamed), reply=len(unnamed))


def by_incarnation(state: KernelState) -> dict[str, TenantState]:
    """For many questions of `is_named`."""
    return {tenant.incarnation: tenant for tenant in state.tenants.values()}


def is_named(state: KernelState, tenants: Mapping[str, TenantState], found: Removable) -> bool:
    """Whether the state needs it; `tenants` are its own, by incarnation."""
    match found.drop:
        case DropArtifact(digest):
            return digest in state.sources
        case DropSecrets(incarnation, name, number):
            tenant = tenants.get(incarnation)
            secret = None if tenant is None else tenant.secrets.get(name or "")
            return secret is not None and (number is None or secret.version(number) is not None)
        case _:
            return found.incarnation in tenants


@frozen
class RecordFix:
    """Say what was mended."""

    RESERVED: ClassVar[bool] = False

    check: str
    action: str
    items: tuple[str, ...]

    def decide(self, state: KernelState, now: Now) -> Decision:
        fixed = InconsistencyFixed(self.check, self.action, len(self.items), self.items[:ITEMS_MAX])
        return Decision((Proposed(fixed),))
