"""The master key: its file, derivation, and wrapping that binds what it wraps to its place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_trio.errors import Faulted
from solo_trio.vault.keys import MASTER_KEY_VARIABLE, MasterKey, associated
from solo_trio.vault.secret import Secret

KEY = MasterKey(Secret(bytes(range(32))))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "master.key"


def damaged(path: Path, **environ: str) -> str:
    with pytest.raises(Faulted) as caught:
        MasterKey.load_or_create(path, environ=environ)
    assert caught.value.code == "data_damaged"
    return caught.value.detail


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_created_once_for_its_owner_only(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        first = MasterKey.load_or_create(path, environ={})
    finally:
        os.umask(before)
    content = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(content) == 65
    assert bytes.fromhex(content.decode())
    again = MasterKey.load_or_create(path, environ={})
    assert path.read_bytes() == content
    assert again.derive("a") == first.derive("a")
    assert os.listdir(path.parent) == [path.name]  # no temporary file is left


def test_two_keys_differ(tmp_path: Path) -> None:
    one, two = (MasterKey.load_or_create(tmp_path / name, environ={}) for name in ("one", "two"))
    assert one.derive("a") != two.derive("a")


def test_never_over_a_key_that_another_process_made_meanwhile(path: Path) -> None:
    def other_is_first(size: int) -> bytes:
        path.write_text("ab" * 32)
        path.chmod(0o600)
        return bytes(size)

    made = MasterKey.load_or_create(path, environ={}, random_bytes=other_is_first)
    assert path.read_text() == "ab" * 32
    assert made.derive("a") == MasterKey(Secret(b"\xab" * 32)).derive("a")
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601, 0o777])
def test_a_file_others_may_use_is_refused(path: Path, mode: int) -> None:
    MasterKey.load_or_create(path, environ={})
    path.chmod(mode)
    assert "chmod 600" in damaged(path)


@pytest.mark.parametrize(
    "content",
    ["", "\n", "ab" * 31, "ab" * 33, "zz" * 32, "ab" * 32 + "\n\n", " " + "ab" * 32, "\u0661" * 64, "ab" * 32 + "\r\n"],
)
def test_a_malformed_file_is_refused_and_kept(path: Path, content: str) -> None:
    path.write_text(content, newline="")
    path.chmod(0o600)
    detail = damaged(path)
    assert "64 hex digits" in detail
    assert "ab" * 16 not in detail
    assert path.read_bytes() == content.encode()


def test_what_is_not_a_file_is_refused_at_once(path: Path) -> None:
    os.mkfifo(path, 0o600)
    assert "regular file" in damaged(path)
    path.unlink()
    path.mkdir(0o700)
    assert "regular file" in damaged(path)


def test_a_link_counts_by_its_target(path: Path) -> None:
    target = path.with_name("elsewhere")
    key = MasterKey.load_or_create(target, environ={})
    path.symlink_to(target)
    assert MasterKey.load_or_create(path, environ={}).derive("a") == key.derive("a")
    target.chmod(0o644)
    assert "chmod 600" in damaged(path)


def test_no_directory(path: Path) -> None:
    with pytest.raises(Faulted) as caught:
        MasterKey.load_or_create(path / "deeper" / "master.key", environ={})
    assert caught.value.code == "data_unwritable"


def test_environment_wins_and_writes_nothing(path: Path) -> None:
    key = MasterKey.load_or_create(path, environ={MASTER_KEY_VARIABLE: "AB" * 32})
    assert key.derive("a") == MasterKey(Secret(b"\xab" * 32)).derive("a")
    assert not path.exists()


@pytest.mark.parametrize("value", ["", "ab", "zz" * 32])
def test_malformed_environment_is_not_ignored(path: Path, value: str) -> None:
    detail = damaged(path, **{MASTER_KEY_VARIABLE: value})
    assert MASTER_KEY_VARIABLE in detail
    assert not path.exists()


def test_derivation_is_hkdf_sha256_for_ever() -> None:
    """Computed with RFC 5869's two HMACs: empty salt, info "solo/v1/for/witness", one block."""
    import hashlib
    import hmac

    extracted = hmac.digest(bytes(32), bytes(range(32)), hashlib.sha256)
    expanded = hmac.digest(extracted, b"solo/v1/for/witness\x01", hashlib.sha256)
    assert KEY.derive("witness") == expanded
    assert KEY.derive("witness") != KEY.derive("witnes")
    assert len({KEY.derive(purpose) for purpose in ("own/wrap", "wrap", "fingerprint", "", "token")}) == 5


def test_shows_nothing(path: Path) -> None:
    key = MasterKey.load_or_create(path, environ={})
    assert path.read_text().strip() not in repr(key) + repr(vars(key))


@given(st.binary(max_size=100), st.binary(max_size=50))
def test_wrap_round_trip(plain: bytes, aad: bytes) -> None:
    wrapped = KEY.wrap(Secret(plain), aad)
    assert KEY.unwrap(wrapped, aad).reveal() == plain
    assert len(plain) < 8 or plain not in wrapped
    assert KEY.wrap(Secret(plain), aad) != wrapped  # fresh nonce


@given(st.data())
def test_any_changed_byte_is_refused(data: st.DataObject) -> None:
    wrapped = KEY.wrap(Secret(b"root key"), b"aad")
    at = data.draw(st.integers(0, len(wrapped) - 1))
    changed = bytearray(wrapped)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Faulted, match="data_damaged"):
        KEY.unwrap(bytes(changed), b"aad")


@pytest.mark.parametrize("wrong", [b"", b"x", b"\x01", bytes(200)])
def test_what_was_never_wrapped_is_refused(wrong: bytes) -> None:
    with pytest.raises(Faulted, match="no known format"):
        KEY.unwrap(wrong, b"")


@given(st.integers(0, 44))
def test_cut_or_longer_is_refused(length: int) -> None:
    wrapped = KEY.wrap(Secret(b"root key"), b"aad")
    for wrong in (wrapped[:length], wrapped + bytes(length + 1)):
        with pytest.raises(Faulted):
            KEY.unwrap(wrong, b"aad")


def test_bound_to_its_place() -> None:
    wrapped = KEY.wrap(Secret(b"root key"), associated("tenant-a", "1"))
    for other in (associated("tenant-b", "1"), associated("tenant-a1"), associated("tenant-a", "1", ""), b""):
        with pytest.raises(Faulted, match="another place"):
            KEY.unwrap(wrapped, other)


def test_another_master_key_is_named_as_the_reason() -> None:
    wrapped = KEY.wrap(Secret(b"root key"), b"aad")
    other = MasterKey(Secret(bytes(32)))
    with pytest.raises(Faulted, match=r"the master key is not the one .* restore it") as caught:
        other.unwrap(wrapped, b"aad")
    assert caught.value.code == "data_damaged"


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_associated_data_is_unambiguous(one: list[str], two: list[str]) -> None:
    assert (associated(*one) == associated(*two)) == (one == two)
