"""The document of a folded state: after any history its pages are all of it, in one order, and no key is in it."""

from __future__ import annotations

from contextlib import suppress

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_histories import Move, World, histories

from solo_trio.errors import Rejected
from solo_trio.operations import state_view
from solo_trio.operations.state_view import KINDS, counts_of, head_view, page_of, whole_of

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@SETTINGS
@given(histories, st.integers(1, 5))
def test_the_pages_of_any_state_are_all_of_it(moves: list[Move], limit: int) -> None:
    world = World()
    for move in moves:
        with suppress(Rejected):
            world.play(move)
    state = world.state
    for tenant_id in (None, *state.tenants):
        whole = whole_of(state, tenant_id)
        found: dict[str, list[object]] = {kind: [] for kind in KINDS}
        position: int | None = 0
        while position is not None:
            page = page_of(state, tenant_id, position, limit)
            assert sum(map(len, page.entries.values())) <= limit
            for kind in KINDS:
                found[kind] += page.entries[kind]
            assert page.next is None or page.next == position + limit
            position = page.next
        assert found == whole
        assert {kind: len(entries) for kind, entries in whole.items()} == counts_of(state, tenant_id)
        if tenant_id is not None:
            assert {each["tenant_id"] for entries in whole.values() for each in entries} == {tenant_id}
    text = orjson.dumps(head_view(state) | whole_of(state)).decode()
    for key_id in {each.key_id for each in state.capabilities.values()}:
        assert f'"{key_id}"' not in text, "which key it is made with is nobody's business"
    versions = [one for tenant in state.tenants.values() for each in tenant.secrets.values() for one in each.versions]
    assert not any(f'"{each.version_id}"' in text for each in versions)


def test_a_page_ends_at_its_bytes_too() -> None:
    world = World()
    size = state_view.PAGE_BYTES
    try:
        state_view.PAGE_BYTES = 1
        page = page_of(world.state, None, 0, 100)
        assert sum(map(len, page.entries.values())) <= 1
    finally:
        state_view.PAGE_BYTES = size
