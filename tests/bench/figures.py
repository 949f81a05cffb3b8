"""What is printed. Owns: ratios to the floor, percentiles. Never: measures.

Absolute times tell about the machine and who else uses it; ratios within one run tell about us. So ratios come first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def seconds(value: float) -> str:
    """In the unit that reads best."""
    for factor, unit in ((1.0, "s "), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1:
            return f"{value * factor:6.4g} {unit}"
    return f"{value * 1e6:6.2f} us"


def heading(text: str) -> None:
    print(f"\n{text}", flush=True)


def rounds(name: str, ours: Sequence[float], floor: Sequence[float]) -> None:
    """Ours beside the floor of the same round: the median ratio and the best one."""
    ratios = [mine / least for mine, least in zip(ours, floor, strict=True)]
    print(
        f"  {name:<44} {median(ratios):6.3g} x floor (best {min(ratios):6.3g})   {seconds(median(ours))}"
        f"   floor {seconds(median(floor))}   {len(ratios)} rounds",
        flush=True,
    )


def spread(name: str, ours: Sequence[float], floors: dict[str, Sequence[float]]) -> None:
    """The 50th and 99th percentile, in multiples of each floor's median."""
    p50, p99 = percentile(ours, 50), percentile(ours, 99)
    ratios = ", ".join(
        f"{p50 / median(floor):6.3g} / {p99 / median(floor):6.3g} x {what}" for what, floor in floors.items()
    )
    print(f"  {name:<36} p50 / p99: {ratios}   {seconds(p50)} / {seconds(p99)}   n={len(ours)}", flush=True)
