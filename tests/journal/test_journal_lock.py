from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from journal_samples import child

from solo_trio.errors import Faulted
from solo_trio.journal import lock
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


def test_what_a_dead_holder_was_just_forking_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has every descriptor of its parent until it has become another program."""
    held, release = os.pipe()
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from solo_trio.journal.lock import DataLock\n"
        "lock = DataLock(Path(sys.argv[1])).__enter__()\n"
        "if os.fork():\n"
        "    os._exit(0)\n"
        "os.read(int(sys.argv[2]), 1)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path), str(held)], pass_fds=(held,), check=True)
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            os.close(release)
        time.sleep(seconds)

    monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=wait, monotonic=time.monotonic))
    os.close(held)
    with DataLock(tmp_path):
        assert len(waited) >= 3


def test_a_dead_holders_lock_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DataLock(tmp_path):
        (tmp_path / "lock").write_text("999999999\n")  # no process has this id
        passed = iter(range(100))
        clock = SimpleNamespace(sleep=lambda seconds: None, monotonic=lambda: next(passed))
        monkeypatch.setattr(lock, "time", clock)
        with pytest.raises(Faulted, match="pid 999999999") as caught, DataLock(tmp_path):
            pass
        assert caught.value.code == "data_in_use" and 2 < next(passed) < 6


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
