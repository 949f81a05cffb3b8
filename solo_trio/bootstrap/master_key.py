"""The master key of a data directory. Owns: which one holds, also after an interrupted rotation. Never: what it wraps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from solo_trio.bootstrap.directory import DATABASE_FILE, RESTORING_FILE
from solo_trio.errors import Faulted, Rejected
from solo_trio.journal.lock import DataLock, sync_directory
from solo_trio.journal.rotation import change_over
from solo_trio.journal.rotation import settle as settle_keys
from solo_trio.model.record import KeyRow
from solo_trio.vault.keys import MASTER_KEY_VARIABLE, MasterKey
from solo_trio.vault.secret import Secret
from solo_trio.vault.vault import rewrapped

MASTER_KEY_FILE: Final = "master.key"
NEW_MASTER_KEY_FILE: Final = "master.key.new"
"""While the master key is being rotated."""


def master_key_of(data: Path, command: Sequence[str] = (), *, create: bool = True, settle: bool = True) -> MasterKey:
    """The master key that holds. A rotation that was interrupted is brought to an end, or refused without `settle`."""
    path = data / MASTER_KEY_FILE
    if (data / RESTORING_FILE).exists():
        raise Faulted(
            "data_damaged", f"a restore into {data} did not come to its end: do the same solo restore once more"
        )
    if _is_elsewhere(command):
        return MasterKey.load_or_create(path, command=command)
    if not create and not path.exists():
        raise Faulted("data_damaged", f"{path} is missing: restore it, or set {MASTER_KEY_VARIABLE}")
    if not path.exists() and (data / DATABASE_FILE).exists():
        raise Faulted(
            "data_damaged", f"{path} is missing, but there is a database made with it: restore it, and start again"
        )
    if settle:
        for unused in data.glob(f".{MASTER_KEY_FILE}*"):  # what a process was killed over, before it had its name
            unused.unlink()
    master = MasterKey.load_or_create(path)
    if not (data / NEW_MASTER_KEY_FILE).exists():
        return master
    if not settle:
        raise Faulted(
            "data_damaged",
            "a rotation of the master key was interrupted: start the kernel, or run solo keys rotate again",
        )
    return _settled(data, master)


def _is_elsewhere(command: Sequence[str]) -> bool:
    """Whether the master key comes from outside of the data directory."""
    return MASTER_KEY_VARIABLE in os.environ or bool(command)


def _settled(data: Path, old: MasterKey) -> MasterKey:
    """After a rotation that was interrupted: the key that holds, in its file."""
    new = MasterKey.read(data / NEW_MASTER_KEY_FILE)
    if not settle_keys(data, old.derive("witness"), new.derive("witness"), partial(_are_of, new)):
        (data / NEW_MASTER_KEY_FILE).unlink()
        sync_directory(data)
        return old
    _put_new_key(data)
    return new


def _are_of(master: MasterKey, rows: Sequence[KeyRow]) -> bool:
    found = {master.wraps(row.wrapped) for row in rows}
    if len(found) > 1:
        raise Faulted("data_damaged", "some stored keys are of another master key: restore the directory from a backup")
    return found == {True}


def _put_new_key(data: Path) -> None:
    try:
        (data / NEW_MASTER_KEY_FILE).replace(data / MASTER_KEY_FILE)
        sync_directory(data)
    except OSError as error:
        raise Faulted("data_unwritable", f"{data / MASTER_KEY_FILE} cannot be written: {error.strerror}") from error


def rotate_master_key(data: Path, new_key_file: Path | None = None, key_command: Sequence[str] = ()) -> int:
    """Put another master key in the place of the one of a data directory that no kernel uses; how many keys it wraps.

    `new_key_file`: the new one, as 64 hex digits; without it one is made. It must be given where the old one comes from
    a variable or a command, which the operator then changes. Interrupted anywhere, the directory opens as before or as after
    it; where the key comes from elsewhere, the same call brings it to an end. Raises `SoloError`.
    """
    data = data.absolute()
    if not (data / DATABASE_FILE).exists():
        raise Faulted("data_unwritable", f"{data} is no data directory: name the one that the kernel used")
    with DataLock(data):
        old = master_key_of(data, key_command, create=False)
        elsewhere = _is_elsewhere(key_command)
        if elsewhere and new_key_file is None:
            raise Rejected(
                "invalid_field",
                "name a file with the new key: the old one comes from elsewhere, where you will put the new one",
            )
        given = None if new_key_file is None else MasterKey.read(new_key_file)
        if given is not None and given.wraps(old.wrap(Secret(b""), b"")):
            raise Rejected("invalid_field", "the new master key is the one that is used already")
        if elsewhere:
            assert given is not None
            new = given
            if settle_keys(data, old.derive("witness"), new.derive("witness"), partial(_are_of, new)):
                return 0  # it was interrupted after the keys were wrapped anew
        else:
            new = MasterKey.create(data / NEW_MASTER_KEY_FILE, given)
        count = change_over(data, old.derive("witness"), new.derive("witness"), lambda row: rewrapped(row, old, new))
        if not elsewhere:
            _put_new_key(data)
        return count
