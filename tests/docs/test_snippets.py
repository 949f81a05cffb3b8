"""What the documentation shows is what happens: every page is done in order, in its own directory, against real servers."""

from __future__ import annotations

import ast
import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import snippets
from snippets import ROOT, Place, Snippet

PAGES: Final = sorted(
    path.relative_to(ROOT)
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if "_build" not in path.parts
)
RUN: Final = {"python", "console", "toml", "json", "sh", "bash", "before"}
PLAIN: Final = {"", "text", "ini", "nginx"}
"""Languages of blocks that claim nothing that could be run."""
NOT_RUN_MAX: Final = 8
FRAGMENTS_MAX: Final = 6

OF_PAGE: Final = {path: list(snippets.snippets((ROOT / path).read_text())) for path in PAGES}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize(
    "page", [path for path, found in OF_PAGE.items() if any(each.language in RUN for each in found)], ids=str
)
def test_a_page_does_what_it_says(page: Path, place: Place) -> None:
    if any("curl " in each.text for each in OF_PAGE[page]) and shutil.which("curl") is None:
        pytest.skip("missing: curl")
    printed = None
    for snippet in OF_PAGE[page]:
        try:
            printed = _run(snippet, place, printed)
        except AssertionError as error:
            raise AssertionError(f"{page}, line {snippet.line}: {error}") from None


def _run(snippet: Snippet, place: Place, printed: str | None) -> str | None:
    notes, text = snippet.notes, snippet.text
    if "not run" in notes:
        return None
    if "file" in notes:
        place.save(notes["file"], text)
    elif "output" in notes:
        assert printed is not None, "there is no Python snippet before this output"
        assert snippets.pattern(text).fullmatch(printed), f"expected:\n{text}\nprinted:\n{printed}"
    elif snippet.language == "before":
        place.before(text)
    elif snippet.language == "console":
        place.console(snippet)
    elif snippet.language == "toml":
        tomllib.loads(text)
    elif snippet.language == "json":
        json.loads(text)
    elif snippet.language == "python":
        return _python(snippet, place)
    return None


def _python(snippet: Snippet, place: Place) -> str | None:
    compile(snippet.text, "snippet", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if "fragment" in snippet.notes:
        return None
    if "service" in snippet.notes:
        service_id = snippet.notes["service"]
        place.save(f"{service_id}.py", snippet.text)
        place.terminal("").run(f"solo deploy {service_id}.py --id {service_id}", "...\n")
        return None
    return place.python(snippet)


def test_what_is_not_run_says_why_and_is_little() -> None:
    every = [(path, each) for path, found in OF_PAGE.items() for each in found]
    left = [(path, each) for path, each in every if "not run" in each.notes or "fragment" in each.notes]
    for path, each in left:
        assert each.notes.get("not run") or each.notes.get("fragment"), f"{path}, line {each.line}: why is it not run?"
    assert len([each for _, each in left if "not run" in each.notes]) <= NOT_RUN_MAX
    assert len([each for _, each in left if "fragment" in each.notes]) <= FRAGMENTS_MAX
    for path, each in every:
        where = f"{path}, line {each.line}"
        assert each.language in RUN | PLAIN or each.language.startswith("{"), (
            f"{where}: is a block of {each.language!r} run or not?"
        )
        if each.language in ("sh", "bash"):
            assert "not run" in each.notes, f"{where}: write commands as a console block, or say why they are not run"
        if each.language == "console":
            assert "file" not in each.notes


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("ready since 2026-01-01T00:00:00.000000Z", "ready   since 2027-11-21T10:54:36.390988Z"),
        ("version 1, digest e80a56216caf", "version 1, digest 0123456789ab"),
        ("one\n...\nlast", "one\ntwo\nthree\nlast"),
        ("one\n...\nlast", "one\nlast"),
        ("took 0.7 s ... done", "took 12 s and is done"),
    ],
)
def test_output_is_compared_loosely(expected: str, printed: str) -> None:
    assert snippets.pattern(expected).fullmatch(printed + "\n")


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("5", "6"),
        ("version 1, digest e80a56216caf", "version 2, digest e80a56216caf"),
        ("calc ready", "calc ready\nmore"),
        ("one\ntwo", "one"),
        ("a.b", "axb"),
    ],
)
def test_what_is_deterministic_is_compared_exactly(expected: str, printed: str) -> None:
    assert not snippets.pattern(expected).fullmatch(printed + "\n")
