"""Who watches what the kernel itself uses. Owns: reading it each second, telling, refusing deployments. Never: frees anything.

`machine` reads what only the world knows (memory, descriptors, threads, disk); tasks, the loop's lag and the queue are the
kernel's own. Limits come from the machine where it has them, and from `PressureLimits` where the operator has a say.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import trio
from attrs import frozen

from solo_trio.errors import Faulted, SoloError
from solo_trio.kernel.loop import QUEUE_SUBMISSIONS_MAX, Loop
from solo_trio.kernel.staging import Submission
from solo_trio.model.resources import ReportPressure, RuntimePressureHigh
from solo_trio.policy.pressure import Pressure, Reading
from solo_trio.ports import Machine, MachineState, Telemetry

PERIOD_S: Final = 1.0
PROBES: Final = 4
"""How often in a period it is looked how late the loop is."""
TASKS_LIMIT: Final = 100_000
THREADS_LIMIT: Final = 1_000
"""Of the kernel's process, where the machine allows for more."""
LAG_LIMIT_MS: Final = 1_000
FREE_DISK_MB: Final = 64
RETRY_AFTER_S: Final = 5
MEBIBYTE: Final = 1_048_576


@frozen
class PressureLimits:
    """What the operator says. 0: the machine's limit, or none."""

    memory_mb: int = 0
    free_disk_mb: int = FREE_DISK_MB
    lag_ms: int = LAG_LIMIT_MS


class Pressed(Protocol):
    """What is seen of the kernel here."""

    loop: Loop
    telemetry: Telemetry


@frozen
class NoMachine:
    """Implements `ports.Machine` where there is nothing to measure; the kernel is not woken for it then."""

    async def read(self) -> MachineState | None:
        return None


class PressureMonitor:
    def __init__(self, core: Pressed, machine: Machine, limits: PressureLimits) -> None:
        self._core = core
        self._machine = machine
        self._limits = limits
        self.measures = True
        """False: the machine said that it has no numbers."""
        self.pressure = Pressure()
        """As of the last reading."""

    async def run(self) -> None:
        """Read until cancelled."""
        lag_s = 0.0
        while self.measures:
            state = await self._read()
            if state is not None:
                await self._take(state, lag_s)
            lag_s = 0.0
            for _ in range(PROBES):
                due = trio.current_time() + PERIOD_S / PROBES
                await trio.sleep_until(due)
                lag_s = max(lag_s, trio.current_time() - due)

    async def look(self) -> None:
        """One reading now, before anybody asks; nothing is told."""
        state = await self._read()
        if state is not None:
            self.pressure, _ = self.pressure.read(self._readings(state, 0.0), trio.current_time(), quiet=True)

    def check_room(self) -> Faulted | None:
        """Why no new deployment is taken, or None."""
        refusing = self.pressure.refusing
        if not refusing:
            return None
        name = refusing[0]
        reading = self.pressure.pressed[name].reading
        return Faulted(
            "overloaded",
            f"deploy later, or {_MEND[name]}: the kernel has {reading.percent:g} % of its limit in use for {name}",
            retry_after_s=RETRY_AFTER_S,
            resource=name,
        )

    async def _read(self) -> MachineState | None:
        try:
            state = await self._machine.read()
            self.measures = state is not None
            return state
        except OSError as error:
            self._core.telemetry.note("what the kernel uses cannot be read", error=str(error))
            return None

    async def _take(self, state: MachineState, lag_s: float) -> None:
        self.pressure, news = self.pressure.read(self._readings(state, lag_s), trio.current_time())
        for name in news:
            pressed = self.pressure.pressed[name]
            if pressed.level == "ok":
                continue
            reading = pressed.reading
            seen = RuntimePressureHigh(name, reading.value, reading.limit, reading.percent, pressed.level)
            self._core.telemetry.note(
                f"{name} is {pressed.level}: {reading.percent:g} % of what the kernel may use", value=reading.value
            )
            try:
                await self._core.loop.report(Submission(ReportPressure(seen)))
            except SoloError as error:
                self._core.telemetry.note(f"that {name} is {pressed.level} could not be recorded", error=str(error))

    def _readings(self, state: MachineState, lag_s: float) -> dict[str, Reading]:
        asked = self._limits.memory_mb * MEBIBYTE or math.inf
        return {
            "memory": Reading(state.rss_bytes, min(asked, state.rss_bytes + state.available_bytes)),
            "fds": Reading(state.fds, state.fds_limit),
            "threads": Reading(state.threads, min(state.threads_limit, THREADS_LIMIT)),
            "disk": Reading(state.free_disk_bytes, self._limits.free_disk_mb * MEBIBYTE, floor=True),
            "tasks": Reading(trio.lowlevel.current_statistics().tasks_living, TASKS_LIMIT),
            "loop_lag": Reading(round(lag_s * 1_000, 1), self._limits.lag_ms),
            "queue": Reading(self._core.loop.queued, QUEUE_SUBMISSIONS_MAX),
        }


_MEND: Final = {
    "memory": "delete services, or give the kernel more memory",
    "fds": "delete services, or raise the limit of open files (LimitNOFILE= of the unit)",
    "disk": "free space on the disk of the data directory",
}

__all__ = ["NoMachine", "PressureLimits", "PressureMonitor"]
