from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_samples import event, events

from solo_trio.errors import Faulted
from solo_trio.journal.chain import COLUMNS, GENESIS, link, payload_digest, seal, verify
from solo_trio.model.record import StoredEvent

SALT = bytes(range(16))
GOLDEN = {
    "digest": "b5c1f9361eb9fbedd3e628a72d1c8fef46544361fd79fa6781baf6d932b1c3f6",
    "full": "6fd7d486c563574406e188407dd70949e2b00a1b5c9c32c26c1304f034eaada7",
    "bare": "7e4aaced4eb89bb315a7c46c1aec4c66348dd5eab01795815f03a1457199e560",
}

int64 = st.integers(-(2**63), 2**63 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
stored = st.builds(
    StoredEvent,
    id=int64,
    at_us=int64,
    kernel_time=st.floats(allow_nan=False),
    tenant_id=st.none() | text,
    incarnation=st.none() | text,
    subject=st.none() | text,
    type=text,
    schema=int64,
    payload=st.none() | st.binary(max_size=8),
    causation_id=st.none() | int64,
    correlation_id=st.none() | text,
)


def rows_of(items: list[StoredEvent]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    previous = GENESIS
    for item in items:
        rows.append(seal(previous, item, SALT))
        previous = rows[-1][-1]
    return rows


def code_of(rows: list[tuple[Any, ...]]) -> str:
    with pytest.raises(Faulted) as caught:
        verify(0, GENESIS, rows)
    assert "do not delete" in caught.value.detail
    return caught.value.code


def test_the_encoding_is_for_ever() -> None:
    """Golden samples: bytes that are in users' directories. A change here makes every one of them `data_damaged`."""
    full = StoredEvent(7, 1_700_000_000_000_000, 12.5, "acme", "acme-1", "svc", "t", 3, b"{}", 6, "req")
    bare = StoredEvent(1, 0, 0.0, None, None, None, "t", 1, None)
    assert payload_digest(SALT, b"{}").hex() == GOLDEN["digest"]
    assert seal(bytes([9]) * 32, full, SALT)[-1].hex() == GOLDEN["full"]
    assert seal(GENESIS, bare, SALT)[-1].hex() == GOLDEN["bare"]


@given(stored, stored)
def test_two_events_have_one_hash_only_if_they_are_one(first: StoredEvent, second: StoredEvent) -> None:
    same = seal(GENESIS, first, SALT)[:-1] == seal(GENESIS, second, SALT)[:-1]
    assert (seal(GENESIS, first, SALT)[-1] == seal(GENESIS, second, SALT)[-1]) is same


@given(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
def test_no_two_cells_run_together(first: str, second: str, third: str) -> None:
    def hashed(tenant: str | None, life: str | None, about: str | None) -> bytes:
        return link(GENESIS, 1, 2, 3.0, tenant, life, about, "t", 1, None, None, None)

    try:
        here = hashed(first, second, third)
    except UnicodeEncodeError:
        return
    moved = [(first + second, "", third), (first, second + third, ""), (first, None, third), (None, second, third)]
    for other in moved:
        if other != (first, second, third):
            assert hashed(*other) != here


@given(st.integers(0, 5), st.sampled_from(range(len(COLUMNS))), st.data())
def test_a_changed_cell_is_found(at: int, column: int, data: st.DataObject) -> None:
    rows = rows_of(events(1, 6))
    cell = rows[at][column]
    other = data.draw(st.one_of(st.none(), int64, st.floats(allow_nan=False), text, st.binary(max_size=40)))
    if other == cell:
        return
    if COLUMNS[column] == "payload" and other is None:
        other = b""
    changed = list(rows[at])
    changed[column] = other
    rows[at] = tuple(changed)
    assert code_of(rows) == "data_damaged"


@given(st.permutations(range(4)))
def test_changed_order_is_found(order: list[int]) -> None:
    rows = rows_of(events(1, 4))
    moved = [rows[index] for index in order]
    renumbered = [(number, *row[1:]) for number, row in enumerate(moved, start=1)]
    if order == [0, 1, 2, 3]:
        assert verify(0, GENESIS, moved)[0] == events(1, 4)
    else:
        assert code_of(moved) == "data_damaged"
        assert code_of(renumbered) == "data_damaged"


@given(st.integers(0, 4))
def test_a_row_left_out_is_found(at: int) -> None:
    rows = rows_of(events(1, 6))
    del rows[at]
    assert code_of(rows) == "data_damaged"


@given(st.sets(st.integers(0, 5)))
def test_erased_payloads_are_not_damage(erased: set[int]) -> None:
    rows = [
        (*row[:8], None, None, *row[10:]) if number in erased else row
        for number, row in enumerate(rows_of(events(1, 6)))
    ]
    expected = [attrs.evolve(event(n + 1), payload=None) if n in erased else event(n + 1) for n in range(6)]
    assert verify(0, GENESIS, rows)[0] == expected


def test_a_payload_gone_without_its_salt_was_not_erased() -> None:
    rows = rows_of(events(1, 2))
    rows[1] = (*rows[1][:8], None, *rows[1][9:])
    assert code_of(rows) == "data_damaged"


def test_without_its_salt_a_payload_cannot_be_guessed() -> None:
    assert payload_digest(SALT, b"{}") != payload_digest(bytes(16), b"{}")


def test_a_negative_zero_comes_back_with_the_same_hash() -> None:
    row = seal(GENESIS, attrs.evolve(event(1), kernel_time=-0.0), SALT)
    assert verify(0, GENESIS, [row])[0] == [attrs.evolve(event(1), kernel_time=0.0)]
    assert str(row[2]) == "0.0"
