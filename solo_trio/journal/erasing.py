"""Erasing what a removed tenant's events held. Owns: which rows count as erased, and telling that from tampering. Never:
files.

From the transaction of `tenant_erased` on, every event of that incarnation before it is read without its payload, whether the
bytes are gone yet or not; so erasing can take place in small steps, and be gone on with by the next kernel. The row keeps the
digest of its payload, and the chain stays whole; the salt goes with the payload, so that no guess can be confirmed.

The table `erasures` only says it sooner. What proves it is the event, which is in the chain: a replay that met rows without
payload, and not the event, refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import evolve

from solo_trio.journal.archive import Row
from solo_trio.journal.chain import COLUMNS
from solo_trio.journal.library import damaged, driver
from solo_trio.journal.pruning import Statement
from solo_trio.model.record import ERASED_TYPE, EraseEvents, Erasure, StoredEvent

ERASE_EVENTS_MAX: Final = 500
"""Erased in one transaction: some milliseconds, in which nothing can be appended."""

_ID: Final = COLUMNS.index("id")
_INCARNATION: Final = COLUMNS.index("incarnation")
_TYPE: Final = COLUMNS.index("type")
_PAYLOAD: Final = COLUMNS.index("payload")
_SALT: Final = COLUMNS.index("salt")
_DIGEST: Final = COLUMNS.index("payload_digest")

ASK: Final = (
    "INSERT OR REPLACE INTO erasures (incarnation, tenant_id, event_id, removed_at_us, done) VALUES (?, ?, ?, ?, 0)"
)
_BLANK: Final = "UPDATE events SET payload = NULL, salt = NULL WHERE id = ?"
ERASED: Final = 2
"""`done`: its rows hold nothing any more; but copies of them may lie between the rows until the database is swept."""
SWEPT: Final = 1
_ERASED: Final = f"UPDATE erasures SET done = {ERASED} WHERE incarnation = ?"  # noqa: S608
_SWEPT: Final = f"UPDATE erasures SET done = {SWEPT} WHERE done = {ERASED}"  # noqa: S608
_DROP_CHECKPOINTS: Final = "DELETE FROM checkpoints WHERE event_id < ?"

ASK_FOR_REMOVED: Final = (
    "INSERT OR IGNORE INTO erasures (incarnation, tenant_id, event_id, removed_at_us, done) "
    "SELECT incarnation, tenant_id, NULL, at_us, 0 FROM events WHERE type = 'tenant_removed' AND incarnation IS NOT NULL"
)

Mask = Mapping[str, int]
"""The incarnations whose events count as erased, and before which event."""
NOTHING: Final[Mask] = {}


def asked(item: EraseEvents) -> tuple[Any, ...]:
    return (item.incarnation, item.tenant_id, item.event_id, item.removed_at_us)


def mask(connection: driver.Connection) -> dict[str, int]:
    rows = connection.execute("SELECT incarnation, event_id FROM erasures WHERE event_id IS NOT NULL")
    return {str(incarnation): int(event_id) for incarnation, event_id in rows}


def waiting(connection: driver.Connection) -> list[Erasure]:
    """What is not done yet, oldest first."""
    rows = connection.execute(
        "SELECT tenant_id, incarnation, event_id, removed_at_us FROM erasures WHERE NOT done ORDER BY removed_at_us, event_id"
    )
    return [Erasure(*row) for row in rows]


def is_erased(event: StoredEvent, erased: Mask) -> bool:
    return event.incarnation is not None and event.id < erased.get(event.incarnation, 0)


def masked(event: StoredEvent, erased: Mask) -> StoredEvent:
    return evolve(event, payload=None) if is_erased(event, erased) else event


def blank(row: Row, erased: Mask) -> Row:
    """The row as it is to be kept."""
    if row[_INCARNATION] is None or row[_ID] >= erased.get(row[_INCARNATION], 0):
        return row
    cells = list(row)
    cells[_PAYLOAD] = cells[_SALT] = None
    return tuple(cells)


class Proofs:
    """What a replay saw of erasures: each one that was made use of must be met in the chain."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._met: set[str] = set()

    def apply(self, rows: Sequence[Row], events: list[StoredEvent], erased: Mask) -> list[StoredEvent]:
        """Checked events as they count. Raises `Faulted("data_damaged")` for a payload that is gone and may not be."""
        found = events
        for place, row in enumerate(rows):
            life = row[_INCARNATION]
            if row[_TYPE] == ERASED_TYPE and life is not None and erased.get(life) == row[_ID]:
                self._met.add(life)
            if life is not None and row[_ID] < erased.get(life, 0):
                if row[_DIGEST] is not None:
                    self._used.add(life)
                if row[_PAYLOAD] is not None:
                    found = list(events) if found is events else found
                    found[place] = evolve(events[place], payload=None)
            elif row[_PAYLOAD] is None and row[_DIGEST] is not None:
                raise damaged(f"event {row[_ID]}: its payload is gone, and no event says that its tenant was erased")
        return found

    def check(self) -> None:
        """At the end of the log."""
        unproved = sorted(self._used - self._met)
        if unproved:
            raise damaged(
                f"events count as erased, but no event says that their tenant was (incarnation {unproved[0]})"
            )


def rows_to_blank(connection: driver.Connection, erasure: Erasure, after: int) -> list[int]:
    """The next ids of events that still hold what is to be erased."""
    rows = connection.execute(
        "SELECT id FROM events INDEXED BY events_tenant WHERE tenant_id = ? AND id > ? AND id < ? "
        "AND incarnation = ? AND payload IS NOT NULL ORDER BY id LIMIT ?",
        (erasure.tenant_id, after, erasure.event_id, erasure.incarnation, ERASE_EVENTS_MAX),
    )
    return [int(row[0]) for row in rows]


def blank_rows(ids: Sequence[int]) -> list[Statement]:
    return [(_BLANK, [(id_,) for id_ in ids])]


def segment_after(connection: driver.Connection, erasure: Erasure, after: int) -> int | None:
    """The first event of the next segment that has events of the incarnation."""
    (first_id,) = connection.execute(
        "SELECT min(first_id) FROM segment_subjects WHERE incarnation = ? AND first_id > ? AND first_id < ?",
        (erasure.incarnation, after, erasure.event_id),
    ).fetchone()
    return None if first_id is None else int(first_id)


def holds(rows: Sequence[Row], erased: Mask) -> bool:
    """Whether a segment still has what is to be erased."""
    return any(blank(row, erased) is not row and row[_PAYLOAD] is not None for row in rows)


def drop_checkpoints(erasure: Erasure) -> list[Statement]:
    """Those that may hold it: all from before it was erased."""
    return [(_DROP_CHECKPOINTS, [(erasure.event_id,)])]


def done(erasure: Erasure) -> list[Statement]:
    return [(_ERASED, [(erasure.incarnation,)])]


def unswept(connection: driver.Connection) -> bool:
    return connection.execute("SELECT 1 FROM erasures WHERE done = ?", (ERASED,)).fetchone() is not None


def swept() -> list[Statement]:
    return [(_SWEPT, [()])]
