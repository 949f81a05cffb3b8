"""After any history: what removed tenants recorded may be erased, at any moment, and everything comes to the same."""

from __future__ import annotations

from contextlib import suppress

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_driver import Driver, replay, with_service
from model_histories import AddService, AddTenant, Boot, Maintain, Move, Observe, Remove, Secrets, World, histories

from solo_trio.errors import KernelBug, Rejected
from solo_trio.model import codec
from solo_trio.model.ending import Ending
from solo_trio.model.event import Now
from solo_trio.model.record import ERASED_TYPE, StoredEvent
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.state import KernelState, apply, fold
from solo_trio.model.tenant_removal import EraseTenant, FinishRemoval, RemoveTenant

SETTINGS = settings(
    max_examples=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def played(moves: list[Move]) -> World:
    """With the tenants that it left removed at its end, those of which no service is left."""
    world = World()
    for move in moves:
        with suppress(Rejected):
            world.play(move)
    for tenant in list(world.state.tenants):
        for move in (Remove(tenant, 0), Remove(tenant, None)):
            with suppress(Rejected):
                world.play(move)
    return world


def without_payloads(stored: list[StoredEvent]) -> list[StoredEvent]:
    """As a journal gives them once those that said so are in it."""
    erased = {each.incarnation: each.id for each in stored if each.type == ERASED_TYPE}
    return [
        evolve(each, payload=None) if each.incarnation in erased and each.id < erased[each.incarnation] else each
        for each in stored
    ]


@SETTINGS
@given(histories, st.data())
def test_what_is_erased_changes_nothing_that_is_left(moves: list[Move], data: st.DataObject) -> None:
    world = played(moves)
    stored = [record.stored for record in world.records]
    erased = without_payloads(stored)
    assert replay(erased) == world.state
    assert not {each.tenant_id for each in erased if each.payload is not None and each.incarnation is None} - {None}

    # A state that was kept before may be gone on from, by way of events that were erased since.
    cut = data.draw(st.integers(0, len(stored)), label="kept after")
    kept = replay(stored[:cut])
    assert _goes_on(kept, erased[cut:]) == world.state


def _goes_on(state: KernelState, stored: list[StoredEvent]) -> KernelState:
    for each in stored:
        state = apply(state, codec.to_record(each))
    return state


def removed() -> Driver:
    driver = with_service()
    driver.do(RemoveTenant("acme", 0))
    driver.ended("stopped")
    driver.do(FinishRemoval("acme", "inc_1"))
    return driver


def test_when_it_was_removed_is_known_without_what_was_erased() -> None:
    driver = removed()
    stored = [record.stored for record in driver.records]
    assert stored[-1].type == ERASED_TYPE and driver.state.removed.since_us("acme") == stored[-1].at_us
    assert fold(codec.to_record(each) for each in without_payloads(stored)) == driver.state


def test_a_tenant_that_is_there_is_not_erased() -> None:
    driver = with_service()
    with pytest.raises(KernelBug):
        EraseTenant("acme", "inc_1", 5).decide(driver.state, Now(5, 5.0))


def test_one_that_was_removed_before_is_erased_when_its_id_has_another() -> None:
    driver = removed()
    decision = EraseTenant("acme", "inc_0", 5).decide(driver.state, Now(5, 5.0))
    assert decision.reply == driver.state.last_id + 1
    before = driver.state
    driver.do(EraseTenant("acme", "inc_0", 5))
    assert (driver.state.tenants, driver.state.removed) == (before.tenants, before.removed), "the later one counts"


def test_a_repair_names_what_is_erased_later() -> None:
    """The repair's own event is the system's, and stays: it is folded again without what it names."""
    world = World()
    spec = ServiceSpec(entry="source", digest="d" * 64)
    for move in (
        Boot(0.0),
        AddTenant("acme", None, False),
        AddService("acme", "calc", spec, False),
        Secrets("store", "acme", 0),
        Maintain("mend", 5),
        Maintain("mend", 0),
        Remove("acme", 0),
        Observe("stopped", 0, False, None, Ending("stopped", ""), False),
        Remove("acme", None),
    ):
        world.play(move)
    stored = [record.stored for record in world.records]
    assert stored[-1].type == ERASED_TYPE and [each.type for each in stored].count("log_repaired") == 2
    assert replay(without_payloads(stored)) == world.state
