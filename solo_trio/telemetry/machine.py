"""What the kernel's process uses of the machine. Owns: reading that, and the machine's own limits. Never: judges it."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from solo_trio.ports import MachineState

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_AVAILABLE: Final = re.compile(rb"^MemAvailable:\s*(\d+) kB", re.MULTILINE)
GROUPS_ROOT: Final = Path("/sys/fs/cgroup")
OWN_GROUPS: Final = Path("/proc/self/cgroup")
UNLIMITED: Final = 1 << 60
"""A limit as high as this is none (cgroup v1 says so with a number)."""


@frozen
class OwnProcess:
    """Implements `ports.Machine` from /proc, the control groups and the file system of `data`."""

    data: Path

    async def read(self) -> MachineState:
        """In a thread: a file system may be slow to answer."""
        return await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)

    def _read(self) -> MachineState:
        disk = os.statvfs(self.data)
        fds_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        available = [found for found in (_machine_available(), group_available()) if found is not None]
        return MachineState(
            rss_bytes=int(_text("/proc/self/statm").split()[1]) * _PAGE_BYTES,
            available_bytes=min(available, default=UNLIMITED),
            fds=len(os.listdir("/proc/self/fd")),
            fds_limit=0 if fds_limit == resource.RLIM_INFINITY else fds_limit,
            threads=len(os.listdir("/proc/self/task")),
            threads_limit=threads_limit(),
            free_disk_bytes=disk.f_bavail * disk.f_frsize,
        )


def _machine_available() -> int | None:
    found = _AVAILABLE.search(_text("/proc/meminfo"))
    return None if found is None else int(found[1]) * 1_024


def group_available() -> int | None:
    """What the process's memory control group may still take; what it can give back by itself does not count as taken."""
    group, version = _group("memory")
    if group is None:
        return None
    groups = [each for each in (group, *group.parents) if each.is_relative_to(GROUPS_ROOT)]  # the limit may be above it
    found = [free for each in groups if (free := _free_in(each, version)) is not None]
    return min(found, default=None)


def _free_in(group: Path, version: int) -> int | None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = (_number(group / name) for name in names)
    if limit is None or used is None or limit >= UNLIMITED:
        return None
    file_pages = re.search(rb"^(?:total_)?inactive_file (\d+)", _text(group / "memory.stat"), re.MULTILINE)
    return max(0, limit - used + (int(file_pages[1]) if file_pages else 0))


def threads_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    group, _ = _group("pids")
    of_group = None if group is None else _number(group / "pids.max")
    limits = [UNLIMITED if soft == resource.RLIM_INFINITY else soft, UNLIMITED if of_group is None else of_group]
    return min(limits)


def _group(controller: str) -> tuple[Path | None, int]:
    """The directory of this process's control group that has `controller`, and the version of control groups."""
    lines = [line.split(":", 2) for line in _text(OWN_GROUPS).decode("utf-8", "replace").splitlines()]
    for _, names, path in lines:
        if controller in names.split(","):
            return _there(GROUPS_ROOT / controller, path), 1
    for number, _, path in lines:
        if number == "0":
            return _there(GROUPS_ROOT, path), 2
    return None, 2


def _there(root: Path, path: str) -> Path | None:
    """In a container the path may be one of the host's: then the root is what is ours."""
    for each in (root / path.lstrip("/"), root):
        if each.is_dir():
            return each
    return None


def _number(path: Path) -> int | None:
    """None also for `max`."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
