"""What must hold. Owns: comparing what is recovered, believed and running with what was told. Never: changes anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, evolve, field

from simulation.journal import SimJournal
from simulation.ledger import ABSENT, NOTHING_WRITTEN
from simulation.operations import PAUSED
from simulation.oracle import Impossible, Oracle
from simulation.world import World
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.model import codec, snapshot
from solo_trio.model.record import ERASED_TYPE, StoredEvent
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.state import KernelState, apply, fold


@define
class Checks:
    """Of one run. `log`: all that was found at the last recovery, which no later one may find otherwise."""

    world: World
    log: list[StoredEvent] = field(factory=list)
    states: list[KernelState] = field(factory=lambda: [KernelState()])
    """The fold after each event of `log`."""
    oracle: Oracle = field(init=False)

    def __attrs_post_init__(self) -> None:
        asked = self.world.ledger.asked
        self.oracle = Oracle(lambda request_id: asked[request_id].chain if request_id in asked else ())

    # -- the log

    async def recovered(self, journal: SimJournal) -> None:
        """What the disk gave back is what was there and told, and means something."""
        world, found = self.world, journal.events
        if len(found) < world.ledger.told_id:
            world.violate(f"events {len(found) + 1} to {world.ledger.told_id} are lost, and were told")
            return
        erased = {stored.incarnation: stored.id for stored in found if stored.type == ERASED_TYPE}
        for stored in found:
            was = self.world.tried[stored.id]
            lawful = stored.id < erased.get(stored.incarnation, 0) and stored.payload is None
            if stored != was and not (lawful and stored == evolve(was, payload=None)):
                world.violate(f"event {stored.id} is not what was written: {stored}, and not {was}")
                return
        originals = [self.world.tried[stored.id] for stored in found]
        if originals[: len(self.log)] != self.log:
            world.violate("events that an earlier start found are others now")
            return
        self._read_on(originals)
        if world.failed.is_set():
            return
        self._check_requests()
        await self._check_checkpoints(journal)
        if erased and fold(codec.to_record(stored) for stored in found) != self.states[-1]:
            world.violate("the log comes to another state since some of it was erased")
        self.compare(self.states[-1])

    def _read_on(self, found: Sequence[StoredEvent]) -> None:
        state = self.states[-1]
        for stored in found[len(self.log) :]:
            try:
                self.oracle.take(stored)
                state = apply(state, codec.to_record(stored))
            except (Impossible, Exception) as error:  # noqa: BLE001 - whatever cannot be folded is a finding
                self.world.violate(f"{type(error).__name__}: {error}")
                return
            self.states.append(state)
            self.log.append(stored)

    def _check_requests(self) -> None:
        """What was refused as a whole is nowhere in the log."""
        asked = self.world.ledger.asked
        for stored in self.log:
            request = asked.get(stored.correlation_id or "")
            if request is not None and request.outcome == "refused" and request.code in NOTHING_WRITTEN:
                self.world.violate(
                    f"{stored.correlation_id} was refused with {request.code}; event {stored.id} is of it"
                )

    async def _check_checkpoints(self, journal: SimJournal) -> None:
        """A checkpoint is the fold up to its event."""
        for event_id in await journal.checkpoint_ids():
            kept = await journal.checkpoint(event_id)
            if (kept.reducer, kept.format) != (reducer_version(), snapshot.FORMAT):
                self.world.violate(f"the checkpoint after event {event_id} is of another reducer")
            elif snapshot.decode(kept.body) != self.states[event_id]:
                self.world.violate(f"the checkpoint after event {event_id} is not what the events come to")

    def lived(self, journal: SimJournal, state: KernelState) -> None:
        """What a kernel believed when it ended is the fold of the log up to there."""
        if len(journal.events) < state.last_id:
            return  # it believed what was not yet committed: what was told of that is checked elsewhere
        folded = self.states[min(state.last_id, len(self.states) - 1)]
        for event_id in range(folded.last_id + 1, state.last_id + 1):
            folded = apply(folded, codec.to_record(self.world.tried[event_id]))
        if folded != state:
            self.world.violate(f"what the kernel believed is not what the {state.last_id} events come to")

    # -- the state

    def compare(self, state: KernelState) -> None:
        """The state has what clients were told, and nothing that they were told is gone; and it is the oracle's."""
        world = self.world
        for key, entry in world.ledger.entries.items():
            if entry.values is None or entry.in_flight:
                continue
            found = self._value(state, key)
            if found is not None and not any(self._is(found, each) for each in entry.values):
                world.violate(f"{key} is {found}, and may be {sorted(map(str, entry.values))}")
        self._compare_with_oracle(state)

    def _value(self, state: KernelState, key: tuple[str, str, str]) -> Any:
        """What the state has; None: nothing can be said."""
        kind, tenant_id, name = key
        tenant = state.tenants.get(tenant_id)
        if tenant is not None and tenant.removal is not None:
            tenant = None
        if kind == "tenant":
            return ABSENT if tenant is None else "there"
        if kind == "capability":
            held = state.capabilities.get(name)
            if held is not None:
                return "there"
            revoked = any(name in each.revoked for each in state.capabilities.values())
            return ABSENT if revoked else None  # it may have expired, or be an attenuation
        if tenant is None:
            return ABSENT
        if kind == "secret":
            secret = tenant.secrets.get(name)
            return ABSENT if secret is None else "there"
        service = tenant.services.get(name)
        if service is None or service.stop is not None:
            return ABSENT
        return service

    @staticmethod
    def _is(found: Any, value: Any) -> bool:
        if found == ABSENT or value == ABSENT:
            return bool(found == ABSENT and value == ABSENT)
        if found == "there":
            return True
        versions = [found, *([found.previous] if found.previous is not None else [])]
        return any(
            each.spec.digest == value[0] and ((each.status is Status.PAUSED and not each.held) or value[1] != PAUSED)
            for each in versions
        )

    def _compare_with_oracle(self, state: KernelState) -> None:
        if self.oracle.last is None or self.oracle.last.id != state.last_id:
            return
        mine = {
            (tenant_id, service_id): (each.deployment, each.generation, each.begun, each.version, each.state)
            for tenant_id, tenant in self.oracle.tenants.items()
            for service_id, each in tenant.services.items()
        }
        theirs = {
            (tenant.tenant_id, each.service_id): (
                each.deployment,
                each.generation,
                each.begun,
                each.version,
                _word(each.status, each.held),
            )
            for tenant, each in state.services()
        }
        if {key: value for key, value in mine.items() if value != theirs.get(key)} or mine.keys() != theirs.keys():
            self.world.violate(f"the fold has services {theirs}, and the log says {mine}")

    # -- at the end, when nothing goes wrong any more

    def settled(self, state: KernelState) -> None:
        """Whatever was begun is over, and what runs is what is wanted."""
        alive = {key: running for key, running in self.world.processes.alive.items() if not running.ended.is_set()}
        for tenant, service in state.services():
            name = f"{tenant.tenant_id}/{service.service_id}"
            running = alive.pop((tenant.incarnation, service.service_id), None)
            if service.stop is not None:
                self.world.violate(f"{name} is still being stopped")
            if service.status is Status.READY:
                if running is None or running.launch.generation != service.generation:
                    self.world.violate(f"{name} is said to be ready, and does not run")
            elif service.wants_to_run and not (service.confirmed and _waits_in_vain(tenant.services, service)):
                self.world.violate(f"{name} is still {service.status}")
            elif running is not None and not service.wants_to_run:
                self.world.violate(f"{name} is {service.status}, and runs")
        for _, service_id in alive:
            self.world.violate(f"{service_id} runs, and there is no such service")
        for tenant_id, tenant in state.tenants.items():
            if tenant.removal is not None:
                self.world.violate(f"the removal of {tenant_id} is not over")

    def leftovers(self, journal: SimJournal, state: KernelState) -> None:
        """Of tenants that are gone, keys and secrets are gone."""
        known = {tenant.incarnation for tenant in state.tenants.values()} | {"system"}
        of_keys = {row.incarnation for row in journal._keys.values()}
        of_secrets = {row.incarnation for row in journal._secrets.values()}
        if (of_keys | of_secrets) - known:
            self.world.violate("keys or secrets of a tenant that is gone are left")


def _waits_in_vain(services: Any, service: ServiceState) -> bool:
    """Written again, apart from `model.dependencies`."""
    below = [services.get(name) for name in service.spec.depends_on]
    return any(each is None or not each.wants_to_run for each in below) or any(
        each.status is not Status.READY and _waits_in_vain(services, each) for each in below
    )


def _word(status: Status, held: bool) -> str:
    if status is Status.PAUSED:
        return "held" if held else "paused"
    words = {Status.STOPPING: "stopping", Status.STOPPED: "ended", Status.GIVEN_UP: "given_up"}
    return words.get(status, "wanted")


def check_watchers(world: World, seen: Sequence[StoredEvent], log: Sequence[StoredEvent]) -> None:
    """Each event that was told is in the log, as it was told (or erased by then), once and in order."""
    if any(one != other and one != evolve(other, payload=None) for one, other in zip(seen, log, strict=False)):
        world.violate("a watcher was told something else than the log has")
