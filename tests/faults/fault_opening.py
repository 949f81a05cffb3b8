"""What a start finds in a data directory, with the kernel's own code. Owns: comparing it with what was acknowledged."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import trio
from attrs import define, field, frozen
from fault_disk import Image
from fault_trace import Step
from fault_workload import ANYTHING, Facts

from solo_trio.bootstrap.audit import audit_key_of, open_audit_of
from solo_trio.bootstrap.master_key import master_key_of
from solo_trio.errors import SoloError
from solo_trio.journal import audit_head
from solo_trio.journal.lock import DataLock
from solo_trio.journal.opening import close_store, open_store
from solo_trio.journal.reads import check_tables
from solo_trio.journal.sqlite import SqliteJournal, open_journal
from solo_trio.kernel.checkpoints import reducer_version
from solo_trio.kernel.recovery import replay
from solo_trio.model import codec
from solo_trio.model.record import SecretRow, StoredEvent
from solo_trio.model.state import KernelState, fold
from solo_trio.model.system import StartSystem
from solo_trio.operations.settings import Settings
from solo_trio.telemetry.diagnostics import Diagnostics
from solo_trio.telemetry.sources import SystemClock, SystemEntropy
from solo_trio.vault.keyring import Keyring
from solo_trio.vault.vault import Vault

Row = tuple[Any, ...]
T = TypeVar("T")
FACTS_MAX: Final = 64
"""So many sets of tables are remembered; crash states that follow each other have much in common."""
TOKEN_FILE: Final = "admin.token"
RECOVERY_S: Final = 60.0


@frozen
class Found:
    """What a start would believe."""

    events: int
    facts: Facts


@define
class Book:
    """What was told to clients up to some step: what must be found, and what may be."""

    known: Facts = field(factory=dict)
    open: Facts = field(factory=dict)
    events: int = 0
    """So many are believed, at least."""

    def take(self, step: Step) -> None:
        if step.kind != "mark":
            return
        self.open |= step.mark.get("begin", {})
        for name, value in step.mark.get("ack", {}).items():
            self.known[name] = value
            self.open.pop(name, None)
        for name in step.mark.get("refused", {}):
            self.open.pop(name, None)
        self.events = max(self.events, step.mark.get("last", 0))

    def lacks(self, found: Found) -> list[str]:
        """What was acknowledged and is not there, or is not as it was acknowledged."""
        missing = []
        if found.events < self.events:
            missing.append(f"events {found.events + 1} to {self.events} are lost")
        for name, value in self.known.items():
            if found.facts.get(name) == value:
                continue
            if name in self.open and self.open[name] in (ANYTHING, found.facts.get(name)):
                continue
            missing.append(f"{name} is {_short(found.facts.get(name))}, acknowledged was {_short(value)}")
        return missing


def _short(value: object) -> str:
    return f"{value!r:.100}"


class Truth:
    """All that the recorded kernel ever appended, as it was in the end: the payloads of removed tenants are erased."""

    def __init__(self, events: list[StoredEvent], rows: list[Row], columns: list[str]) -> None:
        self.events = events
        self.rows = rows
        self.payload = columns.index("payload")
        self._erasable = {self.payload, columns.index("salt")}

    def begins_with(self, rows: list[Row]) -> bool:
        """Bit for bit, but for what was erased later: that has its digest, which the chain covers and a start compares."""
        if rows == self.rows[: len(rows)]:
            return True
        pairs = zip(rows, self.rows, strict=False)
        return len(rows) <= len(self.rows) and all(
            row == true or (true[self.payload] is None and self._blank(row) == self._blank(true)) for row, true in pairs
        )

    def _blank(self, row: Row) -> Row:
        return tuple(None if index in self._erasable else cell for index, cell in enumerate(row))


class Opener:
    """Opens images, one after the other, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "boot_id").write_text("00000000-0000-4000-8000-000000000001\n")
        self._facts: dict[tuple[int, int, int], Facts] = {}
        self._audits: set[int] = set()
        """Those that were opened and found sound."""

    @contextmanager
    def _another_boot(self) -> Iterator[None]:
        """Power comes back with another start of the machine."""
        real = audit_head.BOOT_ID
        audit_head.BOOT_ID = str(self._directory / "boot_id")  # type: ignore[misc]
        try:
            yield
        finally:
            audit_head.BOOT_ID = real  # type: ignore[misc]

    def put(self, image: Image) -> Path:
        data = self._directory / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        for name, content in image.items():
            path = data / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)
        return data

    def open(self, image: Image, truth: Truth | None) -> Found | str:
        """What is there; a sentence if the start is refused, or finds what never was.

        The kernel's own opening is done for each image. Where every row of every table is then one that a start before has
        read, checked and folded, that is not done again: equal rows come to the same. So with the files of the audit.
        """
        if truth is None:
            return self.open_there(self.put(image))
        audit = hash(tuple(sorted(each for each in image.items() if each[0].startswith("audit"))))
        told = image.get(TOKEN_FILE)
        tables = None
        try:
            events, tables = _looked_at(self.put(image), truth)
        except (SoloError, AssertionError):
            pass  # the long way says the same, or more
        else:
            key = (events, tables, hash(image.get("master.key")))
            if key in self._facts:
                refusal = None if audit in self._audits else self._try(_opens, self.put(image))
                if refusal is not None:
                    return refusal
                self._audits.add(audit)
                return Found(events, self._facts[key] | {"token": None if told is None else told.decode()})
        found = self.open_there(self.put(image), truth)
        if tables is not None and not isinstance(found, str):
            if len(self._facts) >= FACTS_MAX:
                del self._facts[next(iter(self._facts))]
            self._facts[key] = found.facts
            self._audits.add(audit)
        return found

    def open_there(self, data: Path, truth: Truth | None = None) -> Found | str:
        """The same for a directory as it is."""
        return self._try(_found, data, truth)

    def _try(self, opening: Callable[..., Awaitable[T]], data: Path, *more: Any) -> T | str:
        try:
            with self._another_boot():
                return trio.run(opening, data, *more)
        except SoloError as error:
            return f"the start is refused: {error.code}: {error.detail}"
        except AssertionError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - it is a finding of these tests
            return f"the start fails: {error!r}"

    def truth(self, image: Image) -> Truth:
        """From what is there when all is over."""
        data = self.put(image)

        async def read() -> Truth:
            journal = await open_journal(data, master_key_of(data).derive("witness"))
            try:
                return Truth(await _all(journal), await journal.in_reader(_rows), await journal.in_reader(_columns))
            finally:
                await journal.close()

        return trio.run(read)


def _looked_at(data: Path, truth: Truth) -> tuple[int, int]:
    """Opened by the kernel's code; how many events there are, all as they were appended, and a hash of all other tables."""
    store, readers = open_store(data, master_key_of(data).derive("witness"))
    try:
        connection = readers.points[0]
        check_tables(connection)
        rows = _rows(connection)
        assert truth.begins_with(rows), "the log is not what was appended"
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        others = [
            (name, *sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr))
            for name in sorted(tables)
            if name != "events"
        ]
        return len(rows), hash((sum(row[truth.payload] is None for row in rows), *others))
    finally:
        close_store(store, readers)


def _columns(connection: Any) -> list[str]:
    return [row[1] for row in connection.execute("PRAGMA table_info(events)")]


def _rows(connection: Any) -> list[Row]:
    return connection.execute("SELECT * FROM events ORDER BY id").fetchall()  # type: ignore[no-any-return]


async def _all(journal: SqliteJournal) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    async for page in journal.replay():
        found += page
    return found


@asynccontextmanager
async def _opened(data: Path) -> AsyncIterator[tuple[SqliteJournal, Keyring, Vault]]:
    """Journal, keys and audit, as `bootstrap.running` opens them."""
    with DataLock(data):
        master, entropy = master_key_of(data), SystemEntropy()
        journal = await open_journal(data, master.derive("witness"))
        audit = None
        try:
            keys = await journal.keys()
            keyring = Keyring(master, entropy, keys)
            keyring.check()
            audit_key = await audit_key_of(master, journal, keys)
            audit = await open_audit_of(data, audit_key, journal, Diagnostics(), Settings())
            assert audit.state.set_aside is None, f"the audit was set aside: {audit.state}"
            yield journal, keyring, Vault(master, entropy, keys)
        finally:
            if audit is not None:
                await audit.close()
            await journal.close()


async def _opens(data: Path) -> None:
    async with _opened(data):
        pass


async def _found(data: Path, truth: Truth | None) -> Found:
    """As `bootstrap.running` does it, up to where services would be started."""
    told = (data / TOKEN_FILE).read_text() if (data / TOKEN_FILE).exists() else None
    async with _opened(data) as (journal, keyring, vault):
        events = await _all(journal)
        start = StartSystem("test", platform.python_version())
        recovery = await replay(
            journal, SystemClock(), Diagnostics(), reducer=reducer_version(), start=start, timeout_s=RECOVERY_S
        )
        if truth is not None:
            assert truth.begins_with(await journal.in_reader(_rows)), "the log is not what was appended"
        assert recovery.state == fold(map(codec.to_record, events)), "the state is not the fold of the events"
        secrets = await journal.in_reader(_secrets)
        artifacts = await journal.in_reader(_artifacts)
        facts = _facts(recovery.state, secrets, artifacts, keyring, vault)
        facts |= {f"idempotency/{row.key}": True for row in recovery.idempotency}
        return Found(len(events), facts | {"token": told})


def _secrets(connection: Any) -> list[SecretRow]:
    columns = "incarnation, name, version, version_id, key_id, sealed"
    return [SecretRow(*row) for row in connection.execute(f"SELECT {columns} FROM secrets")]


def _artifacts(connection: Any) -> dict[str, bytes]:
    return dict(connection.execute("SELECT digest, content FROM artifacts").fetchall())


def _facts(
    state: KernelState, secrets: Sequence[SecretRow], artifacts: dict[str, bytes], keyring: Keyring, vault: Vault
) -> Facts:
    facts: Facts = {}
    rows = {(row.incarnation, row.name, row.version): row for row in secrets}
    for tenant_id in state.tenants:
        tenant = state.tenants[tenant_id]
        if tenant.removal is not None:
            continue  # all of it goes
        facts[f"tenant/{tenant_id}"] = True
        for name in tenant.secrets:
            newest = tenant.secrets[name].newest
            row = rows.get((tenant.incarnation, name, newest.version))
            assert row is not None, f"the secret {name} is in the state, and not in its table"
            assert row.version_id == newest.version_id
            facts[f"secret/{tenant_id}/{name}"] = vault.unseal(row, None).data.reveal_text()
        for service_id in tenant.services:
            service = tenant.services[service_id]
            digest = service.spec.digest
            content = artifacts.get(digest)
            assert content is not None, f"the source of {service_id} is missing"
            assert hashlib.sha256(content).hexdigest() == digest
            if service.stop is None and service.confirmed:
                facts[f"service/{tenant_id}/{service_id}"] = [digest, service.status == "paused"]
    for capability_id in state.capabilities:
        capability = state.capabilities[capability_id]
        if capability.tenant_id is not None:
            token = keyring.mint(capability.key_id, capability_id).reveal_text()
            facts[f"capability/{capability.tenant_id}/{capability_id}"] = token
    return facts
