"""The analyser at a deployment. Owns: where a source is looked at, and for how long. Never: a rule, what becomes of a finding.

Reading source holds up the whole process it is done in, for milliseconds up to seconds, and takes a thousand times the
source's memory. So only a short one is read here; any other in a process of its own, with limits, which ends with its answer.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import Final

import attr
import trio

import solo_trio
from solo_trio.hardening import Finding, analyse, not_analysed
from solo_trio.operations import findings_child

HERE_BYTES_MAX: Final = 4_096
"""What is read within 20 ms, by the kernel itself."""
KNOWN_SOURCES_MAX: Final = 64
"""Short sources whose findings are remembered: the same one is often deployed many times."""
PROCESSES_MAX: Final = 2
WAIT_S_MAX: Final = 30.0
"""For one of the processes, and for its answer."""

_processes: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("solo_trio.operations.findings")


async def findings_of(source: bytes, format: str) -> tuple[Finding, ...]:
    """What the rules say about what is to be deployed. Never raises; what cannot be looked at is a finding."""
    if format == "python_source" and len(source) <= HERE_BYTES_MAX:
        await trio.lowlevel.checkpoint()
        return _short(source)
    with trio.move_on_after(WAIT_S_MAX):
        async with _limiter():
            return await _apart(source, format)
    return tuple(not_analysed("too many others are waiting"))


@functools.lru_cache(KNOWN_SOURCES_MAX)
def _short(source: bytes) -> tuple[Finding, ...]:
    return tuple(analyse(source))


def _limiter() -> trio.CapacityLimiter:
    """One for each run of Trio: kernels in one process share the machine."""
    try:
        return _processes.get()
    except LookupError:
        _processes.set(trio.CapacityLimiter(PROCESSES_MAX))
        return _processes.get()


def _command(format: str) -> list[str]:
    """As a zygote is started: the kernel's own package, and its dependencies from where they are, whatever is installed."""
    paths = [os.path.dirname(os.path.dirname(os.path.abspath(attr.__file__)))]
    package = os.path.dirname(os.path.abspath(solo_trio.__file__))
    asked = json.dumps({"package": package, "paths": paths, "format": format})
    return [sys.executable, "-I", "-B", os.path.abspath(findings_child.__file__), asked]


async def _apart(source: bytes, format: str) -> tuple[Finding, ...]:
    try:
        ran = await trio.run_process(
            _command(format),
            stdin=source,
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
            env={},
            cwd="/",
            start_new_session=True,
        )
        return tuple(Finding(**each) for each in json.loads(ran.stdout))
    except OSError as error:
        return tuple(not_analysed(f"no process can be started ({error.strerror})"))
    except ValueError:  # it said nothing: it was ended by one of its limits
        return tuple(not_analysed("it takes too long, or too much memory"))
