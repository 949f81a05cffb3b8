"""What was found once: who may not be hurt, whatever the machine is like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from solo_trio.bootstrap import tenant_files
from solo_trio.runtimes import egress
from solo_trio.runtimes.sandbox import root
from solo_trio.runtimes.sandbox.layers import detect

LEVELS = (
    "import json, sys; from solo_trio.runtimes.sandbox.layers import detect; f = detect();"
    "print(json.dumps([f.own_uid, f.missing.get('own_uid', '')]))"
)


def test_root_without_other_user_ids_does_without_them() -> None:
    if not detect().own_uid:
        pytest.skip("missing: root with user ids of its own to give")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", LEVELS]
    said = subprocess.run(command, capture_output=True, check=True, env=environment, timeout=60).stdout
    assert said.startswith(b"[false, ") and b"all user ids" in said


def test_hidden_things_are_hidden_by_whatever_path_they_are_named(tmp_path: Path) -> None:
    packages, data = tmp_path / "packages", tmp_path / "packages" / "data"
    data.mkdir(parents=True)
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to(data)
    other.symlink_to(packages)
    shown = [str(packages), str(other), str(tmp_path / "elsewhere")]
    expected = [str(data), str(other / "data")]
    assert root.places_of([str(data)], shown) == expected
    assert root.places_of([str(link)], shown) == expected


async def test_the_lock_of_an_environment_is_its_tenants(tmp_path: Path) -> None:
    tenants = tmp_path / "tenants"
    tenants.mkdir()
    (tmp_path / "logs").mkdir()
    for name in ("ab" * 16, "ab" * 16 + "0123456789abcdef", "cd" * 16, "note"):
        (tenants / f"{name}.lock").touch()
    files, known = tenant_files(tmp_path), frozenset({"ab" * 16})
    assert files.leftovers(known) == [f"tenants/{'cd' * 16}.lock", "tenants/note.lock"]
    await files.sweep(known)
    assert files.leftovers(known) == ["tenants/note.lock"], "what has no tenant's name is told of, and left alone"
    await files.erase("ab" * 16)
    assert [path.name for path in tenants.iterdir()] == ["note.lock"]


def test_a_tenant_has_a_share_of_the_connections_and_lookups() -> None:
    shared = egress.Egress()
    shared.connections["one"] = egress.CONNECTIONS_PER_TENANT_MAX
    assert shared.is_full("one") and not shared.is_full("two")
    shared.connections["three"] = egress.CONNECTIONS_MAX
    assert shared.is_full("two")
