"""A kernel that keeps its state all the time is killed at some moment, again and again: nothing acknowledged is lost."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from journal_samples import ENVIRONMENT

from solo_trio.bootstrap import verify_data

KILLS = 12
SEED = 20_261_121
CHILD = Path(__file__).with_name("checkpoint_child.py")


@pytest.mark.slow
def test_kills_around_checkpoints_lose_nothing(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    known: dict[str, bool] = {}
    """Whether each service is there; what was asked last and not acknowledged is not known."""
    kept, from_checkpoint = 0, 0
    for kill in range(KILLS):
        command = [sys.executable, "-u", str(CHILD), str(tmp_path), str(SEED + kill), str(chance.choice((1, 3, 10)))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as kernel:
            assert kernel.stdout is not None
            first = kernel.stdout.readline().split()
            assert first[0] == "start", "the kernel ended by itself"
            checkpoint, replayed, failed, pending = map(int, first[1:])
            assert checkpoint == kept, "it goes on from the newest that the one before kept"
            from_checkpoint += checkpoint > 0
            assert (failed, pending) == (0, 0)
            if checkpoint:
                assert replayed < 200
            lines = [kernel.stdout.readline() for _ in range(chance.choice((1, 4, 9, 30, 80, 150)))]
            assert all(lines), "the kernel ended by itself"
            kernel.kill()
            # A line that the kill cut in two has no end.
            lines += [line for line in kernel.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        for line in lines:
            what, about = line.split()
            if what == "ask":
                known.pop(about, None)
            else:
                known[about] = what == "there"

        report = trio.run(verify_data, tmp_path, lambda done, total: None)
        assert report.status == "ok", report.checks
        kept, listed = trio.run(_kept_and_services, tmp_path)
        assert {about for about, there in known.items() if there} <= listed
        assert not {about for about, there in known.items() if not there} & listed
    assert from_checkpoint > KILLS / 2


async def _kept_and_services(data: Path) -> tuple[int, set[str]]:
    """The event of the newest checkpoint, or 0; and what a kernel would recover of the log alone, without any of them."""
    from solo_trio.journal.inspection import open_inspection
    from solo_trio.kernel.log_checks import check_log
    from solo_trio.vault.keys import MasterKey

    async with open_inspection(data, MasterKey.load_or_create(data / "master.key").derive("witness")) as log:
        ids = await log.checkpoint_ids()
        state = (await check_log(log, "")).state
    return max(ids, default=0), {
        f"{tenant.tenant_id}/{service.service_id}" for tenant, service in state.services() if service.stop is None
    }
