"""The process runtime. Owns: one zygote a tenant incarnation, started when first needed. Never: decides what should run."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path
from typing import Final

import trio
from attrs import define, field

from solo_trio.errors import Faulted
from solo_trio.ports import Launch
from solo_trio.runtimes.control import Spawned, Zygote
from solo_trio.runtimes.service_process import ServiceProcess, greet
from solo_trio.runtimes.tenant_lock import take_over as take_over

STARTING_MAX: Final = 64
"""Forks asked for at the same time; the rest wait. Each holds six descriptors for a moment."""
FORCED_CLOSE_S_MAX: Final = 5.0
"""After the deadline of `close`, for the kernel to bury what was killed."""


@define
class _Tenant:
    """The zygote of one incarnation, and who may start it."""

    starting: trio.Lock = field(factory=trio.Lock)
    zygote: Zygote | None = None


class ProcessRuntime:
    """`ports.Runtime` with a process for each service. `directory` holds the lock files: one kernel uses it at a time.

    Before the first start, a kernel that follows a crashed one calls `take_over(directory, timeout_s)`.
    """

    isolation = "process"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tenants: dict[str, _Tenant] = {}
        self._services: set[ServiceProcess] = set()
        self._forks: trio.CapacityLimiter | None = None
        self._closed = False

    async def start(self, launch: Launch, nursery: trio.Nursery) -> ServiceProcess:
        """See `ports.Runtime.start`."""
        if self._closed:
            raise Faulted("runtime_unavailable", "the runtime was closed")
        if launch.entry != "source":
            raise Faulted("runtime_unavailable", f"a process runs deployed source, not {launch.entry!r}")
        if self._forks is None:
            try:
                raise_descriptor_limit()
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise Faulted("runtime_unavailable", f"cannot prepare {self._directory}: {error}") from error
            self._forks = trio.CapacityLimiter(STARTING_MAX)
        zygote = await self._zygote(launch.incarnation)
        async with self._forks:
            service = await _fork(zygote, launch)
        self._services.add(service)
        if self._is_closed():
            service.kill()
        nursery.start_soon(self._run, service, name=f"service {launch.service_id}")
        return service

    async def close(self, deadline: float) -> None:
        """See `ports.Runtime.close`. Cancelling it goes over to force."""
        self._closed = True
        for service in self._services:
            service.kill()
        try:
            with trio.CancelScope(deadline=deadline):
                for service in list(self._services):
                    await service.ended.wait()
                for tenant in self._tenants.values():
                    async with tenant.starting:  # whoever is starting one sees that the runtime is closed
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

    def _is_closed(self) -> bool:
        return self._closed  # as a function: mypy takes an attribute for unchanged across an await

    def _zygotes(self) -> list[Zygote]:
        return [tenant.zygote for tenant in self._tenants.values() if tenant.zygote is not None]

    async def _run(self, service: ServiceProcess) -> None:
        try:
            await service.run()
        finally:
            self._services.discard(service)

    async def _zygote(self, incarnation: str) -> Zygote:
        tenant = self._tenants.setdefault(incarnation, _Tenant())
        async with tenant.starting:
            if tenant.zygote is not None and tenant.zygote.over:
                await tenant.zygote.gone.wait()  # its services are dead then: no two copies
                tenant.zygote = None
            if tenant.zygote is None:
                # Kept before it is waited for: given up half-way it has processes too, which `close` must see the end of.
                tenant.zygote = await Zygote.start(self._directory, incarnation)
                await tenant.zygote.wait_ready()
            if self._is_closed():  # during the start
                tenant.zygote.close()
                raise Faulted("runtime_unavailable", "the runtime was closed")
            return tenant.zygote


async def _fork(zygote: Zygote, launch: Launch) -> ServiceProcess:
    """Have a service forked; every descriptor has an owner at every point."""
    greeting = greet(launch)
    with contextlib.ExitStack() as mine:
        with contextlib.ExitStack() as childs:
            try:
                ours, theirs = socket.socketpair()
                mine.callback(ours.close)
                childs.callback(theirs.close)
                ours.setblocking(False)
                (stdout, stdout_write), (stderr, stderr_write) = _pipe(mine, childs), _pipe(mine, childs)
            except OSError as error:
                raise Faulted("runtime_unavailable", f"cannot connect to a new service: {error}") from error
            spawned: Spawned = await zygote.spawn(launch.limits, (theirs.fileno(), stdout_write, stderr_write))
            mine.callback(os.close, spawned.pidfd)
        service = ServiceProcess(launch, greeting, spawned, ours, stdout, stderr)
        mine.pop_all()
        return service


def _pipe(mine: contextlib.ExitStack, childs: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    mine.callback(os.close, read)
    childs.callback(os.close, write)
    os.set_blocking(read, False)
    return read, write


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may: each service takes four of the kernel's."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
