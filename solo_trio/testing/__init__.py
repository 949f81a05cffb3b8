"""What users test their services and embedders test their kernels with. Owns: what may be imported from here.

A kernel in memory whose clock jumps, whose journal fails and whose services are made up: see the guide "Testing". Never:
imported by the product.
"""

from solo_trio.testing.clock import JumpingClock as JumpingClock
from solo_trio.testing.journal import FaultyJournal as FaultyJournal
from solo_trio.testing.kernel import MemoryKernel as MemoryKernel
from solo_trio.testing.logs import MemoryLogs as MemoryLogs
from solo_trio.testing.runtime import FakeRunning as FakeRunning
from solo_trio.testing.runtime import FakeRuntime as FakeRuntime
from solo_trio.testing.runtime import Plan as Plan

__all__ = ["FakeRunning", "FakeRuntime", "FaultyJournal", "JumpingClock", "MemoryKernel", "MemoryLogs", "Plan"]
