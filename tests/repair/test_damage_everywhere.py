"""Every file of a data directory x every kind of byte x many places: damage is refused with the way on, or has changed nothing.

For each harm a verification and a start are tried. Neither may raise anything but a sentence, and where one of them finds
nothing wrong the state must be the one that was acknowledged. What a start from a checkpoint does not read, a verification
does.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from repair_rig import copied, flip, folded, made, sql, verified

from solo_trio.bootstrap.master_key import master_key_of
from solo_trio.errors import Faulted, SoloError
from solo_trio.journal.opening import HEADER_BYTES
from solo_trio.journal.sqlite import open_journal
from solo_trio.journal.wal import FRAME_HEADER_BYTES, PAGE_BYTES, WAL_HEADER_BYTES
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.recovery import replay
from solo_trio.model.state import KernelState
from solo_trio.model.system import StartSystem
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.vault.keyring import Keyring

WAYS_ON = (
    "solo repair",
    "restore",
    "audit",
    "deploy",
    "keep the file apart",
    "replace it",
    "install a newer version",
    "correct its owner",
)
"""One of these is in whatever is said: what to do."""
FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES
FIRST_PAGE_PLACES = 60
UNSEEN_MAX = 0.12
"""Of flips in a database, so many may hit what nobody relies on: free space, counters, what the log has a newer version of."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("everywhere") / "data")


@pytest.fixture(scope="module")
def settled(killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = copied(killed, tmp_path_factory.mktemp("settled") / "data")
    sql(data, "PRAGMA wal_checkpoint(TRUNCATE)")
    return data


async def start(data: Path) -> KernelState:
    """What a kernel believes when it starts."""
    master = master_key_of(data, create=False)
    journal = await open_journal(data, master.derive("witness"))
    try:
        Keyring(master, SystemEntropy(), await journal.keys()).check()
        recovery = await replay(
            journal, SystemClock(), Diagnostics(), reducer=reducer_version(), start=StartSystem("", ""), timeout_s=1
        )
        return recovery.state
    finally:
        await journal.close()


class Judge:
    """Tries harms on copies of one directory, one after the other in the same place."""

    def __init__(self, source: Path, place: Path, wanted: KernelState) -> None:
        self.source = source
        self.data = place
        self.wanted = wanted
        self.seen = self.unseen = 0

    async def __call__(self, name: str, harm: Callable[[Path], None], *, must: bool = False) -> None:
        """`must`: it may not go unnoticed."""
        if self.data.exists():
            shutil.rmtree(self.data)
        copied(self.source, self.data)
        harm(self.data)
        noticed = False
        try:
            report = await verified(self.data)
        except SoloError as error:
            assert error.code in ("data_unwritable", "data_damaged"), name
            noticed = True
        else:
            noticed = report.status != "ok"
            if noticed:
                said = " ".join([*(check.detail for check in report.checks), *report.recommendations])
                assert any(way in said for way in WAYS_ON), (name, said)
            if report.status != "failed":
                assert await self._state() == self.wanted, name
        try:
            found = await start(self.data)
        except SoloError as error:
            assert isinstance(error, Faulted), name
            assert any(way in error.detail for way in WAYS_ON), (name, error.detail)
            noticed = True
        else:
            assert found == self.wanted, f"{name}: a start believes something else"
        self.seen += noticed
        self.unseen += not noticed
        assert noticed or not must, name

    async def _state(self) -> KernelState:
        return await start(copied(self.data, self.data.with_name("look"))) if self._clean() else self.wanted

    def _clean(self) -> bool:
        look = self.data.with_name("look")
        if look.exists():
            shutil.rmtree(look)
        return True


def flips(path: Path, seed: int) -> Iterator[tuple[int, int]]:
    """At both ends of what is used of each page, and a random bit in it; more in the first, which says where what is."""
    chance = random.Random(seed)
    content = path.read_bytes()
    for page in range(0, len(content), PAGE_BYTES):
        used = [at for at in range(page, min(page + PAGE_BYTES, len(content))) if content[at]]
        if used:
            yield used[0], 0x04
            yield chance.choice(used), 1 << chance.randrange(8)
            yield used[-1], 0x01
        for _ in range(0 if page else FIRST_PAGE_PLACES):
            yield chance.choice(used), 1 << chance.randrange(8)


@pytest.mark.slow
async def test_any_page_of_the_database(settled: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    judge = Judge(settled, tmp_path / "data", await folded(copied(settled, tmp_path / "whole")))
    for at, mask in flips(settled / "kernel.db", pytestconfig.option.hypothesis_seed):
        await judge(f"kernel.db {at} ^ {mask}", lambda data, at=at, mask=mask: flip(data / "kernel.db", at, mask))  # type: ignore[misc]
    assert judge.unseen <= UNSEEN_MAX * (judge.seen + judge.unseen), (judge.seen, judge.unseen)


@pytest.mark.slow
async def test_every_bit_that_leads_to_a_table(settled: Path, tmp_path: Path) -> None:
    """The file's own header up to what it says of its size, and of each page which kind it is: none may go unnoticed."""
    judge = Judge(settled, tmp_path / "data", await folded(copied(settled, tmp_path / "whole")))
    content = (settled / "kernel.db").read_bytes()
    kinds = {0x02, 0x05, 0x0A, 0x0D}
    heads = [page for page in range(PAGE_BYTES, len(content), PAGE_BYTES) if content[page] in kinds]
    for at in [*range(HEADER_BYTES), *heads]:
        for mask in (1 << bit for bit in range(8)):
            await judge(f"kernel.db {at} ^ {mask}", lambda data, at=at, mask=mask: flip(data / "kernel.db", at, mask))  # type: ignore[misc]
    assert judge.unseen == 0


@pytest.mark.slow
async def test_any_frame_of_the_log(killed: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Each field of a frame's header, and its page; each field of the log's own header."""
    chance = random.Random(pytestconfig.option.hypothesis_seed)
    judge = Judge(killed, tmp_path / "data", await folded(copied(killed, tmp_path / "whole")))
    size = (killed / "kernel.db-wal").stat().st_size
    frames = range(WAL_HEADER_BYTES, size, FRAME_BYTES)
    places = list(range(0, WAL_HEADER_BYTES, 4))
    for begin in [*chance.sample(frames, min(len(frames), 24)), frames[0], frames[-1]]:
        places += [begin + offset for offset in (0, 4, 8, 16, 20)]
        places += [begin + FRAME_HEADER_BYTES + chance.randrange(PAGE_BYTES) for _ in range(2)]
    for at in places:
        mask = 1 << chance.randrange(8)
        await judge(
            f"kernel.db-wal {at} ^ {mask}",
            lambda data, at=at, mask=mask: flip(data / "kernel.db-wal", at, mask),
            must=True,
        )  # type: ignore[misc]


@pytest.mark.slow
async def test_any_byte_of_witness_key_and_audit(settled: Path, tmp_path: Path) -> None:
    judge = Judge(settled, tmp_path / "data", await folded(copied(settled, tmp_path / "whole")))
    for name, step in (("kernel.head", 1), ("audit.head", 5), ("master.key", 7)):
        for at in range(0, (settled / name).stat().st_size, step):
            last = name == "master.key" and at == 64  # the line's end
            await judge(f"{name} {at}", lambda data, name=name, at=at: flip(data / name, at), must=not last)  # type: ignore[misc]


@pytest.mark.slow
async def test_any_page_of_the_audit(settled: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """It proves what was asked, not what is: the state is the same whatever happens to it."""
    judge = Judge(settled, tmp_path / "data", await folded(copied(settled, tmp_path / "whole")))
    for at, mask in flips(settled / "audit.db", pytestconfig.option.hypothesis_seed):
        await judge(f"audit.db {at}", lambda data, at=at, mask=mask: flip(data / "audit.db", at, mask))  # type: ignore[misc]


ROWS = {
    "events": ("id", "at_us = at_us + 1", "payload = zeroblob(9)", "chain = zeroblob(32)"),
    "artifacts": ("rowid", "content = zeroblob(9)", "digest = 'x' || digest"),
    "checkpoints": ("event_id", "body = zeroblob(9)", "chain = zeroblob(32)", "mac = zeroblob(32)"),
    "keys": ("rowid", "wrapped = zeroblob(80)", "incarnation = 'x'", "purpose = 'x'"),
    "secrets": ("rowid", "version = version + 50", "version_id = 'x'", "key_id = 'x'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("table", ROWS)
async def test_rows_edited_deleted_and_swapped(settled: Path, tmp_path: Path, table: str) -> None:
    id_, *changes = ROWS[table]
    judge = Judge(settled, tmp_path / "data", await folded(copied(settled, tmp_path / "whole")))
    ids = [int(str(row[0])) for row in sql(copied(settled, tmp_path / "ids"), f"SELECT {id_} FROM {table}")]
    sampled = random.Random(len(ids)).sample(ids, min(len(ids), 5))
    # A sealed row of any kind names what it is for; a checkpoint that is gone costs time only.
    for row in {ids[0], ids[-1], *sampled}:
        for change in changes:
            await judge(
                f"{table} {row} {change}",
                lambda data, row=row, change=change: _sql(data, f"UPDATE {table} SET {change} WHERE {id_} = {row}"),
                must=True,
            )  # type: ignore[misc]
        await judge(
            f"{table} {row} deleted",
            lambda data, row=row: _sql(data, f"DELETE FROM {table} WHERE {id_} = {row}"),
            must=table != "checkpoints",
        )  # type: ignore[misc]
    if table == "events":
        one, other = ids[3], ids[7]
        swap = [f"UPDATE events SET id = {new} WHERE id = {old}" for old, new in ((one, -1), (other, one), (-1, other))]
        await judge("swapped", lambda data: _sql(data, *swap), must=True)
        columns = "at_us, kernel_time, type, schema, payload, salt, payload_digest, chain"
        again = f"INSERT INTO events ({columns}) SELECT {columns} FROM events WHERE id = {ids[-1]}"
        await judge("duplicated", lambda data: _sql(data, again), must=True)


def _sql(data: Path, *statements: str) -> None:
    sql(data, *statements)


@pytest.mark.slow
async def test_files_cut_emptied_missing_and_of_another_time(killed: Path, settled: Path, tmp_path: Path) -> None:
    wanted = await folded(copied(settled, tmp_path / "whole"))
    for source in (killed, settled):
        judge = Judge(source, tmp_path / "data", wanted)
        for name in ("kernel.db", "kernel.db-wal", "kernel.head", "audit.db", "audit.head", "master.key"):
            if not (source / name).exists() or not (source / name).stat().st_size:
                continue
            size = (source / name).stat().st_size
            must = not name.startswith("audit")
            for cut in (0, 1, size // 2, size - PAGE_BYTES if size > PAGE_BYTES else 3, size - 1):
                # The line's end of the key is none of it.
                harmless = name == "master.key" and cut == size - 1
                await judge(
                    f"{name} cut at {cut}",
                    lambda data, name=name, cut=cut: _cut(data / name, cut),
                    must=must and not harmless,
                )  # type: ignore[misc]
            await judge(f"{name} missing", lambda data, name=name: (data / name).unlink(), must=must)  # type: ignore[misc]
            await judge(f"{name} a directory", lambda data, name=name: _directory(data / name), must=must)  # type: ignore[misc]
    later = copied(settled, tmp_path / "later")
    await _lives(later)
    newer = await folded(copied(later, tmp_path / "newer"))
    judge = Judge(later, tmp_path / "data", newer)
    await judge("an older database", lambda data: _put(settled / "kernel.db", data), must=True)
    await judge("a database from before its log", lambda data: _put(killed / "kernel.db", data), must=True)
    # An older witness is what a loss of power leaves: it is no harm, as long as it knows an event of this log.
    await judge("an older witness", lambda data: _put(settled / "kernel.head", data))


async def _lives(data: Path) -> None:
    from solo_trio.embedding import Kernel

    async with Kernel.open(data):
        await trio.lowlevel.checkpoint()


def _cut(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _put(path: Path, data: Path) -> None:
    shutil.copy(path, data / path.name)
