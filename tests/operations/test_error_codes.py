"""The published table of codes says neither more nor less than the source uses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import solo_trio
from solo_trio.errors import CODES, Faulted, KernelBug, Rejected, SoloError

PACKAGE = Path(solo_trio.__file__).parent
RAISING = {"Rejected", "Faulted", "SoloError"}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def raised_codes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, code) of each `Rejected("code", ...)`, and of `super().__init__("code", ...)` in the tree of errors."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        first, name = node.args[0], getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in RAISING and isinstance(first, ast.Constant):
            yield node.lineno, first.value


def strings(tree: ast.Module) -> set[str]:
    """Every text in a module, but not the keys of the table itself."""
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "CODES":
            assert isinstance(node.value, ast.Dict)
            used_elsewhere = [
                each.value
                for other in ast.walk(tree)
                if isinstance(other, ast.Call)
                for each in other.args
                if isinstance(each, ast.Constant)
            ]
            found -= {key.value for key in node.value.keys if isinstance(key, ast.Constant)} - set(used_elsewhere)
    return found


def test_every_code_that_is_raised_is_in_the_table() -> None:
    seen = 0
    for path, tree in modules():
        for line, code in raised_codes(tree):
            assert code in CODES, f"{path.relative_to(PACKAGE)}:{line} raises {code!r}"
            seen += 1
    assert seen > 50, "the search finds what it is for"


def test_every_code_of_the_table_is_used() -> None:
    used = set().union(*(strings(tree) for _, tree in modules()))
    assert [code for code in CODES if code not in used] == []


def test_a_code_is_a_status_and_a_title() -> None:
    for code, row in CODES.items():
        assert code.replace("_", "").isalpha() and code == code.lower()
        assert 400 <= row.status <= 599
        assert row.title[0].isupper() and not row.title.endswith(".")
    assert len({row.title for row in CODES.values()}) == len(CODES)


def test_a_code_that_is_not_in_the_table_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        Rejected("no_such_code", "detail")


def test_the_kinds_carry_what_the_table_says() -> None:
    error = Faulted("overloaded", "try again", retry_after_s=1, limit=3)
    assert isinstance(error, SoloError)
    assert (error.status, error.title, error.detail) == (503, CODES["overloaded"].title, "try again")
    assert error.extra == {"limit": 3} and error.retry_after_s == 1
    assert KernelBug("what").status == 500


TESTS = Path(__file__).parents[1]
RAISED_HERE = RAISING | {"KernelBug"}
NOT_PROVOKED: dict[str, str] = {}
"""Codes that no test expects, and why."""


def expected_codes(tree: ast.Module) -> set[str]:
    """Every code that a text of a test names, other than to raise it itself."""
    own = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and getattr(node.func, "id", "") in RAISED_HERE
    }
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in own
    ]
    return {code for text in texts for code in re.findall(r"[a-z_]+", text) if code in CODES}


def test_every_code_is_expected_by_a_test_or_has_a_reason() -> None:
    found: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        if path != Path(__file__):
            found |= expected_codes(ast.parse(path.read_text(encoding="utf-8")))
    for path in TESTS.rglob("*_contract.py"):
        found |= expected_codes(ast.parse(path.read_text(encoding="utf-8")))
    assert sorted(set(CODES) - found) == sorted(NOT_PROVOKED)
