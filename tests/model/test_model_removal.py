"""The end of a tenant in the pure core: what is asked, what follows, what is left, and that no later one has anything of it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from attrs import evolve
from hypothesis import given
from model_driver import SERVICE, TENANT, Driver, replay, with_service, with_tenant
from model_histories import Move, Remove, World, histories
from test_model_history import SETTINGS

from solo_trio.errors import Rejected
from solo_trio.kernel.staging import Idempotency, Submission
from solo_trio.model import snapshot
from solo_trio.model.capability import Authority
from solo_trio.model.limits import Limits
from solo_trio.model.record import DropArtifact, DropIdempotency, DropKeys, DropSecrets, EraseEvents
from solo_trio.model.service import Status
from solo_trio.model.service_requests import Deploy, Kill, Restart
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.tenant import TenantLimits, UpdateTenant
from solo_trio.model.tenant_removal import FinishRemoval, RemoveTenant


def removing(grace_ms: int = 5_000) -> Driver:
    """A tenant with a service that runs, and that is being removed."""
    driver = with_service()
    driver.do(RemoveTenant(TENANT, grace_ms))
    return driver


def finish(driver: Driver, incarnation: str = "inc_1") -> list[str]:
    return driver.types(FinishRemoval(TENANT, incarnation))


def refused(driver: Driver, code: str, command: object, **more: object) -> Rejected:
    before = driver.draft
    with pytest.raises(Rejected) as caught:
        driver.submit(Submission(command, **more))  # type: ignore[arg-type]
    assert caught.value.code == code and driver.draft is before
    return caught.value


def test_every_service_is_stopped_and_no_right_is_left() -> None:
    driver = with_service()
    driver.deploy(ServiceSpec(), "other")
    assert driver.types(RemoveTenant(TENANT, 700)) == ["tenant_removal_started"]
    started = driver.records[-1].stored
    assert driver.reply.event_id == started.id and driver.reply.incarnation == "inc_1" == started.incarnation
    for service in driver.state.tenants[TENANT].services.values():
        assert (service.status, service.stop) == (Status.STOPPING, service.stop)
        assert service.stop is not None and (service.stop.grace_ms, service.stop.force) == (700, False)
        assert not service.wants_to_run and service.revision == started.id
    assert not [each for each in driver.state.capabilities.values() if each.incarnation == "inc_1"]


def test_the_services_end_as_ever_then_it_is_removed_with_all_that_opens_anything_of_it() -> None:
    driver = removing()
    assert finish(driver) == [] and driver.reply is False, "a service is left"
    driver.ended("stopped")
    assert finish(driver, "inc_2") == [] and driver.reply is False, "another incarnation"
    known = len(driver.draft.attachments)
    assert finish(driver) == ["tenant_removed", "tenant_erased"] and driver.reply is True
    erasing = driver.records[-1].stored
    assert driver.draft.attachments[known:] == (
        DropKeys("inc_1"),
        DropSecrets("inc_1"),
        DropIdempotency("inc_1"),
        EraseEvents("acme", "inc_1", erasing.id, erasing.at_us),
    )
    assert not len(driver.state.tenants) and finish(driver) == []
    assert replay(each.stored for each in driver.records) == driver.state
    assert b"inc_1" not in snapshot.encode(driver.state) and b"cap_1" not in snapshot.encode(driver.state)


def test_sources_go_with_their_services() -> None:
    driver = with_tenant()
    driver.do(Deploy(TENANT, SERVICE, ServiceSpec(digest="d" * 64), b"x"))
    driver.do(RemoveTenant(TENANT, 0))
    driver.stopped()
    assert driver.draft.attachments[-1] == DropArtifact("d" * 64) and not len(driver.state.sources)


@pytest.mark.parametrize("how", ["paused", "given up", "stopped", "crashed", "first start", "replacing"])
def test_in_whatever_state_a_service_is(how: str) -> None:
    from solo_trio.model.service_requests import Pause

    driver = with_service(
        "temporary" if how in ("stopped", "crashed") else "permanent", max_restarts=0, ready=how != "first start"
    )
    if how == "paused":
        driver.do(Pause(TENANT, SERVICE))
    elif how == "given up":
        driver.ended("crashed")
    elif how in ("stopped", "crashed"):
        driver.ended("completed" if how == "stopped" else "crashed")
    elif how == "replacing":
        driver.do(Deploy(TENANT, SERVICE, ServiceSpec(entry="callable:other"), replace=True))
    driver.do(RemoveTenant(TENANT, 5_000))
    assert driver.service().stop is not None
    if driver.service().begun:
        driver.ended("killed")
    else:
        driver.stopped()
    assert finish(driver) == ["tenant_removed", "tenant_erased"]


def test_nothing_of_it_is_served_any_more() -> None:
    driver = removing()
    for command in (
        Deploy(TENANT, "new", ServiceSpec()),
        Kill(TENANT, SERVICE, 0),
        Restart(TENANT, SERVICE),
        UpdateTenant(TENANT, TenantLimits(), Limits()),
    ):
        assert "removed" in refused(driver, "tenant_not_found", command).detail
    old = Authority("cap_1", TENANT, "inc_1")
    refused(driver, "unauthenticated", Deploy(TENANT, "new", ServiceSpec()), authority=old)
    driver.start_system()
    assert driver.service().status is Status.STOPPING, "a start of the kernel recovers nothing of it"
    assert driver.types(driver.identity().begin()) == []


@pytest.mark.parametrize("get", [False, True])
def test_the_id_is_free_when_it_is_gone_and_not_before(get: bool) -> None:
    driver = removing()
    assert "is being removed" in refused(driver, "tenant_exists", driver.create_tenant(get=get)).detail
    driver.ended("stopped")
    finish(driver)
    driver.do(driver.create_tenant(get=get))
    again = driver.state.tenants[TENANT]
    assert again.incarnation not in ("inc_1",) and again.removal is None and not len(again.services)
    assert finish(driver) == [], "the end of the first is no end of the second"
    refused(driver, "unauthenticated", Restart(TENANT, SERVICE), authority=Authority("cap_1", TENANT, "inc_1"))


def test_asking_again_joins_and_less_patience_counts() -> None:
    driver = removing(5_000)
    first = driver.reply
    for patience in (5_000, 60_000):
        assert driver.types(RemoveTenant(TENANT, patience)) == [] and driver.reply == first
    assert driver.types(RemoveTenant(TENANT, 100)) == ["tenant_removal_started"]
    stop, removal = driver.service().stop, driver.state.tenants[TENANT].removal
    assert stop is not None and stop.grace_ms == 100
    assert removal is not None and (removal.event_id, removal.grace_ms) == (first.event_id, 100)
    driver.ended("killed")
    finish(driver)
    refused(driver, "tenant_not_found", RemoveTenant(TENANT, 0))


@pytest.mark.parametrize(
    ("grace_ms", "force", "stays"), [(100, False, True), (60_000, True, True), (60_000, False, False)]
)
def test_a_stop_that_runs_already_is_never_made_longer(grace_ms: int, force: bool, stays: bool) -> None:
    driver = with_service()
    driver.do(Kill(TENANT, SERVICE, grace_ms, force))
    asked = driver.service().stop
    driver.do(RemoveTenant(TENANT, 5_000))
    stop = driver.service().stop
    assert stop is not None and (stop == asked) == stays and (stays or stop.grace_ms == 5_000)


def test_requests_of_it_are_forgotten_and_others_are_not() -> None:
    driver = with_service()
    driver.submit(Submission(Restart(TENANT, SERVICE), idempotency=Idempotency("inc_1", "k", "f")))
    asked = Idempotency("system", "k", "f")
    driver.submit(Submission(RemoveTenant(TENANT, 0), idempotency=asked))
    removed = driver.reply.event_id
    driver.stopped()
    assert set(driver.draft.seen) == {("inc_1", "k"), ("system", "k")}
    finish(driver)
    assert set(driver.draft.seen) == {("system", "k")}
    driver.submit(Submission(RemoveTenant(TENANT, 0), idempotency=asked))
    assert driver.reply.event_id == removed, "the same request has the same answer, also when the tenant is gone"


def test_a_removal_may_use_the_space_that_is_held_back() -> None:
    assert RemoveTenant.RESERVED and FinishRemoval.RESERVED


@SETTINGS
@given(histories)
def test_what_is_removed_leaves_nothing_in_the_state(moves: list[Move]) -> None:
    world = World()
    for move in [*moves, Remove("acme", 0), Remove("blau", 0)]:
        with suppress(Rejected):
            world.play(move)
    for tenant, service in list(world.state.services()):
        if tenant.removal is not None:
            who = world.identity(service.service_id, tenant.tenant_id)
            world.do(who.stopped())
    for tenant_id in list(world.state.tenants):
        world.play(Remove(tenant_id, None, bend=True))
        assert tenant_id in world.state.tenants
        world.play(Remove(tenant_id, None))
    assert not len(world.state.tenants) and not len(world.state.sources)
    assert {each.tenant_id for each in world.state.capabilities.values()} <= {None}
    known = {record.stored.incarnation for record in world.records} - {None}
    kept = snapshot.encode(evolve(world.state))
    assert not [incarnation for incarnation in known if f'"{incarnation}"'.encode() in kept]
