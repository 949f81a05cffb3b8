"""A runtime under test. Owns: starting services with everything recorded. Never: sleeps on the wall clock."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import trio

from solo_trio.errors import Rejected
from solo_trio.model.mandate import Mandate
from solo_trio.policy.egress import NOWHERE, Reach
from solo_trio.ports import Ending, Launch, Running, Runtime
from solo_trio.runtimes import procfs
from solo_trio.runtimes.process import ProcessRuntime, Sandboxing
from solo_trio.runtimes.sandbox import system
from solo_trio.runtimes.task import TaskRuntime

BOUND_S = 60.0
"""For a whole test on a loaded machine; never reached by one that passes."""
INCARNATION = "5010"
_NAMES = itertools.count(1)


class Rig:
    def __init__(self, runtime: Runtime, nursery: trio.Nursery, entry_of: Callable[[str], tuple[str, str]]) -> None:
        self.runtime = runtime
        self.nursery = nursery
        self.lines: list[tuple[str, str, str, dict[str, Any]]] = []
        self.asked: list[tuple[Any, ...]] = []
        self.mandates: list[Mandate | None] = []
        """What each of `asked` came with."""
        self.rights: list[tuple[Mandate, str, str]] = []
        """What was asked about callers; who has a capability may read, and nothing else."""
        self.outgoing: Callable[..., Any] = self._no_outgoing
        self._entry_of = entry_of
        self._line = trio.Event()

    async def start(
        self,
        source: str,
        *,
        config: dict[str, Any] | None = None,
        limits: dict[str, float] | None = None,
        incarnation: str = INCARNATION,
        service_id: str = "svc",
        entry: str | None = None,
        egress: Callable[[], Reach] = lambda: NOWHERE,
        nursery: trio.Nursery | None = None,
        environment: str | None = None,
    ) -> Running:
        found, text = self._entry_of(textwrap.dedent(source)) if entry is None else (entry, source)
        launch = Launch(
            tenant_id="tenant",
            incarnation=incarnation,
            service_id=service_id,
            version=3,
            generation=7,
            entry=found,
            source=text,
            config=config or {},
            limits=limits or {},
            log=self._log,
            outgoing=self._outgoing,
            egress=egress,
            environment=environment,
            may=self._may,
        )
        return await self.runtime.start(launch, nursery or self.nursery)

    async def ready(self, source: str, **more: Any) -> Running:
        """Start and wait until ready; a service that ends instead fails the test with its traceback."""
        running = await self.start(source, **more)
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await running.ended.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await running.ready.wait()
            nursery.cancel_scope.cancel()
        assert running.ready.is_set(), running.ending
        return running

    async def ending(self, running: Running) -> Ending:
        await running.ended.wait()
        assert running.ending is not None
        return running.ending

    async def line(self, text: str) -> tuple[str, str, str, dict[str, Any]]:
        """Wait for the line whose message is `text`."""
        while True:
            for found in self.lines:
                if found[2] == text:
                    return found
            await self._line.wait()

    def messages(self, stream: str) -> list[str]:
        return [message for where, _, message, _ in self.lines if where == stream]

    def _log(self, stream: Any, level: str, message: str, fields: dict[str, Any]) -> None:
        self.lines.append((stream, level, message, fields))
        self._line.set()
        self._line = trio.Event()

    async def _outgoing(self, *asked: Any) -> Any:
        *asked_, mandate = asked
        self.asked.append(tuple(asked_))
        self.mandates.append(mandate)
        return await self.outgoing(*asked_)

    def _may(self, mandate: Mandate, resource: str, permission: str) -> bool:
        self.rights.append((mandate, resource, permission))
        if resource == "nonsense":
            raise Rejected("invalid_field", "that is no resource")
        return permission == "read" and mandate.authority is not None and mandate.authority.capability_id is not None

    async def _no_outgoing(self, *asked: Any) -> Any:
        raise AssertionError(f"unexpected call {asked}")


@contextlib.asynccontextmanager
async def _opened(runtime: Runtime, entry_of: Callable[[str], tuple[str, str]]) -> AsyncIterator[Rig]:
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            rig = Rig(runtime, nursery, entry_of)
            try:
                yield rig
            finally:
                with trio.CancelScope(shield=True):
                    await runtime.close(trio.current_time() + 10)
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def process_rig(directory: Path, sandboxing: Sandboxing | None = None) -> AsyncIterator[Rig]:
    """Checks that nothing is left: no process, no zombie, no lock file, no descriptor, no cgroup.

    Whatever loses its parent meanwhile becomes a child of this process, so it is seen.
    """
    before, descriptors = set(procfs.children(os.getpid())), len(os.listdir("/proc/self/fd"))
    runtime = ProcessRuntime(directory, sandboxing)
    with _heir():
        async with _opened(runtime, lambda source: ("source", source)) as rig:
            yield rig
        assert set(procfs.children(os.getpid())) <= before
    assert os.listdir(directory) == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert not [base for base in cgroup_directories(runtime) if base.exists()]


def cgroup_directories(runtime: Runtime) -> list[Path]:
    """One in each hierarchy. A service is given a descriptor for each."""
    assert isinstance(runtime, ProcessRuntime)
    return [] if runtime._cgroups is None else runtime._cgroups._hierarchies.places


@contextlib.contextmanager
def _heir() -> Iterator[None]:
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 0)


@contextlib.asynccontextmanager
async def task_rig(directory: Path, callables: dict[str, object] | None = None) -> AsyncIterator[Rig]:
    """Sources become modules on a path of their own, imported as `solo_task_N`."""

    def entry_of(source: str) -> tuple[str, str]:
        name = f"solo_task_{next(_NAMES)}"
        (directory / f"{name}.py").write_text(source)
        allowed.append(name)
        importlib.invalidate_caches()
        return f"import:{name}", ""

    allowed: list[str] = []
    with _on_path(directory):
        runtime = TaskRuntime(callables or {}, allowed)
        runtime._allowed_imports = allowed  # type: ignore[assignment]  # grows while the test goes on
        async with _opened(runtime, entry_of) as rig:
            yield rig


@contextlib.contextmanager
def _on_path(directory: Path) -> Iterator[None]:
    sys.path.insert(0, str(directory))
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        sys.dont_write_bytecode = before
        for name in [name for name in sys.modules if name.startswith("solo_task_")]:
            del sys.modules[name]
