"""Services' logs on real files: what a read costs, what each tenant may take, files that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock

from solo_trio.policy.redaction import Redactor
from solo_trio.ports import LogQuery
from solo_trio.telemetry import log_files
from solo_trio.telemetry.log_files import BLOCK_BYTES, FILE_BYTES_MAX, OVERVIEW_BYTES_MAX, file_of
from solo_trio.telemetry.log_lines import FIELDS_BYTES_MAX, MESSAGE_BYTES_MAX
from solo_trio.telemetry.service_logs import (
    OUTAGE_QUIET_S,
    PENDING_BYTES_MAX,
    PENDING_TENANT_BYTES_KEPT,
    PENDING_TENANT_BYTES_MAX,
    ServiceLogFiles,
)

TENANT = "acme-1"
START_US = 1_700_000_000_000_000


class SteppedClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def wall_us(self) -> int:
        return START_US + round(self.now_s * 1_000_000)

    def monotonic(self) -> float:
        return self.now_s


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def bug(self, where: str, error: BaseException) -> None:
        raise AssertionError(where) from error

    def note(self, message: str, **fields: Any) -> None:
        self.notes.append(message)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def logs(tmp_path: Path, clock: SteppedClock, notes: Notes) -> ServiceLogFiles:
    return ServiceLogFiles(tmp_path, clock, notes)


async def of(logs: ServiceLogFiles, service_id: str | None = None, tenant: str = TENANT, **query: Any) -> list[str]:
    found = await logs.read(LogQuery(tenant, service_id, **{"limit": 100_000, **query}))
    assert [entry["id"] for entry in found] == sorted({entry["id"] for entry in found})
    return [entry["message"] for entry in found]


def line(id_: int, message: str, level: str = "info", service_id: str = "s") -> bytes:
    entry = {"id": id_, "at": "", "level": level, "service_id": service_id, "message": message, "fields": {}}
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


# -- reading


@pytest.mark.parametrize("service_id", ["svc-1", None])
async def test_pages_and_tails_over_many_files_and_blocks(logs: ServiceLogFiles, service_id: str | None) -> None:
    """Lines of very different lengths, so that blocks end anywhere in them; read in both directions, by every cursor."""
    expected: list[tuple[int, str, str]] = []
    per_service: dict[str, list[bytes]] = {}
    for number in range(1, 1_501):
        name = f"svc-{number % 7}"
        size = BLOCK_BYTES + 9 if number % 401 == 0 else number * 37 % 700
        level = "error" if number % 10 == 0 else "info"
        per_service.setdefault(name, []).append(line(number * 10, f"{number}:" + "x" * size, level, name))
        if service_id in (None, name):
            expected.append((number * 10, level, f"{number}:" + "x" * size))
    for name, lines in per_service.items():
        half = len(lines) // 2
        log_files.append(file_of(logs.directory / TENANT, name), lines[:half])
        path = file_of(logs.directory / TENANT, name)
        if name != "svc-3":
            path.replace(path.with_suffix(".1"))
        log_files.append(path, lines[half:])
    for after in (0, 5, 10, 4_000, 7_501, 14_990, 15_000, 20_000):
        for level in (None, "error"):
            matches = [text for id_, at, text in expected if id_ > after and level in (None, at)]
            for count in (1, 3, 50, 2_000):
                assert await of(logs, service_id, after=after, level=level, limit=count) == matches[:count]
                assert await of(logs, service_id, after=after, level=level, tail=count) == matches[-count:]


async def test_an_overview_looks_at_a_bounded_part_of_the_files(logs: ServiceLogFiles) -> None:
    """Of what is more than the bound the newest is shown, of each service its share, and quiet ones whole."""
    full, id_ = FILE_BYTES_MAX // 1_024, 0
    for number in range(24):
        path = file_of(logs.directory / TENANT, f"loud-{number}")
        for _ in range(2):
            id_ += full
            log_files.append(path, [line(id_ + row, "x" * 900, "debug") for row in range(full)])
    log_files.append(file_of(logs.directory / TENANT, "quiet"), [line(1, "the first of all", "error")])
    total = sum(path.stat().st_size for path in logs.directory.rglob("*") if path.is_file())
    assert total > 2.5 * OVERVIEW_BYTES_MAX
    assert (await of(logs, limit=1)) == ["the first of all"]
    assert (await of(logs, tail=50_000, level="error")) == ["the first of all"]
    everything = await of(logs, tail=100_000)
    assert OVERVIEW_BYTES_MAX / 2 < 900 * len(everything) < OVERVIEW_BYTES_MAX
    assert await of(logs) == everything
    assert len(await of(logs, after=id_ + full - 101)) == 100  # what is new is within its service's share


def test_a_tail_reads_no_more_than_it_needs(tmp_path: Path) -> None:
    """Counted in a process of its own: the bytes that its system calls read."""
    for number in range(20):
        rows = [line(row * 100 + number, "x" * 200) for row in range(1, 3_001)]
        log_files.append(file_of(tmp_path, f"svc-{number}"), rows)
    script = (
        "import sys, pathlib\n"
        "from solo_trio.ports import LogQuery\n"
        "from solo_trio.telemetry import log_files\n"
        "read = lambda: int(open('/proc/self/io').readline().split()[1])\n"
        "before = read()\n"
        "found = log_files.read(pathlib.Path(sys.argv[1]), eval(sys.argv[2]), 10**9)\n"
        "print(len(found), read() - before)\n"
    )
    for query, bytes_max in (
        ("LogQuery('t', None, tail=20)", 21 * BLOCK_BYTES),
        ("LogQuery('t', 'svc-1', tail=20)", 2 * BLOCK_BYTES),
        ("LogQuery('t', None, after=299_900, limit=20)", 61 * BLOCK_BYTES),
        ("LogQuery('t', None, limit=20)", 21 * BLOCK_BYTES),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), query],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(log_files.__file__).parents[2])},
        )
        count, size = map(int, done.stdout.split())
        assert count == 20
        assert size <= bytes_max, query


async def test_what_is_no_entry_is_passed_over(logs: ServiceLogFiles) -> None:
    path = file_of(logs.directory / TENANT, "s")
    log_files.append(path, [line(1, "one")])
    with path.open("ab") as file:
        file.write(b'[]\n7\n{}\n{"id": "2", "level": "info"}\n{"id": 2, "level": []}\n\xff\n' + line(3, "three")[:20])
    log_files.append(path, [line(4, "four")])
    for service_id in ("s", None):
        assert await of(logs, service_id) == ["one", "four"]
        assert await of(logs, service_id, tail=9) == ["one", "four"]
    assert await of(logs, "never") == await of(logs, tenant="nobody") == []


# -- taking


async def test_a_line_is_charged_as_a_whole(logs: ServiceLogFiles) -> None:
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=50_000)
    for _ in range(1_000):
        sink("log", "info", "m", {"data": "x" * 10_000})
    await logs.flush()
    assert 50_000 < sum(path.stat().st_size for path in (logs.directory / TENANT).iterdir()) <= 2 * 50_000


async def test_dropped_lines_are_counted_before_the_next(logs: ServiceLogFiles, clock: SteppedClock) -> None:
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=1_000)
    for number in range(100):
        sink("stdout", "info", f"{number}", {})
    clock.now_s += 10
    sink("stdout", "info", "after", {})
    found = await of(logs, "s")
    kept = len(found) - 2
    assert 5 < kept < 20
    assert found[kept:] == [f"{100 - kept} lines were dropped: more than log_bytes_per_s", "after"]


async def test_secrets_are_taken_out_of_what_was_paid_for(logs: ServiceLogFiles, clock: SteppedClock) -> None:
    asked: list[str] = []

    class Counting(Redactor):
        def text(self, text: str) -> str:
            asked.append(text)
            return super().text(text)

    redactor = Counting()
    redactor.add("a-rather-long-name-of-a-secret" * 4, b"secret")
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=1_000, redactor=redactor)
    for _ in range(1_000):
        sink("stdout", "info", "secret " * 10, {"also": ["secret"]})
    assert len(asked) < 30, "a line that is dropped is not looked at"
    await logs.flush()
    assert sum(path.stat().st_size for path in (logs.directory / TENANT).iterdir()) <= 2_000, "a longer line costs more"
    sink = logs.sink(TENANT, "t", 1, bytes_per_s=None, redactor=redactor)
    sink("log", "info", "the secret", {"also": ["secret"]})
    sink("log", "info", "secret " * MESSAGE_BYTES_MAX, {"also": ["secret"] * FIELDS_BYTES_MAX})
    await logs.flush()
    content = file_of(logs.directory / TENANT, "t").read_bytes()
    assert content.count(b"[secret a-rather") > 2 and content.replace(b"[secret a-r", b"").count(b"secret ") == 0
    assert len(content) < 2 * (MESSAGE_BYTES_MAX + FIELDS_BYTES_MAX)


@pytest.mark.parametrize("character", ["x", "ä", "\0", "\U0001f600", "\ud800"])
async def test_messages_and_fields_are_bounded(logs: ServiceLogFiles, character: str) -> None:
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=None)
    sink("log", "info", character * 100_000, {"data": character * 100_000})
    sink("log", "info", character, {"data": [object()]})
    sink("log", "info", character, {"kept": "x" * (FIELDS_BYTES_MAX - 20)})
    first, second, third = await logs.read(LogQuery(TENANT, "s"))
    assert MESSAGE_BYTES_MAX / 2 < len(orjson.dumps(first["message"])) <= MESSAGE_BYTES_MAX + 2
    assert first["fields"].keys() <= {"left_out", "unreadable"}
    assert "object" in second["fields"]["unreadable"]
    assert third["fields"].keys() == {"kept"}


async def test_one_tenant_cannot_make_another_lose_lines(logs: ServiceLogFiles) -> None:
    size = 8_000
    for number in range(2 * PENDING_BYTES_MAX // PENDING_TENANT_BYTES_MAX):
        loud = logs.sink(f"loud-{number}", "s", 1, bytes_per_s=None)
        for _ in range(PENDING_TENANT_BYTES_MAX // size + 50):
            loud("stdout", "info", "x" * size, {})
    quiet = logs.sink(TENANT, "s", 1, bytes_per_s=None)
    count = PENDING_TENANT_BYTES_KEPT // 2 // size
    for _ in range(count):
        quiet("stdout", "info", "y" * size, {})
    assert len(await of(logs, "s")) == count
    written = sum(path.stat().st_size for path in logs.directory.rglob("*") if path.is_file())
    assert PENDING_BYTES_MAX / 2 < written < 1.5 * PENDING_BYTES_MAX
    for number in range(2):
        held = sum(path.stat().st_size for path in (logs.directory / f"loud-{number}").iterdir())
        assert held <= PENDING_TENANT_BYTES_MAX


# -- writing


async def test_one_bad_file_costs_no_others_lines(logs: ServiceLogFiles, clock: SteppedClock, notes: Notes) -> None:
    file_of(logs.directory / TENANT, "b").mkdir(parents=True)
    (logs.directory / "blau-1").write_text("no directory")
    for round_ in range(3):
        for tenant, service_id in (("blau-1", "s"), (TENANT, "b"), (TENANT, "a"), (TENANT, "c"), ("crux-1", "s")):
            logs.sink(tenant, service_id, 1, bytes_per_s=None)("stdout", "info", f"{round_}", {})
        await logs.flush()
    for tenant, service_id in ((TENANT, "a"), (TENANT, "c"), ("crux-1", "s")):
        assert await of(logs, service_id, tenant) == ["0", "1", "2"]
    assert await of(logs, "b") == await of(logs, tenant="blau-1") == []
    once = len(notes.notes)
    assert 1 <= once <= 2  # one for each kind of error
    clock.now_s += OUTAGE_QUIET_S + 1
    logs.sink(TENANT, "b", 1, bytes_per_s=None)("stdout", "info", "again", {})
    await logs.flush()
    assert len(notes.notes) == once + 1


def test_a_write_that_is_cut_leaves_whole_lines(tmp_path: Path) -> None:
    """The file may not grow beyond a limit: the first write is cut short there, the next one fails."""
    path = file_of(tmp_path, "s")
    script = (
        "import resource, signal, sys, pathlib\n"
        "from solo_trio.telemetry import log_files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "log_files.append(path, [b'a' * 599 + b'\\n'])\n"
        "try: log_files.append(path, [b'b' * 299 + b'\\n', b'c' * 299 + b'\\n'])\n"
        "except OSError: print('failed')\n"
        "log_files.append(path, [b'd' * 99 + b'\\n'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(log_files.__file__).parents[2])},
    )
    assert done.stdout == b"failed\n"
    assert path.read_bytes() == b"a" * 599 + b"\n" + b"d" * 99 + b"\n"


async def test_files_stay_within_their_bound(logs: ServiceLogFiles) -> None:
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=None)
    path = file_of(logs.directory / TENANT, "s")
    sizes = []
    for round_ in range(6):
        for number in range(20):
            sink("stdout", "info", f"{round_} {number} " + "x" * 30_000, {})
        await logs.flush()
        sizes += [each.stat().st_size for each in (path, path.with_suffix(".1")) if each.exists()]
    assert FILE_BYTES_MAX / 2 < max(sizes) <= FILE_BYTES_MAX
    assert len(list(path.parent.iterdir())) == 2
    found = await of(logs, "s")
    assert [" ".join(each.split()[:2]) for each in found][-40:] == [f"{r} {n}" for r in (4, 5) for n in range(20)]


async def test_reading_beside_writing(logs: ServiceLogFiles) -> None:
    """Whatever is written and renamed meanwhile: entries ascend, and none comes twice."""
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=None)

    async def write() -> None:
        for _ in range(60):
            for _ in range(4):
                sink("stdout", "info", "x" * 20_000, {})
            await logs.flush()
        reading.cancel()

    with trio.CancelScope() as reading:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while True:
                await of(logs, None)
                await of(logs, "s", tail=30)


# -- ids, following


async def test_ids_ascend_although_the_clock_went_back(
    logs: ServiceLogFiles, clock: SteppedClock, notes: Notes, tmp_path: Path
) -> None:
    """Within a life and across a restart; over all services of the tenant, so that a place to resume from is one."""
    for number in range(10):
        logs.sink(TENANT, f"s{number % 3}", 1, bytes_per_s=None)("stdout", "info", f"{number}", {})
        clock.now_s -= 60
    await logs.flush()
    clock.now_s -= 1_000_000
    again = ServiceLogFiles(tmp_path, clock, notes)
    last = (await again.read(LogQuery(TENANT)))[-1]["id"]
    for number in range(10, 20):
        again.sink(TENANT, f"s{number % 3}", 2, bytes_per_s=None)("stdout", "info", f"{number}", {})
        again.sink("other-1", "s", 1, bytes_per_s=None)("stdout", "info", "elsewhere", {})
    assert await of(again) == [f"{number}" for number in range(20)]
    assert await of(again, after=last) == [f"{number}" for number in range(10, 20)]
    assert await of(again, "s1", tail=2) == ["16", "19"]
    assert (await again.read(LogQuery("other-1")))[0]["id"] < START_US, "a tenant's ids are its own"


async def test_a_line_cut_by_a_crash_does_not_hide_the_newest_id(
    logs: ServiceLogFiles, clock: SteppedClock, notes: Notes, tmp_path: Path
) -> None:
    logs.sink(TENANT, "s", 1, bytes_per_s=None)("stdout", "info", "one", {})
    await logs.flush()
    with file_of(tmp_path / TENANT, "s").open("ab") as file:
        file.write(b'{"id": 99999')
    clock.now_s -= 500
    again = ServiceLogFiles(tmp_path, clock, notes)
    again.sink(TENANT, "s", 2, bytes_per_s=None)("stdout", "info", "two", {})
    assert await of(again, "s") == ["one", "two"]


async def test_following_all_services_misses_nothing_that_is_just_being_written(logs: ServiceLogFiles) -> None:
    """A reader that goes on behind the last id it saw, while lines of many services are written in another thread."""
    count, seen, cursor = 2_000, list[str](), 0

    async def write() -> None:
        for number in range(count):
            logs.sink(TENANT, f"s{number % 40}", 1, bytes_per_s=None)("stdout", "info", f"{number}", {})
            if number % 25 == 24:
                await trio.lowlevel.checkpoint()
                nursery.start_soon(logs.flush)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        with trio.fail_after(60):
            while len(seen) < count:
                changed = logs.changed(TENANT)
                page, cursor = await logs.scan(LogQuery(TENANT, after=cursor, limit=50))
                seen += [entry["message"] for entry in page]
                if not page and len(seen) < count:
                    await changed.wait()
    assert seen == [f"{number}" for number in range(count)]


async def test_what_was_looked_at_without_a_match_is_not_looked_at_again(logs: ServiceLogFiles) -> None:
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=None)
    for number in range(100):
        sink("stdout", "info", f"{number}", {})
    page, looked_at = await logs.scan(LogQuery(TENANT, "s", "error"))
    assert page == [] and looked_at == (await logs.read(LogQuery(TENANT)))[-1]["id"]
    page, looked_at = await logs.scan(LogQuery(TENANT, "s", limit=10))
    assert looked_at == page[-1]["id"] and len(page) == 10


async def test_dropped_lines_are_told_although_no_line_follows(
    logs: ServiceLogFiles, clock: SteppedClock, autojump_clock: MockClock
) -> None:
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=1_000)
    for number in range(100):
        sink("stdout", "info", f"{number}", {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logs.run)
        await trio.sleep(1)
        kept = len(await of(logs, "s")) - 1
        assert (await of(logs, "s"))[-1] == f"{100 - kept} lines were dropped: more than log_bytes_per_s"
        assert logs.dropped_lines(TENANT, "s") == logs.dropped_lines(TENANT, None) == 100 - kept
        assert logs.dropped_lines(TENANT, "other") == logs.dropped_lines("blau-1", None) == 0
        await trio.sleep(5)
        assert len(await of(logs, "s")) == kept + 1, "told once"
        nursery.cancel_scope.cancel()


async def test_a_flood_is_told_of_once_a_second(
    logs: ServiceLogFiles, clock: SteppedClock, autojump_clock: MockClock
) -> None:
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=1_000)
    written = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logs.run)
        for _ in range(100):  # ten seconds
            for _ in range(20):
                sink("stdout", "info", "x" * 50, {})
                written += 1
            await trio.sleep(0.1)
            clock.now_s += 0.1
        nursery.cancel_scope.cancel()
    entries = await logs.read(LogQuery(TENANT, "s", limit=100_000))
    told = [entry["fields"]["dropped"] for entry in entries if entry["fields"]]
    assert 8 <= len(told) <= 12
    assert logs.dropped_lines(TENANT, "s") == written - (len(entries) - len(told))
    assert logs.dropped_lines(TENANT, "s") == sum(told), "the end tells the rest"


@pytest.mark.parametrize("steps", range(5))
async def test_whoever_leaves_while_lines_are_written_loses_none(logs: ServiceLogFiles, steps: int) -> None:
    sink = logs.sink(TENANT, "s", 1, bytes_per_s=None)
    for number in range(20):
        sink("stdout", "info", f"{number}", {})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(logs.flush)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert await of(logs, "s") == [f"{number}" for number in range(20)]


async def test_lines_that_cannot_be_written_are_counted_as_dropped(logs: ServiceLogFiles) -> None:
    file_of(logs.directory / TENANT, "b").mkdir(parents=True)
    for number in range(7):
        logs.sink(TENANT, "b", 1, bytes_per_s=None)("stdout", "info", f"{number}", {})
    await logs.flush()
    assert logs.dropped_lines(TENANT, "b") == 7
