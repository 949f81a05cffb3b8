"""A data directory. Owns: what is where in it. Never: opens a database."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from solo_trio.errors import Faulted
from solo_trio.journal.lock import DataLock
from solo_trio.runtimes.environments import DIRECTORY as ENVIRONMENTS_DIRECTORY
from solo_trio.runtimes.environments import Environments
from solo_trio.runtimes.tenant_files import TenantFiles

DATABASE_FILE: Final = "kernel.db"
LOCKS_DIRECTORY: Final = "tenants"
LOGS_DIRECTORY: Final = "logs"
RESTORING_FILE: Final = "kernel.restoring"
"""There while a backup is being restored into the directory: what lies beside it is not whole yet."""
TAKE_OVER_TIMEOUT_S: Final = 10.0


def environments_of(data: Path) -> Environments:
    """The environments of the data directory `data`, which need not exist."""
    return Environments(data / ENVIRONMENTS_DIRECTORY)


def tenant_files(data: Path) -> TenantFiles:
    """What the data directory `data` has of each tenant."""
    return TenantFiles(data, (LOCKS_DIRECTORY, LOGS_DIRECTORY))


def make_directory(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Faulted("data_unwritable", f"{path} must be a directory that can be written: {error.strerror}") from error
    return path


def check_unused(data: Path) -> None:
    """Raises `Faulted("data_in_use")` if another kernel uses `data`; a directory that is not there is not made."""
    if data.is_dir():
        with DataLock(data):
            pass
