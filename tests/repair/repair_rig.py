"""Data directories that a kernel has used, to be damaged; what a repair makes of them. Never: mends by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio
from attrs import define, field

import solo_trio
from solo_trio.bootstrap import Outcome, RepairPlan, repair_data, verify_data
from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted
from solo_trio.journal.inspection import open_inspection
from solo_trio.journal.library import driver
from solo_trio.kernel.log_checks import check_log
from solo_trio.kernel.verification import VerificationReport
from solo_trio.model.state import KernelState
from solo_trio.vault.keys import MasterKey

SOURCE = "from solo_trio import service\n\n@service.export\ndef one():\n    return {}\n"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(solo_trio.__file__).parents[1])}
STABLE = ("kernel.db", "kernel.db-wal", "kernel.head", "master.key", "audit.db", "audit.head")


async def use(data: Path, life: int) -> None:
    """One life of a kernel: services, secrets, an orderly end, which leaves a checkpoint."""
    async with Kernel.open(data) as kernel:
        await work(kernel, life)


async def work(kernel: Kernel, life: int) -> None:
    acme, blau = await kernel.tenant("acme"), await kernel.tenant("blau")
    for number in range(2):
        await acme.deploy(f"svc-{life}-{number}", source=SOURCE.format(10 * life + number))
    await blau.deploy("only", source=SOURCE.format(100 + life), replace=life > 0)
    await acme.set_secret("api-key", f"value {life}")
    await blau.set_secret(f"key-{life}", "another")


def made(data: Path) -> Path:
    """Two orderly lives, and a third that was killed: two checkpoints, events behind them, a log that was not emptied."""
    for life in range(2):
        trio.run(use, data, life)
    child = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("repair_child.py")), str(data), "live_and_die"],
        env=ENVIRONMENT,
        check=False,
        timeout=120,
    )
    assert child.returncode == -9
    return data


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def contents(data: Path) -> dict[str, bytes]:
    return {name: (data / name).read_bytes() for name in STABLE if (data / name).is_file()}


def sql(data: Path, *statements: str) -> list[tuple[object, ...]]:
    """As an intruder with a database tool would."""
    connection = driver.connect(str(data / "kernel.db"), isolation_level=None)
    rows: list[tuple[object, ...]] = []
    for statement in statements:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


def flip(path: Path, offset: int, mask: int = 0x01) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


@define
class Asked:
    """What `solo repair` is told by whoever it asks."""

    answer: bool
    plans: list[RepairPlan] = field(factory=list)

    def __call__(self, plan: RepairPlan) -> bool:
        self.plans.append(plan)
        return self.answer


async def planned(data: Path, way: str | None = None) -> RepairPlan:
    """What would be done; nothing is changed by asking."""
    before, asked = contents(data), Asked(answer=False)
    outcome = await repair_data(data, asked, lambda what: None, way=way)
    assert not outcome.repaired and contents(data) == before
    assert not (data / "damaged").exists() and not (data / "repair.new").exists()
    [plan] = asked.plans
    return plan


async def repaired(data: Path, way: str | None = None) -> Outcome:
    """Repaired, checked: the files that were there are kept, the log is sound, and says what was done."""
    before = contents(data)
    outcome = await repair_data(data, Asked(answer=True), lambda what: None, way=way)
    assert outcome.repaired and outcome.plan is not None
    kept = data / outcome.plan.damaged
    for name, content in contents(kept).items():
        assert content == before[name], name
    moved = {"kernel.db", "kernel.db-wal", "kernel.head"} & before.keys()
    assert moved <= contents(kept).keys()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (kept, *kept.iterdir()))
    assert not (data / "repair.new").exists() and not (data / "kernel.repair").exists()
    report = await verified(data)
    assert report.status != "failed", report.checks
    again = await repair_data(data, Asked(answer=True), lambda what: None)
    assert not again.repaired and again.plan is None, "there is nothing more to repair"
    return outcome


async def verified(data: Path, **more: bool) -> VerificationReport:
    return await verify_data(data, lambda done, total: None, **more)


def wrong(report: VerificationReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks if check.status != "ok"}


async def folded(data: Path) -> KernelState:
    """What the log of a sound directory comes to."""
    master = MasterKey.load_or_create(data / "master.key")
    async with open_inspection(data, master.derive("witness")) as log:
        found = await check_log(log, "")
    assert {check.status for check in found.checks} == {"ok"}, found.checks
    return found.state


def services(state: KernelState) -> set[str]:
    return {
        f"{tenant.tenant_id}/{service.service_id} {service.spec.digest[:8]}" for tenant, service in state.services()
    }


def secrets(state: KernelState) -> set[str]:
    return {
        f"{tenant.tenant_id}/{secret.name} {each.version}"
        for tenant in state.tenants.values()
        for secret in tenant.secrets.values()
        for each in secret.versions
    }


async def refusal(data: Path) -> Faulted | None:
    """What a kernel that starts on it says, or None if it starts."""
    try:
        async with Kernel.open(data):
            return None
    except Faulted as fault:
        return fault


async def lives_on(data: Path) -> None:
    """A kernel starts, what is wanted and has its source runs, and a new deployment works."""
    async with Kernel.open(data) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("acme")
        await tenant.deploy("after", source=SOURCE.format(7), replace=True)
        assert await tenant.call("after", "one") == 7
        report = await kernel.system.core.verification.verify(full=True)
        assert report.status != "failed", report.checks


def run(function: object, *arguments: object, **more: object) -> object:
    return trio.run(partial(function, **more), *arguments)  # type: ignore[arg-type, call-overload]
