"""Observations that come too late, twice or before their time: no event, no change, and nobody else is hit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from model_driver import ENDINGS, SERVICE, TENANT, Driver, Identity, with_service, with_tenant

from solo_trio.model import service_reports as reports
from solo_trio.model.ending import Ending, EndKind
from solo_trio.model.service import Status
from solo_trio.model.state import KernelState

CRASHED = Ending("crashed", "too late")
OUTCOMES: dict[str, Callable[[Identity], Any]] = {
    "ready": lambda who: who.ready(),
    "stopped": lambda who: who.stopped(),
    **{kind: lambda who, kind=kind: who.ended(Ending(kind, "too late")) for kind in ENDINGS},  # type: ignore[misc]
    "timed out": lambda who: who.ended(CRASHED, timed_out=True),
}
every_outcome = pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES.keys())
every_ending = pytest.mark.parametrize("kind", ENDINGS)


def assert_dropped(driver: Driver, command: Any) -> None:
    before: KernelState = driver.state
    assert driver.types(command) == []
    assert driver.state is before
    assert not driver.reply, "neither a generation nor that it mattered"


@every_outcome
def test_of_an_older_generation(outcome: Callable[[Identity], Any]) -> None:
    driver = with_service()
    old = driver.identity()
    driver.ended("crashed")
    driver.begin()
    assert_dropped(driver, outcome(old))
    driver.ready()
    assert_dropped(driver, outcome(old))


@every_outcome
def test_of_a_generation_that_is_not_there_yet(outcome: Callable[[Identity], Any]) -> None:
    driver = with_service()
    assert_dropped(driver, outcome(evolve(driver.identity(), generation=2)))


@every_outcome
def test_before_anything_began(outcome: Callable[[Identity], Any]) -> None:
    driver = with_tenant()
    driver.deploy()
    assert driver.service().generation == 0
    assert_dropped(driver, outcome(driver.identity()))


@every_outcome
def test_of_a_service_that_was_never_there(outcome: Callable[[Identity], Any]) -> None:
    driver = with_tenant()
    assert_dropped(driver, outcome(Identity(TENANT, "inc_1", "nobody", 1, 1, 1)))
    assert_dropped(driver, outcome(Identity("nobody", "inc_1", SERVICE, 1, 1, 1)))


@every_outcome
def test_of_an_older_deployment_never_hits_its_successor(outcome: Callable[[Identity], Any]) -> None:
    """The generations are equal, so only the deployment tells them apart."""
    driver = with_service()
    old = driver.identity()
    driver.kill()
    driver.ended("stopped")
    assert driver.state.service(TENANT, SERVICE) is None
    assert_dropped(driver, outcome(old))
    driver.deploy()
    assert_dropped(driver, outcome(old))
    driver.begin()
    assert driver.identity().generation == old.generation
    assert_dropped(driver, outcome(old))
    driver.ready()
    assert_dropped(driver, outcome(old))
    driver.kill()
    assert_dropped(driver, outcome(old))
    assert driver.service().status is Status.STOPPING


@every_outcome
def test_of_an_older_incarnation_of_the_tenant(outcome: Callable[[Identity], Any]) -> None:
    driver = with_service()
    assert_dropped(driver, outcome(evolve(driver.identity(), incarnation="inc_0")))
    assert_dropped(driver, outcome(evolve(driver.identity(), incarnation="")))


@every_ending
def test_an_end_that_was_reported_before(kind: EndKind) -> None:
    driver = with_service()
    again = driver.identity().ended(Ending(kind, "once"))
    assert driver.types(again) != []
    assert_dropped(driver, again)


@every_ending
def test_an_end_after_a_restart_by_hand(kind: EndKind) -> None:
    """The generation was asked to go; how it goes is nobody's crash."""
    driver = with_service()
    old = driver.identity()
    driver.restart()
    assert_dropped(driver, old.ended(Ending(kind, "as asked")))
    driver.begin()
    assert_dropped(driver, old.ended(Ending(kind, "as asked")))
    assert driver.service().window == ()


@every_ending
def test_an_end_from_before_a_restart_of_the_kernel(kind: EndKind) -> None:
    driver = with_service()
    old = driver.identity()
    driver.start_system()
    assert_dropped(driver, old.ended(Ending(kind, "too late")))
    driver.begin()
    assert_dropped(driver, old.ended(Ending(kind, "too late")))


def test_readiness_reported_twice_counts_once() -> None:
    """And the stable uptime is measured from the first report."""
    driver = with_service(max_seconds=10.0, ready=False)
    ready = driver.identity().ready()
    assert driver.types(ready) == ["service_ready", "service_deployed"]
    since = driver.service().ready_kernel_time
    driver.pass_time(5)
    assert driver.types(ready) == []
    assert driver.reply is True, "it is ready; there is only nothing new about it"
    assert driver.service().ready_kernel_time == since


def test_readiness_reported_twice_is_recovered_once() -> None:
    driver = with_service()
    driver.start_system()
    driver.begin()
    ready = driver.identity().ready()
    assert driver.types(ready) == ["service_ready", "service_recovered"]
    assert driver.types(ready) == []


def test_readiness_after_the_end() -> None:
    driver = with_service(ready=True)
    ready = driver.identity().ready()
    driver.ended("crashed")
    assert_dropped(driver, ready)


def test_readiness_after_it_was_told_to_stop() -> None:
    driver = with_service(ready=False)
    ready = driver.identity().ready()
    driver.kill()
    assert_dropped(driver, ready)
    assert not driver.service().confirmed


def test_that_it_stopped_although_nobody_asked() -> None:
    driver = with_service()
    assert_dropped(driver, driver.identity().stopped())
    assert driver.service().status is Status.READY


class TestBeginStart:
    def test_twice_gives_one_generation(self) -> None:
        driver = with_tenant()
        driver.deploy()
        begin = driver.identity().begin()
        assert driver.types(begin) == ["service_started"]
        assert driver.reply == 1
        assert_dropped(driver, begin)

    def test_with_an_older_epoch(self) -> None:
        """A supervisor that waited out a delay while somebody restarted by hand must not start what it meant to."""
        driver = with_service()
        driver.ended("crashed")
        begin = driver.identity().begin()
        driver.restart()
        assert_dropped(driver, begin)
        assert driver.types(driver.identity().begin()) == ["service_started"]
        assert driver.reply == 2

    def test_between_two_restarts_by_hand(self) -> None:
        driver = with_service()
        driver.restart()
        begin = driver.identity().begin()
        driver.restart()
        assert_dropped(driver, begin)

    @pytest.mark.parametrize("change", [{"incarnation": "inc_0"}, {"deployment": 1}, {"epoch": 1}])
    def test_of_something_else(self, change: dict[str, Any]) -> None:
        driver = with_service()
        driver.ended("crashed")
        assert_dropped(driver, evolve(driver.identity(), **change).begin())

    def test_of_what_is_not_wanted(self) -> None:
        for unwanted in (stopping(), given_up(), ended_by_itself()):
            assert not unwanted.service().wants_to_run
            assert_dropped(unwanted, unwanted.identity().begin())

    def test_of_what_was_deleted(self) -> None:
        driver = with_service()
        begin = driver.identity().begin()
        driver.kill()
        driver.ended("stopped")
        assert_dropped(driver, begin)


def stopping() -> Driver:
    driver = with_service()
    driver.ended("crashed")
    driver.kill()
    return driver


def given_up() -> Driver:
    driver = with_service(max_restarts=0)
    driver.ended("crashed")
    return driver


def ended_by_itself() -> Driver:
    driver = with_service("transient")
    driver.ended("completed")
    return driver


def test_the_observations_are_all_tried_here() -> None:
    """A new kind of ending has to be thought about in this file."""
    kinds = EndKind.__args__  # type: ignore[attr-defined]
    assert set(ENDINGS) == set(kinds)
    assert isinstance(OUTCOMES["ready"](Identity("", "", "", 0, 0, 0)), reports.ReportReady)
