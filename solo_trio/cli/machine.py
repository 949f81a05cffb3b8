"""This machine asked. Owns: what Linux says of itself and of a directory. Never: judges it."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from attrs import frozen

LANDLOCK_CREATE_RULESET: Final = 444
"""The number of the system call, the same on every architecture."""
LANDLOCK_VERSION: Final = 1
PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_FILTER: Final = 2
CLONE_NEWUSER: Final = 0x10000000
CHILD_S: Final = 10.0
FSYNC_TIMES: Final = 11
FSYNC_S_MAX: Final = 5.0
FSYNC_BYTES: Final = 4_096


def landlock_version() -> int:
    """Of its interface; 0 or less where there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION))


def seccomp_filters() -> bool:
    """Whether a filter could be set: without one the answer is that its address is wrong."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, None, 0, 0)
    return ctypes.get_errno() == errno.EFAULT


def can_unshare_user() -> bool:
    """Whether a process may make a user namespace of its own; another process tries it."""
    code = f"import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare({CLONE_NEWUSER}) != 0)"
    command = [sys.executable, "-I", "-S", "-c", code]
    try:
        return subprocess.run(command, capture_output=True, timeout=CHILD_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@frozen
class Cgroup:
    """This process's own, of version 2."""

    path: Path
    controllers: frozenset[str]
    writable: bool


def own_cgroup() -> Cgroup | None:
    mounts = [each for each in _mounts() if each.kind == "cgroup2"]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if not mounts or not own:
        return None
    path = mounts[0].path / own[0].lstrip("/")
    if not path.is_dir():
        path = mounts[0].path
    controllers = frozenset((path / "cgroup.controllers").read_text().split())
    return Cgroup(path, controllers, os.access(path, os.W_OK) and os.access(path / "cgroup.procs", os.W_OK))


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
