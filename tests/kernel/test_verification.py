"""The comparison of what is wanted with what runs: sound kernels are ok, and each kind of difference is found and named."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve
from kernel_rig import Actor, GatedJournal, Plan, PlannedRuntime, crash_after, opened
from trio.testing import MockClock, wait_all_tasks_blocked

from solo_trio.bootstrap import verify_data
from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted
from solo_trio.journal.library import driver
from solo_trio.kernel.log_checks import check_log
from solo_trio.kernel.verification import ENDING_MARGIN_S, VerificationReport, compare
from solo_trio.model.record import Artifact
from solo_trio.model.state import KernelState
from solo_trio.operations.settings import Settings
from solo_trio.testing import MemoryKernel

SOURCE = "from solo_trio import service\n\n@service.export\ndef one():\n    return 1\n"


def status_of(report: VerificationReport, name: str) -> set[str]:
    return {check.status for check in report.checks if check.name == name}


def wrong(report: VerificationReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks if check.status != "ok"}


async def verified(kernel: Kernel) -> VerificationReport:
    return await kernel.system.core.verification.verify(full=True)


async def test_a_sound_kernel_is_ok_after_its_recovery_and_when_asked(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"actor": Actor()})
    for start in range(2):
        async with opened(memory) as kernel:
            tenant = await kernel.tenant("acme")
            if not start:
                await tenant.deploy("actor", memory.callables["actor"])
            await kernel.wait_recovered()
            await wait_all_tasks_blocked()
            quick = kernel.system.core.verification.report
            assert quick is not None and not quick.full
            assert (quick.status, wrong(quick), quick.inconsistencies, quick.recommendations) == ("ok", {}, (), ())
            report = await verified(kernel)
            assert (report.status, report.full, wrong(report)) == ("ok", True, {})
            assert report.counts["events"] == kernel.system.core.loop.state.last_id
            assert (report.counts["wanted"], report.counts["inconsistencies"]) == (1, 0)
            assert status_of(report, "fold") == status_of(report, "chain") == {"ok"}
            assert kernel.system.core.verification.report is report
    assert status_of(report, "checkpoints") == {"ok"}, "the first kernel left one"


async def test_a_service_that_was_given_up_is_a_warning_with_advice(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"bad": Actor(crash_after(0))})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("bad", memory.callables["bad"], max_restarts=1, max_seconds=600)
        await trio.sleep(100)
        report = await verified(kernel)
    assert (report.status, wrong(report)) == ("warning", {"given_up": "warning"})
    assert "acme/bad" in next(check.detail for check in report.checks if check.name == "given_up")
    assert "solo restart" in report.recommendations[0]


async def test_what_changes_while_it_looks_is_no_inconsistency(autojump_clock: MockClock) -> None:
    """Services that crash and are restarted all the time: there is always one that does not run as it should."""
    actors = {f"a{number}": Actor(crash_after(0.05)) for number in range(5)}
    memory = MemoryKernel(actors)
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for name, actor in actors.items():
            await tenant.deploy(name, actor, max_restarts=1_000, max_seconds=60)
        for _ in range(20):
            report = await verified(kernel)
            assert report.inconsistencies == (), report.inconsistencies
            await trio.sleep(0.07)


async def test_what_is_being_ended_is_no_inconsistency_until_that_takes_too_long(autojump_clock: MockClock) -> None:
    """A pause and a replacement leave what runs its patience, which is longer than the looks; then it has to be killed."""
    patience = 30.0
    slow, stuck = Plan(stops_s=patience - 1), Plan(stops_s=math.inf, dies_s=1_000)
    memory = MemoryKernel(runtimes={"process": PlannedRuntime({"slow": [slow], "stuck": [stuck], "new": [Plan()]})})
    async with opened(memory) as kernel:
        tenant = await kernel.tenant("acme")
        for name in ("slow", "stuck"):
            for change in ("paused", "replaced"):
                await tenant.deploy(f"{name}-{change}", source=name, limits={"stop_timeout_s": patience})
        async with trio.open_nursery() as nursery:
            for name in ("slow", "stuck"):
                nursery.start_soon(tenant.pause, f"{name}-paused")
                nursery.start_soon(partial(tenant.deploy, f"{name}-replaced", source="new", replace=True))
            await trio.sleep(patience / 2)
            assert (await verified(kernel)).inconsistencies == ()
            await trio.sleep(patience / 2 - 1)
            report = await verified(kernel)
            assert report.inconsistencies == (), "a kill takes its time too"
            assert report.status == "ok"
            await trio.sleep(1 + ENDING_MARGIN_S)
            report = await verified(kernel)
            assert {(each.kind, each.service_id) for each in report.inconsistencies} == {
                ("not_wanted", "stuck-paused"),
                ("wrong_deployment", "stuck-replaced"),
            }
        assert (await verified(kernel)).status == "ok"


async def running_kernel(kernel: Kernel, memory: MemoryKernel) -> Any:
    tenant = await kernel.tenant("acme")
    await tenant.deploy("actor", memory.callables["actor"])
    return kernel.system.core.tenants["acme"]


async def found_kinds(kernel: Kernel) -> list[str]:
    report = await verified(kernel)
    assert report.status == "failed"
    assert report.counts["inconsistencies"] == len(report.inconsistencies)
    assert any("restart the kernel" in each for each in report.recommendations)
    return [each.kind for each in report.inconsistencies]


async def test_what_nobody_sees_to_is_found(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"actor": Actor()})
    async with opened(memory) as kernel:
        supervisors = (await running_kernel(kernel, memory)).supervisors
        taken = supervisors.pop("actor")
        assert await found_kinds(kernel) == ["not_supervised"]
        supervisors["actor"] = taken
        assert (await verified(kernel)).status == "ok"


async def test_what_is_said_to_be_ready_and_does_not_run_is_found(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"actor": Actor()})
    async with opened(memory) as kernel:
        supervisor = (await running_kernel(kernel, memory)).supervisors["actor"]
        taken, supervisor.running = supervisor.running, None
        assert await found_kinds(kernel) == ["not_running"]
        supervisor.running = taken


async def test_a_wrong_deployment_and_a_wrong_generation_are_found(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"actor": Actor()})
    async with opened(memory) as kernel:
        supervisor = (await running_kernel(kernel, memory)).supervisors["actor"]
        supervisor._generation += 1
        assert await found_kinds(kernel) == ["wrong_generation"]
        supervisor._generation -= 1
        supervisor.deployment += 1
        assert await found_kinds(kernel) == ["wrong_deployment"]
        supervisor.deployment -= 1


async def test_what_runs_and_is_not_wanted_is_found(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"actor": Actor()})
    async with opened(memory) as kernel:
        tenant = await running_kernel(kernel, memory)
        tenant.supervisors["ghost"] = tenant.supervisors["actor"]
        assert await found_kinds(kernel) == ["not_wanted"]
        del tenant.supervisors["ghost"]
        assert compare(kernel.system.core) == []


async def test_a_state_that_is_not_what_the_log_says_is_found(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({"actor": Actor()})
    async with opened(memory) as kernel:
        await running_kernel(kernel, memory)
        await trio.sleep(60)  # what the kernel says of its own start has been said: it would replace the state
        loop = kernel.system.core.loop
        believed = loop.state
        loop.state = evolve(believed, system=evolve(believed.system, starts=7))
        report = await verified(kernel)
        assert wrong(report) == {"fold": "failed"}
        loop.state = believed


async def test_a_missing_source_is_found(autojump_clock: MockClock) -> None:
    class Forgetful(GatedJournal):
        async def artifact(self, digest: str) -> Artifact:
            raise Faulted("data_damaged", f"artifact {digest} is missing")

    memory = MemoryKernel({"actor": Actor()}, journal=Forgetful())
    async with opened(memory) as kernel:
        assert (await verified(kernel)).status == "ok"
        await trio.sleep(60)  # what the kernel says of its own start has been said: it would replace the state
        loop = kernel.system.core.loop
        believed = loop.state
        loop.state = evolve(believed, sources=believed.sources.insert("f" * 64, 1))
        report = await verified(kernel)
        assert wrong(report)["artifacts"] == "failed"
        loop.state = believed


async def test_a_checkpoint_that_is_not_what_the_log_says_is_found(autojump_clock: MockClock) -> None:
    memory = MemoryKernel({})
    async with opened(memory) as kernel:
        written = await kernel.system.core.checkpoints.write()
        kept = await memory.journal.checkpoint(written.event_id)
        await memory.journal.write_checkpoint(evolve(kept, body=kept.body.replace(b'"starts":1', b'"starts":2')))
        report = await verified(kernel)
        assert wrong(report) == {"checkpoints": "failed"}
        await memory.journal.write_checkpoint(evolve(kept, reducer="of another version"))
        assert (await verified(kernel)).status == "ok"


async def test_an_empty_log() -> None:
    found = await check_log(MemoryKernel().journal, "", KernelState())
    assert {check.status for check in found.checks} == {"ok"}
    assert found.state == KernelState()


# -- a data directory without a kernel


async def a_data_directory(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    async with Kernel.open(data, settings=Settings(checkpoint_interval_events=1_000)) as kernel:
        tenant = await kernel.tenant("acme")
        await tenant.deploy("one", source=SOURCE)
    return data


def contents(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data.iterdir() if path.is_file() and path.name != "reserve"}


def change(data: Path, statement: str) -> None:
    connection = driver.connect(str(data / "kernel.db"), isolation_level=None)
    connection.execute(statement)
    connection.close()


async def offline(data: Path) -> tuple[VerificationReport, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    before = contents(data)
    report = await verify_data(data, lambda done, total: told.append((done, total)))
    assert contents(data) == before, "it changes nothing"
    return report, told


async def test_a_sound_directory(tmp_path: Path) -> None:
    data = await a_data_directory(tmp_path)
    report, told = await offline(data)
    assert (report.status, wrong(report)) == ("ok", {})
    assert {check.name for check in report.checks} == {
        "files",
        "keys",
        "chain",
        "fold",
        "checkpoints",
        "secrets",
        "key_rows",
        "requests",
        "orphans",
        "artifacts",
        "audit",
        "leftovers",
    }
    assert told[-1] == (report.counts["events"],) * 2


@pytest.mark.parametrize(
    ("statement", "name", "says"),
    [
        ("UPDATE events SET subject = 'x' WHERE id = 3", "chain", "event 3 does not match"),
        ("UPDATE events SET payload = CAST('{}' AS BLOB) WHERE id = 5", "chain", "event 5"),
        ("DELETE FROM events WHERE id > 7", "chain", "are missing"),
        ("UPDATE artifacts SET content = CAST('other' AS BLOB)", "artifacts", "was changed"),
        ("DELETE FROM artifacts", "artifacts", "is missing"),
        ("UPDATE checkpoints SET body = CAST('other' AS BLOB)", "checkpoints", "another body"),
        ("UPDATE keys SET wrapped = zeroblob(80)", "keys", "does not open: key"),
    ],
)
async def test_a_damaged_directory(tmp_path: Path, statement: str, name: str, says: str) -> None:
    data = await a_data_directory(tmp_path)
    change(data, statement)
    report, _ = await offline(data)
    assert wrong(report)[name] == ("warning" if name == "checkpoints" else "failed"), report.checks
    assert report.status == wrong(report)[name]
    assert any(says in check.detail for check in report.checks if check.status != "ok")
    assert report.recommendations


async def test_a_directory_in_use_and_one_that_is_none(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pytest.raises(Faulted) as caught:
        await verify_data(data, lambda done, total: None)
    assert caught.value.code == "data_unwritable"
    assert not data.exists()
    async with Kernel.open(data):
        with pytest.raises(Faulted) as caught:
            await verify_data(data, lambda done, total: None)
        assert caught.value.code == "data_in_use"


async def test_what_is_left_of_a_tenant_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    data = await a_data_directory(tmp_path)
    (data / "tenants" / f"{'a' * 32}.lock").touch()
    (data / "logs" / ("b" * 32)).mkdir()
    (data / "logs" / ("b" * 32) / "6162.jsonl").touch()
    report, _ = await offline(data)
    assert wrong(report) == {"leftovers": "warning"}
    async with Kernel.open(data) as kernel:
        await kernel.wait_recovered()
        report = await verified(kernel)
        assert wrong(report) == {}, "a start deletes it"
        (data / "logs" / "somebody's").touch()
        report = await verified(kernel)
        assert wrong(report) == {"leftovers": "warning"}
    report, _ = await offline(data)
    assert wrong(report) == {"leftovers": "warning"}, "what is no tenant's is left alone"
