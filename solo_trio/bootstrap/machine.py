"""The process and the machine. Owns: what a kernel does to its own process, what `solo doctor` asks. Never: services."""

from __future__ import annotations

import os
import resource

from solo_trio.journal.library import driver, warning_for
from solo_trio.runtimes.cgroups import Cgroups, Hierarchies
from solo_trio.runtimes.cgroups import find as find_cgroups
from solo_trio.runtimes.sandbox.system import PR_SET_DUMPABLE, prctl


def harden_process() -> None:
    """Keys are in the memory of this process: no core file of it, and no other process of its user may look into it.

    For a process that is a kernel and nothing else; services are started with their own limits.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_DUMPABLE, 0)


def control_groups() -> Hierarchies:
    """Which cgroup controllers a kernel of this process would have for its services. Nothing is left of finding out."""
    found = find_cgroups(f"doctor-{os.getpid()}")
    Cgroups(found).remove()
    return found


def storage_library() -> tuple[str, str | None]:
    """The version of SQLite that would be used, and what the operator must be told about it, if anything."""
    return driver.sqlite_version, warning_for(driver.sqlite_version_info)
