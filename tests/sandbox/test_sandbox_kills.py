"""Each process of the sandbox is killed once: what must end with it ends, and nothing else does."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
from sandbox_victim import SERVICES, SOURCE, TENANTS

from solo_trio.embedding import Kernel
from solo_trio.ports import Launch
from solo_trio.runtimes import boot, procfs
from solo_trio.runtimes.process import ProcessRuntime
from solo_trio.runtimes.service_process import ServiceProcess

BOUND_S = 90.0
"""For a whole test on a loaded machine."""
GONE_S_MAX = 10.0
"""From the kill until everything of it has ended."""
POLL_S = 0.02
VICTIM = Path(__file__).with_name("sandbox_victim.py")


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - of other processes there is nothing else to wait for
        await trio.sleep(POLL_S)


async def gone(pidfds: Iterable[int]) -> None:
    with trio.fail_after(GONE_S_MAX):
        for each in pidfds:
            await trio.lowlevel.wait_readable(each)
            os.close(each)


def control_groups(directory: Path) -> list[str]:
    """Those of the kernel whose locks are in `directory`."""
    name = f"solo-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]}"
    return [f"{at}/{name}" for at, names, _ in os.walk("/sys/fs/cgroup") if name in names]


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def in_pid_namespace(pid: int) -> bool:
    return len(status(pid, "NSpid").split()) > len(status(os.getpid(), "NSpid").split())


def status(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    raise AssertionError(name)


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


# -- the kernel


@pytest.mark.parametrize("how", ["kernel", "kernel_and_keepers"])
async def test_a_killed_kernel_leaves_nothing(tmp_path: Path, how: str) -> None:
    """And the next one on its data has all of it again. Without keepers it is that one who removes the control groups."""
    data, temporary = tmp_path / "data", tmp_path / "temporary"
    temporary.mkdir()
    mounts_before = mounts()
    victim = subprocess.Popen(  # noqa: ASYNC220 - to be killed, not waited for by Trio
        [sys.executable, "-I", VICTIM, data],
        stdout=subprocess.PIPE,
        env={"TMPDIR": str(temporary), **{name: value for name, value in os.environ.items() if "SOLO_TESTS" in name}},
    )
    try:
        with trio.fail_after(BOUND_S):
            assert victim.stdout is not None
            assert await trio.to_thread.run_sync(victim.stdout.readline) == b"ready\n"
            # An ancestor, a keeper and a zygote for each tenant, the services, and sandboxes made in advance.
            least = 1 + 2 * len(TENANTS) + len(TENANTS) * len(SERVICES)
            await until(lambda: len(procfs.descendants(victim.pid)) > least)
            below = procfs.descendants(victim.pid)
            [locks] = {path.parent for path in data.rglob("*.lock") if path.stem.strip("0123456789abcdef") == ""}
            groups = control_groups(locks)
            assert groups or os.geteuid() != 0
            pidfds = [os.pidfd_open(pid) for pid in below]
            keepers = [pid for ancestor in procfs.children(victim.pid) for pid in procfs.children(ancestor)]
            assert len(keepers) == len(TENANTS)
            victim.kill()
            for keeper in keepers if how == "kernel_and_keepers" else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(keeper, signal.SIGKILL)
            await gone(pidfds)
            await trio.to_thread.run_sync(victim.wait)
            if how == "kernel":
                with trio.fail_after(GONE_S_MAX):
                    await until(lambda: control_groups(locks) == [])
            assert mounts() == mounts_before
            assert list(temporary.iterdir()) == []

            async with Kernel.open(data) as kernel:
                await kernel.wait_recovered()
                for tenant_id in TENANTS:
                    tenant = await kernel.tenant(tenant_id)
                    for service_id in SERVICES:
                        assert await tenant.call(service_id, "ping") == "pong"
                        await tenant.kill(service_id, force=True)
            assert control_groups(locks) == [] and mounts() == mounts_before
    finally:
        victim.kill()
        victim.communicate()


# -- what is between the kernel and its services


class Two:
    """A runtime with services of two tenants."""

    def __init__(self, runtime: ProcessRuntime, nursery: trio.Nursery) -> None:
        self._runtime = runtime
        self._nursery = nursery

    async def start(self, incarnation: str, name: str = "s") -> ServiceProcess:
        async def outgoing(*asked: Any) -> None:
            raise AssertionError(asked)

        launch = Launch(
            tenant_id=incarnation,
            incarnation=incarnation,
            service_id=name,
            version=1,
            generation=1,
            entry="source",
            source=SOURCE.replace("/scratch/file", "/dev/null"),
            config={},
            limits={},
            log=lambda *line: None,
            outgoing=outgoing,
        )
        found = await self._runtime.start(launch, self._nursery)
        await found.ready.wait()
        return found


@contextlib.asynccontextmanager
async def two(directory: Path) -> AsyncIterator[tuple[Two, ServiceProcess, ServiceProcess]]:
    before = set(procfs.children(os.getpid()))
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            runtime = ProcessRuntime(directory)
            rig = Two(runtime, nursery)
            try:
                if not (await runtime.probe()).namespaces:
                    pytest.skip("missing: namespaces for this user")
                yield rig, await rig.start("a"), await rig.start("b")
            finally:
                with trio.CancelScope(shield=True):
                    await runtime.close(trio.current_time() + 10)
    assert set(procfs.children(os.getpid())) <= before
    assert os.listdir(directory) == [] and control_groups(directory) == []


async def pong(service: ServiceProcess) -> bool:
    return await service.call("ping", [], {}) == "pong"


async def test_services_outlive_the_ancestor_and_new_tenants_get_another(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, one, other):
        file = os.fsencode(boot.__file__)
        [ancestor] = [pid for pid in procfs.children(os.getpid()) if file in command(pid)]
        watched = os.pidfd_open(ancestor)
        os.kill(ancestor, signal.SIGKILL)
        await gone([watched])
        assert await pong(one) and await pong(other)
        assert await pong(await rig.start("c"))
        assert await pong(await rig.start("a", "another"))
        assert not one.ended.is_set() and not other.ended.is_set()


@pytest.mark.parametrize("which", ["zygote", "keeper"])
async def test_a_killed_zygote_costs_its_tenant_alone(tmp_path: Path, which: str) -> None:
    async with two(tmp_path) as (rig, one, other):
        zygote = parent(one.pid)
        keeper = parent(zygote)
        assert in_pid_namespace(zygote) and not in_pid_namespace(keeper)
        watched = [os.pidfd_open(pid) for pid in (one.pid, zygote, keeper)]
        os.kill(zygote if which == "zygote" else keeper, signal.SIGKILL)
        await one.ended.wait()
        assert one.ending is not None and one.ending.kind in ("lost", "crashed")
        await gone(watched)
        assert await pong(other)
        assert await pong(await rig.start("a", "again"))
        assert not other.ended.is_set() and parent(other.pid) != zygote


async def test_a_killed_service_costs_itself_alone(tmp_path: Path) -> None:
    async with two(tmp_path) as (rig, one, other):
        sibling = await rig.start("a", "sibling")
        os.kill(one.pid, signal.SIGKILL)
        await one.ended.wait()
        assert one.ending is not None and one.ending.kind == "crashed" and one.ending.signal == "SIGKILL"
        assert await pong(sibling) and await pong(other)


@pytest.mark.skipif(os.geteuid() != 0, reason="missing: root, who can look")
async def test_nothing_of_a_tenant_is_in_reach_of_another(tmp_path: Path) -> None:
    """Pids, mounts, network and IPC: no two tenants share any, and none is the kernel's."""
    async with two(tmp_path) as (rig, one, other):
        sibling = await rig.start("a", "sibling")

        def of(pid: int, name: str) -> str:
            return os.readlink(f"/proc/{pid}/ns/{name}")

        for name in ("pid", "mnt", "net", "ipc", "uts"):
            assert len({of(one.pid, name), of(other.pid, name), of(os.getpid(), name)}) == 3
            assert (of(one.pid, name) == of(sibling.pid, name)) is (name != "mnt")
        owners = {int(status(each.pid, "Uid").split()[0]) for each in (one, sibling, other)}
        assert len(owners) == 3 and min(owners) > 65_536
        for each in (one, sibling, other):
            assert status(each.pid, "NoNewPrivs") == "1" and status(each.pid, "Seccomp") == "2"
            assert int(status(each.pid, "CapEff"), 16) == int(status(each.pid, "CapPrm"), 16) == 0
            assert os.stat(f"/proc/{each.pid}/environ").st_uid == 0  # not its own: it is not dumpable


async def test_what_it_may_have_is_limited_without_being_asked_for(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, one, _):
        found = limits(one.pid)
    assert found["Max core file size"] == found["Max locked memory"] == found["Max msgqueue size"] == ("0", "0")
    assert found["Max pending signals"] == found["Max processes"] == ("64", "64")
    assert found["Max open files"] == ("256", "256")


def limits(pid: int) -> dict[str, tuple[str, str]]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}
