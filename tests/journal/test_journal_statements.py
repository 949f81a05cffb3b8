"""SQL statements: what was sent never becomes a part of one. The linter holds that; its exceptions are looked at here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANTED = [
    "connection.execute(f\"SELECT * FROM events WHERE subject = '{subject}'\")\n",
    "connection.execute(\"SELECT * FROM events WHERE subject = '%s'\" % subject)\n",
    'connection.execute("DELETE FROM events WHERE subject = \'" + subject + "\'")\n',
    "connection.execute(\"UPDATE audit SET peer = '{}'\".format(peer))\n",
]
CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")
"""Names of columns, which are written in the file or imported as they are."""
LOOKED_AT = {
    ("audit_reads.py", "seen"): "texts of this function",
    ("audit_reads.py", "narrower"): "names of columns, from a tuple of this function",
    ("backups.py", "marks"): "question marks",
    ("pruning.py", "where"): "texts of this function",
    ("shape.py", "table"): "a name that our own migrations gave, read from what they make in memory",
    ("shape.py", "way"): "texts of this function, and such a name",
}
"""Local names in statements; whoever adds one says what it holds."""


@pytest.mark.parametrize("planted", PLANTED)
def test_the_linter_refuses_a_statement_that_is_put_together(planted: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--stdin-filename", "solo_trio/journal/planted.py", "-"],
        input=planted,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 1 and "S608" in run.stdout


def exceptions() -> Iterator[tuple[Path, ast.expr]]:
    """What is put into statements on lines that the linter was told to leave alone."""
    for path in sorted((ROOT / "solo_trio").rglob("*.py")):
        source = path.read_text()
        lines = {number for number, line in enumerate(source.splitlines(), 1) if "S608" in line and "noqa" in line}
        if not lines:
            continue
        for node in ast.walk(ast.parse(source)):
            spans = range(getattr(node, "lineno", 0), getattr(node, "end_lineno", 0) + 1)
            if isinstance(node, ast.JoinedStr) and lines & set(spans):
                yield from ((path, each.value) for each in node.values if isinstance(each, ast.FormattedValue))


def is_constant(what: ast.expr) -> bool:
    """A constant, columns joined, or as many question marks as there are."""
    if isinstance(what, ast.Name):
        return CONSTANT.fullmatch(what.id) is not None
    if not (isinstance(what, ast.Call) and isinstance(what.func, ast.Attribute) and what.func.attr == "join"):
        return False
    names = {
        each.id for each in ast.walk(what) if isinstance(each, ast.Name) and each.id not in ("len", "chain", "schema")
    }
    names |= {each.attr for each in ast.walk(what) if isinstance(each, ast.Attribute) and each.attr != "join"}
    return all(CONSTANT.fullmatch(name) for name in names)


def test_the_exceptions_hold_nothing_that_was_sent() -> None:
    found = list(exceptions())
    assert len(found) >= 10
    for path, what in found:
        assert path.parent.name == "journal", f"a statement in {path}"
        known = isinstance(what, ast.Name) and (path.name, what.id) in LOOKED_AT
        assert known or is_constant(what), f"{path.name}: {ast.unparse(what)} in a statement"
