"""The floor: the pure rooms import no effects, and nothing from the rooms above them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import solo_trio

PACKAGE: Final = Path(solo_trio.__file__).parent
ROOMS: Final = ("model", "policy")
FILES: Final = sorted(file for room in ROOMS for file in (PACKAGE / room).rglob("*.py"))

PURE: Final = frozenset(
    {
        "__future__",
        "attrs",
        "base64",
        "bisect",
        "cattrs",
        "collections",
        "enum",
        "functools",
        "hashlib",
        "ipaddress",
        "json",
        "math",
        "operator",
        "orjson",
        "re",
        "rpds",
        "struct",
        "typing",
        "zlib",
    }
)
"""Whatever is not here (trio, sqlite3, time, random, logging, os, secrets, ...) has effects, or has to be looked at."""
ALLOWED: Final = {
    "model": ("solo_trio.errors", "solo_trio.hardening", "solo_trio.model", "solo_trio.policy"),
    "policy": ("solo_trio.policy",),
}
"""What of our own a room may import."""
CALENDAR: Final = "datetime"
"""Only for turning a number into text; its clock is not to be read."""
CALLS: Final = frozenset({"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"})


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def broken(source: str, room: str, name: str) -> list[str]:
    """What in `source` is not for a pure room."""
    tree = ast.parse(source)
    found = []
    for module in imported(tree):
        top = module.split(".")[0]
        if top == "solo_trio":
            good = module == top or module.startswith(ALLOWED[room])
        else:
            good = top in PURE or (top == CALENDAR and name == "instant.py")
        if not good:
            found.append(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append(node.func.id)
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today") and name == "instant.py":
            found.append(node.attr)
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global):
            found.append(type(node).__name__)
    return found


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.name}" for file in FILES])
def test_a_pure_room_imports_no_effects(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0]
    assert broken(file.read_text(encoding="utf-8"), room, file.name) == []


def test_there_is_something_to_look_at() -> None:
    seen = {file.relative_to(PACKAGE).as_posix() for file in FILES}
    assert {"model/state.py", "model/service_requests.py", "policy/restart.py", "policy/bucket.py"} <= seen


@pytest.mark.parametrize(
    "source",
    [
        "import trio",
        "import os.path",
        "import time as clock",
        "from random import random",
        "from secrets import token_hex",
        "def f():\n    import sqlite3",
        "if TYPE_CHECKING:\n    import logging",
        "import datetime",
        "from solo_trio import kernel",
        "from solo_trio.kernel.staging import stage",
        "from solo_trio import ports",
        "from solo_trio.ports import Clock",
        "open('file')",
        "def f():\n    print(1)",
        "async def f(): pass",
    ],
)
@pytest.mark.parametrize("room", ROOMS)
def test_a_broken_floor_is_seen(source: str, room: str) -> None:
    assert broken(source, room, "state.py") != []


def test_the_calendar_is_for_the_codec_and_its_clock_for_nobody() -> None:
    assert broken("import datetime\nx = datetime.timedelta(0)", "model", "instant.py") == []
    assert broken("import datetime\nx = datetime.datetime.now()", "model", "instant.py") == ["now"]


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.name}" for file in FILES])
def test_a_module_says_what_it_owns(file: Path) -> None:
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert doc is not None and "Owns:" in doc and "Never:" in doc
