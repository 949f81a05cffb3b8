"""When a service uses more than it may. Owns: soft and hard crossings of its limits. Never: measures, kills.

Soft is `SOFT` of a limit, and is told. At the limit itself the action of `ACTIONS` follows; a limit without one is enforced
where the resource is taken (an allocation, an `open` fails), so that there too only telling is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from attrs import evolve, field, frozen

from solo_trio.policy.bucket import Bucket
from solo_trio.policy.pressure import Gauge, talk

SOFT: Final = 0.8
MARKS: Final = (SOFT, 1.0)
HARD: Final = len(MARKS)
CPU_WINDOW_S: Final = 10.0
"""`cpu_percent` is the mean over so long: a busy second is no violation."""
CPU_WINDOW_SAMPLES_MAX: Final = 12
FULL_CPU: Final = 0.95
"""A service that is held to its share of the processor shows a little less than that."""

Action = Literal["warn", "kill", "throttle"]
ACTIONS: Final[Mapping[str, Action]] = {"memory_mb": "kill", "cpu_seconds": "kill"}
"""What follows at the limit; `cpu_percent` is throttled by the runtime, where it can."""
MEBIBYTE: Final = 1_048_576


@frozen
class Crossing:
    """In the unit of the limit `resource`."""

    resource: str
    value: float
    limit: float
    action: Action


@frozen
class CpuWindow:
    """(time, processor seconds) of the last samples, ascending."""

    samples: tuple[tuple[float, float], ...] = ()

    def add(self, at: float, cpu_s: float) -> CpuWindow:
        """A sample that contradicts the last one (time or use went back) begins a new window."""
        if self.samples and (at <= self.samples[-1][0] or cpu_s < self.samples[-1][1]):
            return CpuWindow(((at, cpu_s),))
        kept = [each for each in self.samples if each[0] >= at - CPU_WINDOW_S]
        return CpuWindow((*kept, (at, cpu_s))[-CPU_WINDOW_SAMPLES_MAX:])

    @property
    def percent(self) -> float:
        """100 is one processor; 0 before there are two samples."""
        if len(self.samples) < 2:
            return 0.0
        (began, first), (ended, last) = self.samples[0], self.samples[-1]
        return 100 * (last - first) / (ended - began)

    @property
    def full(self) -> bool:
        """Whether it says something: a start is busy, and no violation of a share."""
        return len(self.samples) > 1 and self.samples[-1][0] - self.samples[0][0] >= CPU_WINDOW_S * 0.9


@frozen
class Watched:
    """What is remembered of one generation of one service between two samples."""

    bucket: Bucket
    gauges: Mapping[str, Gauge] = field(factory=dict)
    cpu: CpuWindow = field(factory=CpuWindow)
    throttled_s: float = 0.0

    @classmethod
    def since(cls, at: float) -> Watched:
        return cls(talk(at))

    def step(
        self, usage: Mapping[str, float], limits: Mapping[str, float], at: float
    ) -> tuple[Watched, tuple[Crossing, ...]]:
        """After a sample at the time `at` (seconds), and which limits it crossed.

        usage: `memory_bytes cpu_s threads fds throttled_s`, each if it is known. Whatever kills comes first, and is never held
        back.
        """
        cpu = self.cpu.add(at, usage["cpu_s"]) if "cpu_s" in usage else self.cpu
        throttled_s = usage.get("throttled_s", self.throttled_s)
        throttled = throttled_s > self.throttled_s
        gauges, crossings, bucket = dict(self.gauges), [], self.bucket
        for resource, value in _values(usage, cpu).items():
            limit = limits.get(resource)
            if limit is None or limit <= 0:
                gauges.pop(resource, None)
                continue
            share = value / limit
            if resource == "cpu_percent" and throttled and share >= FULL_CPU:
                share = max(share, 1.0)
            gauge = self.gauges.get(resource, Gauge()).read(share, MARKS)
            action = _action(resource, hard=gauge.level == HARD, throttled=throttled)
            if gauge.news:
                granted = action == "kill"
                if not granted:
                    bucket, granted = bucket.take(1, at)
                if granted:
                    gauge = gauge.tell()
                    crossings.append(Crossing(resource, round(value, 3), limit, action))
            gauges[resource] = gauge
        crossings.sort(key=lambda crossing: crossing.action != "kill")
        return evolve(self, bucket=bucket, gauges=gauges, cpu=cpu, throttled_s=throttled_s), tuple(crossings)


def _action(resource: str, *, hard: bool, throttled: bool) -> Action:
    if not hard:
        return "warn"
    if resource == "cpu_percent":
        return "throttle" if throttled else "warn"
    return ACTIONS.get(resource, "warn")


def _values(usage: Mapping[str, float], cpu: CpuWindow) -> dict[str, float]:
    """What is used, in the units of the limits."""
    values = {name: usage[name] for name in ("threads", "fds") if name in usage}
    if "memory_bytes" in usage:
        values["memory_mb"] = usage["memory_bytes"] / MEBIBYTE
    if "cpu_s" in usage:
        values["cpu_seconds"] = usage["cpu_s"]
    if cpu.full:
        values["cpu_percent"] = cpu.percent
    return values
