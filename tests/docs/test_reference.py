"""Everything published is documented: error codes, events, operations, their inputs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import attrs
import click
import pytest

from solo_trio.errors import CODES
from solo_trio.model import codec  # noqa: F401  (fills KINDS)
from solo_trio.model.event import KINDS
from solo_trio.model.limits import RANGES
from solo_trio.operations.perform import OPERATIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS))
import generated  # noqa: E402  (it lies in docs/)

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


def test_every_operation_is_documented() -> None:
    text = (DOCS / "http.md").read_text()
    for operation in OPERATIONS.values():
        assert f"| `{operation.method} {operation.path}`" in text
        assert operation.summary in text


def test_every_input_says_what_it_means() -> None:
    """A row of docs/reference/inputs.md for each name; `operation.name` where an operation means something of its own."""
    known = generated.meanings()
    names = {f"limits.{name}" for name in RANGES}
    assert names <= set(known)
    for operation in OPERATIONS.values():
        for field in attrs.fields(operation.input):
            names |= {field.name, f"{operation.name}.{field.name}"}
            assert known.get(f"{operation.name}.{field.name}", known.get(field.name)), f"{operation.name}: {field.name}"
    assert set(known) <= names, "no operation takes these"


def test_every_command_and_limit_says_what_it_is() -> None:
    for path, command in generated.all_commands():
        assert command.help, f"{path} has no help"
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help or option.hidden, f"{path}: {option.name} has no help"
    assert generated.limits().count("\n") == len(RANGES) + 2


def test_generated_parts_are_asked_for_where_they_belong() -> None:
    """Each part is on exactly one page, and nothing that was generated is committed."""
    pages = [path for path in DOCS.rglob("*.md") if "_build" not in path.parts]
    asked = [name for path in pages for name in generated.ASKED.findall(path.read_text())]
    assert sorted(asked) == sorted(generated.PARTS)
    filled = generated.fill("reference/operations", (DOCS / "reference/operations.md").read_text())
    for operation in OPERATIONS.values():
        assert f"`{operation.method} {operation.path}`" in filled


@pytest.mark.parametrize(
    ("page", "title", "least"), [("guarantees", "guarantee", GUARANTEES_MIN), ("threats", "attack", 25)]
)
def test_every_guarantee_and_every_attack_names_tests_that_exist(page: str, title: str, least: int) -> None:
    lines = (DOCS / f"explanation/{page}.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith(f"| {title} ")]
    assert len(rows) >= least
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
