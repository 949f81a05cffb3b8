from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from journal_samples import child

from solo_trio.errors import Faulted
from solo_trio.journal.lock import DataLock


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with DataLock(directory):
        assert (directory / "lock").read_text().splitlines()[0] == str(os.getpid())
        assert stat.S_IMODE((directory / "lock").stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        with pytest.raises(Faulted, match=f"pid {os.getpid()}.*stop it") as caught, DataLock(directory):
            pass
        assert caught.value.code == "data_in_use"
    with DataLock(directory):
        pass


def test_a_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    holder = child(tmp_path, "hold_lock")
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(Faulted, match=f"pid {holder.pid}"), DataLock(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with DataLock(tmp_path):
        pass


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(Faulted) as caught, DataLock(tmp_path / "file"):
        pass
    assert caught.value.code == "data_unwritable"
    assert (tmp_path / "file").read_text() == "kept"


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Faulted), DataLock(tmp_path):
        pass
    assert (tmp_path / "elsewhere").read_text() == "kept"
