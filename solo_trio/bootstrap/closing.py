"""The end of a journal. Owns: that it is said if it could not be closed in order."""

from __future__ import annotations

from solo_trio.errors import JournalFailed
from solo_trio.journal.sqlite import SqliteJournal
from solo_trio.telemetry.diagnostics import Diagnostics


async def close_journal(journal: SqliteJournal, telemetry: Diagnostics) -> None:
    try:
        await journal.close()
    except JournalFailed as error:
        telemetry.note("the journal could not be closed in order; nothing acknowledged is lost", error=error)
