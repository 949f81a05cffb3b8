"""cgroups. Owns: where this kernel's are, one for each service, what they count. Never: puts a process into one (children do).

`<own>/solo-<name>/<incarnation>/<number>`, in each hierarchy that can be written: tenants share a processor evenly however many
services they have. Version 1 has a hierarchy for each controller, version 2 one for all. Removed by whoever is last: the kernel
when a service has ended, or the tenant's keeper when the kernel is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

CONTROLLERS: Final = ("memory", "pids", "cpu")
PERIOD_US: Final = 100_000
"""Of the processor's quota."""
QUOTA_US_LEAST: Final = 1_000
THREADS_DEFAULT: Final = 64
MAKE_TIMES: Final = 3
_ENTRANCES: Final = {1: "tasks", 2: "cgroup.procs"}
"""What a fresh child writes 0 to. A thread that moves itself takes no lock of the whole machine, a process waits for one: 5 to
20 ms (`cgroup_procs_write_start` in Linux). Version 2 lets no single thread into a cgroup that counts memory."""
_MEBIBYTE: Final = 1024 * 1024
_KERNEL_LEAF: Final = "solo-kernel"


def _memory(value: float) -> str:
    return str(int(value * _MEBIBYTE))


def _quota(percent: float) -> str:
    return str(max(QUOTA_US_LEAST, int(percent / 100 * PERIOD_US)))


_FILES_1: Final[dict[str, tuple[str, str, Callable[[float], str]]]] = {
    "memory_mb": ("memory", "memory.limit_in_bytes", _memory),
    "threads": ("pids", "pids.max", lambda value: str(int(value))),
    "cpu_percent": ("cpu", "cpu.cfs_quota_us", _quota),
}
_FILES_2: Final[dict[str, tuple[str, str, Callable[[float], str]]]] = {
    "memory_mb": ("memory", "memory.max", _memory),
    "threads": ("pids", "pids.max", lambda value: str(int(value))),
    "cpu_percent": ("cpu", "cpu.max", lambda value: f"{_quota(value)} {PERIOD_US}"),
}


@frozen
class Hierarchies:
    """Where the directory of this kernel is for each controller; `version` 1 or 2; `missing`: why a controller is not there."""

    version: int
    bases: Mapping[str, Path]
    missing: Mapping[str, str] = field(factory=dict)

    @property
    def places(self) -> list[Path]:
        return list(dict.fromkeys(self.bases.values()))


def find(name: str, proc: Path = Path("/proc/self")) -> Hierarchies:
    """Where the kernel `name` can have directories: tried, and nothing is left there. Never raises."""
    try:
        mounts, own = _mounts(proc), _own(proc)
    except (OSError, ValueError) as error:
        return Hierarchies(1, {}, dict.fromkeys(CONTROLLERS, f"{proc} cannot be read: {error}"))
    bases: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for controller in CONTROLLERS:
        if controller not in mounts or controller not in own:
            continue
        base = _below(mounts[controller], own[controller]) / f"solo-{name}"
        try:
            _try_to_make(base)
            bases[controller] = base
        except OSError as error:
            missing[controller] = f"{base.parent} cannot be written: {error.strerror}"
    if bases:
        rest = {each: "it is not mounted" for each in CONTROLLERS if each not in bases and each not in missing}
        return Hierarchies(1, bases, missing | rest)
    if "" in mounts and "" in own:
        return _find_2(_below(mounts[""], own[""]), name)
    return Hierarchies(1, {}, missing or dict.fromkeys(CONTROLLERS, "no cgroup file system is mounted"))


def _find_2(own: Path, name: str) -> Hierarchies:
    if own.name == _KERNEL_LEAF:  # where an earlier one of this process's stepped aside to
        own = own.parent
    try:
        offered = set((own / "cgroup.controllers").read_text().split())
        wanted = [each for each in CONTROLLERS if each in offered]
        if not wanted:
            return Hierarchies(2, {}, dict.fromkeys(CONTROLLERS, "it is not delegated to this kernel's cgroup"))
        base = own / f"solo-{name}"
        _try_to_make(base)
        try:
            _enable(own, wanted)
        except OSError:  # a cgroup with processes of its own cannot have controlled children: the kernel steps aside
            leaf = own / _KERNEL_LEAF
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(os.getpid()))
            _enable(own, wanted)
    except OSError as error:
        why = f"{own}: {error.strerror}; start the kernel in a cgroup of its own (systemd: Delegate=yes)"
        return Hierarchies(2, {}, dict.fromkeys(CONTROLLERS, why))
    missing = {each: "it is not delegated to this kernel's cgroup" for each in CONTROLLERS if each not in wanted}
    return Hierarchies(2, dict.fromkeys(wanted, base), missing)


def _try_to_make(base: Path) -> None:
    base.mkdir(exist_ok=True)
    _remove(base)  # only if there is nothing in it


def _enable(group: Path, controllers: Sequence[str]) -> None:
    (group / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in controllers))


def _mounts(proc: Path) -> dict[str, tuple[Path, str]]:
    """controller -> where it is mounted, and which of its directories is; "" is version 2."""
    found: dict[str, tuple[Path, str]] = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        root, where = before.split()[3:5]
        if kind == "cgroup2":
            found.setdefault("", (Path(where), root))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, (Path(where), root))
    return found


def _own(proc: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _below(mounted: tuple[Path, str], path: str) -> Path:
    where, root = mounted
    inside = path[len(root.rstrip("/")) :] if path.startswith(root.rstrip("/")) else path
    return where / inside.strip("/")


class Cgroups:
    """Those of one kernel."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        self._hierarchies = hierarchies
        self._numbers = itertools.count(1)

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(self._hierarchies.bases)

    def tenant(self, incarnation: str) -> list[str]:
        """Make a tenant's directories; those that the keeper has to remove."""
        made = []
        for base in self._hierarchies.places:
            group = base / incarnation
            controllers = [name for name, path in self._hierarchies.bases.items() if path == base]
            for _ in range(MAKE_TIMES):  # a keeper that ends removes the directory above as soon as it is empty
                with contextlib.suppress(OSError):
                    self._make(base, group, controllers)
                    made.append(str(group))
                    break
        return made

    def _make(self, base: Path, group: Path, controllers: list[str]) -> None:
        base.mkdir(exist_ok=True)
        if self._hierarchies.version == 2:
            _enable(base, controllers)
        group.mkdir(exist_ok=True)
        if self._hierarchies.version == 2:
            _enable(group, controllers)

    def service(self, incarnation: str, limits: Mapping[str, float]) -> Group:
        """A new one. Controllers that fail are left out: rlimits are there all the same."""
        name = str(next(self._numbers))
        paths: dict[str, str] = {}
        for controller, base in self._hierarchies.bases.items():
            path = f"{base}/{incarnation}/{name}"
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path)
                paths[controller] = path
            except OSError:
                continue
        group = Group(self._hierarchies.version, paths)
        group.adjust({"threads": THREADS_DEFAULT, **limits})
        return group

    def remove(self) -> None:
        """When nothing runs any more."""
        for base in self._hierarchies.places:
            with contextlib.suppress(OSError):
                for tenant in base.iterdir():
                    if tenant.is_dir():
                        for service in tenant.iterdir():
                            if service.is_dir():
                                _remove(service)
                        _remove(tenant)
            _remove(base)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


@define
class Group:
    """The cgroup of one service, a directory in each hierarchy.

    Paths are texts: as `Path`s they would take a tenth of what the kernel has to do for a start.
    """

    version: int
    paths: Mapping[str, str]

    def open(self) -> list[int]:
        """Descriptors through which the child enters; the caller closes them."""
        found: list[int] = []
        for path in dict.fromkeys(self.paths.values()):
            with contextlib.suppress(OSError):
                found.append(os.open(f"{path}/{_ENTRANCES[self.version]}", os.O_WRONLY | os.O_CLOEXEC))
        return found

    def adjust(self, limits: Mapping[str, float]) -> frozenset[str]:
        """Set what can be set; the names of what was."""
        done = set()
        files = _FILES_1 if self.version == 1 else _FILES_2
        for name, value in limits.items():
            controller, file, text = files.get(name, ("", "", str))
            if controller in self.paths:
                with contextlib.suppress(OSError):
                    _write(f"{self.paths[controller]}/{file}", text(value))
                    done.add(name)
        return frozenset(done)

    def ran_out_of_memory(self) -> bool:
        """Whether a process of it was killed for that."""
        path = self.paths.get("memory")
        if path is None:
            return False
        file = Path(path) / ("memory.oom_control" if self.version == 1 else "memory.events")
        with contextlib.suppress(OSError, ValueError):
            for line in file.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count) > 0
        return False

    def throttled_s(self) -> float | None:
        """How long its share of the processor held it back; None: nobody does."""
        path = self.paths.get("cpu")
        if path is None:
            return None
        unit, per_s = ("throttled_time", 1e9) if self.version == 1 else ("throttled_usec", 1e6)
        with contextlib.suppress(OSError, ValueError):
            for line in Path(path, "cpu.stat").read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == unit:
                    return int(count) / per_s
        return None

    def close(self) -> None:
        """Remove it; nothing may be in it. What stays is the keeper's."""
        for path in dict.fromkeys(self.paths.values()):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _write(file: str, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
