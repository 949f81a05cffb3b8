from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from journal_samples import child

from solo_trio.journal import wal
from solo_trio.journal.wal import (
    FRAME_HEADER_BYTES,
    PAGE_BYTES,
    WAL_HEADER_BYTES,
    checksum,
    find_damage,
)

FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES


def log_of(transactions: list[int], words: str = "<I", salts: bytes = b"saltSALT", page: int = PAGE_BYTES) -> bytes:
    """A WAL in which transaction n has as many frames as the list says, written from the format's description."""
    magic = 0x377F0682 if words == "<I" else 0x377F0683
    header = struct.pack(">4I", magic, 3_007_000, page, 0) + salts
    sums = checksum(header, words, (0, 0))
    out = [header, struct.pack(">2I", *sums)]
    number = 0
    for frames in transactions:
        for index in range(frames):
            number += 1
            head = struct.pack(">2I", number, number if index == frames - 1 else 0)
            content = (b"%08d" % number) * (page // 8)
            sums = checksum(content, words, checksum(head, words, sums))
            out += [head, salts, struct.pack(">2I", *sums), content]
    return b"".join(out)


def broken(data: bytes, frame: int, offset: int) -> bytes:
    """Flip one bit in frame `frame` (from 1)."""
    changed = bytearray(data)
    changed[WAL_HEADER_BYTES + (frame - 1) * (FRAME_HEADER_BYTES + 512) + offset] ^= 0x10
    return bytes(changed)


transactions = st.lists(st.integers(1, 3), min_size=1, max_size=6)
places = st.sampled_from([0, 3, 4, 7, 8, 15, 16, 23, 24, 100, FRAME_HEADER_BYTES + 511])
COMMIT_FIELD = range(4, 8)
SALTS_FIELD = range(8, 16)


@given(transactions, st.sampled_from(["<I", ">I"]))
def test_a_whole_log_is_sound(sizes: list[int], words: str) -> None:
    assert find_damage(log_of(sizes, words, page=512)) is None


@given(transactions, st.data())
def test_a_log_cut_anywhere_is_torn(sizes: list[int], data: st.DataObject) -> None:
    log = log_of(sizes, page=512)
    assert find_damage(log[: data.draw(st.integers(0, len(log)))]) is None


@settings(max_examples=400)
@given(transactions, st.data(), places, st.sampled_from(["<I", ">I"]))
def test_a_bad_frame_is_damage_if_a_later_transaction_was_committed(
    sizes: list[int], data: st.DataObject, place: int, words: str
) -> None:
    log = log_of(sizes, words, page=512)
    bad = data.draw(st.integers(1, sum(sizes)))
    found = find_damage(broken(log, bad, place))

    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    commits_behind = [end for end in ends if end > bad]
    own_is_last_frame = bad in ends
    later = commits_behind if own_is_last_frame else commits_behind[1:]
    if not later:
        assert found is None or place in COMMIT_FIELD
        # A flipped size field can make an inner frame look like a commit; then its own commit counts as a later one.
        if found is not None:
            assert not own_is_last_frame
        return
    if own_is_last_frame and place in SALTS_FIELD:
        # A frame with foreign salts says nothing about itself, so one commit is granted to it: `later` needs two.
        assert (found is not None) is (len(later) > 1)
        return
    assert found is not None
    assert found.bad_frame == bad
    assert found.lost_commit in commits_behind


def test_the_last_transaction_is_not_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be large: the database that is written anew. Nothing stands behind it that could be lost."""
    summed: list[int] = []

    def counting(data: bytes | memoryview, words: str, seed: tuple[int, int]) -> tuple[int, int]:
        summed.append(len(data))
        return checksum(data, words, seed)

    many = 500
    logs = log_of([many]), log_of([2, many]), log_of([2, many])[: -FRAME_BYTES // 2]
    monkeypatch.setattr(wal, "checksum", counting)
    for log in logs:
        summed.clear()
        assert find_damage(log) is None
        assert sum(summed) < 3 * FRAME_BYTES
    found = find_damage(log_of([2, many, 1])[:-1])
    assert found is None and sum(summed) < 6 * FRAME_BYTES


@given(st.integers(1, 3), st.lists(st.integers(1, 3), max_size=3), st.data())
def test_frames_of_an_older_log_behind_the_end_are_nothing(new: int, old: list[int], data: st.DataObject) -> None:
    """The file is written over from its start: behind the new frames the old ones still stand, whole, with old salts."""
    fresh = log_of([new], page=512)
    stale = log_of([new, *old], page=512, salts=b"OLDSold!")
    mixed = fresh + stale[len(fresh) :]
    assert find_damage(mixed) is None
    torn = data.draw(st.integers(WAL_HEADER_BYTES, len(fresh)))
    assert find_damage(fresh[:torn] + stale[torn:]) is None


@pytest.mark.parametrize("offset", range(0, WAL_HEADER_BYTES, 4))
def test_a_bad_header_is_damage_if_two_transactions_stand_behind_it(offset: int) -> None:
    one, two = (bytearray(log_of(sizes)) for sizes in ([2], [2, 1]))
    one[offset] ^= 1
    two[offset] ^= 1
    assert find_damage(bytes(one)) is None
    found = find_damage(bytes(two))
    assert found is not None and found.bad_frame == 0


@given(st.binary(max_size=3_000))
@example(b"\x37\x7f\x06\x82" + bytes(600))
@example(bytes(5_000))
def test_noise_is_never_an_exception(noise: bytes) -> None:
    assert find_damage(noise) is None


def real_log(directory: Path) -> bytes:
    """What SQLite itself wrote for five transactions."""
    writer = child(directory, "write_and_die", 5, 3)
    out, _ = writer.communicate()
    assert out.split() == [b"3", b"6", b"9", b"12", b"15"]
    assert writer.returncode == -9
    return (directory / "kernel.db-wal").read_bytes()


def test_the_reading_agrees_with_sqlite(tmp_path: Path) -> None:
    """Every frame of a real log checks, and a bit flipped in any of them is judged by what stands behind it."""
    log = real_log(tmp_path)
    frames = (len(log) - WAL_HEADER_BYTES) // FRAME_BYTES
    starts = [WAL_HEADER_BYTES + index * FRAME_BYTES for index in range(frames)]
    commits = [index for index, at in enumerate(starts) if log[at + 4 : at + 8] != bytes(4)]
    assert len(commits) == 5
    assert find_damage(log) is None
    for index, at in enumerate(starts):
        for place in (0, FRAME_HEADER_BYTES + 7):
            changed = bytearray(log)
            changed[at + place] ^= 1
            found = find_damage(bytes(changed))
            behind = [commit for commit in commits if commit > index]
            later = behind if index in commits else behind[1:]
            assert (found is not None) is bool(later)
            if found is not None:
                assert (found.bad_frame, found.lost_commit) == (index + 1, later[0] + 1)
