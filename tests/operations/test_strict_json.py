"""What is JSON to us: the published corpus, our narrower contract, and that no input hurts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.errors import Rejected
from solo_trio.operations.strict_json import DEPTH_MAX, INT_MAX, INT_MIN, parse

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "json"
FILES = sorted(VECTORS.glob("*.json"))
DUPLICATES = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}


def refused(body: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        parse(body)
    assert caught.value.code == "invalid_json"
    caught.value.detail.encode("ascii")  # can be printed, whatever was sent
    return caught.value.detail


def test_corpus_is_there() -> None:
    if not FILES:
        pytest.skip("missing: ../shared/vectors/json")
    assert len(FILES) > 300
    assert {path.name for path in FILES} >= DUPLICATES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    body = path.read_bytes()
    if path.name.startswith("y_") and path.name not in DUPLICATES:
        assert parse(body) == json.loads(body)
    elif path.name.startswith("i_"):
        try:
            value = parse(body)
        except Rejected:
            return
        assert value == json.loads(body)
    else:
        refused(body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is empty"),
        (b" \r\n\t", "is empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'"\xff"', "offset 1"),
        (b'"\xed\xa0\x80"', "offset 1"),
        (b'"\xc0\x80"', "offset 1"),
        (b"{}".decode().encode("utf-16"), "UTF-8"),
        (b'{"a": 1,\n "b": 2, "a": 3}', '"a" is twice'),
        (b'[{"x": {"\\u0061": 1, "a": 1}}]', '"a" is twice'),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[-Infinity]", "-Infinity"),
        (b"1e400", "1e400"),
        (b"-1e400", "-1e400"),
        (b"9223372036854775808", "64 bits"),
        (b"-9223372036854775809", "64 bits"),
        (b"1" * 100_000, "64 bits"),
        (b'"\\ud800"', "surrogates"),
        (b'"\\udc00\\ud800"', "surrogates"),
        (b'{"\\uDFFF": 1}', "surrogates"),
        (b'[[{"a": ["\\uD83D\\uDE00", "\\uD83D"]}]]', "surrogates"),
        (b'{"a":\n  tru}', "line 2 column 3"),
        (b"{} {}", "extra data"),
        (b'"a\nb"', "control character"),
        (b"\x0b1", "line 1 column 1"),
        ("\u00a0 1".encode(), "line 1 column 1"),
        ("\u0661".encode(), "line 1 column 1"),
        (b"1_000", "column 2"),
        (b"0x10", "column 2"),
        (b"[1,]", "line 1"),
        (b"// no\n1", "line 1"),
    ],
)
def test_refused_and_told_what_to_do(body: bytes, says: str) -> None:
    assert says in refused(body)


def test_names_what_it_read() -> None:
    with pytest.raises(Rejected, match="the message"):
        parse(b"{", what="message")


@pytest.mark.parametrize("number", [0, -1, INT_MIN, INT_MAX])
def test_integers_to_the_edge(number: int) -> None:
    parsed = parse(str(number).encode())
    assert parsed == number
    assert type(parsed) is int


def test_floats() -> None:
    assert parse(b"1.7976931348623157e308") == 1.7976931348623157e308
    assert parse(b"1e-400") == 0.0
    assert type(parse(b"1.0")) is float


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_to_the_edge(opening: bytes, closing: bytes) -> None:
    parse(opening * DEPTH_MAX + b"1" + closing * DEPTH_MAX)
    assert "64 deep" in refused(opening * (DEPTH_MAX + 1) + b"1" + closing * (DEPTH_MAX + 1))


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b'[{"":' * 50_000, b"[" * 100_000 + b"]" * 100_000]
)
def test_brackets_without_end_do_not_crash(body: bytes) -> None:
    assert "64 deep" in refused(body)


def test_breadth_is_not_depth() -> None:
    assert parse(b"[" + b"[]," * 1000 + b"{}]") == [[]] * 1000 + [{}]
    assert parse(b'["' + b"[{" * 1000 + b'"]') == ["[{" * 1000]
    assert parse(b'["\\"' + b"[" * 1000 + b'\\\\"]') == ['"' + "[" * 1000 + "\\"]


@pytest.mark.parametrize("tail", [b'"' + b'\\"' * 500_000, b'\\"' * 500_000, b'"' * 1_000_001, b"\\" * 1_000_001])
def test_quotes_without_end_take_linear_time(tail: bytes) -> None:
    refused(b"[]" * (DEPTH_MAX + 1) + tail)  # quadratic would take hours


def test_escapes_of_pairs_are_characters() -> None:
    assert parse(b'"\\ud83d\\ude00\\u0000\\\\ud800"') == "\U0001f600\0\\ud800"


characters = st.characters(exclude_categories=["Cs"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(INT_MIN, INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(characters),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(characters), inner, max_size=5),
    max_leaves=30,
)


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_round_trip(value: object, ascii_only: bool, indent: int | None) -> None:
    parsed = parse(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode())
    assert parsed == value
    assert repr(parsed) == repr(value)  # 1 is not 1.0 is not True


@given(st.binary(max_size=200) | st.text('[]{}",:0123456789eE+-.\\u truefalsn').map(str.encode))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    try:
        value = parse(body)
    except Rejected as error:
        assert error.code == "invalid_json"
    else:
        assert parse(json.dumps(value).encode()) == value
