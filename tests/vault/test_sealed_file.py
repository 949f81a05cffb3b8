"""Sealed files: what was written comes out, and nothing else ever does."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.vault.sealed_file import (
    CHUNK_BYTES,
    TAG_BYTES,
    NotSealed,
    SealedReader,
    SealedWriter,
    read_head,
    write_head,
)
from solo_trio.vault.secret import Secret

KEY = Secret(bytes(range(32)))
HEAD = b'{"a": "head"}'
WHOLE = CHUNK_BYTES + TAG_BYTES


def sealed(content: bytes, key: Secret = KEY, head: bytes = HEAD, pieces: int = 100_000) -> bytes:
    file = io.BytesIO()
    with SealedWriter(file, key, write_head(file, head)) as writer:
        for start in range(0, len(content), pieces):
            writer.write(content[start : start + pieces])
    return file.getvalue()


def opened(data: bytes, key: Secret = KEY) -> bytes:
    file = io.BytesIO(data)
    _, bound = read_head(file)
    return SealedReader(file, key, bound).read()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_was_written_comes_out(size: int) -> None:
    content = bytes(index % 251 for index in range(size))
    assert opened(sealed(content)) == content
    assert sealed(content) == sealed(content, pieces=7_919), "however it is written"
    assert read_head(io.BytesIO(sealed(content)))[0] == HEAD


def test_the_bytes_are_what_they_were() -> None:
    """Files that were written stay readable: what changes these bytes is another format, with another magic or number."""
    data = sealed(b"content")
    assert data[:25] == b"solobk1\n\x00\x00\x00\r" + HEAD
    assert hashlib.sha256(data).hexdigest() == "460790491fba6407db0ee4db9ca0751f2b336b00c348f401615a5dc326aee2f3"


def test_chunks_have_their_places_and_their_number() -> None:
    """Whole chunks that are cut off, left out, exchanged, repeated, or from another file."""
    content = bytes(3 * CHUNK_BYTES + 5)
    data, other = sealed(content), sealed(content, Secret(bytes(32)))
    start = len(data) - 3 * WHOLE - 5 - TAG_BYTES
    head, chunks = data[:start], [data[start + WHOLE * index :][:WHOLE] for index in range(4)]
    strange = other[start:][:WHOLE]
    assert head + b"".join(chunks) == data
    wrong = {
        "the end cut off": chunks[:3],
        "more cut off": chunks[:1],
        "nothing left": [],
        "the last alone": chunks[3:],
        "one left out": [chunks[0], chunks[2], chunks[3]],
        "exchanged": [chunks[1], chunks[0], *chunks[2:]],
        "repeated": [*chunks, chunks[3]],
        "another file's": [strange, *chunks[1:]],
        "something behind": [*chunks, b"x"],
    }
    for what, those in wrong.items():
        with pytest.raises(NotSealed):
            opened(head + b"".join(those))
            pytest.fail(what)


def test_another_head_or_key_opens_nothing() -> None:
    data = sealed(b"content")
    with pytest.raises(NotSealed):
        opened(data.replace(HEAD, HEAD.replace(b"a", b"b")))
    exchanged = io.BytesIO()
    write_head(exchanged, HEAD.replace(b"a", b"b"))
    begun = io.BytesIO()
    write_head(begun, HEAD)
    with pytest.raises(NotSealed):
        opened(data.replace(begun.getvalue(), exchanged.getvalue()))
    with pytest.raises(NotSealed):
        opened(data, Secret(bytes(32)))
    for short in (b"", data[:5], data[:12], data[:20]):
        with pytest.raises(NotSealed):
            read_head(io.BytesIO(short))


@given(st.data())
def test_no_byte_can_be_changed(data: st.DataObject) -> None:
    whole = sealed(b"some content" * 20)
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytes([whole[place] ^ data.draw(st.integers(1, 255))])
    with pytest.raises(NotSealed):
        opened(whole[:place] + flipped + whole[place + 1 :])
