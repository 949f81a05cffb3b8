"""Everything published is documented: error codes, events, operations, their inputs."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from solo_trio.errors import CODES
from solo_trio.model import codec  # noqa: F401  (fills KINDS)
from solo_trio.model.event import KINDS
from solo_trio.operations.perform import OPERATIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUARANTEES_MIN = 20


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_error_code_has_a_page_that_says_what_to_do(code: str) -> None:
    text = (DOCS / "errors" / f"{code}.md").read_text()
    assert text.startswith(f"# `{code}`\n\nStatus {CODES[code].status}. {CODES[code].title}.\n")
    assert "**What to do:** " in text
    assert (
        f"[`{code}`]({code}.md) | {CODES[code].status} | {CODES[code].title} |"
        in (DOCS / "errors/index.md").read_text()
    )


def test_no_page_is_about_a_code_that_does_not_exist() -> None:
    assert {path.stem for path in (DOCS / "errors").glob("*.md")} == {*CODES, "index"}


def test_every_event_and_its_payload_is_documented() -> None:
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", (DOCS / "events.md").read_text(), re.S | re.M))
    assert set(sections) == set(KINDS)
    for type_, cls in KINDS.items():
        payload = re.search(r"^Payload: (.*)\.$", sections[type_], re.M)
        assert payload is not None
        assert set(re.findall(r"`(\w+)`", payload[1])) == {field.name for field in attrs.fields(cls)}


def test_every_operation_and_its_inputs_are_documented() -> None:
    text = (DOCS / "http.md").read_text()
    for operation in OPERATIONS.values():
        assert f"| `{operation.method} {operation.path}`" in text
        assert operation.summary in text
        for field in attrs.fields(operation.input):
            line = re.search(rf"^\*\*`{operation.name}`\*\*.*$", text, re.M)
            assert line is not None
            assert f"`{field.name}`" in line[0]


def test_every_guarantee_names_tests_that_exist() -> None:
    lines = (DOCS / "explanation/guarantees.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| guarantee ")]
    assert len(rows) >= GUARANTEES_MIN
    for row in rows:
        proofs = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert proofs, f"no test proves: {row}"
        for path, name in proofs:
            assert re.search(rf"\bdef {name}\(", (ROOT / path).read_text()), f"there is no {path}::{name}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*DOCS.rglob("*.md"), DOCS.parent / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
