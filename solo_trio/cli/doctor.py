"""What `solo doctor` looks at. Owns: the checks, and what to do about each. Never: asks the machine (`machine` does)."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

from attrs import asdict, frozen

from solo_trio.cli import machine
from solo_trio.errors import SoloError

PYTHON_FIRST: Final = (3, 11)
PYTHON_LAST: Final = (3, 14)
FDS_WANTED: Final = 4_096
FDS_NEEDED: Final = 256
SPACE_WANTED_BYTES: Final = 1 << 30
SPACE_NEEDED_BYTES: Final = 64 << 20
FSYNC_WANTED_MS: Final = 25.0
CLOCK_FIRST_S: Final = 1_767_225_600
"""2026-01-01: no machine that runs this is older."""
CLOCK_AHEAD_S: Final = 60.0
REMOTE: Final = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "glusterfs", "afs", "lustre")
PASSING: Final = ("tmpfs", "ramfs")
ANSWER_S: Final = 5.0


@frozen
class Check:
    """One thing looked at."""

    name: str
    status: Literal["ok", "warn", "fail"]
    says: str
    advice: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def examine(data: Path | None) -> list[Check]:
    """Every check, in the order of a table; none raises."""
    configuration, directory = _configuration(data)
    sandbox = functools.cache(machine.sandbox)
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("sqlite", _sqlite),
        ("sandbox", lambda: _sandbox(sandbox())),
        ("namespaces", lambda: _layer(sandbox(), "namespaces", "of the kernel's, for every tenant")),
        ("landlock", lambda: _layer(sandbox(), "landlock", f"version {sandbox()['landlock']}")),
        ("seccomp", lambda: _layer(sandbox(), "seccomp", "filters can be set")),
        ("cgroups", _cgroups),
        ("open files", _open_files),
        ("data directory", lambda: _directory(directory)),
        ("file system", lambda: _file_system(directory)),
        ("free space", lambda: _free_space(directory)),
        ("fsync", lambda: _fsync(directory)),
        ("clock", lambda: _clock(directory)),
        ("server", lambda: _server(data)),
    ]
    return [configuration, *_each(checks)]


def _each(checks: list[tuple[str, Callable[[], Check]]]) -> Iterator[Check]:
    for name, look in checks:
        try:
            yield look()
        except (OSError, ValueError, ImportError) as error:
            yield Check(name, "warn", f"it cannot be told here: {error}")


def _configuration(data: Path | None) -> tuple[Check, Path]:
    from solo_trio.cli.configuring import configured

    try:
        found = configured(None, {"data": data})
    except SoloError as error:
        advice = "correct it; all that is wrong with a file: solo config check FILE"
        return Check("configuration", "fail", error.detail, advice), data or Path("data")
    says = "defaults, environment" if found.file is None else str(found.file)
    return Check("configuration", "ok", says), Path(found.serving.data_dir)


def _python() -> Check:
    version = sys.version_info[:2]
    says = ".".join(map(str, sys.version_info[:3]))
    if version < PYTHON_FIRST:
        return Check("python", "fail", says, "use Python 3.11 or newer")
    if version > PYTHON_LAST:
        return Check("python", "warn", says, "it is newer than those that Solo was tested with: take one of them")
    return Check("python", "ok", says)


def _sqlite() -> Check:
    from solo_trio.bootstrap import storage_library

    version, warning = storage_library()
    if warning is not None:
        return Check("sqlite", "warn", version, warning)
    return Check("sqlite", "ok", version)


def _sandbox(found: dict[str, Any]) -> Check:
    from solo_trio.bootstrap import LEVEL_FILTERED, LEVEL_FULL

    level = found["level"]
    if level >= LEVEL_FULL:
        return Check("sandbox", "ok", f"level {level}: all there is")
    if level == LEVEL_FILTERED:
        return Check("sandbox", "warn", f"level {level}: services are separated less", "see the layers below")
    advice = "see the layers below; or, if you trust the code: security.sandbox_level = 1"
    return Check("sandbox", "fail", f"level {level}: deployed code is not run", advice)


def _layer(found: dict[str, Any], name: str, says: str) -> Check:
    why = found["missing"].get(name)
    if why is None:
        return Check(name, "ok", says)
    what, _, remedy = why.partition("; ")
    return Check(name, "warn", what, remedy)


def _cgroups() -> Check:
    from solo_trio.bootstrap import control_groups

    found = control_groups()
    advice = "run it as a systemd unit with Delegate=yes; without, memory and processor are limited less exactly"
    if found.missing:
        why = "; ".join(sorted(set(found.missing.values())))
        return Check("cgroups", "warn", f"not for {', '.join(sorted(found.missing))}: {why}", advice)
    return Check("cgroups", "ok", f"version {found.version}: {', '.join(found.bases)}")


def _open_files() -> Check:
    soft, hard = machine.open_files()
    says = f"{soft} (could be {hard})" if soft < hard else str(soft)
    advice = f"raise it: ulimit -n {FDS_WANTED}, or LimitNOFILE= of the unit"
    if soft < FDS_NEEDED:
        return Check("open files", "fail", says, advice)
    return Check("open files", "warn" if soft < FDS_WANTED else "ok", says, advice if soft < FDS_WANTED else "")


def _directory(directory: Path) -> Check:
    if not directory.exists():
        place = machine.nearest(directory)
        if not machine.writable(place):
            says = f"{directory} is not there, and {place} cannot be written"
            return Check("data directory", "fail", says, "name another with --data, or correct the permissions")
        return Check("data directory", "ok", f"{directory} will be made", f"solo init {directory}")
    if not directory.is_dir() or not machine.writable(directory):
        advice = "name a directory of this user's with --data"
        return Check("data directory", "fail", f"{directory} is no directory that can be written", advice)
    if directory.stat().st_mode & 0o077:
        advice = f"tokens and keys are in it: chmod 700 {directory}"
        return Check("data directory", "warn", f"other users can look into {directory}", advice)
    return Check("data directory", "ok", str(directory))


def _file_system(directory: Path) -> Check:
    kind = machine.file_system(directory)
    if kind.startswith(REMOTE):
        advice = "use a disk of this machine: locks and shared memory may not work there, and the log with them"
        return Check("file system", "warn", kind, advice)
    if kind.startswith(PASSING):
        return Check("file system", "warn", kind, "it is gone when the machine restarts: use a disk")
    return Check("file system", "ok", kind)


def _free_space(directory: Path) -> Check:
    free = shutil.disk_usage(machine.nearest(directory)).free
    says = f"{free / (1 << 30):.1f} GiB"
    if free >= SPACE_WANTED_BYTES:
        return Check("free space", "ok", says)
    status: Literal["warn", "fail"] = "fail" if free < SPACE_NEEDED_BYTES else "warn"
    return Check("free space", status, says, "free disk space, or name another directory with --data")


def _fsync(directory: Path) -> Check:
    taken = machine.fsync_ms(machine.nearest(directory))
    says = f"{taken:.2f} ms"
    if taken > FSYNC_WANTED_MS:
        return Check("fsync", "warn", says, "every change waits so long: use a faster disk")
    return Check("fsync", "ok", says)


def _clock(directory: Path) -> Check:
    now = time.time()
    says = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    if now < CLOCK_FIRST_S:
        return Check("clock", "fail", says, "it is wrong: set it, and keep it right with chrony or systemd-timesyncd")
    database = directory / "kernel.db"
    if database.exists() and database.stat().st_mtime > now + CLOCK_AHEAD_S:
        advice = "the data was written later than now: set the clock, and keep it right"
        return Check("clock", "warn", says, advice)
    return Check("clock", "ok", says)


def _server(data: Path | None) -> Check:
    from solo_trio.cli.session import Place

    try:
        with Place(data, None, json=False).system() as client:
            client.timeout_s = ANSWER_S
            answer = client.health()
            ready = client.ready()
    except SoloError as error:
        return Check("server", "warn", error.detail)
    if answer["status"] != "ok":
        wrong = ", ".join(f"{name} {state}" for name, state in answer["components"].items() if state != "ok")
        return Check("server", "fail", f"{client.url}: {wrong}", "look at what it says on standard error")
    return Check("server", "ok", client.url + ("" if ready else ", recovering"))
