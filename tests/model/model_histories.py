"""Random histories of the pure core. Owns: Hypothesis strategies of moves, and the world that plays them. Never: asserts.

A move is small data, so that a failing history shrinks and prints well; what it names (this service, an older
deployment) is looked up in the world at the moment it is played.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from attrs import define, evolve, field, frozen
from hypothesis import strategies as st
from model_driver import ENDINGS, FIRST_US, Driver, Identity, identities

from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel.hub import Hub
from solo_trio.kernel.loop import Loop
from solo_trio.kernel.staging import Command
from solo_trio.model import service_requests as requests
from solo_trio.model.backup import RecordBackup, RestoreLog
from solo_trio.model.capability import Authority, Capability
from solo_trio.model.capability_requests import Grant, GrantSystem, Revoke, RevokeAttenuation, RotateToken, SweepExpired
from solo_trio.model.caveat import Rate, read_caveats, write_caveats
from solo_trio.model.checkpoint import RecordCheckpoint
from solo_trio.model.compaction import RecordCompaction
from solo_trio.model.denial import AccessAlert, CapabilityDenied, ReportDenials
from solo_trio.model.ending import Ending
from solo_trio.model.event import Decision, Now, Proposed
from solo_trio.model.limits import Limits
from solo_trio.model.record import KeyRow, SecretRow
from solo_trio.model.repair import AcceptLoss, EventLost, LogRepaired, LostSecret, RecordFix, restoring
from solo_trio.model.resources import ReportPressure, ReportViolation, ResourceViolation, RuntimePressureHigh
from solo_trio.model.secret_requests import RecordAccess, RecordDenials, RevokeSecret, StoreSecret
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.model.state import KernelState
from solo_trio.model.system import (
    BeginShutdown,
    CompleteShutdown,
    PauseSystem,
    RecordClockJump,
    ResumeSystem,
    SettleSystem,
    StartSystem,
)
from solo_trio.model.tenant import Hardening, TenantLimits, UpdateTenant
from solo_trio.model.tenant_removal import FinishRemoval, RemoveTenant
from solo_trio.model.use import LoadShed, ReportCircuit, ReportShedding
from solo_trio.telemetry.diagnostics import Diagnostics

TENANT_IDS: Final = ("acme", "blau")
SERVICE_IDS: Final = ("calc", "tick")

Bend = Literal["incarnation", "deployment", "generation", "epoch"]


@define
class JumpingClock:
    """`ports.Clock`: the wall jumps both ways, the other only goes on."""

    us: int = FIRST_US
    seconds: float = 0.0

    def wall_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.seconds


@define
class World(Driver):
    """A driver whose time is the kernel loop's own reading of a clock that jumps, across starts of the kernel."""

    clock: JumpingClock = field(factory=JumpingClock)
    loop: Loop = field(init=False)
    seen: dict[Identity, None] = field(factory=dict)
    """Every identity there has been, in the order of its appearance."""

    def __attrs_post_init__(self) -> None:
        self.boot(0.0)

    def boot(self, monotonic: float) -> None:
        """Another process reads the same log: its monotonic clock has nothing to do with the one before."""
        self.clock.seconds = monotonic
        journal = MemoryJournal()
        hub = Hub(journal, self.state.last_id)
        self.loop = Loop(journal, self.clock, hub, Diagnostics(), self.state)

    def now(self) -> Now:
        return self.loop.now()

    def play(self, move: Move) -> Command | None:
        """The command that the move comes to now, or None if it only moved a clock. Raises what `stage` raises."""
        command = move.command(self)
        if command is not None:
            self.do(command)
            self.loop.state = self.state
            self.seen.update(dict.fromkeys(identities(self.state)))
        return command


class Move:
    def command(self, world: World) -> Command | None:
        raise NotImplementedError


@frozen
class AddTenant(Move):
    tenant_id: str
    max_services: int | None
    get: bool

    def command(self, world: World) -> Command:
        return world.create_tenant(self.tenant_id, max_services=self.max_services, get=self.get)


@frozen
class GrantRoot(Move):
    def command(self, world: World) -> Command:
        return GrantSystem("cap_root", KeyRow("key_root", "", "token", b"wrapped"))


@frozen
class Capabilities(Move):
    """Something with a capability that there is: the token of it, or one narrowed `number` times, grants or is revoked."""

    verb: Literal["grant", "revoke", "revoke_attenuation", "rotate", "sweep"]
    pick: int
    number: int
    resource: str
    ttl_us: int | None

    def command(self, world: World) -> Command | None:
        if self.verb == "sweep":
            return SweepExpired()
        held = [world.state.capabilities[name] for name in sorted(world.state.capabilities)]
        if not held:
            return None
        return self._about(world, held[self.pick % len(held)])

    def _about(self, world: World, capability: Capability) -> Command:
        tenant_id, incarnation = capability.tenant_id, capability.incarnation
        name = f"cap_{world.state.last_id}_{self.verb}"
        if self.verb == "rotate":
            key = KeyRow(f"key_{name}", incarnation or "", "token", b"wrapped")
            return RotateToken(tenant_id, incarnation, name, key, keep=bool(self.number % 2))
        words: tuple[str, ...] = ()
        for nth in range(self.number):
            words += write_caveats(f"{nth:032x}", permissions=frozenset("*"), rate=(1.0, 2.0) if nth else None)
        caveats = read_caveats(words, capability.capability_id)
        assert caveats is not None
        authority = Authority(capability.capability_id, tenant_id, incarnation, caveats)
        if self.verb == "grant":
            resource = "system" if tenant_id is None else self.resource
            rate = Rate(name, 1.0, 5.0) if self.pick % 2 else None
            return Grant(
                authority, tenant_id, incarnation, name, resource, ("*",), self.ttl_us, rate, {"n": self.number}
            )
        if self.verb == "revoke" or not caveats.ids:
            return Revoke(incarnation, tenant_id, authority, capability.capability_id)
        ends = authority.expires_at_us(world.state) if self.ttl_us is None else world.now().at_us + self.ttl_us
        return RevokeAttenuation(incarnation, tenant_id, capability.capability_id, caveats.ids[-1], ends)


@frozen
class Tell(Move):
    """What the kernel tells of how it is used, of a tenant, or (if there is none of that id) of the system."""

    verb: Literal["denials", "alert", "shed", "opens", "closes", "leap"]
    pick: int
    tenant_id: str

    def command(self, world: World) -> Command | None:
        tenant = world.state.tenants.get(self.tenant_id)
        whose = (None, None) if tenant is None else (tenant.tenant_id, tenant.incarnation)
        match self.verb:
            case "denials":
                return ReportDenials(CapabilityDenied("permission_denied", self.pick, "deploy"), *whose)
            case "alert":
                return ReportDenials(AccessAlert("cap_1", self.pick, 60.0), *whose)
            case "shed":
                return ReportShedding(*whose, (LoadShed("began", 1, "tenant"), LoadShed("ended", 2, "tenant")))
            case "leap":
                return RecordClockJump(self.pick, accepted=bool(self.pick % 2))
        current = identities(world.state)
        if not current:
            return None
        who = current[self.pick % len(current)]
        reason = "call_interrupted" if self.verb == "opens" else ""
        identity = (who.tenant_id, who.incarnation, who.service_id, who.deployment, who.epoch)
        return ReportCircuit(*identity, self.pick, reason, 30.0)


@frozen
class AddService(Move):
    tenant_id: str
    service_id: str
    spec: ServiceSpec
    idempotent: bool
    replace: bool = False

    def command(self, world: World) -> Command:
        return requests.Deploy(
            self.tenant_id, self.service_id, self.spec, b"source", self.idempotent, replace=self.replace
        )


@frozen
class Ask(Move):
    """A kill, a restart by hand, a pause or its end; `revision`: not given, the right one, or one off it."""

    verb: Literal["kill", "restart", "pause", "resume"]
    tenant_id: str
    service_id: str
    revision: int | None
    grace_ms: int
    force: bool

    def command(self, world: World) -> Command:
        service = world.state.service(self.tenant_id, self.service_id)
        revision = None if self.revision is None or service is None else service.revision + self.revision
        if self.verb == "kill":
            return requests.Kill(self.tenant_id, self.service_id, self.grace_ms, self.force, revision)
        verbs = {"restart": requests.Restart, "pause": requests.Pause, "resume": requests.Resume}
        return verbs[self.verb](self.tenant_id, self.service_id, revision)


@frozen
class Change(Move):
    """A change of policy and limits."""

    tenant_id: str
    service_id: str
    restart: Any
    max_restarts: int | None
    limits: Limits | None

    def command(self, world: World) -> Command:
        return requests.Update(self.tenant_id, self.service_id, self.restart, self.max_restarts, limits=self.limits)


@frozen
class System(Move):
    """Something about the kernel as a whole."""

    verb: Literal["pause", "resume", "settle"]

    def command(self, world: World) -> Command:
        return {"pause": PauseSystem, "resume": ResumeSystem, "settle": SettleSystem}[self.verb]()


@frozen
class Advance(Move):
    """What a supervisor would report of one service next: it begins, is ready, ends with `ending`, or has stopped.

    `stumbles`: it ends before it is ready.
    """

    pick: int
    ending: Ending
    stumbles: bool

    def command(self, world: World) -> Command | None:
        current = identities(world.state)
        if not current:
            return None
        who = current[self.pick % len(current)]
        service = world.service(who.service_id, who.tenant_id)
        if service.begun:
            ends = self.stumbles or service.stop is not None or service.ready_at_us is not None
            return who.ended(self.ending) if ends else who.ready()
        return who.begin() if service.stop is None else who.stopped(self.ending.kind)


@frozen
class Observe(Move):
    """Any observation of anything that is or ever was, exactly or with one part of its identity bent."""

    what: Literal["begin", "ready", "ended", "stopped"]
    pick: int
    past: bool
    bend: Bend | None
    ending: Ending
    timed_out: bool

    def command(self, world: World) -> Command:
        known = list(world.seen) if self.past else identities(world.state)
        who = known[self.pick % len(known)] if known else Identity("acme", "inc_1", "calc", 1, 1, 1)
        if self.bend == "incarnation":
            who = evolve(who, incarnation="inc_other")
        elif self.bend is not None:
            who = evolve(who, **{self.bend: getattr(who, self.bend) + (1 if self.pick % 2 else -1)})
        if self.what == "begin":
            return who.begin()
        if self.what == "ready":
            return who.ready()
        if self.what == "stopped":
            return who.stopped()
        return who.ended(self.ending, timed_out=self.timed_out)


@frozen
class Pass(Move):
    seconds: float

    def command(self, world: World) -> None:
        world.clock.seconds += self.seconds
        world.clock.us += round(self.seconds * 1_000_000)


@frozen
class JumpWall(Move):
    us: int

    def command(self, world: World) -> None:
        world.clock.us = max(0, world.clock.us + self.us)


@frozen
class ChangeTenant(Move):
    tenant_id: str
    max_services: int | None
    fds: int | None
    hardening: Hardening | None

    def command(self, world: World) -> Command:
        return UpdateTenant(self.tenant_id, TenantLimits(self.max_services), Limits(fds=self.fds), self.hardening)


@frozen
class Remove(Move):
    """A tenant is to be removed, or its removal is to be finished, of the incarnation that there is or of another one."""

    tenant_id: str
    grace_ms: int | None
    bend: bool = False

    def command(self, world: World) -> Command:
        if self.grace_ms is not None:
            return RemoveTenant(self.tenant_id, self.grace_ms)
        tenant = world.state.tenants.get(self.tenant_id)
        return FinishRemoval(self.tenant_id, "inc_other" if tenant is None or self.bend else tenant.incarnation)


@frozen
class Boot(Move):
    monotonic: float
    hold: bool = False

    def command(self, world: World) -> Command:
        world.boot(self.monotonic)
        return StartSystem("0.1.0", "3.11.0", hold=self.hold)


@frozen
class Shutdown(Move):
    complete: bool

    def command(self, world: World) -> Command:
        return CompleteShutdown(0) if self.complete else BeginShutdown("asked to")


@frozen
class Notice(Move):
    """The monitor reports what some service uses, or what the kernel itself does."""

    pick: int | None
    generation: int

    def command(self, world: World) -> Command:
        found = list(world.state.services())
        if self.pick is None or not found:
            return ReportPressure(RuntimePressureHigh("fds", 950, 1_000, 95.0, "critical"))
        tenant, service = found[self.pick % len(found)]
        generation = service.generation + self.generation
        violation = ResourceViolation(service.deployment, generation, "fds", 210, 256, "warn")
        return ReportViolation(tenant.tenant_id, tenant.incarnation, service.service_id, violation)


@frozen
class Secrets(Move):
    """A secret is set, handed out, refused, or shredded; one that there may not be."""

    verb: Literal["store", "access", "deny", "revoke"]
    tenant_id: str
    number: int

    def command(self, world: World) -> Command:
        tenant = world.state.tenants.get(self.tenant_id)
        incarnation = "gone" if tenant is None else tenant.incarnation
        name = f"secret-{self.number % 2}"
        if self.verb == "store":
            version_id = f"version-{world.state.last_id}"
            row = SecretRow(incarnation, name, 0, version_id, "key_secrets", b"sealed")
            return StoreSecret(self.tenant_id, row, "agent" if self.number % 3 else "tenant", secrets_max=1)
        if self.verb == "deny":
            return RecordDenials(self.tenant_id, incarnation, name, "service:calc", self.number)
        if self.verb == "revoke":
            return RevokeSecret(self.tenant_id, name, self.number if self.number > 5 else None)
        held = None if tenant is None else tenant.secrets.get(name)
        version_id = "gone" if held is None else held.newest.version_id
        version = 1 if held is None else held.newest.version
        return RecordAccess(self.tenant_id, incarnation, name, version, version_id, "capability:cap")


@frozen
class Mend:
    """What a repair records where an event is lost and the state is taken from a checkpoint; see `bootstrap.repairing`."""

    RESERVED: ClassVar[bool] = True

    number: int

    def decide(self, state: KernelState, now: Now) -> Decision:
        held = [(tenant, name) for tenant in sorted(state.tenants) for name in sorted(state.tenants[tenant].secrets)]
        newest = [(tenant, name, state.tenants[tenant].secrets[name].newest.version) for tenant, name in held]
        secrets = tuple(LostSecret(*each) for each in newest[: self.number % 2])
        sources = tuple(sorted(state.sources)[: self.number % 3])
        lost = (state.last_id + 1, state.last_id + 1)
        repaired = LogRepaired("checkpoint", lost, None, "damaged/1", ("a checksum is wrong",), secrets, sources, ())
        return Decision((Proposed(EventLost()), *restoring(state), Proposed(repaired)))


@frozen
class Maintain(Move):
    """The log as a whole is backed up, compacted, mended, restored; `number`: of whatever there are several."""

    verb: Literal["backup", "compact", "fix", "mend", "accept", "restore"]
    number: int

    def command(self, world: World) -> Command:
        last_id = world.state.last_id
        match self.verb:
            case "backup":
                return RecordBackup(f"{self.number}.backup", last_id, 4_096, "d" * 64)
            case "compact":
                return RecordCompaction(min(last_id, self.number), self.number, 1)
            case "fix":
                return RecordFix("checkpoints", "rewritten", (f"checkpoint {self.number}",))
            case "mend":
                return Mend(self.number)
            case "accept":
                return AcceptLoss()
            case "restore":
                return RestoreLog(f"{last_id:032x}", last_id, last_id + self.number)


@frozen
class Keep(Move):
    def command(self, world: World) -> Command:
        return RecordCheckpoint(world.state.last_id, 1_000)


# -- strategies

json_values: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)

limits: Final = st.builds(
    Limits,
    memory_mb=st.none() | st.floats(16, 4_096),
    threads=st.none() | st.integers(1, 4_096),
    stop_timeout_s=st.none() | st.floats(0, 600),
)

restart_limits: Final = st.builds(
    RestartLimits,
    max_restarts=st.integers(0, 3),
    max_seconds=st.sampled_from((0.5, 5.0, 60.0)) | st.floats(0, 86_400, exclude_min=True),
)

specs: Final = st.builds(
    ServiceSpec,
    entry=st.sampled_from(("source", "callable:ticker")),
    digest=st.sampled_from(("", "0" * 64)),
    isolation=st.sampled_from(("process", "task")),
    restart=st.sampled_from(("permanent", "transient", "temporary")),
    restart_limits=restart_limits,
    limits=limits,
    config=st.dictionaries(st.text(max_size=8), json_values, max_size=2),
    ephemeral=st.booleans(),
    format=st.sampled_from(("python_source", "python_zip")),
    environment=st.sampled_from((None, "science")),
)

_specs: Final = st.builds(
    lambda digest, kind, **rest: ServiceSpec(
        entry="source" if digest else "callable:ticker", digest=digest, **(kind if digest else {}), **rest
    ),
    digest=st.sampled_from(("", "d" * 64, "e" * 64)),
    kind=st.sampled_from(({}, {}, {"format": "python_zip"}, {"environment": "science"})),
    restart=st.sampled_from(("permanent", "transient", "temporary")),
    restart_limits=st.builds(RestartLimits, st.integers(0, 3), st.sampled_from((0.5, 5.0, 60.0))),
    config=st.sampled_from(({}, {"every": 1.5, "names": ["a", None]})),
    depends_on=st.sampled_from(((), (), (), ("calc",), ("tick",))),
    egress=st.sampled_from(((), (), ("api.example.com:443",), ("*.example.org", "10.0.0.0/8:5432"))),
    ephemeral=st.sampled_from((False, False, False, True)),
)
"""Fewer of them than `specs`: histories are about order, and drawing is most of their cost."""

endings: Final = st.builds(
    Ending,
    kind=st.sampled_from(ENDINGS),
    reason=st.text(max_size=10),
    traceback=st.text(max_size=10),
    exit_code=st.none() | st.integers(-64, 255),
    signal=st.none() | st.sampled_from(("SIGKILL", "SIGSEGV")),
)

_endings: Final = st.builds(Ending, st.sampled_from(ENDINGS), st.sampled_from(("", "it was \u00fc\0")))

_tenant_ids = st.sampled_from(TENANT_IDS)
_service_ids = st.sampled_from(SERVICE_IDS)
_picks = st.integers(0, 15)

_advances = st.builds(Advance, _picks, _endings, st.sampled_from((False, False, False, True)))
_recoveries = st.builds(
    Advance,
    st.just(0),
    st.builds(Ending, st.sampled_from(("crashed", "load_failed", "lost")), st.just("at its recovery")),
    st.booleans(),
)
_asks = st.builds(
    Ask,
    st.sampled_from(("kill", "kill", "restart", "restart", "pause", "pause", "resume", "resume")),
    _tenant_ids,
    _service_ids,
    st.sampled_from((None, None, 0, 1, -1)),
    st.integers(0, 60_000),
    st.booleans(),
)
_observations = st.builds(
    Observe,
    st.sampled_from(("begin", "ready", "ended", "stopped")),
    _picks,
    st.booleans(),
    st.sampled_from((None, None, "incarnation", "deployment", "generation", "epoch")),
    _endings,
    st.booleans(),
)
_none_to_one = st.sampled_from((None, 0, 1))
_hardening: st.SearchStrategy[Hardening | None] = st.sampled_from((None, "off", "refuse"))
_shares: Final[list[tuple[int, st.SearchStrategy[Any]]]] = [
    (10, _advances),
    (4, _observations),
    (4, _asks),
    (3, st.builds(AddService, _tenant_ids, _service_ids, _specs, st.booleans(), st.booleans())),
    (
        1,
        st.builds(
            Change,
            _tenant_ids,
            _service_ids,
            st.sampled_from((None, "permanent", "temporary", "always")),
            st.none() | st.integers(-1, 3),
            st.none() | st.builds(Limits, fds=st.none() | st.sampled_from((1, 64))),
        ),
    ),
    (1, st.builds(System, st.sampled_from(("pause", "resume", "settle")))),
    (2, st.builds(AddTenant, _tenant_ids, st.sampled_from((None, None, 0, 1)), st.booleans())),
    (1, st.builds(ChangeTenant, _tenant_ids, _none_to_one, st.sampled_from((None, 1, 64)), _hardening)),
    (
        2,
        st.builds(
            Remove, _tenant_ids, st.sampled_from((None, None, None, 0, 5_000)), st.sampled_from((False, False, True))
        ),
    ),
    (1, st.builds(GrantRoot)),
    (
        2,
        st.builds(
            Capabilities,
            st.sampled_from(("grant", "grant", "grant", "revoke", "revoke_attenuation", "rotate", "sweep")),
            _picks,
            st.integers(0, 2),
            st.sampled_from(("tenant", "tenant", "service:calc", "secret:*")),
            st.sampled_from((None, None, 1, 60_000_000)),
        ),
    ),
    (
        2,
        st.builds(
            Tell,
            st.sampled_from(("denials", "alert", "shed", "leap", "opens", "opens", "closes", "closes")),
            st.integers(0, 3),
            st.sampled_from((*TENANT_IDS, "nobody")),
        ),
    ),
    (2, st.builds(Pass, st.sampled_from((0.0, 0.001, 1.0, 60.0)) | st.floats(0, 1e6))),
    (1, st.builds(JumpWall, st.integers(-(10**15), 10**15))),
    (1, st.builds(Boot, st.just(0.0) | st.floats(0, 1e9), st.sampled_from((False, False, False, True)))),
    (1, st.builds(Shutdown, st.booleans())),
    (1, st.builds(Keep)),
    (
        1,
        st.builds(
            Maintain,
            st.sampled_from(("backup", "compact", "fix", "mend", "mend", "mend", "accept", "accept", "restore")),
            st.integers(0, 5),
        ),
    ),
    (
        2,
        st.builds(
            Secrets, st.sampled_from(("store", "store", "access", "deny", "revoke")), _tenant_ids, st.integers(0, 6)
        ),
    ),
    (1, st.builds(Notice, st.none() | st.integers(0, 3), st.sampled_from((0, 0, -1)))),
]

moves: Final[st.SearchStrategy[Move]] = st.sampled_from(
    [strategy for share, strategy in _shares for _ in range(share)]
).flatmap(lambda strategy: strategy)
"""Drawn in two steps, because `one_of` flattens what is nested in it and loses the shares."""

_TENANT: Final[tuple[Move, ...]] = (Boot(0.0), AddTenant("acme", None, False))
_NEXT: Final = Advance(0, Ending("crashed", "not used"), False)


def _with_service(spec: ServiceSpec, recovers: Advance | None, rest: list[Move]) -> list[Move]:
    deployed = [*_TENANT, AddService("acme", "calc", spec, False)]
    return [*deployed, *rest] if recovers is None else [*deployed, _NEXT, _NEXT, Boot(5.0), _NEXT, recovers, *rest]


_many_moves = st.integers(10, 60).flatmap(lambda many: st.lists(moves, min_size=many, max_size=many))
"""The number is drawn first, so that histories are long and yet shrink."""

histories: Final[st.SearchStrategy[list[Move]]] = st.one_of(
    st.lists(moves, max_size=12),
    st.builds(_with_service, _specs, st.none() | _recoveries, _many_moves),
)
