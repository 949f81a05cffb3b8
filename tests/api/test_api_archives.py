"""Services of several modules, and services on environments: deployed, listed, replaced, recovered and refused, for real."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import sys
import textwrap
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from api_rig import Api, Client, refused, running

from solo_trio import Kernel
from solo_trio.client import pack
from solo_trio.errors import Rejected
from solo_trio.model.archive import ARCHIVE_BYTES_MAX

SHOP = {
    "service.py": """
        from solo_trio import service
        from shop import prices

        @service.export
        async def price(item):
            return prices.of(item)
    """,
    "shop/__init__.py": "",
    "shop/prices.py": """
        import json, pkgutil

        def of(item):
            return json.loads(pkgutil.get_data("shop", "table.json"))[item]  # the line that fails
    """,
    "shop/table.json": '{"tea": 3.5}',
}


def packed(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, textwrap.dedent(content) if isinstance(content, str) else content)
    return buffer.getvalue()


async def deploy(client: Client, archive: bytes, *, query: str = "", **more: Any) -> Any:
    body = {"service_id": "shop", "code": base64.b64encode(archive).decode(), "format": "python_zip", **more}
    return await client.post(f"/services{query}", body)


async def test_a_service_of_several_modules(tenant: Client) -> None:
    archive = packed(SHOP)
    answer = await deploy(tenant, archive)
    assert answer.status_code == 201, answer.text
    assert answer.json()["digest"] == hashlib.sha256(archive).hexdigest(), "of the bytes that were sent"
    assert await tenant.call("shop", "price", "tea") == 3.5
    failed = refused(await tenant.try_call("shop", "price", "cake"), "call_failed")
    assert failed["error_type"] == "KeyError"
    status = await tenant.ok("GET", "/services/shop")
    assert (status["spec"]["format"], status["spec"]["environment"]) == ("python_zip", None)


async def test_versions_list_what_is_in_an_archive_and_give_it_back(tenant: Client) -> None:
    archive = packed(SHOP)
    await tenant.deploy("shop", "x = 1")
    assert (await deploy(tenant, archive, query="?replace=true")).status_code == 201
    text, whole = (await tenant.ok("GET", "/services/shop/versions"))["versions"]
    assert (text["format"], text["source"], text["files"]) == ("python_source", "x = 1", None)
    assert (whole["format"], base64.b64decode(whole["source"])) == ("python_zip", archive)
    assert whole["files"] == [
        {"path": path, "size_bytes": len(textwrap.dedent(SHOP[path]).encode())} for path in sorted(SHOP)
    ]
    again = await tenant.post(
        "/services?replace=true", {"service_id": "shop", "code": whole["source"], "format": whole["format"]}
    )
    assert again.status_code == 201 and again.json()["digest"] == whole["digest"]


async def test_it_is_recovered(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as api:
        tenant = await api.tenant("t1")
        assert (await deploy(tenant, packed(SHOP))).status_code == 201
        token = tenant.token
    async with running(tmp_path / "data") as api:
        await api.kernel.wait_recovered()
        tenant = await api.client(token, "t1")
        assert await tenant.call("shop", "price", "tea") == 3.5
        report = await api.admin.ok("POST", "/system/verify")
        assert report["status"] != "failed"


async def test_a_traceback_shows_the_line_of_the_module(tenant: Client) -> None:
    broken = SHOP | {"shop/prices.py": "def of(item):\n    pass\nraise RuntimeError('over here')  # in prices"}
    document = refused(await deploy(tenant, packed(broken)), "service_start_failed")
    assert 'File "<service shop>/shop/prices.py", line 3' in document["traceback"]
    assert "raise RuntimeError('over here')  # in prices" in document["traceback"]
    assert "importlib" not in document["traceback"] and "zip_modules" not in document["traceback"]
    assert (await tenant.ok("GET", "/services"))["services"] == []


LINK = zipfile.ZipInfo("link.py")
LINK.external_attr = 0o120777 << 16


def linked() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("service.py", "")
        archive.writestr(LINK, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("archive", "code", "says"),
    [
        (b"", "archive_refused", "no zip archive"),
        (b"no archive at all", "archive_refused", "no zip archive"),
        (packed({"main.py": ""}), "archive_refused", "service.py"),
        (packed(SHOP)[:-9], "archive_refused", "cut off"),
        (packed({"service.py": "", "../up.py": ""}), "archive_refused", "relative"),
        (packed({"service.py": "", "native.so": b"\x7fELF"}), "archive_refused", "environment"),
        (packed({"service.py": "", "json.py": ""}), "archive_refused", "rename"),
        (packed({"service.py": "", "trio/x.py": ""}), "archive_refused", "rename"),
        (linked(), "archive_refused", "link"),
        (packed({"service.py": "", "zeros": bytes(1_000_000)}), "too_large", "times"),
        (packed({"service.py": "", "a": os.urandom(ARCHIVE_BYTES_MAX)}), "too_large", "characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_archives_that_are_refused(tenant: Client, archive: bytes, code: str, says: str) -> None:
    document = refused(await deploy(tenant, archive), code)
    assert says in document["detail"]
    assert (await tenant.ok("GET", "/services"))["services"] == []
    assert not await tenant.events(type="service_deployment_started"), "nothing was written"


async def test_code_that_is_no_base64(tenant: Client) -> None:
    for code in ("not base64!", "QUJ", "ä", "QQ==QQ=="):
        body = {"service_id": "shop", "code": code, "format": "python_zip"}
        assert "base64" in refused(await tenant.post("/services", body), "archive_refused")["detail"]
    wrapped = base64.encodebytes(packed(SHOP)).decode()
    answer = await tenant.post("/services", {"service_id": "shop", "code": wrapped, "format": "python_zip"})
    assert answer.status_code == 201, "as the command base64 prints it"


async def test_embedded(tmp_path: Path) -> None:
    archive = packed(SHOP)
    async with Kernel.open(tmp_path / "data") as kernel:
        tenant = await kernel.tenant("t1")
        await tenant.deploy("shop", source=archive)
        assert await tenant.call("shop", "price", "tea") == 3.5
        again = await tenant.deploy("shop", source=archive)
        assert again["version"] == 1, "an equal one is left alone"
        with pytest.raises(Rejected) as refusal:
            await tenant.deploy("other", source=b"no archive")
        assert refusal.value.code == "archive_refused"
        with pytest.raises(Rejected) as refusal:
            await tenant.deploy("task", test_embedded, ephemeral=True, environment="science")
        assert refusal.value.code == "invalid_field"


def test_a_directory_packs_to_the_same_bytes(tmp_path: Path) -> None:
    def write(root: Path, paths: list[str]) -> Path:
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(textwrap.dedent(SHOP[path]))
        return root

    first, second = write(tmp_path / "a", sorted(SHOP)), write(tmp_path / "b", sorted(SHOP, reverse=True))
    for unwanted in (".git/config", "shop/__pycache__/x.pyc", "shop/old.pyc", ".env", "venv/pyvenv.cfg", "venv/x.py"):
        (second / unwanted).parent.mkdir(parents=True, exist_ok=True)
        (second / unwanted).write_text("")
    os.chmod(second / "service.py", 0o700)
    os.utime(second / "service.py", (0, 0))
    assert pack(first) == pack(second)
    assert zipfile.ZipFile(io.BytesIO(pack(first))).namelist() == sorted(SHOP)
    (first / "link.py").symlink_to("service.py")
    with pytest.raises(Rejected, match="symbolic link"):
        pack(first)
    (first / "link.py").unlink()
    os.mkfifo(first / "pipe")
    with pytest.raises(Rejected, match="plain file"):
        pack(first)
    (second / "large.bin").write_bytes(bytes(9_000_000))
    with pytest.raises(Rejected, match="has more"):
        pack(second)


# -- environments


def prepared(api: Api, name: str, *, module: str = "") -> Path:
    """An environment with one module in it."""
    prefix = api.data / "environments" / name
    venv.EnvBuilder(symlinks=True).create(prefix)
    site = prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "of_the_operator.py").write_text(module)
    return prefix


async def test_an_environment_that_there_is_not(api: Api, tenant: Client) -> None:
    document = refused(await tenant.try_deploy("calc", "x = 1", environment="science"), "environment_not_found")
    assert "solo env add science" in document["detail"]
    refused(await tenant.try_deploy("calc", "x = 1", environment="../up"), "invalid_id")
    refused(await tenant.try_deploy("calc", "x = 1", environment=".science.12"), "invalid_id")
    for found in (
        await tenant.events(type="service_deployment_started"),
        (await tenant.ok("GET", "/services"))["services"],
    ):
        assert not found
    (prepared(api, "old") / "pyvenv.cfg").write_text("version = 3.8.1\n")
    document = refused(await tenant.try_deploy("calc", "x = 1", environment="old"), "environment_unusable")
    assert "3.8" in document["detail"]


async def test_a_service_finds_the_packages_of_its_environment(api: Api, tenant: Client) -> None:
    prepared(api, "science", module="ANSWER = 42")
    source = """
    import of_the_operator
    from solo_trio import service

    @service.export
    def answer():
        return of_the_operator.ANSWER
    """
    refused(await tenant.try_deploy("plain", source), "service_start_failed")
    assert (await tenant.deploy("calc", source, environment="science"))["status"] == "ready"
    assert await tenant.call("calc", "answer") == 42
    [listed] = (await tenant.ok("GET", "/services"))["services"]
    assert listed["environment"] == "science"


async def test_an_environment_that_is_gone_at_recovery_fails_its_service_alone(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as api:
        tenant = await api.tenant("t1")
        prefix = prepared(api, "science")
        await tenant.deploy("calc", environment="science")
        await tenant.deploy("plain")
        token = tenant.token
    shutil.rmtree(prefix)
    async with running(tmp_path / "data") as api:
        await api.kernel.wait_recovered()
        tenant = await api.client(token, "t1")
        assert await tenant.call("plain", "add", 1, 2) == 3
        failed = await tenant.wait_event("service_crashed", "calc")
        assert "no environment 'science'" in failed["payload"]["reason"]
        assert (await tenant.ok("GET", "/services/calc"))["status"] in ("restarting", "given_up")
        assert (await api.admin.get("/health")).status_code == 200
