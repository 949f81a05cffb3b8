"""Secrets are taken out of texts in whatever form and part they turn up; what is no secret stays."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.policy.redaction import (
    BLOCK_BYTES,
    CHARACTERS_MIN,
    FORMS_MAX,
    MISSES_MAX,
    TEXT_CHARACTERS_MAX,
    TOO_DEEP,
    WITHHELD,
    RedactedStream,
    Redactor,
    forms_of,
)

VALUE = 'p4ss "w\u00f6rd" & \\more\u00df'
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\n9w0BAQEFAASCBKcwggSj\n-----END KEY-----\n"


def knowing(*values: str | bytes) -> Redactor:
    redactor = Redactor()
    for number, value in enumerate(values):
        redactor.add(f"s{number}", value.encode() if isinstance(value, str) else value)
    return redactor


@pytest.mark.parametrize(
    "shown",
    [
        VALUE,
        f"before {VALUE} after",
        repr(VALUE),
        json.dumps({"a": VALUE}),
        json.dumps({"a": VALUE}, ensure_ascii=False),
        urllib.parse.quote(VALUE, safe=""),
        urllib.parse.quote_plus(VALUE),
        VALUE.encode().hex(),
        repr(VALUE.encode()),
        *(base64.b64encode(b"u" * before + VALUE.encode() + b"z" * 4).decode() for before in range(5)),
        *(base64.urlsafe_b64encode(b"user:"[before:] + VALUE.encode()).decode() for before in range(3)),
    ],
)
def test_it_is_found_in_many_forms(shown: str) -> None:
    assert "[secret s0]" in knowing(VALUE).text(shown)


def test_lines_of_a_long_value_are_found_each_by_itself() -> None:
    redactor = knowing(PEM)
    for line in PEM.splitlines():
        assert redactor.text(f"x {line} y") == "x [secret s0] y"
    assert redactor.text(PEM.strip()) == "[secret s0]"


def test_what_is_no_secret_stays() -> None:
    text = "p4ss is not all of it; \ud800 neither"
    assert knowing(VALUE).text(text) == text
    assert Redactor().text(VALUE) == VALUE


@pytest.mark.parametrize("value", ["", "x" * (CHARACTERS_MIN - 1), "\u00fc\u00fc"])
def test_a_short_value_is_left_alone(value: str) -> None:
    assert not knowing(value)
    assert forms_of(value.encode()) == []


def test_structures_are_gone_through() -> None:
    value = {"a": [VALUE, 1, None, {VALUE: True}], "b": 2.5}
    mark = "[secret s0]"
    assert knowing(VALUE).json(value) == {"a": [mark, 1, None, {mark: True}], "b": 2.5}
    deep: object = VALUE
    for _ in range(300):
        deep = [deep]
    assert VALUE not in json.dumps(knowing(VALUE).json(deep)) and TOO_DEEP in json.dumps(knowing(VALUE).json(deep))


def test_a_text_that_was_cut_in_the_middle_of_one() -> None:
    value = "0123456789abcdefghij"
    filler = "x " * 200
    assert knowing(value).text(f"{filler}{value[:12]}") == f"{filler}[secret s0]"
    assert knowing(value).text(f"{value[5:]}{filler}") == f"[secret s0]{filler}"
    short = f"begins like one: {value[:12]}"
    assert knowing(value).text(short) == short, "nobody cut that"


def test_a_value_longer_than_any_line() -> None:
    value = "".join(f"{number:05d}" for number in range(5_000))
    shown = knowing(value).text(f"a {value} b")
    assert value[:64] not in shown and shown.startswith("a [secret s0]") and shown.endswith("[secret s0] b")
    cut = knowing(value).text(value[: 8 * BLOCK_BYTES + 500])
    assert value[8 * BLOCK_BYTES : 8 * BLOCK_BYTES + 8] not in cut


def test_the_newest_are_looked_for_when_there_are_too_many() -> None:
    values = [f"value-number-{number:06d}" for number in range(FORMS_MAX)]
    redactor = knowing(*values)
    assert redactor.text(values[-1]) == f"[secret s{FORMS_MAX - 1}]"
    assert redactor.text(values[0]) == values[0]


@given(
    st.lists(st.sampled_from((VALUE, PEM, "line\n", "p4ss", "-----BEGIN KEY-----", "ok \u00fc ")), max_size=8),
    st.data(),
)
def test_a_stream_is_the_same_in_whatever_parts_it_comes(pieces: list[str], data: st.DataObject) -> None:
    redactor = knowing(VALUE, PEM)
    whole = "".join(pieces).encode()
    stream, at, shown = RedactedStream(redactor), 0, b""
    while at < len(whole):
        size = data.draw(st.integers(1, 40))
        shown += stream.feed(whole[at : at + size])
        at += size
    shown += stream.finish()
    for hidden in (VALUE.encode(), *PEM.strip().encode().splitlines()):
        assert hidden not in shown
    for part in (b"line\n", "ok \u00fc ".encode()):
        assert shown.count(part) == whole.count(part)


@given(st.binary(max_size=200), st.data())
def test_a_stream_without_secrets_is_not_touched(content: bytes, data: st.DataObject) -> None:
    stream = RedactedStream(knowing(VALUE))
    cut = data.draw(st.integers(0, len(content)))
    assert stream.feed(content[:cut]) + stream.feed(content[cut:]) + stream.finish() == content


def test_a_value_that_is_learnt_while_a_stream_runs() -> None:
    redactor = Redactor()
    stream = RedactedStream(redactor)
    assert stream.feed(b"early ") == b"early "
    redactor.add("late", VALUE.encode())
    assert stream.feed(VALUE.encode()) == b"[secret late]"


def test_a_value_that_begins_with_another_is_found_across_parts() -> None:
    redactor = knowing("correct horse", "correct horse battery staple")
    stream = RedactedStream(redactor)
    shown = b"".join(stream.feed(bytes([each])) for each in b"1 correct horse battery staple 2 correct horse")
    assert shown + stream.finish() == b"1 [secret s1] 2 [secret s0]"


def test_values_that_overlap_are_taken_together() -> None:
    redactor = knowing("password=abc", "abcdefghijkl")
    assert redactor.text("x password=abcdefghijkl y") == "x [secret s0][secret s1] y"


def full() -> Redactor:
    """As many forms as there may be, of a kind that costs the most: each begins like all the others."""
    redactor = Redactor()
    for number in range(8):
        lines = [b"a" * (90 + each) + b"%04d" % (number * 100 + each) for each in range(80)]
        redactor.add(f"s{number}", b"\n".join(lines))
    return redactor


@pytest.mark.parametrize(
    "asked",
    [
        lambda redactor: redactor.text("a" * TEXT_CHARACTERS_MAX),
        lambda redactor: redactor.text("y" * TEXT_CHARACTERS_MAX * 10),
        lambda redactor: redactor.json({f"k{number}": "y" * 200 for number in range(20)}),
        lambda redactor: redactor.json(["y"] * 4_000),
        lambda redactor: redactor.json(["aaaaaaaa"] * 1_500),
        lambda redactor: [RedactedStream(redactor).feed(b"a" * 8_192) for _ in range(5)],
        lambda redactor: [RedactedStream(redactor).feed(b"y" * 8_192) for _ in range(5)],
    ],
)
def test_what_it_costs_does_not_grow_with_the_number_of_values(asked: Callable[[Redactor], object]) -> None:
    redactor = full()
    began = time.thread_time()
    asked(redactor)
    assert time.thread_time() - began < 0.1, "the kernel's loop waits for it"


def test_what_begins_like_a_value_everywhere_is_withheld() -> None:
    text = knowing("a" * 40 + "b").text("begin " + "a" * (MISSES_MAX * 2) + " end")
    assert text == f"begin {'a' * MISSES_MAX}{WITHHELD.decode()}"
    assert knowing("a" * 40 + "b").text("begin " + "a" * (MISSES_MAX // 2) + " end").endswith("a end")


def test_it_shows_nothing_itself() -> None:
    assert "p4ss" not in repr(knowing(VALUE))
