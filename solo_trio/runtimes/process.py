"""The process runtime. Owns: one zygote a tenant incarnation and environment, started when first needed; the sandboxes forked
from it, also those that wait. Never: decides what should run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define, field, frozen

from solo_trio.errors import Faulted, SoloError
from solo_trio.ports import Launch
from solo_trio.runtimes.ancestry import Ancestor, Confinement
from solo_trio.runtimes.cgroups import Cgroups, find
from solo_trio.runtimes.control import Zygote
from solo_trio.runtimes.egress import Egress
from solo_trio.runtimes.environments import CONFIGURATION, Environments
from solo_trio.runtimes.pool import Kind
from solo_trio.runtimes.sandbox.layers import LEVEL_FILTERED, Layers
from solo_trio.runtimes.sandbox.system import take_short_turns
from solo_trio.runtimes.sandboxes import Sandbox, Uids, make, shape_of
from solo_trio.runtimes.service_process import ServiceProcess, greet
from solo_trio.runtimes.spares import Spares
from solo_trio.runtimes.tenant_lock import take_over as take_over

STARTING_MAX: Final = 64
"""Forks asked for at the same time; the rest wait. Each holds some descriptors for a moment."""
FOUNDING_MAX: Final = 8
"""Zygotes that are being started at the same time."""
FORCED_CLOSE_S_MAX: Final = 5.0
"""After the deadline of `close`, for the kernel to bury what was killed."""
ZYGOTE_IDLE_S_MAX: Final = 60.0
"""A zygote of which nobody had a service for so long ends."""
ZYGOTE_END_LOOK_S: Final = 0.5
"""So often it is looked whether one that was told to end has."""
NAME_CHARACTERS: Final = 16
NO_ENVIRONMENT: Final = ""


@frozen
class Sandboxing:
    """How services are confined. `level`: the least that code is run at; `without`: layers to do without, for tests."""

    level: int = LEVEL_FILTERED
    hidden: tuple[Path, ...] = ()
    own_ancestors: bool = False
    """Each tenant's zygote is executed, not forked from one that all share: its own address layout and hash seed."""
    without: tuple[str, ...] = ()
    spares: int = 32
    """How many sandboxes wait in advance, at most."""
    idle_s: float = ZYGOTE_IDLE_S_MAX
    """How long a zygote without a service is kept."""
    environments: Environments | None = None


@define
class _Tenant:
    """The zygote of one incarnation and environment, and who may start it."""

    starting: trio.Lock = field(factory=trio.Lock)
    zygote: Zygote | None = None
    own_uid: bool = False
    users: int = 0
    """Services, and those that are being started."""
    idle_since: float = 0.0

    @property
    def can_fork(self) -> bool:
        return self.zygote is not None and not self.zygote.over and not self.starting.locked()


@define
class _Environment:
    """Whose packages come first; its ancestor."""

    packages: tuple[Path, ...] = ()
    starting: trio.Lock = field(factory=trio.Lock)
    ancestor: Ancestor | None = None


class ProcessRuntime:
    """`ports.Runtime` with a process for each service. `directory` holds the lock files: one kernel uses it at a time.

    Before the first start, a kernel that follows a crashed one calls `take_over(directory, timeout_s)`.
    """

    isolation = "process"

    def __init__(self, directory: Path, sandboxing: Sandboxing | None = None) -> None:
        self._directory = directory
        self._sandboxing = sandboxing or Sandboxing()
        self.egress = Egress()
        """What the connections of all services share."""
        self._tenants: dict[tuple[str, str], _Tenant] = {}
        self._environments: dict[str, _Environment] = {}
        self._ancestors: list[Ancestor] = []
        self._services: set[ServiceProcess] = set()
        self._forks: trio.CapacityLimiter | None = None
        self._founding = trio.CapacityLimiter(FOUNDING_MAX)
        self._spares = Spares(self._sandboxing.spares, self._make_ahead, self._is_starting)
        self._retiring = False
        self._closed = False
        name = hashlib.sha256(os.fsencode(directory.absolute())).digest()
        self._name = name.hex()[:NAME_CHARACTERS]
        self._uids = Uids(int.from_bytes(name[:4], "big"))
        self._cgroups: Cgroups | None = None
        self.layers: Layers | None = None
        """What is in force, once the first ancestor has found out."""

    @property
    def controllers(self) -> tuple[str, ...]:
        """The cgroup controllers that count for services, once something was started."""
        return () if self._cgroups is None else self._cgroups.controllers

    async def probe(self) -> Layers:
        """What is in force here, also if that is not enough to run anything. Raises `Faulted("runtime_unavailable")`."""
        self._prepare()
        ancestor = await self._ancestor(NO_ENVIRONMENT)
        if self._sandboxing.own_ancestors:
            ancestor.close()
        return ancestor.layers

    async def warm_up(self) -> None:
        """Have the ancestor ready before the first start needs it. Raises nothing: that start hears what is wrong."""
        if not self._sandboxing.own_ancestors:
            with contextlib.suppress(Faulted, OSError, RuntimeError):  # the last: no thread can be had
                self._prepare()
                await self._ancestor(NO_ENVIRONMENT)

    def confinement(self) -> dict[str, Any]:
        """See `ports.Runtime.confinement`."""
        if self.layers is None:
            return {"level": None, "required": self._sandboxing.level}
        return {
            "level": self.layers.level,
            "required": self._sandboxing.level,
            "layers": {
                "namespaces": self.layers.namespaces,
                "landlock": bool(self.layers.landlock),
                "seccomp": self.layers.seccomp,
                "own_uid": self.layers.own_uid,
                "cgroups": list(self.controllers),
            },
            "missing": dict(self.layers.missing),
        }

    async def start(self, launch: Launch, nursery: trio.Nursery) -> ServiceProcess:
        """See `ports.Runtime.start`."""
        if self._closed:
            raise Faulted("runtime_unavailable", "the runtime was closed")
        if launch.entry != "source":
            raise Faulted("runtime_unavailable", f"a process runs deployed source, not {launch.entry!r}")
        self._prepare()
        greeting = greet(launch)
        environment = await self.environment_of(launch.environment)
        tenant = self._use(launch.incarnation, environment)
        try:
            sandbox = await self._sandbox(launch, environment)
            try:
                service = ServiceProcess(launch, greeting, sandbox)
            except OSError as error:
                sandbox.discard()
                raise Faulted("runtime_unavailable", f"cannot look at a new service: {error}") from error
        except BaseException:
            self._leave(tenant)
            raise
        service.share(self.egress)
        self._services.add(service)
        if self._is_closed():
            service.kill()
        nursery.start_soon(self._run, service, tenant, name=f"service {launch.service_id}")
        return service

    async def forget(self, incarnation: str) -> None:
        """See `ports.Runtime.forget`."""
        self._spares.clear_tenant(incarnation)
        for key in [key for key in self._tenants if key[0] == incarnation]:
            tenant = self._tenants[key]
            async with tenant.starting:  # a start that was given up
                if tenant.zygote is not None:
                    tenant.zygote.close()
                    await tenant.zygote.gone.wait()
            self._tenants.pop(key, None)
        self._end_ancestors()
        await trio.lowlevel.checkpoint()

    async def close(self, deadline: float) -> None:
        """See `ports.Runtime.close`. Cancelling it goes over to force."""
        self._closed = True
        self._spares.close()
        for service in self._services:
            service.kill()
        try:
            with trio.CancelScope(deadline=deadline):
                for service in list(self._services):
                    await service.ended.wait()
                for lock in self._locks():
                    async with lock:  # whoever is starting one sees that the runtime is closed
                        pass
                for zygote in self._zygotes():
                    zygote.close()
                for zygote in self._zygotes():
                    await zygote.gone.wait()
        finally:
            with trio.move_on_after(FORCED_CLOSE_S_MAX, shield=True):
                for zygote in self._zygotes():
                    if not zygote.gone.is_set():
                        zygote.kill()
                for zygote in self._zygotes():
                    await zygote.gone.wait()
            for ancestor in self._ancestors:  # after its zygotes: who else would reap them
                ancestor.close()
            with trio.move_on_after(FORCED_CLOSE_S_MAX, shield=True):
                for lock in self._locks():  # a start that waited for its ancestor knows by now
                    async with lock:
                        pass
                for zygote in self._zygotes():
                    zygote.kill()
                    await zygote.gone.wait()
                for ancestor in self._ancestors:
                    await ancestor.gone.wait()
            if self._cgroups is not None:
                self._cgroups.remove()

    def _is_closed(self) -> bool:
        return self._closed  # as a function: mypy takes an attribute for unchanged across an await

    def _locks(self) -> list[trio.Lock]:
        tenants = [each.starting for each in self._tenants.values()]
        return [*tenants, *(each.starting for each in self._environments.values())]

    def _zygotes(self) -> list[Zygote]:
        return [tenant.zygote for tenant in self._tenants.values() if tenant.zygote is not None]

    def _prepare(self) -> None:
        if self._forks is not None:
            return
        try:
            raise_descriptor_limit()
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Faulted("runtime_unavailable", f"cannot prepare {self._directory}: {error}") from error
        take_short_turns()  # the kernel's own loop: every call passes it twice
        self._cgroups = Cgroups(find(self._name))
        self._cgroups.remove()  # what a kernel left whose keepers were killed too
        self._forks = trio.CapacityLimiter(STARTING_MAX)  # last: it says that all is prepared

    async def _run(self, service: ServiceProcess, tenant: _Tenant) -> None:
        try:
            await service.run()
        finally:
            self._services.discard(service)
            self._leave(tenant)

    # -- sandboxes

    async def _sandbox(self, launch: Launch, environment: str) -> Sandbox:
        shape = shape_of(launch.limits)
        kind = Kind(launch.incarnation, environment, tuple(sorted(shape.items())))
        tenant = await self._tenant(kind.incarnation, kind.environment)
        found = self._spares.take(kind)
        if found is None:
            found = await self._make(tenant, launch.incarnation, shape)
        self._spares.refill_soon()
        return found

    async def _make(
        self, tenant: _Tenant, incarnation: str, shape: Mapping[str, float], *, ahead: bool = False
    ) -> Sandbox:
        assert self._forks is not None and self._cgroups is not None
        async with self._forks:
            zygote = tenant.zygote
            if zygote is None or zygote.over:  # it died while this waited
                raise Faulted("runtime_unavailable", "the zygote of the tenant died")
            return await make(
                zygote, incarnation, shape, self._cgroups, self._uids, own_uid=tenant.own_uid, ahead=ahead
            )

    async def _make_ahead(self, kind: Kind) -> Sandbox | None:
        tenant = self._tenants.get((kind.incarnation, kind.environment))
        if tenant is None or tenant.zygote is None or tenant.zygote.over:
            return None
        try:
            return await self._make(tenant, kind.incarnation, dict(kind.shape), ahead=True)
        except Exception:  # noqa: BLE001 - whoever starts something hears it; a system task must let nothing out
            return None

    def _is_starting(self) -> bool:
        return self._forks is not None and self._forks.borrowed_tokens > 0

    # -- zygotes that nobody needs

    def _use(self, incarnation: str, environment: str) -> _Tenant:
        """Before anything is waited for: whoever is counted here keeps its zygote, or finds it closed and waits for its end."""
        tenant = self._tenants.setdefault((incarnation, environment), _Tenant())
        tenant.users += 1
        return tenant

    def _leave(self, tenant: _Tenant) -> None:
        tenant.users -= 1
        tenant.idle_since = trio.current_time()
        if not tenant.users and not self._retiring and not self._closed:
            self._retiring = True
            # A system task, as zygotes are: whose services used it is over. It lets nothing out.
            trio.lowlevel.spawn_system_task(self._retire, name="zygotes that nobody needs")

    async def _retire(self) -> None:
        """End zygotes that nobody used for a while, and the ancestors of environments without any; over when none is idle."""
        try:
            while not self._closed:
                look_again = self._retire_idle(trio.current_time())
                self._end_ancestors()
                if look_again is None:
                    return
                await trio.sleep_until(look_again)
        finally:
            self._retiring = False

    def _retire_idle(self, now: float) -> float | None:
        """Look once; when to look again. Not to be interrupted: who is counted between the look and the end would be lost."""
        look_again: float | None = None
        for key, tenant in list(self._tenants.items()):
            if tenant.users:
                continue
            due = tenant.idle_since + self._sandboxing.idle_s
            if due <= now:
                if tenant.zygote is None or tenant.zygote.gone.is_set():
                    del self._tenants[key]
                    continue
                self._spares.clear_tenant(*key)
                tenant.zygote.close()
                due = now + ZYGOTE_END_LOOK_S
            look_again = due if look_again is None else min(due, look_again)
        return look_again

    def _end_ancestors(self) -> None:
        """Those of environments that no zygote is left of. The one without an environment stays: the next tenant needs it."""
        used = {environment for _, environment in self._tenants}
        for identity, environment in self._environments.items():
            if identity == NO_ENVIRONMENT or identity in used or environment.ancestor is None:
                continue
            environment.ancestor.close()
            if environment.ancestor.gone.is_set():
                environment.ancestor = None

    # -- zygotes

    async def _tenant(self, incarnation: str, environment: str) -> _Tenant:
        tenant = self._tenants.setdefault((incarnation, environment), _Tenant())
        if tenant.can_fork and not self._closed:
            return tenant
        async with tenant.starting:
            if tenant.zygote is not None and tenant.zygote.over:
                await tenant.zygote.gone.wait()  # its services are dead then: no two copies
                tenant.zygote = None
            if tenant.zygote is None:
                async with self._founding:
                    await self._found(tenant, incarnation, environment)
            if self._is_closed():  # during the start
                assert tenant.zygote is not None
                tenant.zygote.close()
                raise Faulted("runtime_unavailable", "the runtime was closed")
            return tenant

    async def _found(self, tenant: _Tenant, incarnation: str, environment: str) -> None:
        ancestor = await self._ancestor(environment)
        assert self._cgroups is not None
        name = incarnation
        if environment:
            name += hashlib.sha256(environment.encode()).hexdigest()[:NAME_CHARACTERS]
        try:
            self._check_level(ancestor, self._environments[environment].packages)
            groups = self._cgroups.tenant(incarnation)
            # Kept before it is waited for: given up half-way it has processes too, which `close` must see the end of.
            tenant.zygote = await Zygote.start(self._directory, incarnation, name, ancestor, groups)
            tenant.own_uid = ancestor.layers.own_uid
            await tenant.zygote.wait_ready()
        finally:
            if self._sandboxing.own_ancestors:
                ancestor.close()

    async def environment_of(self, name: str | None) -> str:
        """What tells an environment from others, also from an earlier one of its name. Raises `Faulted`."""
        if name is None:
            return NO_ENVIRONMENT
        try:
            found = await trio.to_thread.run_sync(self._find_environment, name)
        except (SoloError, OSError) as error:
            raise Faulted("runtime_unavailable", f"its environment cannot be used: {error}") from None
        return found

    def _find_environment(self, name: str) -> str:
        if self._sandboxing.environments is None:
            raise Faulted("runtime_unavailable", "this kernel has no environments")
        found = self._sandboxing.environments.find(name)
        made, described = os.stat(found.site_packages), os.stat(found.prefix / CONFIGURATION)
        identity = f"{name}:{made.st_dev}:{made.st_ino}:{described.st_ctime_ns}"  # numbers of inodes are used again
        self._environments.setdefault(identity, _Environment()).packages = (found.site_packages,)
        return identity

    async def _ancestor(self, environment: str) -> Ancestor:
        kept = self._environments.setdefault(environment, _Environment())
        confinement = Confinement(self._directory, self._sandboxing.hidden, kept.packages, self._sandboxing.without)
        if self._sandboxing.own_ancestors:
            return await self._new_ancestor(confinement)
        async with kept.starting:
            if kept.ancestor is None or kept.ancestor.over:
                kept.ancestor = await self._new_ancestor(confinement)
            return kept.ancestor

    async def _new_ancestor(self, confinement: Confinement) -> Ancestor:
        if self._is_closed():
            raise Faulted("runtime_unavailable", "the runtime was closed")
        found = await Ancestor.start(confinement)
        # Kept before it is waited for: given up half-way there is a process too, which `close` must see the end of.
        self._ancestors = [*(each for each in self._ancestors if not each.gone.is_set()), found]
        await found.wait_ready()
        self.layers = found.layers
        return found

    def _check_level(self, ancestor: Ancestor, packages: Sequence[Path]) -> None:
        layers = ancestor.layers
        check_level(layers, self._sandboxing.level)
        if not layers.namespaces and ancestor.unreachable:
            remedy = "let everybody read it, or install Python where everybody can"
            if {str(path) for path in packages} & set(ancestor.unreachable):
                remedy = (
                    "the operator puts the environment where everybody can read it, and says so with: "
                    "solo env remove NAME, then solo env add NAME --path DIRECTORY"
                )
            raise Faulted(
                "sandbox_unavailable",
                f"services have another user id and cannot read {', '.join(ancestor.unreachable)}: {remedy}",
            )


def check_level(layers: Layers, required: int) -> None:
    """Raise `Faulted("sandbox_unavailable")` if that is too little protection to run anything."""
    if layers.level < required:
        why = "; ".join(f"{name}: {reason}" for name, reason in layers.missing.items())
        raise Faulted(
            "sandbox_unavailable",
            f"services need sandbox level {required}, and this machine gives {layers.level} ({why}); "
            "allow what is missing, or lower security.sandbox_level if you trust the code",
        )


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may: each service takes four of the kernel's."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
