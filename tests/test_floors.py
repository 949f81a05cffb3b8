"""The rooms import only downward, and each floor can be broken: a violation planted in a copy of the package is found."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PURE = ("errors.py", "policy", "model", "hardening")
EFFECTS = {"open", "print", "input", "breakpoint", "exec", "eval", "now", "utcnow", "today"}
"""Builtins, and `datetime`'s clocks, which need no import that a contract could forbid."""

PLANTED = {
    "upward": ("kernel/planted.py", "import solo_trio.operations.table", "downward"),
    "upward in a function": ("policy/planted.py", "def late():\n    from solo_trio.model import state", "downward"),
    "upward for types only": (
        "vault/planted.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import solo_trio.kernel.core",
        "downward",
    ),
    "sideways": ("telemetry/planted.py", "import solo_trio.vault.secret", "downward"),
    "a room that has no place": ("misc.py", "", "downward"),
    "what users test with": ("gateways/planted.py", "import solo_trio.testing", "downward"),
    "the kernel, from a service": ("service/planted.py", "import solo_trio.errors", "downward"),
    "the kernel, from the SDK": ("client/planted.py", "import solo_trio.model.ids", "sdk"),
    "a clock": ("model/planted.py", "import time", "pure"),
    "chance": ("policy/planted.py", "from random import random", "pure"),
    "Trio": ("model/planted.py", "import trio", "pure"),
    "a concrete runtime": ("operations/planted.py", "import solo_trio.runtimes.process", "concrete"),
    "a concrete journal": ("kernel/planted.py", "from solo_trio.journal import sqlite", "concrete"),
    "a second SQLite": ("journal/planted.py", "import pysqlite3", "driver"),
    "SQLite": ("telemetry/planted.py", "import sqlite3", "sqlite"),
}


def broken(root: Path) -> set[str]:
    """The names of the contracts that the package in `root` breaks."""
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as lint; lint()",
            "--no-cache",
            "--no-logo",
        ],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    kept = re.findall(r"^(.+?) KEPT", run.stdout, re.M)
    found = set(re.findall(r"^(.+?) BROKEN", run.stdout, re.M))
    assert len(kept) + len(found) == len(contracts()), run.stdout + run.stderr
    assert run.returncode == (1 if found else 0)
    return found


def contracts() -> dict[str, str]:
    text = (ROOT / "pyproject.toml").read_text()
    return dict(re.findall(r'^id = "(\w+)"\nname = "(.+)"$', text, re.M))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "solo_trio", tmp_path / "solo_trio", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_floors_hold() -> None:
    assert broken(ROOT) == set()


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found(planted: str, copy: Path) -> None:
    path, text, contract = PLANTED[planted]
    (copy / "solo_trio" / path).write_text(text + "\n")
    assert contracts()[contract] in broken(copy)


def effects(source: str) -> set[str]:
    names = {
        node.id if isinstance(node, ast.Name) else node.attr
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and isinstance(node := call.func, ast.Name | ast.Attribute)
    }
    return names & EFFECTS


def test_pure_rooms_call_no_builtin_with_an_effect() -> None:
    for room in PURE:
        path = ROOT / "solo_trio" / room
        for file in [path] if path.is_file() else path.rglob("*.py"):
            assert effects(file.read_text()) == set(), file
    assert effects("import datetime\ndef f():\n    return datetime.datetime.now()") == {"now"}
    assert effects("print(1)") == {"print"}


def test_every_pure_room_is_held_to_it() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for room in PURE:
        if (ROOT / "solo_trio" / room).exists():
            assert f'"solo_trio.{room.removesuffix(".py")}"' in text.split("source_modules")[1].split("\n")[0]
