"""Which SQLite. Owns: the one driver of this package, what its errors mean. Never: opens anything.

sqlite-utils takes pysqlite3 when it is there (it bundles a current SQLite) and the interpreter's sqlite3 otherwise. The
driver is taken from sqlite-utils, so that two SQLite libraries can never meet on one file: they would drop each
other's locks. `tests/journal/test_journal_library.py` holds this.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Literal

from solo_trio.errors import Faulted, JournalFailed, SoloError, StorageFull

if TYPE_CHECKING:
    import sqlite3 as driver
else:
    from sqlite_utils.utils import sqlite3 as driver

__all__ = ["READ_ERRORS", "RESTORE", "at_open", "damaged", "driver", "means", "no_space", "warning_for"]

WAL_RESET_FLAW_FIRST: Final = (3, 7, 0)
WAL_RESET_FLAW_LAST: Final = (3, 51, 2)

SQLITE_ERROR: Final = 1
"""Of our statements only for a missing table or column."""
SQLITE_CORRUPT: Final = 11
SQLITE_FULL: Final = 13
SQLITE_CANTOPEN: Final = 14
SQLITE_NOTADB: Final = 26
SQLITE_READONLY: Final = 8
SQLITE_PERM: Final = 3
PRIMARY_CODE_MASK: Final = 0xFF

RESTORE: Final = (
    "restore the whole directory from a backup, or see what can be saved with: solo repair;"
    " do not delete or edit single files of it"
)

READ_ERRORS: Final = (driver.Error, UnicodeDecodeError)
"""Of reading what may be damaged: where SQLite's own message quotes a damaged name, the driver cannot decode it."""

Meaning = Literal["full", "damaged", "unwritable", "other"]


def warning_for(version: tuple[int, int, int]) -> str | None:
    """What to tell the operator about this version of SQLite, or None. Source: sqlite.org/wal.html, "the WAL-reset bug"."""
    if not WAL_RESET_FLAW_FIRST <= version <= WAL_RESET_FLAW_LAST:
        return None
    return (
        f"SQLite {'.'.join(map(str, version))} can corrupt a database when its log is reset (fixed in 3.51.3): "
        "install pysqlite3, or a Python with a newer SQLite"
    )


def means(error: BaseException) -> Meaning:
    """Sort an error of the driver or the operating system."""
    if isinstance(error, OSError):
        if no_space(error):
            return "full"
        return "unwritable" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "other"
    if isinstance(error, UnicodeDecodeError):
        return "damaged"
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # The driver's own complaint about a cell, e.g. text that is not UTF-8.
        return "damaged" if isinstance(error, driver.OperationalError) and "decode" in str(error) else "other"
    code &= PRIMARY_CODE_MASK
    if code == SQLITE_FULL:
        return "full"
    if code in (SQLITE_ERROR, SQLITE_CORRUPT, SQLITE_NOTADB):
        return "damaged"
    if code in (SQLITE_CANTOPEN, SQLITE_READONLY, SQLITE_PERM):
        return "unwritable"
    return "other"


def no_space(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def damaged(what: str) -> Faulted:
    return Faulted("data_damaged", f"{what}; {RESTORE}")


def at_open(error: Exception, directory: object) -> SoloError:
    """The refusal that an error means while the directory is being opened or read."""
    match means(error):
        case "full":
            return StorageFull(f"no space to open {directory}: free disk space")
        case "damaged":
            return damaged(f"the database in {directory} is damaged ({error})")
        case "unwritable":
            return Faulted(
                "data_unwritable", f"{directory} cannot be written ({error}): correct its owner or permissions"
            )
        case _:
            return JournalFailed(f"{directory} cannot be used ({error}): check the disk, then start again")
