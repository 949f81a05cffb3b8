"""Data directories as earlier versions left them: opened, migrated, folded to what they meant then, and used further.

Each was recorded by the version that it is named after, from real services that were deployed, crashed, were given up, killed
and recovered across two kernels that were killed with SIGKILL. It is kept as text: `schemaN.sql` (the database), `.head` (the
witness, hex), `.key` (the master key) and `.state.json` (what that version folded it to). Recorded once, never made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

import attrs
import orjson
import pytest
import trio
from rpds import HashTrieMap

from solo_trio.bootstrap import verify_data
from solo_trio.embedding import Kernel
from solo_trio.journal.library import driver
from solo_trio.journal.schema import MIGRATIONS
from solo_trio.journal.sqlite import open_journal
from solo_trio.kernel.log_checks import nothing_told
from solo_trio.model import codec
from solo_trio.model.event import KINDS
from solo_trio.model.state import KernelState, apply
from solo_trio.operations.settings import Settings
from solo_trio.vault.keys import MasterKey

LOGS: Final = Path(__file__).parent / "old_logs"
OLD: Final = sorted(path.stem for path in LOGS.glob("*.sql"))
every_old_log = pytest.mark.parametrize("name", OLD)


def unpacked(name: str, directory: Path) -> Path:
    """The data directory that `name` was."""
    directory.mkdir(mode=0o700)
    connection = driver.connect(str(directory / "kernel.db"), isolation_level=None)
    connection.executescript((LOGS / f"{name}.sql").read_text())
    connection.close()
    (directory / "kernel.head").write_bytes(bytes.fromhex((LOGS / f"{name}.head").read_text()))
    key = directory / "master.key"
    key.touch(mode=0o600)
    key.write_text((LOGS / f"{name}.key").read_text())
    return directory


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((LOGS / f"{name}.state.json").read_text())
    return found


def plain(value: Any) -> Any:
    """Anything of the state as JSON has it."""
    if isinstance(value, HashTrieMap | Mapping):
        return {key: plain(each) for key, each in value.items()}
    if attrs.has(type(value)):
        return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def check_meant(then: Any, now: Any, where: str = "") -> None:
    """All that was said then is said now; what is said now beside it did not exist then."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            assert key in now, f"{where}.{key}"
            check_meant(value, now[key], f"{where}.{key}")
        return
    assert then == now, where


def test_there_is_one_of_each_schema() -> None:
    assert OLD[0] == "schema1"


@every_old_log
async def test_it_is_opened_and_folded_to_what_it_meant(name: str, tmp_path: Path) -> None:
    data = unpacked(name, tmp_path / "data")
    journal = await open_journal(data, MasterKey.load_or_create(data / "master.key").derive("witness"))
    state, kinds = KernelState(), set()
    async for page in journal.replay():
        for stored in page:
            kinds.add(stored.type)
            record = codec.to_record(stored)
            assert record.event is not None
            # An old payload is read as an event of today, and that can be written and read again.
            again = codec.decode(stored.type, KINDS[stored.type].SCHEMA, codec.encode(record.event))
            assert again == record.event
            state = apply(state, record)
    rows = await journal.idempotency(0)
    assert await journal.checkpoint_ids() == []
    await journal.close()
    meant = expected(name)
    check_meant(meant["state"], plain(state))
    assert plain(rows) == meant["idempotency"]
    assert len(kinds) == 17, "every kind of event that there was then"
    connection = driver.connect(str(data / "kernel.db"))
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    connection.close()


@every_old_log
async def test_it_is_verified_as_it_is(name: str, tmp_path: Path) -> None:
    """Without migrating it: the check changes nothing."""
    data = unpacked(name, tmp_path / "data")
    before = (data / "kernel.db").read_bytes()
    report = await verify_data(data, lambda done, total: nothing_told(done))
    assert report.status == "ok", report.checks
    assert report.counts["events"] == expected(name)["state"]["last_id"]
    assert (data / "kernel.db").read_bytes() == before


@every_old_log
async def test_a_kernel_goes_on_from_it(name: str, tmp_path: Path) -> None:
    data = unpacked(name, tmp_path / "data")

    async def ticker(ctx: Any) -> None:
        await trio.sleep_forever()

    for start in range(2):  # the second one from the checkpoint of the first
        async with Kernel.open(data, callables={"ticker": ticker}, settings=Settings()) as kernel:
            await kernel.wait_recovered()
            report = kernel.system.core.report
            assert report is not None
            assert (report.failed, report.pending) == (0, 0)
            assert (report.checkpoint is None) == (start == 0)
            acme = await kernel.tenant("acme")
            assert {each["service_id"]: each["status"] for each in await acme.services()} == {
                "calc": "ready",
                "failing": "given_up",
                "gone-callable": "given_up",
                "once": "stopped",
                "ticker": "ready",
            }
            assert await acme.call("calc", "add", 2, 3) == 5
            blau = await kernel.tenant("blau")
            # "twin" was being killed when its kernel died.
            assert [each["service_id"] for each in await blau.services()] == ["calc", "keyed"]
    report_ = await verify_data(data, lambda done, total: None)
    assert report_.status == "ok", report_.checks


@every_old_log
def test_the_sample_is_what_it_says(name: str) -> None:
    """A few facts in words, so that the comparison above cannot be empty."""
    state = expected(name)["state"]
    assert state["system"]["starts"] == 3
    services = state["tenants"]["acme"]["services"]
    assert (services["failing"]["restarts"], len(services["failing"]["window"])) == (1, 2)
    assert services["calc"]["spec"]["config"] == {"unit": "\u00b5m", "list": [1, None, 2.5]}
    assert services["failing"]["status"] == "given_up"
    assert "fleeting" not in services
    assert orjson.dumps(state)
