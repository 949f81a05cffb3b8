"""This machine asked. Owns: what Linux says of itself and of a directory. Never: judges it."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from attrs import frozen

CHILD_S: Final = 10.0
FSYNC_TIMES: Final = 11
FSYNC_S_MAX: Final = 5.0
FSYNC_BYTES: Final = 4_096


def sandbox() -> dict[str, Any]:
    """What protects services here, tried in another process: `level`, each layer, `missing` with why. Raises `OSError`."""
    command = [sys.executable, "-m", "solo_trio.runtimes.sandbox"]
    try:
        # It finds packages where this process did, whatever that was told.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run(command, capture_output=True, timeout=CHILD_S, check=True, env=environment)
        found = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise OSError(f"the attempt ended badly: {error}") from error
    assert isinstance(found, dict)
    return found


def open_files() -> tuple[int, int]:
    """How many descriptors a process may have now, and at the most."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def nearest(path: Path) -> Path:
    """The path itself, or what there is above it."""
    path = path.absolute()
    return next((each for each in (path, *path.parents) if each.exists()), Path("/"))


def writable(path: Path) -> bool:
    return os.access(path, os.W_OK | os.X_OK)


def file_system(path: Path) -> str:
    """The kind of file system that a path is on, or would be."""
    place = nearest(path).resolve()
    above = [each for each in _mounts() if place.is_relative_to(each.path)]
    return max(above, key=lambda each: len(each.path.parts)).kind if above else "unknown"


@frozen
class _Mount:
    path: Path
    kind: str


def _mounts() -> list[_Mount]:
    """The newest first: of two on one path the later covers the earlier."""
    found = []
    for line in reversed(Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()):
        before, _, after = line.partition(" - ")
        if len(before.split()) > 4 and after:
            path = before.split()[4].encode("latin-1", "replace").decode("unicode_escape")
            found.append(_Mount(Path(path), after.split()[0]))
    return found


def fsync_ms(directory: Path) -> float:
    """How long it takes until a small write is on disk, as a rule."""
    taken: list[float] = []
    block = os.urandom(FSYNC_BYTES)
    began = time.monotonic()
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".solo-doctor-") as file:
        while len(taken) < FSYNC_TIMES and time.monotonic() - began < FSYNC_S_MAX:
            before = time.perf_counter()
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - before)
    return statistics.median(taken) * 1_000
