"""Finding environments: by name only, of this Python only, and what is wrong with the others."""

from __future__ import annotations

import os
import sys
import venv
from pathlib import Path

import pytest
from runtime_rig import process_rig

from solo_trio.errors import Faulted, Rejected
from solo_trio.runtimes.environments import CONFIGURATION, PYTHON, Environments, read_environment
from solo_trio.runtimes.process import Sandboxing


def made(directory: Path, name: str) -> Path:
    venv.EnvBuilder(symlinks=True).create(directory / name)
    return directory / name


def refusal(environments: Environments, name: str) -> Rejected:
    with pytest.raises(Rejected) as refused:
        environments.find(name)
    return refused.value


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives services a user id of their own")
async def test_one_that_services_cannot_read_is_said_with_what_to_do(tmp_path: Path) -> None:
    """At level 2 services of a root's kernel are somebody else, who reads nothing in the kernel's own directory."""
    (tmp_path / "locks").mkdir()
    closed = tmp_path / "data"
    closed.mkdir(mode=0o700)
    made(closed, "science")
    sandboxing = Sandboxing(level=2, without=("namespaces",), environments=Environments(closed))
    async with process_rig(tmp_path / "locks", sandboxing) as rig:
        if (await rig.runtime.probe()).level < 2:  # type: ignore[attr-defined]
            pytest.skip("this machine gives less than level 2")
        with pytest.raises(Faulted) as caught:
            await rig.start("", environment="science")
        assert caught.value.code == "sandbox_unavailable"
        assert str(closed) in caught.value.detail and "solo env add NAME --path" in caught.value.detail


def test_found_by_name_and_through_a_link(tmp_path: Path) -> None:
    environments = Environments(tmp_path / "environments")
    assert environments.names() == []
    prefix = made(tmp_path / "environments", "science")
    elsewhere = made(tmp_path, "elsewhere")
    (environments.directory / "linked").symlink_to(elsewhere)
    (environments.directory / ".half.12").mkdir()
    found = environments.find("science")
    assert (found.name, found.python, found.prefix) == ("science", PYTHON, prefix)
    assert found.site_packages == prefix / "lib" / f"python{PYTHON}" / "site-packages" and found.site_packages.is_dir()
    assert environments.find("linked").prefix == elsewhere, "itself, not the link to it"
    assert environments.names() == ["linked", "science"]
    environments.check("science")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../elsewhere", "A", ".half.12", "a\0b", "a\n", "ä", "a" * 64])
def test_a_name_is_an_id(tmp_path: Path, name: str) -> None:
    made(tmp_path, "elsewhere")
    assert refusal(Environments(tmp_path / "environments"), name).code == "invalid_id"


def test_what_is_not_there_or_cannot_be_used(tmp_path: Path) -> None:
    environments = Environments(tmp_path)
    missing = refusal(environments, "science")
    assert missing.code == "environment_not_found" and "solo env add science" in missing.detail
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("gone", "circle", "plain", "file"):
        assert refusal(environments, name).code == "environment_unusable", name
    other = "3.8.1" if sys.version_info >= (3, 9) else "3.9"
    for text, says in (
        (f"version = {other}\n", "3.8"),
        (f"home = /usr\nVERSION_INFO={other}.final.0\n", "3.8"),
        ("home = /usr\n", "unknown version"),
        (f"version = {PYTHON}9\n", PYTHON),
        ("\0\xff", "unknown version"),
    ):
        (tmp_path / "plain" / CONFIGURATION).write_text(text)
        assert says in refusal(environments, "plain").detail
    (tmp_path / "plain" / CONFIGURATION).write_text(f"version_info = {PYTHON}.0\n")
    assert "site-packages is missing" in refusal(environments, "plain").detail


def test_a_huge_configuration_is_not_read_whole(tmp_path: Path) -> None:
    prefix = made(tmp_path, "science")
    with open(prefix / CONFIGURATION, "a") as file:
        file.truncate(10**9)
    assert read_environment("science", prefix).python == PYTHON
