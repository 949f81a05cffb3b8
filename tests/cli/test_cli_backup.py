"""`solo backup` and `solo restore`: through a server, and on directories that nobody uses."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import trio
from cli_rig import PIDS, Server, at_terminal, solo

from solo_trio.bootstrap import restore_backup, restoring, verify_data
from solo_trio.bootstrap.backup_file import new_key
from solo_trio.bootstrap.backup_parts import prepare
from solo_trio.cli import backup_commands
from solo_trio.cli.session import Place
from solo_trio.client import SoloClient, find_server
from solo_trio.errors import Faulted
from solo_trio.vault.keys import MasterKey
from solo_trio.vault.sealed_file import SealedWriter, write_head

OTHER_KEY = "0b" * 32


def nobody(done: int, total: int) -> None:
    """Is told how far it is."""


def client_of(data: Path, tenant: str | None = "default") -> SoloClient:
    return SoloClient(**find_server(data, environment={}).options(), tenant=tenant)


def refusal(done: subprocess.CompletedProcess[str], code: str) -> str:
    assert (done.returncode, done.stdout) == (1, ""), done.stdout + done.stderr
    assert f"error: {code}:" in done.stderr, done.stderr
    return done.stderr


def backed_up(*arguments: str | Path, **more: str) -> dict[str, Any]:
    done = solo("backup", *arguments, "--json", **more)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def restored(backup: str | Path, data: Path, *arguments: str | Path, **more: str) -> dict[str, Any]:
    done = solo("restore", backup, "--data", data, *arguments, "--json", **more)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Story:
    """A data directory that a kernel used and left, a backup of it, and which event was what."""

    def __init__(self, root: Path) -> None:
        self.data = root / "data"
        self.key = self.data / "master.key"
        self.at: dict[str, int] = {}
        with Server(self.data) as server:
            with client_of(self.data) as client:
                client.create_tenant("default")
                client.deploy("pids", PIDS)
                client.set_secret("kept", "the kept one")
                client.set_secret("deleted", "the deleted one")
                granted = client.grant("service:pids", ["call"])
                self.granted_id, self.granted = granted["id"], granted["token"]
                self.mark("quiet", client)
                client.deploy("late", PIDS)
                client.set_secret("late", "the late one")
                client.revoke(self.granted_id)
                client.delete_secret("deleted")
                client.kill("pids")
                self.mark("changed", client)
                self.old_token = client.rotate_token()["token"]
                answer = client.backup()
                self.backup, self.at["end"] = Path(answer["path"]), answer["event_id"]
            server.send(signal.SIGTERM)
            assert server.wait() == 0

    def mark(self, name: str, client: SoloClient) -> None:
        with client_of(self.data, None) as system:
            self.at[name] = system.system()["last_event_id"]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("story"))


@pytest.fixture
def gone(tmp_path: Path) -> Iterator[Path]:
    """A directory that is not there, and must not be there afterwards."""
    yield tmp_path / "new"
    assert not (tmp_path / "new").exists()


def contents(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}


def test_through_a_server(server: Server, tmp_path: Path) -> None:
    answer = backed_up("--data", server.data)
    path = Path(answer["path"])
    assert answer.keys() == {"name", "path", "event_id", "bytes", "digest", "duration_ms", "warnings"}
    assert path.parent == server.data / "backups" and path.name == answer["name"]
    assert (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) == (answer["bytes"], answer["digest"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with client_of(server.data, None) as client:
        [event] = client.events(since_id=answer["event_id"], type="backup_written")["events"]
        system = client.system()
    names = {"name": answer["name"], "event_id": answer["event_id"], "size_bytes": answer["bytes"]}
    assert event["payload"] == names | {"digest": answer["digest"]}
    assert system["backup"]["running"] is False and system["backup"]["last"]["name"] == answer["name"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for destination, place in ((elsewhere, None), (tmp_path / "named", tmp_path / "named")):
        moved = backed_up(destination, "--data", server.data)
        assert Path(moved["path"]) == (place or elsewhere / moved["name"])
        assert hashlib.sha256(Path(moved["path"]).read_bytes()).hexdigest() == moved["digest"]
        assert not (server.data / "backups" / moved["name"]).exists()
    assert [each.name for each in (server.data / "backups").iterdir()] == [answer["name"]], "nothing else is left"
    done = solo("backup", "--data", server.data)
    assert done.returncode == 0 and "the log up to event" in done.stdout and "master key" in done.stderr


def test_a_place_that_cannot_be_is_refused_before_anything_is_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    before = list((server.data / "backups").glob("*"))
    refusal(solo("backup", tmp_path / "there", "--data", server.data), "file_exists")
    refusal(solo("backup", tmp_path / "no" / "where", "--data", server.data), "backup_failed")
    elsewhere = solo("backup", tmp_path, "--url", server.url, SOLO_TOKEN="x")
    assert elsewhere.returncode == 2 and "name no DEST" in elsewhere.stderr
    assert (tmp_path / "there").read_text() == "x"
    assert list((server.data / "backups").glob("*")) == before


@pytest.fixture
def forced_out(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was forced to the disk, in order."""
    found: list[Path] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        found.append(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_the_name_of_a_new_place_is_forced_out(tmp_path: Path, forced_out: list[Path]) -> None:
    prepare(tmp_path / "data", tmp_path / "some" / "where")
    assert forced_out == [tmp_path, tmp_path / "some"]


def test_a_restore_forces_every_directory_out(story: Story, tmp_path: Path, forced_out: list[Path]) -> None:
    names = ["kernel.db", "certificates/a/b/c.pem", "archive/one", "archive/two"]
    found = restoring.directories_of(tmp_path, names)
    inner = ["certificates/a/b", "certificates/a", "certificates", "."]
    assert [each for each in found if each.name != "archive"] == [tmp_path / each for each in inner]
    assert found.count(tmp_path / "archive") == 1
    restore_backup(story.backup, tmp_path / "new", nobody, key_file=story.key)
    made = {path for path in (tmp_path / "new").rglob("*") if path.is_dir()}
    assert {*made, tmp_path / "new", tmp_path} <= set(forced_out)


def test_a_tenants_token_may_not_and_nobody_names_a_path(server: Server) -> None:
    with client_of(server.data, None) as client:
        token = client.create_tenant("another")["token"]
    refusal(solo("backup", "--data", server.data, SOLO_TOKEN=token), "permission_denied")
    system = (server.data / "admin.token").read_text().strip()
    answer = httpx.post(
        f"{server.url}/system/backup", json={"path": "/etc/x"}, headers={"Authorization": f"Bearer {system}"}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_field")


def test_without_a_server_nothing_is_changed(story: Story, tmp_path: Path) -> None:
    before = contents(story.data)
    answer = backed_up(tmp_path, "--data", story.data)
    assert {name: data for name, data in contents(story.data).items() if name != "lock"} == {
        name: data for name, data in before.items() if name != "lock"
    }
    assert Path(answer["path"]).parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == [answer["name"]]
    again = restored(answer["path"], tmp_path / "new", "--master-key", story.key)
    assert again["event_id"] == answer["event_id"]
    assert solo("verify", "--data", tmp_path / "new").returncode == 0


def test_nobody_is_asked_how_far_it_is_where_nobody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Place] = []

    class Asked(Place):
        def system(self) -> Any:
            asked.append(self)
            raise Faulted("not_reachable", "it is only seen that somebody asks")

    for json_, terminal in ((False, False), (True, True), (False, True)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with backup_commands._following(Asked(None, None, json_)):
            pass
    assert [place.json for place in asked] == [False], "at a terminal, and not where JSON is wanted"


def test_on_a_terminal_its_progress_is_shown(story: Story, tmp_path: Path) -> None:
    code, shown = at_terminal("backup", tmp_path, "--data", story.data)
    assert code == 0 and "bytes" in shown


def test_what_was_restored_is_the_kernel_again(story: Story, tmp_path: Path) -> None:
    data = tmp_path / "new"
    answer = restored(story.backup, data, "--master-key", story.key)
    assert answer["event_id"] == answer["backup_event_id"] and answer["warnings"] == []
    assert [answer[name] for name in ("revoked", "lost_secrets", "lost_tokens", "lost_sources")] == [0, [], [], []]
    assert (data / "master.key").read_text() == story.key.read_text()
    assert not (data / "kernel.restoring").exists() and stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in data.rglob("*") if path.is_file()} == {0o600}
    assert solo("verify", "--data", data).returncode == 0
    with Server(data), client_of(data) as client:
        assert isinstance(client.call("late", "pid"), int)
        assert client.reveal_secret("kept") == "the kept one"
        system = client.system()
        assert system["log"] == {"id": answer["log_id"], "restored_id": answer["event_id"] + 1}
        with client_of(data, None) as everything:
            [event] = everything.events(type="log_restored")["events"]
        wanted = {"log_id": answer["log_id"], "event_id": answer["event_id"], "backup_event_id": answer["event_id"]}
        wanted |= {"secrets": [], "sources": []}
        assert (event["id"], event["payload"]) == (answer["event_id"] + 1, wanted)
        assert client.verify()["status"] == "ok"


def test_up_to_an_event(story: Story, tmp_path: Path) -> None:
    """What was revoked, shredded, replaced or deleted since stays so, and is told; the rest is as it was then."""
    data = tmp_path / "new"
    answer = restored(story.backup, data, "--master-key", story.key, "--at", str(story.at["quiet"]))
    assert answer["event_id"] == story.at["quiet"] < answer["backup_event_id"]
    assert answer["revoked"] == 1
    assert answer["lost_secrets"] == [{"tenant_id": "default", "name": "deleted", "version": 1}]
    assert answer["lost_tokens"] == ["default"]
    assert answer["lost_sources"] == [], "another service has the same source"
    with Server(data) as server, client_of(data) as client:
        assert [each["service_id"] for each in client.services()["services"]] == ["pids"]
        assert isinstance(client.call("pids", "pid"), int)
        assert [each["name"] for each in client.secrets()["secrets"]] == ["kept"]
        assert client.reveal_secret("kept") == "the kept one"
        assert client.verify()["status"] == "ok"
        fresh = client.rotate_token()["token"]
        for token, code in ((story.granted, "unauthenticated"), (story.old_token, "unauthenticated"), (fresh, "")):
            done = solo("list", "--url", server.url, SOLO_TOKEN=token)
            assert (code in done.stderr) if code else done.returncode == 0, done.stderr
        with client_of(data, None) as everything:
            ids = [each["id"] for each in everything.events(limit=1_000)["events"]]
        assert ids == list(range(1, len(ids) + 1))


def test_up_to_any_event(story: Story, tmp_path: Path) -> None:
    """Whatever event it is, the directory is sound, and a kernel starts on it."""
    last = story.at["end"]
    for event_id in range(1, last + 1):
        data = tmp_path / f"at-{event_id}"
        assert restore_backup(story.backup, data, nobody, at=event_id, key_file=story.key).event_id == event_id
        report = trio.run(verify_data, data, nobody)
        assert report.status == "ok", report.checks
        shutil.rmtree(data)


def test_up_to_its_very_beginning(story: Story, tmp_path: Path) -> None:
    """Of a kernel that had recorded nothing but its start."""
    restore_backup(story.backup, tmp_path / "new", nobody, at=1, key_file=story.key)
    with Server(tmp_path / "new") as server, client_of(server.data, None) as client:
        assert client.verify()["status"] != "failed"
        client.create_tenant("fresh")


def test_events_that_it_does_not_hold(story: Story, gone: Path) -> None:
    beyond = str(10**9)
    done = solo("restore", story.backup, "--data", gone, "--master-key", story.key, "--at", beyond)
    assert "holds the log up to event" in refusal(done, "invalid_field")


def test_without_the_key_or_with_another(story: Story, gone: Path, tmp_path: Path) -> None:
    done = refusal(solo("restore", story.backup, "--data", gone), "master_key_wrong")
    assert "--master-key" in done and "SOLO_MASTER_KEY" in done and "master_key_command" in done
    refusal(solo("restore", story.backup, "--data", gone, SOLO_MASTER_KEY=OTHER_KEY), "master_key_wrong")
    other = tmp_path / "other.key"
    for content, mode in ((OTHER_KEY, 0o600), ("nothing", 0o600), (story.key.read_text(), 0o644)):
        other.write_text(content)
        other.chmod(mode)
        done = refusal(solo("restore", story.backup, "--data", gone, "--master-key", other), "master_key_wrong")
        assert content.strip() not in done or content == "nothing"
    refusal(solo("restore", story.backup, "--data", gone, "--master-key", tmp_path / "none"), "master_key_wrong")


def test_the_key_from_elsewhere(story: Story, tmp_path: Path) -> None:
    """It is not put into the directory then: the kernel has it from there too."""
    key = story.key.read_text().strip()
    restored(story.backup, tmp_path / "a", SOLO_MASTER_KEY=key)
    restored(story.backup, tmp_path / "b", SOLO_MASTER_KEY_COMMAND=f"cat {story.key}")
    configuration = tmp_path / "solo.toml"
    configuration.write_text(f'[security]\nmaster_key_command = ["cat", "{story.key}"]\n')
    restored(story.backup, tmp_path / "c", "--config", configuration)
    for name in "abc":
        assert not (tmp_path / name / "master.key").exists()
        assert solo("verify", "--data", tmp_path / name, SOLO_MASTER_KEY=key).returncode == 0


def test_a_directory_that_is_not_empty_is_left_alone(story: Story, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    refusal(solo("restore", story.backup, "--data", tmp_path, "--master-key", story.key), "file_exists")
    assert contents(tmp_path) == {"mine": b"x"}
    refusal(solo("restore", story.backup, "--data", story.data, "--master-key", story.key), "file_exists")
    (tmp_path / "kernel.restoring").write_text("a file of mine that is called so")
    refusal(solo("restore", story.backup, "--data", tmp_path, "--master-key", story.key), "file_exists")
    assert contents(tmp_path).keys() == {"mine", "kernel.restoring"}
    empty = tmp_path / "empty"
    empty.mkdir()
    restored(story.backup, empty, "--master-key", story.key)


def test_a_backup_that_is_not_whole(story: Story, gone: Path, tmp_path: Path) -> None:
    """Bits that flipped, bytes that are missing, bytes too many: wherever they are. What is refused leaves nothing."""
    whole = story.backup.read_bytes()
    bad = tmp_path / "bad.backup"
    random = Random(len(whole))
    places = [*range(400), len(whole) - 1, *(random.randrange(len(whole)) for _ in range(200))]
    damaged = [whole[:each] + bytes([whole[each] ^ 1 << random.randrange(8)]) + whole[each + 1 :] for each in places]
    damaged += [whole[:each] for each in (0, 100, len(whole) // 2, len(whole) - 1)] + [whole + b"\0", whole + whole]
    for content in damaged:
        bad.write_bytes(content)
        with pytest.raises(Faulted) as caught:
            restore_backup(bad, gone, nobody, key_file=story.key)
        assert caught.value.code in ("backup_damaged", "master_key_wrong"), caught.value
        assert not gone.exists()
    refusal(solo("restore", bad, "--data", gone, "--master-key", story.key), "backup_damaged")
    refusal(solo("restore", tmp_path / "none", "--data", gone, "--master-key", story.key), "backup_failed")


def test_a_watcher_from_before_is_told(story: Story, tmp_path: Path) -> None:
    """It has seen ids that this log has not come to, or has given to something else."""
    answer = restored(story.backup, tmp_path / "new", "--master-key", story.key, "--at", str(story.at["quiet"]))
    began = answer["event_id"] + 1
    with Server(tmp_path / "new") as server, client_of(server.data, None) as client:
        token = (server.data / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        with httpx.stream("GET", f"{server.url}/events?since_id={10**6}", headers=headers, timeout=60) as stream:
            lines = stream.iter_lines()
            told = [next(line for line in lines if line.startswith(start)) for start in ("event:", "data:", "id:")]
        assert told == ["event: restored", f'data: {{"event_id": {began}}}', f"id: {began}"]
        with client.watch(since_id=10**6) as events:
            first = next(iter(events))
        assert (first["id"], first["type"]) == (began, "log_restored")
        with client.watch(since_id=began) as events:
            assert next(iter(events))["id"] == began + 1, "who has seen some of this one goes on"


def test_a_manifest_that_says_something_else(story: Story, gone: Path, tmp_path: Path) -> None:
    """Made by who has the key, and yet not what it says."""
    master = MasterKey.read(story.key)
    lies: dict[str, Any] = {
        "another digest": [{"name": "kernel.db", "size_bytes": 4, "sha256": "0" * 64}],
        "one more": [{"name": "kernel.db", "size_bytes": 4, "sha256": hashlib.sha256(b"rows").hexdigest()}] * 2,
        "none": [],
        "no list": None,
    }
    for what, members in lies.items():
        bad = tmp_path / "bad"
        key, head = new_key(master)
        manifest = json.dumps({"format": 1, "last_event_id": 1, "members": members}).encode()
        with (
            bad.open("wb") as file,
            SealedWriter(file, key, write_head(file, head)) as sealed,
            gzip.GzipFile(fileobj=sealed, mode="wb") as packed,
            tarfile.open(fileobj=packed, mode="w|") as tar,
        ):
            for name, content in (("kernel.db", b"rows"), ("manifest.json", manifest)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        with pytest.raises(Faulted) as caught:
            restore_backup(bad, gone, nobody, key_file=story.key)
        assert caught.value.code == "backup_damaged", what


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "certs/../../outside", ".hidden", "a\0b"])
def test_a_member_that_would_lie_elsewhere(story: Story, gone: Path, tmp_path: Path, name: str) -> None:
    bad = tmp_path / "bad"
    key, head = new_key(MasterKey.read(story.key))
    with (
        bad.open("wb") as file,
        SealedWriter(file, key, write_head(file, head)) as sealed,
        gzip.GzipFile(fileobj=sealed, mode="wb") as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(Faulted) as caught:
        restore_backup(bad, gone, nobody, key_file=story.key)
    assert caught.value.code == "backup_damaged"
