"""Changing a record is what attrs says it is, only sooner."""

from __future__ import annotations

import attrs
import pytest
from attrs import field, frozen
from model_driver import with_service

from solo_trio.model.evolving import evolve
from solo_trio.model.service import Status
from solo_trio.model.tenant import TenantLimits


def test_it_is_what_attrs_makes_of_it() -> None:
    state = with_service().state
    [(tenant, service)] = state.services()
    for record, changes in (
        (service, {}),
        (service, {"status": Status.STOPPED, "begun": False, "window": (1.0,)}),
        (tenant, {"incarnation": "other"}),
        (state, {"last_id": 99, "tenants": state.tenants.remove("acme")}),
        (TenantLimits(), {"max_services": 3}),
    ):
        changed = evolve(record, **changes)
        assert changed == attrs.evolve(record, **changes)
        assert type(changed) is type(record)
        assert (changed == record) is (not changes)


def test_a_field_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match="has no field 'unheard_of'"):
        evolve(TenantLimits(), unheard_of=1)


def test_a_class_that_it_would_get_wrong_is_refused() -> None:
    @frozen
    class Named:
        name: str = field(kw_only=True)

    @frozen
    class Hidden:
        _name: str

    for record in (Named(name="a"), Hidden("a")):
        with pytest.raises(TypeError, match="does not take in its place"):
            evolve(record)
