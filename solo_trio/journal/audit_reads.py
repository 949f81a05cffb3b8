"""The reading side of the audit, synchronous. Owns: every query on `audit.db`, and its check. Never: writes."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from solo_trio.journal import audit_chain
from solo_trio.journal.audit_chain import COLUMNS, BrokenChain, End
from solo_trio.journal.library import driver
from solo_trio.model.audit import AuditFinding, AuditPage, AuditQuery

AUDIT_FILE: Final = "audit.db"
ANCHOR: Final = "anchor"
"""The end before the oldest entry: what the chain of those that are left begins with."""
HEAD: Final = "head"
SCAN_ROWS_MAX: Final = 20_000
"""Looked at for one page."""
CHECK_PAGE_ROWS: Final = 2_000
BUSY_TIMEOUT_MS: Final = 5_000

_ROWS: Final = f"SELECT {', '.join(COLUMNS)} FROM audit"  # noqa: S608

Progress = Callable[[int, int], None]
"""Told how many entries were looked at so far, and of how many."""


def connect(directory: Path, mode: str) -> driver.Connection:
    return driver.connect(
        f"file:{quote(str(directory / AUDIT_FILE))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_MS / 1_000,
    )


def end(connection: driver.Connection, key: bytes, name: str) -> End:
    """One of the two ends. Raises `BrokenChain` if it is not there by our hand."""
    found = connection.execute("SELECT id, chain, seal FROM ends WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise BrokenChain(f"the {name} is missing")
    try:
        at = int(found[0]), bytes(found[1])
        sealed = hmac.compare_digest(audit_chain.seal(key, name, at), bytes(found[2]))
    except (TypeError, ValueError, struct.error):
        sealed = False
    if not sealed:
        raise BrokenChain(f"the {name} is not authentic: it was changed, or the master key is another one")
    return at


def hash_at(connection: driver.Connection, id_: int) -> bytes | None:
    row = connection.execute("SELECT chain FROM audit WHERE id = ?", (id_,)).fetchone()
    return None if row is None else bytes(row[0])


def bounds(connection: driver.Connection) -> tuple[int, int]:
    """The ids of the oldest and the newest entry; 0 and 0 if there is none."""
    oldest, newest = connection.execute("SELECT (SELECT min(id) FROM audit), (SELECT max(id) FROM audit)").fetchone()
    return oldest or 0, newest or 0


def check(
    connection: driver.Connection, key: bytes, newest: int | None = None, progress: Progress | None = None
) -> AuditFinding:
    """Read the chain, all of it or the `newest` so many entries; the ends and the oldest always. Raises `driver.Error`."""
    checked = entries = 0
    connection.execute("BEGIN")  # one snapshot: entries are written meanwhile
    try:
        anchor, head = end(connection, key, ANCHOR), end(connection, key, HEAD)
        entries = head[0] - anchor[0]
        oldest, last = bounds(connection)
        if (oldest, last) != ((anchor[0] + 1, head[0]) if entries else (0, 0)):
            raise BrokenChain(_cut(oldest, last, anchor, head))
        at = anchor
        if newest is not None and entries > newest:
            follow(connection, key, anchor, anchor[0] + 1)
            first = head[0] - newest
            at = first, hash_at(connection, first) or b""
        while at[0] < head[0]:
            began = at[0]
            at = follow(connection, key, at, min(head[0], at[0] + CHECK_PAGE_ROWS))
            checked += at[0] - began
            if progress is not None:
                progress(checked, entries)
        if at != head:
            raise BrokenChain(f"entry {head[0]} is not the newest one that was written")
    except BrokenChain as broken:
        return AuditFinding(entries, checked, str(broken))
    finally:
        connection.execute("ROLLBACK")
    return AuditFinding(entries, checked)


def follow(connection: driver.Connection, key: bytes, after: End, until: int) -> End:
    """The entries behind `after`, checked. Raises `BrokenChain`."""
    rows = connection.execute(f"{_ROWS} WHERE id > ? AND id <= ? ORDER BY id", (after[0], until)).fetchall()
    at = audit_chain.verify(key, after, rows)
    if at[0] < until:
        raise BrokenChain(f"entry {at[0] + 1} is missing")
    return at


def _cut(oldest: int, last: int, anchor: End, head: End) -> str:
    if last < head[0] and oldest <= anchor[0] + 1:
        return f"entries {max(last, anchor[0]) + 1} to {head[0]} are missing: the newest were cut off"
    if oldest > anchor[0] + 1:
        return f"entries {anchor[0] + 1} to {oldest - 1} are missing: the oldest were deleted, and not by this program"
    return f"there are entries {oldest} to {last}, where {anchor[0] + 1} to {head[0]} were written"


def page(connection: driver.Connection, query: AuditQuery) -> AuditPage:
    """Entries that match, and where to go on. Times are those of entries: their order is that of the ids."""
    connection.execute("BEGIN")
    try:
        return _page(connection, query)
    finally:
        connection.execute("ROLLBACK")


def _page(connection: driver.Connection, query: AuditQuery) -> AuditPage:
    _, newest = bounds(connection)
    after, last = query.after, newest
    if query.since_us is not None:
        after = max(after, first_since(connection, query.since_us) - 1)
    if query.until_us is not None:
        last = first_since(connection, query.until_us) - 1
    seen = "SELECT * FROM audit WHERE id > :after AND id <= :last"
    given: dict[str, Any] = {"after": after, "last": last, "scan": SCAN_ROWS_MAX}
    if query.incarnation is not None:
        seen += " AND incarnation = :incarnation"
        given["incarnation"] = query.incarnation
    seen += " ORDER BY id LIMIT :scan"
    wanted = {
        name: value
        for name in ("tenant_id", "operation", "outcome", "credential")
        if (value := getattr(query, name)) is not None
    }
    narrower = " AND ".join(f"{name} = :{name}" for name in wanted) or "1"
    # The only texts put together here are names of columns, from the tuple above.
    sql = f"SELECT {', '.join(COLUMNS)} FROM ({seen}) WHERE {narrower} ORDER BY id LIMIT :limit"  # noqa: S608
    rows = connection.execute(sql, given | wanted | {"limit": query.limit + 1}).fetchall()
    entries = tuple(audit_chain.entry_of(row) for row in rows[: query.limit])
    if len(rows) > query.limit:
        return AuditPage(entries, entries[-1].id)
    looked, count = connection.execute(f"SELECT max(id), count(*) FROM ({seen})", given).fetchone()  # noqa: S608
    return AuditPage(entries, int(looked) if count == SCAN_ROWS_MAX and looked < last else None)


def first_since(connection: driver.Connection, at_us: int) -> int:
    """The id of the first entry that is not before `at_us`; one above the newest if there is none."""
    oldest, newest = bounds(connection)
    low, high = oldest, newest + 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute("SELECT at_us FROM audit WHERE id >= ? ORDER BY id LIMIT 1", (middle,)).fetchone()
        if row is None or row[0] >= at_us:
            high = middle
        else:
            low = middle + 1
    return low


def one_page(directory: Path, query: AuditQuery) -> AuditPage:
    """`page` on a connection of its own: the file under it may be another one the next time."""
    connection = connect(directory, "ro")
    try:
        return page(connection, query)
    finally:
        connection.close()
