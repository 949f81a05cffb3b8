"""What proves something (a MAC, a signature, a seal) is compared in constant time, wherever it is compared."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "solo_trio"
PROOF = re.compile(
    r"\b(?:\w*_)?(?:mac|macs|hmac|signature|seal|sealed|proof|token|key_hash)\b(?!\.)|\bseal\(|_mac\(|digest\(key"
)
"""What a side of a comparison looks like that is one; names of keys and versions of things are none."""
OWN = {"admin_token.py"}
"""Both sides are files of this kernel's own: nobody sends either."""
ROOMS = ("vault", "journal", "operations", "gateways", "kernel", "bootstrap")


def plain_comparisons(source: str) -> list[str]:
    """Comparisons with == and != of what proves something."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not any(isinstance(each, ast.Eq | ast.NotEq) for each in node.ops):
            continue
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Constant) for side in sides) or any(_is_size(side) for side in sides):
            continue  # with a text or a number of this file: nothing that an attacker could find out
        if any(PROOF.search(ast.unparse(side)) for side in sides):
            found.append(ast.unparse(node))
    return found


def _is_size(side: ast.expr) -> bool:
    return isinstance(side, ast.Call) and isinstance(side.func, ast.Name) and side.func.id in ("len", "type")


@pytest.mark.parametrize("room", ROOMS)
def test_what_proves_something_is_compared_in_constant_time(room: str) -> None:
    found = {
        path.name: plain_comparisons(path.read_text()) for path in (ROOT / room).rglob("*.py") if path.name not in OWN
    }
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "signature == macaroon.signature",
        "x = _mac(row, key) != row[-1]",
        "seal(key, name, at) == found[2]",
        "given.token == token",
    ],
)
def test_a_planted_one_is_found(planted: str) -> None:
    assert plain_comparisons(planted)
