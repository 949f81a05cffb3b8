"""A kernel without disk and processes. Owns: making one of the parts that a test chooses. Never: used by the product."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from attrs import define, field

from solo_trio.bootstrap import assemble
from solo_trio.embedding import Kernel
from solo_trio.journal.memory import MemoryJournal
from solo_trio.kernel.checkpoints import CheckpointRules
from solo_trio.kernel.core import Parts
from solo_trio.kernel.pressure import NoMachine
from solo_trio.operations.caller import System
from solo_trio.operations.settings import EMBEDDED, Settings
from solo_trio.ports import Clock, Entropy, Journal, Machine, Runtime
from solo_trio.runtimes.task import TaskRuntime
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.testing.logs import MemoryLogs
from solo_trio.vault.keyring import Keyring
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.secret import Secret
from solo_trio.vault.vault import Vault


@define
class MemoryKernel:
    """A kernel whose log is in memory and whose services are tasks; runs on Trio's mock clock too.

    `open` (or `run`) may be entered again and again: each time is a start of the kernel on the log that the time before
    left. Leaving it is a shutdown, cancelling it is a crash. `runtimes`: further ones, or another "task".
    """

    callables: Mapping[str, object] = field(factory=dict)
    settings: Settings = EMBEDDED
    journal: Journal = field(factory=MemoryJournal)
    logs: MemoryLogs = field(factory=MemoryLogs)
    telemetry: Diagnostics = field(factory=Diagnostics)
    clock: Clock = field(factory=SystemClock)
    entropy: Entropy = field(factory=SystemEntropy)
    runtimes: Mapping[str, Runtime] = field(factory=dict)
    machine: Machine = field(factory=NoMachine)
    """What the kernel's pressure monitor reads; by itself it has nothing to measure."""
    _master: MasterKey = field(factory=lambda: MasterKey(Secret(bytes(32))))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Kernel]:
        """What `Kernel.open` gives, without a data directory."""
        named = dict(self.callables)
        async with self._system(named) as system:
            yield Kernel(system, named)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[System]:
        """What operations act on, for tests of gateways and of the kernel itself."""
        async with self._system(self.callables) as system:
            yield system

    @asynccontextmanager
    async def _system(self, callables: Mapping[str, object]) -> AsyncIterator[System]:
        keys = await self.journal.keys()
        keyring = Keyring(self._master, self.entropy, keys)
        parts = Parts(
            journal=self.journal,
            clock=self.clock,
            entropy=self.entropy,
            telemetry=self.telemetry,
            runtimes={"task": TaskRuntime(callables, self.settings.allowed_imports), **self.runtimes},
            logs=self.logs,
            ceiling=self.settings.limits,
            machine=self.machine,
            pressure=self.settings.pressure,
            egress_allowed=self.settings.egress_allowed,
            vault=Vault(self._master, self.entropy, keys),
            checkpoints=CheckpointRules(self.settings.checkpoint_interval_events, self.settings.checkpoint_interval_s),
            retention=self.settings.retention,
        )
        async with assemble(parts, keyring, self.settings) as system:
            yield system
