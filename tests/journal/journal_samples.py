"""Events and attachments that follow from their id, so that every test knows what must be found again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import solo_trio
from solo_trio.journal.sqlite import SqliteJournal, open_journal
from solo_trio.model.record import Artifact, Checkpoint, IdempotencyRow, KeyRow, SecretRow, StoredEvent
from solo_trio.ports import Journal

KEY = b"a witness key of thirty-two byte"
TENANTS = (None, "acme", "blau", "crux")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(solo_trio.__file__).parents[1])}
"""Other processes import the package that this one has, installed or not."""
TYPES = ("service_started", "service_ready", "service_crashed")


class Closable(Journal, Protocol):
    async def close(self) -> None: ...


def event(id_: int) -> StoredEvent:
    tenant = TENANTS[id_ % len(TENANTS)]
    return StoredEvent(
        id=id_,
        at_us=1_700_000_000_000_000 + 10 * id_,
        kernel_time=id_ / 8,
        tenant_id=tenant,
        incarnation=None if tenant is None else f"{tenant}-1",
        subject=None if id_ % 5 == 0 else f"svc-{id_ % 3}",
        type=TYPES[id_ % len(TYPES)],
        schema=1,
        payload=b'{"note": "%d"}' % id_,
        causation_id=None if id_ % 2 else id_ - 1,
        correlation_id=None if id_ % 4 else f"req-{id_}",
    )


def events(first: int, last: int) -> list[StoredEvent]:
    return [event(id_) for id_ in range(first, last + 1)]


def artifact(content: bytes) -> Artifact:
    return Artifact(hashlib.sha256(content).hexdigest(), content)


def key_row(name: str, wrapped: bytes = b"\x00\x01wrapped") -> KeyRow:
    return KeyRow(key_id=name, incarnation="acme-1", purpose="token", wrapped=wrapped)


def secret_row(
    name: str, version: int = 1, incarnation: str = "acme-1", sealed: bytes = b"\x00\xffsealed"
) -> SecretRow:
    return SecretRow(incarnation, name, version, f"id-{version}", "key-1", sealed)


def idempotency_row(key: str, at_us: int, fingerprint: str = "ff") -> IdempotencyRow:
    return IdempotencyRow(scope="acme-1", key=key, fingerprint=fingerprint, event_id=1, at_us=at_us)


def checkpoint(event_id: int, body: bytes = b"the state", reducer: str = "ab12") -> Checkpoint:
    return Checkpoint(event_id, 1_700_000_000_000_000 + event_id, reducer, "json/1", body)


async def replayed(journal: Journal, after: int = 0) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    async for page in journal.replay(after):
        found.extend(page)
    return found


async def made(directory: Path, count: int, group: int = 10) -> None:
    """A closed directory that holds events 1 to `count`, in transactions of `group`."""
    journal = await open_journal(directory, KEY)
    for first in range(1, count + 1, group):
        await journal.append(events(first, min(first + group - 1, count)))
    await journal.close()


async def reopened(directory: Path) -> list[StoredEvent]:
    """Everything a new kernel would believe."""
    journal = await open_journal(directory, KEY)
    try:
        return await replayed(journal)
    finally:
        await journal.close()


def sql(directory: Path, *statements: str) -> None:
    """Run statements on a directory in another process, as an intruder with a database tool would."""
    script = (
        "import sys\n"
        "from solo_trio.journal.library import driver\n"
        "connection = driver.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in sys.argv[2:]: connection.execute(statement).fetchall()\n"
        "connection.close()\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(directory / "kernel.db"), *statements], check=True, env=ENVIRONMENT
    )


def child(directory: Path, mode: str, *arguments: object, before: Iterable[str] = ()) -> subprocess.Popen[bytes]:
    """A process of its own that writes to the directory; see `journal_child.py`."""
    command = [sys.executable, "-u", str(Path(__file__).with_name("journal_child.py")), str(directory), mode]
    return subprocess.Popen(
        [*before, *command, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )


def flip(path: Path, offset: int, mask: int = 0x01) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


__all__ = [
    "KEY",
    "Closable",
    "SqliteJournal",
    "artifact",
    "checkpoint",
    "child",
    "event",
    "events",
    "flip",
    "idempotency_row",
    "key_row",
    "made",
    "reopened",
    "replayed",
    "secret_row",
    "sql",
]
