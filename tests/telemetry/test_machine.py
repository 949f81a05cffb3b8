"""What the kernel's process uses: numbers that are about this process, and limits that are this machine's."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest

from solo_trio.telemetry import machine
from solo_trio.telemetry.machine import OwnProcess


async def test_it_reads_this_process(tmp_path: Path) -> None:
    before = await OwnProcess(tmp_path).read()
    files = [(tmp_path / str(number)).open("w") for number in range(20)]
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    ballast = bytearray(b"x") * (64 << 20)
    try:
        after = await OwnProcess(tmp_path).read()
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for file in files:
            file.close()
    assert after.fds - before.fds == 20
    assert after.threads - before.threads == 5
    assert after.rss_bytes - before.rss_bytes > 60 << 20 and len(ballast)
    assert after.fds_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < after.available_bytes < machine.UNLIMITED and after.threads_limit > 0
    disk = os.statvfs(tmp_path)
    assert abs(after.free_disk_bytes - disk.f_bavail * disk.f_frsize) < 1 << 30


async def test_a_directory_that_is_gone_is_an_error_of_the_world(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        await OwnProcess(tmp_path / "gone").read()


GROUPS = {
    "v2": (
        "0::/app\n",
        {
            "app/memory.max": "104857600\n",
            "app/memory.current": "100000000\n",
            "app/memory.stat": "anon 1\ninactive_file 5000000\n",
            "app/pids.max": "77\n",
        },
    ),
    "v1": (
        "4:memory:/app\n3:pids,cpu:/app\n0::/\n",
        {
            "memory/app/memory.limit_in_bytes": "104857600\n",
            "memory/app/memory.usage_in_bytes": "100000000\n",
            "memory/app/memory.stat": "total_inactive_file 5000000\ninactive_file 5000000\n",
            "pids/app/pids.max": "77\n",
        },
    ),
    "in a container": (
        "0::/made/by/the/host\n",
        {
            "memory.max": "104857600\n",
            "memory.current": "100000000\n",
            "memory.stat": "inactive_file 5000000\n",
            "pids.max": "77\n",
        },
    ),
    "above it": (
        "0::/app/leaf\n",
        {
            "app/memory.max": "104857600\n",
            "app/memory.current": "100000000\n",
            "app/memory.stat": "inactive_file 5000000\n",
            "app/leaf/memory.max": "max\n",
            "app/leaf/memory.current": "100000\n",
            "app/leaf/pids.max": "77\n",
        },
    ),
    "without limits": ("0::/app\n", {"app/memory.max": "max\n", "app/memory.current": "1\n", "app/pids.max": "max\n"}),
    "nothing there": ("0::/app\n", {}),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_control_groups(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, files = GROUPS[kind]
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(machine, "GROUPS_ROOT", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    limited = kind not in ("without limits", "nothing there")
    assert machine.group_available() == (104857600 - 100000000 + 5000000 if limited else None)
    assert (machine.threads_limit() == 77) == limited
