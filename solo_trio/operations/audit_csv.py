"""The audit as a table for spreadsheets. Owns: CSV (RFC 4180) of entries, harmless to open. Never: which entries."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any, Final

from solo_trio.model.audit import VIEW

CSV_TYPE: Final = "text/csv; charset=utf-8; header=present"
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection")."""


def header() -> str:
    return _lines([VIEW])


def rows(entries: Iterable[Mapping[str, Any]]) -> str:
    """One line for each view of an entry; None is an empty cell."""
    return _lines([_cell(entry[name]) for name in VIEW] for entry in entries)


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return "" if value is None else value


def _lines(table: Iterable[Iterable[object]]) -> str:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\r\n").writerows(table)
    return written.getvalue()
