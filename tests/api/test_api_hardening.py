"""The analyser at deployments: told in the answer, refused where the tenant says so, and never in the way of anybody else."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import trio
from api_rig import CALC, Api, Client, running
from trio.testing import wait_all_tasks_blocked

from solo_trio import Kernel
from solo_trio.errors import Rejected
from solo_trio.hardening import ANALYSED_BYTES_MAX, FINDINGS_MAX
from solo_trio.operations.findings import HERE_BYTES_MAX, PROCESSES_MAX, findings_of
from solo_trio.operations.settings import Settings

SHELL = CALC + "\n\nimport os\n\n\ndef listing():\n    return os.popen('ls').read()\n"
DOUBTFUL = CALC + "\n\nasync def load():\n    return open('a').read()\n"
SHAPE = {"rule", "level", "file", "line", "column", "what", "why", "remedy"}
KEY = {"Idempotency-Key": "key-1"}


async def harden(api: Api, tenant_id: str, hardening: str) -> dict[str, Any]:
    answer = await api.admin.request("PATCH", f"/tenants/{tenant_id}", json={"hardening": hardening})
    assert answer.status_code == 200, answer.text
    return answer.json()


def line_of(source: str, text: str) -> int:
    return source[: source.index(text)].count("\n") + 1


async def test_findings_are_in_the_answer_and_nothing_is_refused(tenant: Client) -> None:
    for query in ("", "?replace=true", "?replace=true&wait=false"):
        answer = await tenant.try_deploy("calc", SHELL, query=query)
        assert answer.status_code == (202 if "wait" in query else 201)
        [finding] = answer.json()["findings"]
        assert finding.keys() == SHAPE
        assert (finding["rule"], finding["level"]) == ("process_use", "error")
        assert finding["line"] == line_of(SHELL, "os.popen")
    assert (await tenant.deploy("clean", CALC))["findings"] == []


async def test_an_error_is_refused_where_the_tenant_says_so(api: Api, tenant: Client) -> None:
    before = await tenant.deploy("calc", CALC)
    status = (await tenant.get("/services/calc")).json()["status"]
    assert (await harden(api, "t1", "refuse"))["hardening"] == "refuse"
    [event] = await tenant.events(type="tenant_hardening_changed")
    assert event["payload"] == {"hardening": "refuse"}
    recorded = len(await tenant.events())
    for service_id, query in (("calc", "?replace=true"), ("other", ""), ("other", "?wait=false")):
        answer = await tenant.try_deploy(service_id, SHELL, query=query)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "code_refused")
        assert f"line {line_of(SHELL, 'os.popen')}: os.popen starts another process" in problem["detail"]
        assert [each["rule"] for each in problem["findings"]] == ["process_use"]
    assert len(await tenant.events()) == recorded, "a refusal leaves nothing in the log"
    now = (await tenant.get("/services/calc")).json()
    assert (now["status"], now["version"], now["revision"]) == (status, 1, before["revision"])
    assert (await tenant.try_deploy("broken", "x = (")).json()["code"] == "code_refused"
    answer = await tenant.deploy("doubtful", DOUBTFUL)
    assert [each["level"] for each in answer["findings"]] == ["warning"], "only errors are refused"
    other = await api.tenant("t2")
    assert (await other.deploy("calc", SHELL))["findings"], "no other tenant's"


async def test_off_looks_at_nothing_and_a_tenant_is_created_with_its_own(api: Api) -> None:
    careless = await api.tenant("careless", hardening="off")
    assert (await careless.deploy("calc", SHELL))["findings"] == []
    strict = await api.tenant("strict", hardening="refuse")
    assert (await strict.try_deploy("calc", SHELL)).status_code == 422
    listed = {each["tenant_id"]: each["hardening"] for each in (await api.admin.ok("GET", "/tenants"))["tenants"]}
    assert listed == {"careless": "off", "strict": "refuse"}
    refused = await strict.request("PATCH", "/tenants/strict", json={"hardening": "off"})
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    wrong = await api.admin.request("PATCH", "/tenants/strict", json={"hardening": "maybe"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_field")
    before = len(await strict.events())
    assert (await harden(api, "strict", "refuse"))["hardening"] == "refuse"
    assert len(await strict.events()) == before, "it is so already"


async def test_a_repeated_request_has_the_first_answer_though_the_tenant_is_stricter_now(
    api: Api, tenant: Client
) -> None:
    first = await tenant.try_deploy("calc", SHELL, headers=KEY)
    await harden(api, "t1", "refuse")
    again = await tenant.try_deploy("calc", SHELL, headers=KEY)
    assert (again.status_code, again.json()) == (201, first.json())
    assert (await tenant.try_deploy("calc", SHELL, query="?replace=true")).status_code == 422


async def test_it_is_remembered_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as api:
        await api.tenant("t1", hardening="refuse")
    async with running(tmp_path / "data") as api:
        client = await api.client(api.admin.token, "t1", **{"X-Tenant-ID": "t1"})
        assert (await client.try_deploy("calc", SHELL)).json()["code"] == "code_refused"


async def test_a_long_source_is_looked_at_apart_and_nobody_waits_for_it(api: Api, tenant: Client) -> None:
    source = CALC + "\n" + "x = f = max(1, 2)\n" * ((ANALYSED_BYTES_MAX - 2_000) // 18) + "import subprocess\n"
    assert len(source) > 10 * HERE_BYTES_MAX
    answers: list[dict[str, Any]] = []
    asked = 0
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def deploy() -> None:
            answers.append(await tenant.deploy("long", source, limits={"start_timeout_s": 60}))

        while not answers:
            assert (await api.admin.get("/health")).status_code == 200
            asked += 1
    assert asked > 5, "the kernel goes on meanwhile"
    assert [each["rule"] for each in answers[0]["findings"]] == ["process_use"]
    larger = "#" * ANALYSED_BYTES_MAX + "\n" + CALC
    assert [each["rule"] for each in (await tenant.deploy("larger", larger))["findings"]] == ["too_large"]


async def test_many_findings_are_bounded(tenant: Client) -> None:
    answer = await tenant.deploy("many", CALC + "\nimport os\n" + "f = os.fork\n" * 500)
    assert len(answer["findings"]) == FINDINGS_MAX + 1
    assert "left out" in answer["findings"][-1]["what"]


async def test_the_modules_of_an_archive_are_named(tenant: Client) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("service.py", CALC)
        archive.writestr("shop/__init__.py", "")
        archive.writestr("shop/tools.py", "import os\n\n\ndef listing():\n    os.system('ls')\n")
        archive.writestr("shop/data.txt", "import subprocess")
    code = base64.b64encode(buffer.getvalue()).decode()
    answer = await tenant.post("/services", {"service_id": "shop", "code": code, "format": "python_zip"})
    assert answer.status_code == 201, answer.text
    [finding] = answer.json()["findings"]
    assert (finding["file"], finding["line"], finding["rule"]) == ("shop/tools.py", 5, "process_use")


async def test_an_embedding_application_is_told_and_refused_alike(tmp_path: Path) -> None:
    async with Kernel.open(tmp_path / "data", settings=Settings(hardening="warn")) as kernel:
        tenant = await kernel.tenant("t1")
        first = await tenant.deploy("calc", source=SHELL)
        assert [each["rule"] for each in first["findings"]] == ["process_use"]
    async with Kernel.open(tmp_path / "data", settings=Settings(hardening="refuse")) as kernel:
        await kernel.wait_recovered()
        tenant = await kernel.tenant("t1")
        again = await tenant.deploy("calc", source=SHELL)
        assert (again["version"], again["findings"]) == (1, first["findings"]), "what is there stays, and is the answer"
        with pytest.raises(Rejected) as raised:
            await tenant.deploy("more", source=SHELL)
        assert raised.value.code == "code_refused"
        assert raised.value.extra["findings"] == first["findings"]


async def test_who_gives_up_waiting_leaves_no_process() -> None:
    source = b"x = f(a, b)\n" * (ANALYSED_BYTES_MAX // 12)
    async with trio.open_nursery() as nursery:
        for _ in range(2 * PROCESSES_MAX):
            nursery.start_soon(findings_of, source, "python_source")
        await wait_all_tasks_blocked(0.1)
        assert [line for line in children() if "findings_child" in line]
        nursery.cancel_scope.cancel()
    assert not [line for line in children() if "findings_child" in line]


def children() -> list[str]:
    """The command lines of this process's."""
    pids = [pid for thread in Path("/proc/self/task").iterdir() for pid in (thread / "children").read_text().split()]
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]


async def test_what_cannot_be_looked_at_is_a_finding() -> None:
    assert (
        await findings_of(b"no archive at all", "python_zip") == ()
    )  # whoever deploys it is told by the archive's reader
    deep = b"x = " + b"(" * (HERE_BYTES_MAX + 1)
    [finding] = await findings_of(deep, "python_source")
    assert (finding.rule, finding.level) == ("syntax", "error")
