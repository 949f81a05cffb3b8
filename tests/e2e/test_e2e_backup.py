"""Backups of a real server: under load, killed in the middle, on a full disk; what is in one, and who can read it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import trio
from attrs import evolve
from e2e_served import CALC, COMMAND, Served, served

from solo_trio.bootstrap import restore_backup, verify_data
from solo_trio.bootstrap.backup_file import open_backup
from solo_trio.bootstrap.backup_parts import work_of
from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted, SoloError, StorageFull
from solo_trio.journal.sqlite import open_journal
from solo_trio.model.record import EventQuery, StoredEvent
from solo_trio.operations.settings import EMBEDDED
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.macaroon import SIGNATURE_BYTES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]
ROOT = Path(__file__).parents[2]
SERVICE = CALC.format(which="it")
WRITERS = 8
LONG_LOG = 12_000
"""Events: some seconds of copying, checking and packing."""
KILLS = 3


def nobody(done: int, total: int) -> None:
    """Is told how far it is."""


async def lengthen(data: Path, count: int) -> None:
    """So many events more, that change nothing."""
    journal = await open_journal(data, MasterKey.read(data / "master.key").derive("witness"))
    try:
        [last] = await journal.read(EventQuery(newest=True, limit=1))
        for first in range(last.id + 1, last.id + 1 + count, 2_000):
            ids = range(first, min(first + 2_000, last.id + 1 + count))
            await journal.append(
                [
                    StoredEvent(id_, last.at_us, last.kernel_time, None, None, None, "system_settled", 1, b"{}")
                    for id_ in ids
                ]
            )
    finally:
        await journal.close()


async def restored(backup: Path, data: Path, key: Path, at: int | None = None) -> int:
    def restore() -> int:
        return restore_backup(backup, data, nobody, at=at, key_file=key).event_id

    return await trio.to_thread.run_sync(restore)


async def state_of(data: Path, event_id: int) -> Any:
    """The state after that event of a directory that no kernel uses."""
    ran = await trio.run_process(
        [*COMMAND, "state", "--data", str(data), "--at", str(event_id), "--json"], capture_stdout=True
    )
    return json.loads(ran.stdout)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a poll, not a guess
        await trio.sleep(0.002)


async def running(server: Served) -> bool:
    """Whether a backup is being written."""
    return bool((await server.client.get("/system")).json()["backup"]["running"])


async def until_running(server: Served, wanted: bool) -> None:
    with trio.fail_after(60):
        while await running(server) is not wanted:
            await trio.lowlevel.checkpoint()


def begun(backups: Path) -> bool:
    return any(name.startswith(".") for name in left_in(backups))


async def open_kernel(data: Path) -> None:
    async with Kernel.open(data):
        pass


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


async def test_under_load_everything_acknowledged_is_in_it(tmp_path: Path) -> None:
    data, new = tmp_path / "data", tmp_path / "new"
    acknowledged = dict.fromkeys(range(WRITERS), 0)
    """The newest version of the secret of each writer, whose value is that number."""
    failed: list[str] = []
    async with served(data) as server:
        tenant = await server.make_tenant("a")
        assert (await tenant.post("/services", json={"service_id": "calc", "code": SERVICE})).status_code == 201

        async def write(number: int) -> None:
            while True:
                version = acknowledged[number] + 1
                answer = await tenant.put(f"/secrets/of-{number}", json={"value": str(version)})
                if answer.status_code not in (200, 201):
                    failed.append(answer.text)
                    return
                acknowledged[number] = version

        async with trio.open_nursery() as nursery:
            for number in range(WRITERS):
                nursery.start_soon(write, number)
            await until(lambda: min(acknowledged.values()) >= 3)
            before = dict(acknowledged)
            answer = await server.client.post("/system/backup")
            assert answer.status_code == 200, answer.text
            meanwhile = sum(acknowledged.values()) - sum(before.values())
            nursery.cancel_scope.cancel()
        assert not failed and meanwhile > 0, "writers go on while it is written"
        made = answer.json()
        now = await server.client.get("/system/state", params={"at": made["event_id"]})
        assert (await server.client.post("/system/verify")).json()["status"] == "ok"
    assert await restored(Path(made["path"]), new, data / "master.key") == made["event_id"]
    then = await state_of(new, made["event_id"])
    assert then | {"last_event_id": 0} == now.json() | {"last_event_id": 0}, "it is the fold at its head"
    async with served(new) as server:
        tenant = server.tenant("a")
        for number, version in before.items():
            newest = (await tenant.get(f"/secrets/of-{number}")).json()["version"]
            assert newest >= version > 0
            found = await tenant.post(f"/secrets/of-{number}/reveal")
            assert found.json().get("value") == str(newest), found.text
        assert (await tenant.post("/services/calc/call/add", json={"args": [1, 2]})).json() == {"result": 3}
        assert (await server.client.post("/system/verify")).json()["status"] == "ok"


async def test_one_at_a_time_and_how_far_it_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with served(data):
        pass
    await lengthen(data, LONG_LOG)
    async with served(data) as server:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await server.client.post("/system/backup"))

        seen: list[tuple[int, int]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until_running(server, True)
            second = await server.client.post("/system/backup")
            while (state := (await server.client.get("/system")).json()["backup"])["running"]:
                seen.append((state["done_bytes"], state["total_bytes"]))
                await trio.sleep(0.05)
        assert (second.status_code, second.json()["code"]) == (503, "overloaded")
        assert "retry-after" in second.headers
        assert answers[0].status_code == 200
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert any(0 < done < total for done, total in seen), seen


async def test_kill_9_at_any_moment_of_it(tmp_path: Path) -> None:
    """A file that is there is a whole backup; of any other nothing is there after the next start."""
    data, random = tmp_path / "data", Random(7)
    backups = data / "backups"
    async with served(data) as server:
        await server.make_tenant("a")
    await lengthen(data, LONG_LOG)
    kept: set[str] = set()
    for kill in range(KILLS):
        async with served(data) as server:
            assert not begun(backups), "swept at the start"
            last_id = (await server.client.get("/system")).json()["last_event_id"]
            async with trio.open_nursery() as nursery:

                async def ask(server: Served = server) -> None:
                    try:
                        await server.client.post("/system/backup")
                    except httpx.HTTPError:
                        return

                nursery.start_soon(ask)
                await until(lambda: begun(backups))
                await trio.sleep(random.random() * (0.2 if kill % 2 else 4))  # anywhere in it
                server.kill()
        kept |= {name for name in left_in(backups) if not name.startswith(".")}
        async with served(data) as server:
            assert (await server.client.get("/system")).json()["last_event_id"] > last_id
            assert (await server.client.get("/tenants/a")).status_code == 200
    for number, name in enumerate(sorted(kept)):
        await restored(backups / name, tmp_path / f"new{number}", data / "master.key")
    async with served(data) as server:
        made = (await server.client.post("/system/backup")).json()
        assert left_in(backups) == sorted(kept | {made["name"]})
        assert (await server.client.post("/system/verify")).json()["status"] == "ok"


async def test_whoever_asked_may_be_killed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with served(data):
        pass
    await lengthen(data, LONG_LOG)
    async with served(data) as server:
        process = await trio.lowlevel.open_process(
            [*COMMAND, "backup", "--data", str(data)], env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        await until_running(server, True)
        process.kill()
        await process.wait()
        await until_running(server, False)
        assert not begun(data / "backups")
        assert (await server.client.post("/system/backup")).status_code == 200


async def test_a_stop_does_not_wait_for_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with served(data):
        pass
    await lengthen(data, LONG_LOG)
    async with served(data) as server:
        answers: list[httpx.Response | Exception] = []

        async def ask() -> None:
            try:
                answers.append(await server.client.post("/system/backup"))
            except httpx.HTTPError as error:
                answers.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(lambda: begun(data / "backups"))
            server.process.send_signal(signal.SIGTERM)
            with trio.fail_after(30):
                assert await server.process.wait() == 0
        [answer] = answers
        if isinstance(answer, httpx.Response):
            assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert left_in(data / "backups") == []
    report = await verify_data(data, nobody)
    assert report.status == "ok", report.checks


def test_a_restore_that_was_killed_before_it_wrote_anything(tmp_path: Path) -> None:
    (tmp_path / "kernel.restoring").touch(mode=0o600)
    report = trio.run(verify_data, tmp_path, nobody)
    assert report.status == "failed" and "do the same solo restore once more" in str(report.checks)


def test_a_restore_that_is_killed(tmp_path: Path) -> None:
    """The directory is refused, with what to do; doing that makes it whole."""
    data, new = tmp_path / "data", tmp_path / "new"

    async def made() -> Path:
        async with Kernel.open(data) as kernel:
            await kernel.tenant("a")
        await lengthen(data, LONG_LOG)
        async with Kernel.open(data) as kernel:
            assert kernel.system.backups is not None
            return Path((await kernel.system.backups.write()).path)

    backup = trio.run(made)
    arguments = [*COMMAND, "restore", str(backup), "--data", str(new), "--master-key", str(data / "master.key")]
    interrupted, random, takes_s = 0, Random(3), 0.0
    for kill in range(1 + KILLS):
        process = subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (new / "kernel.restoring").exists():
            pass
        if kill == 0:  # how long it takes here
            began = time.monotonic()
            assert process.wait() == 0
            takes_s = time.monotonic() - began
            shutil.rmtree(new)
            continue
        try:
            process.wait(random.random() * takes_s * (0.1 if kill % 2 else 0.7))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if (new / "kernel.restoring").exists():
            interrupted += 1
            with pytest.raises(Faulted, match="do the same solo restore once more"):
                trio.run(open_kernel, new)
            assert "do the same solo restore" in str(trio.run(verify_data, new, nobody).checks)
        else:
            shutil.rmtree(new)
    assert interrupted > KILLS // 2
    subprocess.run(arguments, check=True, timeout=120, capture_output=True)
    assert trio.run(verify_data, new, nobody).status == "ok"


# -- who can read it


CANARY = "canary-4f1b7a"


def test_a_stolen_backup_tells_nothing(tmp_path: Path) -> None:
    """Neither the file, nor, to who has the master key, what it holds: no secret, no token, no key but certificates' own."""
    data = tmp_path / "data"

    async def made() -> tuple[Path, list[str], list[bytes]]:
        async with Kernel.open(data) as kernel:
            tenant = await kernel.tenant("a")
            await tenant.deploy("calc", source=CALC.format(which=CANARY + "-source"))
            await tenant.set_secret("api", CANARY + "-secret")
            await tenant.set_secret("mine", CANARY + "-mine", key="0f" * 32)
            keyring, state = kernel.system.keyring, kernel.system.core.loop.state
            tokens = [
                keyring.mint(each.key_id, each.capability_id).reveal_text() for each in state.capabilities.values()
            ]
            roots = [root.reveal() for root in keyring._roots.values()]
            assert kernel.system.backups is not None
            return Path((await kernel.system.backups.write()).path), tokens, roots

    backup, tokens, roots = trio.run(made)
    assert len(tokens) == 2 and roots
    master = (data / "master.key").read_text().strip()
    needles = [CANARY.encode(), master.encode(), bytes.fromhex(master), (data / "admin.token").read_bytes().strip()]
    for token in tokens:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        needles += [token[-24:].encode(), raw[-SIGNATURE_BYTES:], raw[-SIGNATURE_BYTES:].hex().encode()]
    needles += [*roots, *(root.hex().encode() for root in roots)]
    sealed = backup.read_bytes()
    assert not [needle for needle in needles if needle in sealed]
    assert b"calc" not in sealed and b"SQLite" not in sealed and b"kernel.db" not in sealed

    inside = tmp_path / "inside"
    inside.mkdir()
    opened = open_backup(backup, lambda: MasterKey.read(data / "master.key"))
    manifest = opened.read(lambda name, size: (inside / name.replace("/", "_")).open("wb"), lambda more: None)
    assert [each["name"] for each in manifest["members"]] == ["kernel.db", "kernel.head", "audit.db", "audit.head"]
    content = b"".join(path.read_bytes() for path in inside.iterdir())
    assert (CANARY + "-source").encode() in content, "the search finds what is there"
    secret = [needle for needle in needles if needle != CANARY.encode()] + [(CANARY + "-secret").encode()]
    assert not [needle for needle in [*secret, (CANARY + "-mine").encode()] if needle in content]


# -- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("missing: permission to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    ran = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], check=False)
    if ran.returncode:
        pytest.skip("missing: permission to mount a small file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_a_full_disk_fails_the_backup_and_nothing_else(tmp_path: Path, small_disk: Path) -> None:
    """Before it begins, and while it is written, in each of its steps."""
    data, backups = tmp_path / "data", small_disk / "backups"
    async with Kernel.open(data) as kernel:
        await kernel.tenant("a")
    await lengthen(data, 6_000)
    async with Kernel.open(data, settings=evolve(EMBEDDED, backup_dir=str(backups))) as kernel:
        assert kernel.system.backups is not None
        ballast = small_disk / "somebody_elses"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * 1_048_576)
        with pytest.raises(StorageFull, match="backup needs up to"):
            await kernel.system.backups.write()
        assert left_in(backups) == []
        ballast.unlink()

        make = kernel.system.backups._make
        for share in (0.05, 0.2, 0.3):
            full = ballast.open("ab", buffering=0)

            async def make_on_a_disk_that_fills(progress: Any, share: float = share, full: Any = full) -> Any:
                def told(done: int, total: int) -> None:
                    progress(done, total)
                    try:
                        while done >= share * total:
                            full.write(bytes(4_096))
                    except OSError:
                        pass

                return await make(told)

            kernel.system.backups._make = make_on_a_disk_that_fills
            try:
                with pytest.raises(SoloError) as caught:
                    await kernel.system.backups.write()
                assert caught.value.code == "storage_full", (share, caught.value)
            finally:
                full.close()
                ballast.unlink()
            assert left_in(backups) == []
            await kernel.tenant(f"t{share}".replace(".", "-"))  # it goes on
        kernel.system.backups._make = make
        made = await kernel.system.backups.write()
        assert left_in(backups) == [made.name]
        assert kernel.system.core.loop.storage_full is False and not kernel.system.core.telemetry.bugs
        new = small_disk / "new"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4_096))
        with pytest.raises(SoloError) as caught:
            await restored(Path(made.path), new, data / "master.key")
        assert caught.value.code in ("storage_full", "data_unwritable") and not new.exists()


async def test_the_archive_is_in_it(tmp_path: Path) -> None:
    data, new = tmp_path / "data", tmp_path / "new"
    async with served(data) as server:
        tenant = await server.make_tenant("a")
        assert (await tenant.post("/services", json={"service_id": "calc", "code": SERVICE})).status_code == 201
    await lengthen(data, 3_000)
    async with served(data) as server:
        answer = await server.client.post("/system/checkpoint")
        assert answer.status_code == 200
        answer = await server.client.post("/system/compact", json={"keep_events": 20})
        assert answer.status_code == 200, answer.text
        assert (data / "archive").is_dir() and list((data / "archive").iterdir())
        made = (await server.client.post("/system/backup")).json()
        assert made["warnings"] == []
    await restored(Path(made["path"]), new, data / "master.key")
    assert left_in(new / "archive") == left_in(data / "archive")
    report = await verify_data(new, nobody)
    assert report.status == "ok", report.checks
    with pytest.raises(SoloError) as caught:
        await restored(Path(made["path"]), tmp_path / "early", data / "master.key", at=5)
    assert caught.value.code == "invalid_field" and not (tmp_path / "early").exists()
    at = made["event_id"] - 3
    await restored(Path(made["path"]), tmp_path / "late", data / "master.key", at=at)
    assert (await verify_data(tmp_path / "late", nobody)).status == "ok"
    async with served(new) as server:
        assert (await server.tenant("a").post("/services/calc/call/add", json={"args": [1, 2]})).json() == {"result": 3}


async def test_a_log_that_is_damaged_is_not_backed_up(tmp_path: Path) -> None:
    """What cannot be believed is no backup; it is said, and nothing is left."""
    data = tmp_path / "data"
    async with Kernel.open(data) as kernel:
        await kernel.tenant("a")
    await trio.run_process(
        [sys.executable, "-c", DAMAGE, str(data / "kernel.db")], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    async with Kernel.open(data) as kernel:  # it starts from its checkpoint, and has not seen that event
        assert kernel.system.backups is not None
        with pytest.raises(Faulted) as caught:
            await kernel.system.backups.write()
        assert caught.value.code == "data_damaged" and "event 2" in caught.value.detail
        await kernel.tenant("b")
    assert left_in(data / "backups") == []


DAMAGE = """
import sys
import time
from solo_trio.journal.library import driver
connection = driver.connect(sys.argv[1], isolation_level=None)
connection.execute("UPDATE events SET correlation_id = 'x' WHERE id = 2")
connection.close()
"""


FAILING = """
import sys
import time
from pathlib import Path
import trio
from solo_trio.embedding import Kernel
from solo_trio.errors import Faulted

async def main():
    async with Kernel.open(Path(sys.argv[1])) as kernel:
        try:
            await kernel.system.backups.write()
        except Faulted as fault:
            print(fault.code)
        await kernel.tenant("after")
        assert not kernel.system.core.telemetry.bugs

trio.run(main)
"""


@pytest.mark.parametrize(
    ("file", "fault"),
    [("kernel.db", "pwrite64:error=EIO:when=3+"), ("packed", "write:error=EIO:when=2+"), ("packed", "fsync:error=EIO")],
)
def test_a_disk_that_fails_the_backup_fails_nothing_else(tmp_path: Path, file: str, fault: str) -> None:
    if shutil.which("strace") is None:
        pytest.skip("missing: strace")
    data = tmp_path / "data"
    trio.run(open_kernel, data)
    target = work_of(data / "backups", data) / file
    trace = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-P", str(target), "-e", f"inject={fault}"]
    ran = subprocess.run(
        [*trace, sys.executable, "-c", FAILING, str(data)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    if "Operation not permitted" in ran.stderr:
        pytest.skip("missing: permission to trace")
    assert (ran.returncode, ran.stdout) == (0, "backup_failed\n"), ran.stderr
    assert "INJECTED" in (tmp_path / "trace").read_text()
    assert left_in(data / "backups") == []
    assert trio.run(verify_data, data, nobody).status == "ok"
