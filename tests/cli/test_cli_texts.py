"""Text from and to people."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.cli import texts


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0", 0), ("500ms", 500), ("5s", 5_000), ("1.5s", 1_500), ("1m", 60_000), ("2h", 7_200_000), ("0s", 0)],
)
def test_durations(text: str, ms: int) -> None:
    assert texts.duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1e3s", "5 s", "5S", "5sec", "٥s", "1s\n", ".5s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        texts.duration_ms(text)


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    for lines in (False, True):
        shown = texts.printable(text, lines=lines)
        bad = [each for each in shown if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]
        assert set(bad) <= ({"\n", "\t"} if lines else set())
        assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def test_ordinary_text_is_left_alone() -> None:
    text = "añb 中文 🙂 [bold]x[/bold]"
    assert texts.printable(text) == text
    assert texts.printable("a\nb\tc\rd", lines=True) == "a\nb\tc\\rd"


@pytest.mark.parametrize("text", ["[" * 100_000, "1e999", "NaN", "Infinity", "-Infinity", "{'a': 1}", "", "+1", "01"])
def test_what_is_not_json_is_text(text: str) -> None:
    assert texts.argument(text) == text


def test_keywords() -> None:
    assert texts.keyword("a=1") == ("a", 1)
    assert texts.keyword("a=b=c") == ("a", "b=c")
    assert texts.keyword("a=") == ("a", "")
    for wrong in ("a", "=1", "1a=1", "a b=1"):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            texts.keyword(wrong)


def test_columns() -> None:
    assert texts.aligned(("A", "BB"), [("long", "x"), ("", "")]) == "A     BB\nlong  x\n\n"
    assert texts.aligned(("A", "B"), []) == "A  B\n"
