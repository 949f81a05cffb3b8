"""Each rule on what it must find and what it must leave alone."""

from __future__ import annotations

import re
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest
from hardening_samples import BAD, GOOD, RANDOM

from solo_trio.hardening import ANALYSED_BYTES_MAX, FINDINGS_MAX, RULES, Finding, analyse

BY_ID = {rule.id: rule for rule in RULES}


def found(source: str, rule: str) -> list[Finding]:
    return [each for each in analyse(source) if each.rule == rule]


def test_every_rule_has_samples_both_ways() -> None:
    assert list(BAD) == list(GOOD) == list(BY_ID)
    assert len(BY_ID) == len(RULES)


@pytest.mark.parametrize(("rule", "source"), [(rule, source) for rule in BAD for source in BAD[rule]])
def test_it_finds(rule: str, source: str) -> None:
    findings = found(source, rule)
    assert findings, analyse(source)
    for each in findings:
        assert each.level in BY_ID[rule].levels
        assert each.what and each.why.endswith(".") and each.remedy.endswith((".", "]", ")")), each
        assert each.line is None or 1 <= each.line <= source.count("\n") + 1
        assert each.column is None or each.column >= 1


@pytest.mark.parametrize(("rule", "source"), [(rule, source) for rule in GOOD for source in GOOD[rule]])
def test_it_leaves_alone(rule: str, source: str) -> None:
    assert found(source, rule) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_example_is_found_and_the_better_one_is_clean(rule: object) -> None:
    assert isinstance(rule, type(RULES[0]))
    assert [each.rule for each in analyse(rule.example)] == [rule.id]
    assert analyse(rule.better) == []


def test_every_level_that_a_rule_names_is_one_it_finds() -> None:
    for rule in RULES:
        if rule.id != "too_large":  # its note: test_of_many_the_worst_are_kept
            assert {each.level for source in BAD[rule.id] for each in found(source, rule.id)} == set(rule.levels), (
                rule.id
            )


def test_lines_and_columns_count_from_one() -> None:
    [finding] = analyse("import os\n\ndef f():\n    os.system('ls')\n")
    assert (finding.rule, finding.level, finding.line, finding.column) == ("process_use", "error", 4, 5)
    assert finding.document() == {
        "rule": "process_use",
        "level": "error",
        "line": 4,
        "column": 5,
        "what": "os.system starts another process",
        "why": BY_ID["process_use"].why,
        "remedy": BY_ID["process_use"].remedy,
        "file": None,
    }
    [finding] = analyse("x = 1\ndef f(:\n")
    assert (finding.rule, finding.line) == ("syntax", 2)


def test_a_secret_is_not_repeated() -> None:
    for source in BAD["secret_literal"]:
        for each in analyse(source):
            assert RANDOM not in repr(each) and "hunter2" not in repr(each)


def test_of_many_the_worst_are_kept() -> None:
    source = "async def f():\n    open('a')\n" * 70 + "import os\nos.system('a')\n" * 3
    findings = analyse(source)
    assert len(findings) == FINDINGS_MAX + 1
    assert sum(each.level == "error" for each in findings) == 3
    assert findings[-1].level == "note" and findings[-1].what == "23 more were found, and left out"
    assert [each.line for each in findings[:-1]] == sorted(each.line or 0 for each in findings[:-1])


def test_one_thing_is_found_once() -> None:
    assert len(analyse("import subprocess\nsubprocess.run([])\n")) == 1
    assert len(analyse("import os\nos.system\n")) == 1
    assert [each.line for each in analyse("import os\nos.system('a')\nos.system('b')\n")] == [2, 3]


def test_names_from_the_source_are_shown_within_bounds() -> None:
    for name in ("é" * 50, "a" * 5_000):
        for source in (
            f"async def {name}(): pass\n{name}()",
            f"import subprocess\nsubprocess.{name}()",
            f"token_{name}_secret = {RANDOM!r}",
        ):
            for each in analyse(source):
                assert each.what.isascii() and each.what.isprintable() and len(each.what) < 1_000


def test_warnings_of_the_source_are_nobodys() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert analyse("x = '\\d'\ny = 1if 1else 2\nz = 1 is 1\n") == []
    assert caught == []


def test_bytes_are_read_as_python_reads_them() -> None:
    assert analyse("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1")) == []
    assert [each.rule for each in analyse(b"x = '\xff'\n")] == ["syntax"]
    assert [each.rule for each in analyse(b"# -*- coding: nonsense -*-\n")] == ["syntax"]


def test_every_rule_is_on_the_page_about_them() -> None:
    docs = Path(__file__).parents[2] / "docs"
    sys.path.insert(0, str(docs))
    try:
        page = import_module("generated").fill("reference/hardening", (docs / "reference/hardening.md").read_text())
    finally:
        sys.path.remove(str(docs))
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    assert list(sections) == [rule.id for rule in RULES]
    for rule in RULES:
        for text in (rule.title, " or ".join(rule.levels), rule.why, rule.remedy):
            assert text in sections[rule.id], rule.id
        assert rule.id == "too_large" or (rule.example in sections[rule.id] and rule.better in sections[rule.id])
    for bound in (f"At most {FINDINGS_MAX} are", f"more than {ANALYSED_BYTES_MAX // 1_024} KiB"):
        assert bound in page.replace("\n", " ")
