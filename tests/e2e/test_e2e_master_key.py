"""The master key: from a file, a variable or a command; rotated, and killed at every step of that."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from solo_trio.bootstrap import ADMIN_TOKEN_FILE, rotate_master_key, verify_data
from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted, Rejected, SoloError
from solo_trio.operations.settings import Settings
from solo_trio.vault.keys import MASTER_KEY_VARIABLE

ROOT = Path(__file__).parents[2]
OLD, NEW = "0a" * 32, "0b" * 32
STEPS_MAX = 200
CHILD = """
import os, signal, sys
from pathlib import Path
from solo_trio.bootstrap import rotate_master_key
from solo_trio.journal.store import Store

at, count = int(sys.argv[1]), 0

def reached():
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)

def step(where, name):
    real = getattr(where, name)
    def stepping(*args, **more):
        reached()
        return real(*args, **more)
    setattr(where, name, stepping)

for name in ("fsync", "link", "unlink", "rename", "replace", "pwrite"):
    step(os, name)
step(Store, "_write")
rotate_master_key(Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
"""
"""Rotates, and is killed before the so-manieth thing that reaches the disk."""


def filled(data: Path, settings: Settings | None = None) -> None:
    async def fill() -> None:
        async with Kernel.open(data, settings=settings) as kernel:
            for tenant_id in ("a", "b"):
                tenant = await kernel.tenant(tenant_id)
                await tenant.set_secret("api", f"of {tenant_id}")
                await tenant.set_secret("mine", "hush", key="0f" * 32)

    trio.run(fill)


def check_opens(data: Path, settings: Settings | None = None) -> None:
    """Everything of it is there: secrets, tokens, the whole log, the audit."""
    token = (data / ADMIN_TOKEN_FILE).read_text().strip()

    async def check() -> None:
        async with Kernel.open(data, settings=settings) as kernel:
            for tenant_id in ("a", "b"):
                tenant = await kernel.tenant(tenant_id)
                assert await tenant.reveal_secret("api") == f"of {tenant_id}"
                assert await tenant.reveal_secret("mine", key="0f" * 32) == "hush"
                await tenant.set_secret("later", "x")
                await tenant.delete_secret("later")
            assert kernel.system.keyring.read(token) is not None
            assert not kernel.system.core.telemetry.bugs

    trio.run(check)
    command = () if settings is None else settings.master_key_command
    report = trio.run(verify_data, data, lambda done, total: None, command)
    assert report.status == "ok", report.checks
    assert [path.name for path in data.glob("*master.key*")] == (["master.key"] if settings is None else [])


def refused(data: Path, settings: Settings | None = None) -> str:
    async def opening() -> None:
        async with Kernel.open(data, settings=settings):
            pass

    with pytest.raises(Faulted) as caught:
        trio.run(opening)
    assert caught.value.code == "data_damaged"
    return caught.value.detail


def killed_at(step: int, data: Path, *more: Path) -> bool:
    """Whether it came to that step."""
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(step), str(data), *map(str, more)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode in (0, -9), run.stderr
    return run.returncode == -9


def key_file(path: Path, key: str) -> Path:
    path.write_text(key + "\n")
    path.chmod(0o600)
    return path


def printing(tmp_path: Path, text: str, name: str = "kms") -> tuple[str, ...]:
    script = tmp_path / f"{name}.py"
    script.write_text(text)
    return (sys.executable, str(script))


def test_another_key_and_everything_is_as_it_was(tmp_path: Path) -> None:
    data = tmp_path / "data"
    filled(data)
    before = (data / "master.key").read_text()
    backup = shutil.copytree(data, tmp_path / "backup")
    assert rotate_master_key(data) == 6, "the system's two, and two of each tenant"
    after = (data / "master.key").read_text()
    assert after != before and stat.S_IMODE((data / "master.key").stat().st_mode) == 0o600
    check_opens(data)
    (data / "master.key").write_text(before)
    refused(data)
    (data / "master.key").write_text(after)
    check_opens(data)
    (backup / "master.key").write_text(after)
    refused(backup)  # a backup from before needs the old key
    (backup / "master.key").write_text(before)
    check_opens(backup)
    assert rotate_master_key(data) == 6
    check_opens(data)


@pytest.mark.slow
def test_killed_at_every_step(tmp_path: Path) -> None:
    source = tmp_path / "source"
    filled(source)
    old = (source / "master.key").read_text()
    outcomes = []
    for step in range(1, STEPS_MAX):
        data = shutil.copytree(source, tmp_path / f"step-{step}")
        alive = not killed_at(step, data)
        check_opens(data)
        outcomes.append((data / "master.key").read_text() == old)
        shutil.rmtree(data)
        if alive:
            break
    assert alive, "it did not come to an end"
    assert outcomes[0] and not outcomes[-1]
    assert outcomes == sorted(outcomes, reverse=True), "there is one moment from which the new key holds"
    assert len(outcomes) > 10


@pytest.mark.slow
def test_killed_at_every_step_where_the_key_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the old key as before or, after the same command again, with the new one."""
    monkeypatch.setenv(MASTER_KEY_VARIABLE, OLD)
    source, new = tmp_path / "source", key_file(tmp_path / "new.key", NEW)
    outside = Settings()
    filled(source)
    for step in range(1, STEPS_MAX):
        data = shutil.copytree(source, tmp_path / f"step-{step}")
        alive = not killed_at(step, data, new)
        if not alive:
            rotate_master_key(data, new)
        monkeypatch.setenv(MASTER_KEY_VARIABLE, NEW)
        check_opens(data, outside)
        monkeypatch.setenv(MASTER_KEY_VARIABLE, OLD)
        refused(data)
        shutil.rmtree(data)
        if alive:
            break
    assert alive and step > 7


def test_a_rotation_that_was_interrupted_is_not_verified_but_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    filled(data)
    key_file(data / "master.key.new", NEW)
    report = trio.run(verify_data, data, lambda done, total: None)
    assert report.status == "failed" and "solo keys rotate" in str(report.checks)
    check_opens(data)


def test_what_cannot_be_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    with pytest.raises(Faulted) as nothing:
        rotate_master_key(data)
    assert nothing.value.code == "data_unwritable" and not data.exists()
    filled(data)
    same = key_file(tmp_path / "same.key", (data / "master.key").read_text().strip())
    for given, code in ((same, "invalid_field"), (tmp_path / "missing", "data_damaged")):
        with pytest.raises(SoloError) as caught:
            rotate_master_key(data, given)
        assert caught.value.code == code
    readable = key_file(tmp_path / "readable.key", NEW)
    readable.chmod(0o644)
    with pytest.raises(Faulted, match="others"):
        rotate_master_key(data, readable)
    monkeypatch.setenv(MASTER_KEY_VARIABLE, (data / "master.key").read_text().strip())
    with pytest.raises(Rejected, match="name a file"):
        rotate_master_key(data)
    monkeypatch.delenv(MASTER_KEY_VARIABLE)
    check_opens(data)


async def test_not_while_a_kernel_runs(tmp_path: Path) -> None:
    async with Kernel.open(tmp_path / "data"):
        with pytest.raises(Faulted) as caught:
            await trio.to_thread.run_sync(rotate_master_key, tmp_path / "data")
        assert caught.value.code == "data_in_use"


def test_from_a_command(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = Settings(master_key_command=printing(tmp_path, f"print({OLD!r})"))
    filled(data, settings)
    check_opens(data, settings)
    refused(data)
    other = Settings(master_key_command=printing(tmp_path, f"print({NEW!r})", "other"))
    refused(data, other)
    rotate_master_key(data, key_file(tmp_path / "new.key", NEW), settings.master_key_command)
    check_opens(data, other)
    refused(data, settings)


@pytest.mark.parametrize(
    "script",
    [
        "raise SystemExit(3)",
        "print('no key')",
        "pass",
        f"print({OLD!r} * 2)",
        f"print({OLD!r}); print({OLD!r})",
        "while True: print('x' * 65536)",
        f"import os; print({OLD!r}, flush=True); os.abort()",
    ],
)
def test_a_command_that_prints_no_key(tmp_path: Path, script: str) -> None:
    detail = refused(tmp_path / "data", Settings(master_key_command=printing(tmp_path, script)))
    assert OLD not in detail and "master key command" in detail
    assert not (tmp_path / "data" / "kernel.db").exists()


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be run" in refused(tmp_path / "data", Settings(master_key_command=("/nonexistent/kms",)))


def test_a_command_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solo_trio.vault.keys.COMMAND_S_MAX", 0.5)
    script = f"import time; print({OLD!r}, flush=True); time.sleep(3600)"
    assert "took longer" in refused(tmp_path / "data", Settings(master_key_command=printing(tmp_path, script)))
