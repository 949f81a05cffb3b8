"""Shares of the audit: one tenant's flood costs its own detail, never what others did; what is left out is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_samples import KEY, START_US, entry, kept, opened
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.journal import audit_shares
from solo_trio.journal.audit import check_file
from solo_trio.journal.audit_shares import DETAIL_SHARE, FREE_SHARE, NOBODY, TRICKLE_BURST, Detail, Shares
from solo_trio.model.audit import GAP, AuditEntry

DETAIL = Detail(frozenset({"list_events", "call"}), frozenset({"permission_denied"}))
CAPACITY = 10_000


def of(tenant: str | None, number: int = 0, operation: str = "call", outcome: str = "200") -> AuditEntry:
    life = None if tenant is None else f"life of {tenant}"
    return entry(
        number,
        at_us=START_US + number,
        tenant_id=tenant,
        incarnation=life,
        credential=None if tenant is None else f"cap of {tenant}",
        operation=operation,
        outcome=outcome,
    )


async def test_a_flood_of_one_tenant_leaves_what_others_did(tmp_path: Path) -> None:
    """A megabyte; the quiet tenant's entries are the oldest, so without shares they would be the first to go."""
    quiet = [of("quiet", number, "deploy", "201") for number in range(50)]
    async with opened(tmp_path, size_mb=1, detail=DETAIL) as audit:
        for each in quiet:
            audit.record(each)
        for number in range(100, 60_000):
            audit.record(of("loud", number))
            if number % 5_000 == 0:
                await audit.flush()
        await audit.flush()
        assert audit.state.skipped > 40_000 and audit.state.dropped == 0
        assert [each.entry for each in await kept(audit, tenant_id="quiet")] == quiet
        loud = await kept(audit, tenant_id="loud", operation="call")
        assert 1_000 < len(loud) < 6_000, "half of the file, and a trickle"
        for number in range(60_000, 60_020):  # what it changes, and what it is refused, has a part of its own
            audit.record(of("loud", number, "deploy", "201"))
            audit.record(of("loud", number, "call", "permission_denied"))
        assert len(await kept(audit, operation="deploy")) == 50 + 20
        assert len(await kept(audit, outcome="permission_denied")) == 20
        for number in range(60_020, 60_040):
            audit.record(of("quiet", number))
        assert len(await kept(audit, tenant_id="quiet", operation="call")) == 20, "the others are held to nothing"
        skipped = audit.state.skipped
    assert check_file(tmp_path, KEY).fault is None
    async with opened(tmp_path, size_mb=1, detail=DETAIL) as audit:
        told = [each.entry for each in await kept(audit, operation=GAP)]
        assert {each.incarnation for each in told} == {"life of loud"}, "who reads its own, sees it"
        assert sum(int(each.outcome) for each in told) == skipped and len(told) < 40
        for number in range(60_100, 80_000):
            audit.record(of("loud", number))
            if number % 5_000 == 0:
                await audit.flush()
        await audit.flush()
        assert audit.state.skipped > 19_000, "a start of the kernel gives it no new part"
        assert len(await kept(audit, tenant_id="quiet")) == 70


async def test_alone_nobody_is_held_to_anything(tmp_path: Path) -> None:
    """What goes then is the oldest, as ever."""
    async with opened(tmp_path, size_mb=1, detail=DETAIL) as audit:
        await _fill(audit, 12_000)
        assert audit.state.skipped == 0 and audit.state.oldest_id > 1_000


async def _fill(audit: object, count: int) -> None:
    from solo_trio.journal.audit import AuditLog

    assert isinstance(audit, AuditLog)
    for number in range(count):
        audit.record(of(None, number))
        if number % 5_000 == 0:
            await audit.flush()
    await audit.flush()


async def test_up_to_half_of_the_file_all_is_recorded(tmp_path: Path) -> None:
    async with opened(tmp_path, size_mb=4, detail=DETAIL) as audit:
        for number in range(5_000):
            audit.record(of(f"t{number % 2}" if number < 10 else "t0", number))
        assert len(await kept(audit, operation="call")) == 5_000 and audit.state.skipped == 0


TENANTS = [*"abcdef", None]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(TENANTS), st.integers(1, 4_000), st.sampled_from(["call", "deploy"])), max_size=40
    )
)
def test_of_any_history_nobody_has_more_than_a_part(history: list[tuple[str | None, int, str]]) -> None:
    """The file is kept full: each entry that comes in pushes out the oldest. Who stays below an equal part is never refused."""
    shares = Shares(DETAIL, counts={(f"life of {name}", True): 1 for name in "abcdef"})
    assert shares.counts is not None
    shares.counts[NOBODY, True] = 1
    equal = CAPACITY / len(TENANTS)
    for tenant, count, operation in history:
        shares.plan(CAPACITY)
        before = dict(shares.counts)
        admitted = [each for each in shares.admit([of(tenant, 0, operation)] * count) if each.operation != GAP]
        whose, detail = NOBODY if tenant is None else f"life of {tenant}", operation == "call"
        part = DETAIL_SHARE if detail else 1 - DETAIL_SHARE
        most = max(equal, CAPACITY * FREE_SHARE) * part
        had = before.get((whose, detail), 0)
        assert len(admitted) <= max(0.0, most - had) + TRICKLE_BURST + 1
        if had + count <= equal * part:
            assert len(admitted) == count
        if len(admitted) < count:
            assert shares.skipped > 0
        assert shares.counts[whose, detail] >= had + len(admitted)


def test_a_part_comes_free_as_the_oldest_go_and_a_trickle_goes_on_for_ever() -> None:
    shares = Shares(DETAIL, counts={("life of a", True): CAPACITY // 2, ("life of b", True): 10})
    shares.plan(CAPACITY)
    assert len([each for each in shares.admit([of("a")] * 1_000) if each.operation != GAP]) == TRICKLE_BURST
    shares.forget({("life of a", True): 2_000})
    shares.plan(CAPACITY)
    assert len([each for each in shares.admit([of("a")] * 1_000) if each.operation != GAP]) > 500
    day_us = 86_400_000_000
    admitted = 0
    for day in range(1, 41):
        shares.plan(CAPACITY)
        made = [of("a", day * day_us)] * 1_000
        admitted += len([each for each in shares.admit(made) if each.operation != GAP])
    a_part = CAPACITY * FREE_SHARE * DETAIL_SHARE
    assert a_part * 0.5 < admitted < a_part * 1.6, "about one part in a month"


def test_what_is_left_out_is_told_in_few_entries() -> None:
    shares = Shares(DETAIL, counts={("life of a", True): CAPACITY, ("life of b", True): 1})
    told: list[AuditEntry] = []
    for number in range(1_000):
        shares.plan(CAPACITY)
        told += [each for each in shares.admit([of("a", number)] * 100) if each.operation == GAP]
    told += shares.told(0, everything=True)
    assert sum(int(each.outcome) for each in told) == shares.skipped == 100_000 - TRICKLE_BURST
    assert len(told) <= 20
    later = of("a", audit_shares.TOLD_US + 5_000)
    assert [each.outcome for each in shares.admit([later]) if each.operation == GAP] == ["1"]


@pytest.mark.parametrize(
    ("operation", "outcome", "detail"),
    [
        ("call", "200", True),
        ("call", "call_failed", True),
        ("call", "permission_denied", False),
        ("deploy", "201", False),
    ],
)
def test_what_is_detail(operation: str, outcome: str, detail: bool) -> None:
    assert DETAIL.has(operation, outcome) is detail
