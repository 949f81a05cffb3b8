"""What is written. Owns: the statements for an event and for whatever is appended with it, about how many pages they dirty.

Never: runs one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from solo_trio.errors import KernelBug
from solo_trio.journal import erasing
from solo_trio.journal.chain import COLUMNS
from solo_trio.journal.pruning import Statement
from solo_trio.journal.reserve import PAGE_BYTES
from solo_trio.model.record import (
    Artifact,
    Attachment,
    DropArtifact,
    DropIdempotency,
    DropKey,
    DropKeys,
    DropSecrets,
    EraseEvents,
    IdempotencyRow,
    KeyRow,
    SecretRow,
)

DROPPED_PAGES: Final = 64
"""About how many pages a dropped artifact dirties: each page of it is overwritten with zeros. Most are much smaller."""

EVENT: Final = f"INSERT INTO events ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_ARTIFACT: Final = "INSERT OR IGNORE INTO artifacts (digest, content) VALUES (?, ?)"
_DROP_ARTIFACT: Final = "DELETE FROM artifacts WHERE digest = ?"
_KEY: Final = "INSERT OR REPLACE INTO keys (key_id, incarnation, purpose, wrapped) VALUES (?, ?, ?, ?)"
_DROP_KEY: Final = "DELETE FROM keys WHERE key_id = ?"
_DROP_KEYS: Final = "DELETE FROM keys WHERE incarnation = ?"
_SECRET: Final = (
    "INSERT INTO secrets (incarnation, name, version, version_id, key_id, sealed) VALUES (?, ?, ?, ?, ?, ?)"
)
_DROP_SECRETS: Final = (
    "DELETE FROM secrets WHERE incarnation = ?1 AND (?2 IS NULL OR name = ?2) AND (?3 IS NULL OR version = ?3)"
)
SHREDDING: Final = frozenset({_DROP_KEYS, _DROP_SECRETS})
"""What these delete is to be in no file any more: the pages of the database are overwritten (`secure_delete`), and the WAL,
which has them as they were before, is emptied before the append is acknowledged."""
_IDEMPOTENCY: Final = (
    "INSERT OR REPLACE INTO idempotency (scope, key, fingerprint, event_id, at_us) VALUES (?, ?, ?, ?, ?)"
)
_DROP_IDEMPOTENCY: Final = "DELETE FROM idempotency WHERE scope = ?"
_ROW_PAGES: Final = dict.fromkeys((_DROP_ARTIFACT, _DROP_KEYS, _DROP_SECRETS, _DROP_IDEMPOTENCY), DROPPED_PAGES)
"""Beside its own bytes, where it is more than a leaf."""

_PAYLOAD: Final = COLUMNS.index("payload")


def statements_of(attachments: Sequence[Attachment]) -> list[Statement]:
    """In the order given, as an artifact may be dropped before or after it is written; runs of one kind together."""
    found: list[Statement] = []
    for item in attachments:
        row: tuple[Any, ...]
        match item:
            case Artifact():
                check_artifact(item)
                statement, row = _ARTIFACT, (item.digest, item.content)
            case DropArtifact():
                statement, row = _DROP_ARTIFACT, (item.digest,)
            case KeyRow():
                statement, row = _KEY, (item.key_id, item.incarnation, item.purpose, item.wrapped)
            case DropKey():
                statement, row = _DROP_KEY, (item.key_id,)
            case DropKeys():
                statement, row = _DROP_KEYS, (item.incarnation,)
            case SecretRow():
                row = (item.incarnation, item.name, item.version, item.version_id, item.key_id, item.sealed)
                statement = _SECRET
            case DropSecrets():
                statement, row = _DROP_SECRETS, (item.incarnation, item.name, item.version)
            case IdempotencyRow():
                statement, row = _IDEMPOTENCY, (item.scope, item.key, item.fingerprint, item.event_id, item.at_us)
            case DropIdempotency():
                statement, row = _DROP_IDEMPOTENCY, (item.scope,)
            case EraseEvents():
                statement, row = erasing.ASK, erasing.asked(item)
        if not found or found[-1][0] != statement:
            found.append((statement, []))
        found[-1][1].append(row)
    return found


def check_artifact(artifact: Artifact) -> None:
    if hashlib.sha256(artifact.content).hexdigest() != artifact.digest:
        raise KernelBug(f"an artifact was to be stored under the digest {artifact.digest}, which is not its own")


def pages_of(statements: list[Statement]) -> int:
    """About how many pages these rows dirty: their own bytes, and a leaf of an index each."""
    pages = 0
    for statement, rows in statements:
        if statement is EVENT:  # There are many of these, and only a payload can be long.
            size = sum([len(row[_PAYLOAD] or b"") for row in rows])
        else:
            size = sum(len(cell) for row in rows for cell in row if isinstance(cell, bytes))
        pages += size // PAGE_BYTES + len(rows) * _ROW_PAGES.get(statement, 1)
    return pages
