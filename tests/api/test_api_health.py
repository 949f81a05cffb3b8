"""Health and readiness: while services are being recovered, while the disk is full, while the kernel closes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from api_rig import BOUND_S, CALC, Client, check_answer, refused, running

from solo_trio.operations.settings import Settings

GATED = """
import os, trio
from solo_trio import service

async def main(ctx, task_status):
    while ctx.generation > 1 and not os.path.exists(ctx.config["gate"]):
        await trio.sleep(0.01)
    task_status.started()
    await trio.sleep_forever()
"""


def place_inside(data: Path) -> Path:
    """A directory that services with the environment "gates" see too, while they run."""
    prefix = data / "environments" / "gates"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = prefix / "lib" / f"python{python}" / "site-packages"
    place.mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text(f"version = {python}.0\n")
    return place


async def wait_status(client: Client, path: str, status: int) -> dict[str, object]:
    with trio.fail_after(BOUND_S):
        while (response := await client.get(path)).status_code != status:
            pass
    body: dict[str, object] = response.json()
    return body


async def test_ready_once_recovery_is_over(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as api:
        gate = place_inside(tmp_path / "data") / "gate"
        tenant = await api.tenant("t1")
        more = {"config": {"gate": str(gate)}, "limits": {"start_timeout_s": 600}, "environment": "gates"}
        await tenant.deploy("slow", GATED, **more)
        await tenant.deploy("quick")
        token = tenant.token
    async with running(tmp_path / "data") as api:
        anybody, tenant = await api.client(None), await api.client(token, "t1")
        response = await anybody.get("/health/ready")
        assert (response.status_code, response.json()) == (503, {"status": "recovering"})
        assert (await anybody.ok("GET", "/health"))["status"] == "ok"
        assert (await api.admin.ok("GET", "/system"))["recovery"] is None
        await tenant.wait_event("service_recovered", "quick")
        assert await tenant.call("quick", "add", 1, 2) == 3
        assert (await tenant.deploy("new"))["status"] == "ready", "deploys are accepted meanwhile"
        assert (await anybody.get("/health/ready")).status_code == 503
        assert (await tenant.ok("GET", "/services/slow"))["status"] == "starting"
        gate.touch()
        assert await wait_status(anybody, "/health/ready", 200) == {"status": "ready"}
        report = (await api.admin.ok("GET", "/system"))["recovery"]
        assert report["complete"] and (report["wanted"], report["ready"], report["failed"]) == (2, 2, 0)


async def test_ready_although_a_service_failed_to_recover(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as api:
        gate = place_inside(tmp_path / "data") / "gate"
        gate.touch()
        source = f"import os\nif not os.path.exists({str(gate)!r}): raise OSError('gone')"
        await (await api.tenant("t1")).deploy("bad", source, environment="gates")
    gate.unlink()
    async with running(tmp_path / "data") as api:
        await wait_status(await api.client(None), "/health/ready", 200)
        report = (await api.admin.ok("GET", "/system"))["recovery"]
        assert report["complete"] and (report["ready"], report["failed"]) == (0, 1)
        client = await api.client(api.admin.token, None, **{"X-Tenant-ID": "t1"})
        assert (await client.ok("GET", "/services/bad"))["status"] == "given_up"
        [failed] = await client.events(type="service_recovery_failed")
        assert "gone" in failed["payload"]["reason"]


async def test_ready_at_the_end_of_the_recovery_time_out(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as api:
        tenant = await api.tenant("t1")
        config = {"gate": str(tmp_path / "never")}
        await tenant.deploy("slow", GATED, config=config, limits={"start_timeout_s": 600})
    async with running(tmp_path / "data", Settings(recovery_timeout_ms=200)) as api:
        await wait_status(await api.client(None), "/health/ready", 200)
        report = (await api.admin.ok("GET", "/system"))["recovery"]
        assert (report["complete"], report["pending"]) == (False, 1)


async def test_new_work_is_refused_while_the_kernel_closes(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as api:
        tenant = await api.tenant("t1")
        await tenant.deploy("calc")
        loop = api.system.core.loop
        loop.refuse_outside()  # the first thing a shutdown does, before it stops the server
        for response in (
            await tenant.try_deploy("more", CALC),
            await tenant.delete("/services/calc"),
            await tenant.post("/services/calc/restart"),
            await api.admin.post("/tenants", {"tenant_id": "t2"}),
        ):
            assert refused(response, "shutting_down")["status"] == 503 and response.headers["retry-after"]
        assert (await tenant.ok("GET", "/services/calc"))["status"] == "ready"
        loop.refusing = False  # the real shutdown is to come


@contextlib.contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Path]:
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, f"size={size}".encode()) != 0:
        pytest.skip(f"missing: the right to mount a tmpfs ({os.strerror(ctypes.get_errno())})")
    try:
        yield path
    finally:
        libc.umount2(os.fsencode(path), 2)


async def test_a_full_disk(tmp_path: Path) -> None:
    """New work 503, health 503, reading and stopping still possible, all of it over once there is room."""
    with tmpfs(tmp_path / "disk", "24m") as disk:
        async with running(disk / "data", Settings(free_disk_mb=0)) as api:  # else nothing new is taken long before
            tenant = await api.tenant("t1")
            await tenant.deploy("calc")
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            response = await tenant.try_deploy("more", "#" + "x" * 1_000_000)
            document = refused(response, "storage_full")
            assert document["status"] == 503 and response.headers["retry-after"]
            unhealthy = check_answer(await api.admin.get("/health"))
            assert unhealthy.status_code == 503
            said = unhealthy.json()
            assert said["status"] == "failing" and said["components"].pop("sandbox").startswith("level")
            assert said["components"].pop("audit") in ("ok", "dropping"), "it does not wait for the disk"
            assert said["components"] == {"journal": "storage_full", "kernel": "ok", "pressure": "ok"}
            assert await tenant.call("calc", "add", 1, 2) == 3
            assert (await tenant.ok("DELETE", "/services/calc"))["status"] == "stopped"
            refused(await tenant.get("/services/more"), "service_not_found")
            ballast.unlink()
            await tenant.deploy("more", CALC)
            assert (await api.admin.get("/health")).status_code == 200
            await api.tenant("t2")
