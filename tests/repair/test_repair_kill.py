"""A repair that is killed leaves the damaged directory as it was, or one that the next repair finishes: at every step of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio
from repair_rig import ENVIRONMENT, Asked, contents, copied, folded, made, refusal, run, services, sql, verified

from solo_trio.bootstrap import repair_data

STEPS_MAX = 60


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = made(tmp_path_factory.mktemp("kill") / "data")
    sql(data, "PRAGMA wal_checkpoint(TRUNCATE)")
    first = sql(data, "SELECT min(event_id) FROM checkpoints")[0][0]
    sql(data, f"UPDATE events SET at_us = 1 WHERE id = {int(str(first)) - 2}")
    (data / "kernel.db-wal").write_bytes(b"")  # something that is to leave, and nothing comes for it
    return data


@pytest.mark.slow
def test_killed_at_every_step(damaged: Path, tmp_path: Path) -> None:
    reference = copied(damaged, tmp_path / "reference")
    trio.run(repair_data, reference, Asked(answer=True), lambda what: None)
    wanted = services(run(folded, reference))  # type: ignore[arg-type]
    before = contents(damaged)
    states = set()
    for step in range(1, STEPS_MAX):
        data = copied(damaged, tmp_path / f"step-{step}")
        command = [sys.executable, str(Path(__file__).with_name("repair_child.py")), str(data), "repair", str(step)]
        child = subprocess.run(command, env=ENVIRONMENT, check=False, timeout=120, stderr=subprocess.DEVNULL)
        if child.returncode == 0:
            break
        assert child.returncode == -9
        status = run(verified, data).status  # type: ignore[attr-defined]
        if (data / "kernel.repair").exists():
            states.add("changing places")
            fault = run(refusal, data)
            assert status == "failed"
            assert fault is not None and "go on with it with: solo repair" in fault.detail  # type: ignore[attr-defined]
        elif contents(data) == before:
            states.add("as it was")
            assert status == "failed"
        else:
            states.add("repaired")
            assert status != "failed"
        trio.run(repair_data, data, Asked(answer=True), lambda what: None)
        assert run(verified, data).status != "failed", step  # type: ignore[attr-defined]
        assert services(run(folded, data)) == wanted  # type: ignore[arg-type]
        kept = [each for each in (data / "damaged").iterdir() if any(each.iterdir())]
        assert len(kept) == 1 and contents(kept[0])["kernel.db"] == before["kernel.db"], step
        assert not (data / "repair.new").exists() and not (data / "kernel.repair").exists()
    else:
        raise AssertionError("it has more steps than this looks at")
    assert states >= {"as it was", "changing places"}


@pytest.mark.slow
def test_killed_while_going_on(damaged: Path, tmp_path: Path) -> None:
    """Two kills: one among the moves, one in the repair that goes on with them."""
    before = contents(damaged)
    middle = copied(damaged, tmp_path / "middle")
    step = 1
    while not (middle / "kernel.repair").exists():
        step += 1
        middle = copied(damaged, tmp_path / f"first-{step}")
        kill(middle, step)
    for second in range(1, STEPS_MAX):
        data = copied(middle, tmp_path / f"second-{second}")
        if kill(data, second) == 0:
            break
        trio.run(repair_data, data, Asked(answer=True), lambda what: None)
        assert run(verified, data).status != "failed"  # type: ignore[attr-defined]
        [kept] = (data / "damaged").iterdir()
        assert contents(kept)["kernel.db"] == before["kernel.db"]


def kill(data: Path, step: int) -> int:
    command = [sys.executable, str(Path(__file__).with_name("repair_child.py")), str(data), "repair", str(step)]
    return subprocess.run(command, env=ENVIRONMENT, check=False, timeout=120, stderr=subprocess.DEVNULL).returncode
