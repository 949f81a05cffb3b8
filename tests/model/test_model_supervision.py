"""The conformance table of supervision, as far as it is decided in the pure core; each test is named after its row.

What needs a running kernel (grace, retry loops that yield, shutdown) is in `tests/kernel`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_driver import ENDINGS, SERVICE, TENANT, Driver, replay, type_names, with_service, with_tenant

from solo_trio.errors import Rejected
from solo_trio.model import service_reports as reports
from solo_trio.model import service_requests as requests
from solo_trio.model.ending import Ending, EndKind
from solo_trio.model.limits import RANGES, Limits
from solo_trio.model.record import DropArtifact
from solo_trio.model.service import Status, count_services
from solo_trio.model.service_events import ServiceCrashed, ServiceGivenUp, ServiceStopped
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.model.state import fold
from solo_trio.model.system import BeginShutdown, CompleteShutdown
from solo_trio.policy.backoff import restart_delay
from solo_trio.policy.restart import RestartType

RESTARTS: tuple[RestartType, ...] = ("permanent", "transient", "temporary")
CRASHED = ["service_crashed"]
STOPPED = ["service_stopped"]
every_restart = pytest.mark.parametrize("restart", RESTARTS)
every_ending = pytest.mark.parametrize("kind", ENDINGS)

MATRIX: dict[tuple[RestartType, EndKind], tuple[list[str], Status, int]] = {
    ("permanent", "completed"): (CRASHED, Status.RESTARTING, 1),
    ("permanent", "crashed"): (CRASHED, Status.RESTARTING, 1),
    ("permanent", "load_failed"): (CRASHED, Status.RESTARTING, 1),
    ("permanent", "stopped"): (CRASHED, Status.RESTARTING, 1),
    ("permanent", "killed"): (CRASHED, Status.RESTARTING, 1),
    ("permanent", "lost"): (CRASHED, Status.RESTARTING, 0),
    ("transient", "completed"): (STOPPED, Status.STOPPED, 0),
    ("transient", "crashed"): (CRASHED, Status.RESTARTING, 1),
    ("transient", "load_failed"): (CRASHED, Status.RESTARTING, 1),
    ("transient", "stopped"): (CRASHED, Status.RESTARTING, 1),
    ("transient", "killed"): (CRASHED, Status.RESTARTING, 1),
    ("transient", "lost"): (CRASHED, Status.RESTARTING, 0),
    ("temporary", "completed"): (STOPPED, Status.STOPPED, 0),
    ("temporary", "crashed"): (CRASHED, Status.STOPPED, 0),
    ("temporary", "load_failed"): (CRASHED, Status.STOPPED, 0),
    ("temporary", "stopped"): (CRASHED, Status.STOPPED, 0),
    ("temporary", "killed"): (CRASHED, Status.STOPPED, 0),
    ("temporary", "lost"): (CRASHED, Status.STOPPED, 0),
}
"""How a ready service ended, without being asked to -> events, status after it, how many crashes are in its window."""


def crash_only(events: tuple[Any, ...]) -> ServiceCrashed:
    (crashed,) = events
    assert isinstance(crashed, ServiceCrashed)
    return crashed


# -- rows 1 to 6: the window


@pytest.mark.parametrize("n", [0, 1, 2, 5, 1_000])
@pytest.mark.parametrize("becomes_ready", [True, False])
def test_row_1_crash_n_plus_1_gives_up(n: int, becomes_ready: bool) -> None:
    driver = with_service(max_restarts=n, max_seconds=86_400.0)
    first = driver.ended("crashed")
    if n == 0:
        assert type_names(first) == ["service_crashed", "service_given_up"]
    else:
        assert type_names(first) == ["service_crashed"]
        assert driver.crash_loop(becomes_ready=becomes_ready, at_most=n + 1) == n
    service = driver.service()
    assert (service.status, service.restarts, service.generation) == (Status.GIVEN_UP, n, n + 1)
    given_up = driver.records[-1].event
    assert isinstance(given_up, ServiceGivenUp)
    assert (given_up.crashes, given_up.max_restarts, given_up.max_seconds) == (n + 1, n, 86_400.0)
    assert given_up.reason == "it crashed"


@pytest.mark.parametrize(
    ("seconds", "gives_up"), [(9.999, True), (10.0, True), (math.nextafter(10, 11), False), (10.001, False)]
)
def test_row_2_the_edge_of_the_window(seconds: float, gives_up: bool) -> None:
    driver = with_service(max_restarts=1, max_seconds=10.0)
    driver.ended("crashed")
    driver.begin()
    driver.ready()
    driver.kernel_time += seconds
    events = type_names(driver.ended("crashed"))
    assert events == (["service_crashed", "service_given_up"] if gives_up else ["service_crashed"])
    assert len(driver.service().window) == (2 if gives_up else 1)


@pytest.mark.parametrize("jump_us", [10**13, 1])
def test_row_2_the_wall_clock_changes_nothing(jump_us: int) -> None:
    driver = with_service(max_restarts=1, max_seconds=10.0)
    driver.ended("crashed")
    driver.begin()
    driver.at_us += jump_us
    driver.kernel_time += 9.0
    assert type_names(driver.ended("crashed")) == ["service_crashed", "service_given_up"]


def test_row_4_a_restart_by_hand_never_counts() -> None:
    driver = with_service(max_restarts=0)
    for nth in range(20):
        assert type_names(driver.restart()) == ["service_restart_requested"]
        assert type_names(driver.begin()) == ["service_started"]
        assert driver.reply == nth + 2
        assert type_names(driver.ready()) == ["service_ready"]
    service = driver.service()
    assert (service.status, service.window, service.restarts) == (Status.READY, (), 0)


def test_row_5_giving_up_is_recorded_with_its_reasons_and_a_restart_rearms_with_an_empty_window() -> None:
    driver = with_service(max_restarts=1)
    driver.ended("crashed")
    driver.begin()
    assert type_names(driver.ended("crashed")) == ["service_crashed", "service_given_up"]
    assert len(driver.service().window) == 2
    driver.restart()
    service = driver.service()
    assert (service.status, service.window, service.attempt) == (Status.RESTARTING, (), 0)
    assert type_names(driver.begin()) == ["service_started"]
    driver.ready()
    assert type_names(driver.ended("crashed")) == ["service_crashed"], "the first of its new life"


def test_row_6_a_restart_whose_start_fails_consumes_intensity() -> None:
    """Intensity 4: the first start and 4 restarts."""
    driver = with_service(max_restarts=4)
    driver.ended("crashed")
    starts = 1
    while driver.service().wants_to_run:
        driver.begin()
        starts += 1
        driver.ended("load_failed")
    assert starts == 1 + 4
    assert (driver.service().restarts, driver.service().status) == (4, Status.GIVEN_UP)


# -- row 7: the first start


@every_restart
@pytest.mark.parametrize("kind", [kind for kind in ENDINGS if kind != "lost"])
@pytest.mark.parametrize("timed_out", [False, True])
def test_row_7_the_first_start_failing_keeps_nothing(restart: RestartType, kind: EndKind, timed_out: bool) -> None:
    driver = with_service(restart, ready=False)
    assert type_names(driver.ended(kind, timed_out=timed_out)) == ["service_deployment_failed"]
    assert driver.state.service(TENANT, SERVICE) is None
    driver.start_system()
    assert list(driver.state.services()) == [], "nothing left to recover"
    assert type_names(driver.deploy()) == ["service_deployment_started"], "the id is free"


@every_restart
def test_row_7_a_first_start_that_is_lost_is_tried_again_a_bounded_number_of_times(restart: RestartType) -> None:
    driver = with_service(restart, ready=False, max_restarts=0)
    for _ in range(reports.LOST_STARTS_MAX - 1):
        crashed = crash_only(driver.ended("lost"))
        assert (crashed.counted, crashed.restart) == (False, True)
        assert driver.service().next_cause == "deploy"
        assert type_names(driver.begin()) == ["service_started"]
    assert type_names(driver.ended("lost")) == ["service_deployment_failed"]
    assert driver.state.service(TENANT, SERVICE) is None


def test_row_7_an_intent_is_recovered_as_a_first_start() -> None:
    driver = with_service(ready=False)
    driver.start_system()
    assert type_names(driver.begin()) == ["service_started"]
    assert type_names(driver.ready()) == ["service_ready", "service_deployed", "service_recovered"]


@pytest.mark.parametrize("kind", [kind for kind in ENDINGS if kind != "lost"])
def test_row_7_an_intent_whose_recovery_fails_is_forgotten(kind: EndKind) -> None:
    driver = with_service(ready=False)
    driver.start_system()
    driver.begin()
    assert type_names(driver.ended(kind)) == ["service_deployment_failed"]
    assert driver.state.service(TENANT, SERVICE) is None


def test_once_ready_it_is_deployed_even_if_it_crashes_at_once() -> None:
    driver = with_service(ready=False)
    assert type_names(driver.ready()) == ["service_ready", "service_deployed"]
    assert type_names(driver.ended("crashed")) == ["service_crashed"]
    assert driver.service().confirmed


# -- row 9: restart type x end


def test_row_9_the_matrix_is_whole() -> None:
    assert set(MATRIX) == {(restart, kind) for restart in RESTARTS for kind in ENDINGS}


@pytest.mark.parametrize(("restart", "kind"), MATRIX.keys())
def test_row_9_restart_type_and_end(restart: RestartType, kind: EndKind) -> None:
    types, status, counted = MATRIX[restart, kind]
    driver = with_service(restart)
    events = driver.ended(kind)
    assert type_names(events) == types
    service = driver.service()
    assert (service.status, len(service.window), service.begun) == (status, counted, False)
    for event in events:
        if isinstance(event, ServiceCrashed):
            assert (event.counted, event.restart) == (counted == 1, status is Status.RESTARTING)
            assert service.last_crash is not None and service.last_crash.reason == f"it {kind}"
        if isinstance(event, ServiceStopped):
            assert event.reason == "completed"
    again = driver.begin()
    assert type_names(again) == (["service_started"] if status is Status.RESTARTING else [])
    assert driver.service().restarts == (status is Status.RESTARTING)


@pytest.mark.parametrize(
    ("restart", "kind"), [key for key, (_, status, _) in MATRIX.items() if status is Status.STOPPED]
)
def test_row_9_what_ended_is_listed_stopped_not_recovered_and_can_be_deleted(
    restart: RestartType, kind: EndKind
) -> None:
    driver = with_service(restart)
    driver.ended(kind)
    driver.start_system()
    assert driver.service().status is Status.STOPPED
    assert driver.begin() == ()
    assert type_names(driver.kill()) == ["service_killed", "service_stopped"]
    assert driver.state.service(TENANT, SERVICE) is None


@pytest.mark.parametrize(
    ("restart", "kind"), [key for key, (_, status, _) in MATRIX.items() if status is Status.STOPPED]
)
def test_row_9_what_ended_can_be_started_by_hand(restart: RestartType, kind: EndKind) -> None:
    driver = with_service(restart)
    driver.ended(kind)
    driver.restart()
    assert type_names(driver.begin()) == ["service_started"]
    assert type_names(driver.ready()) == ["service_ready"]
    assert driver.service().restarts == 0


@pytest.mark.parametrize("restart", ["permanent", "transient"])
def test_row_9_lost_never_counts_however_often(restart: RestartType) -> None:
    driver = with_service(restart, max_restarts=0)
    for _ in range(10):
        crashed = crash_only(driver.ended("lost"))
        assert (crashed.counted, crashed.restart) == (False, True)
        driver.begin()
        driver.ready()
    assert (driver.service().window, driver.service().status) == ((), Status.READY)


# -- rows 13 and 15: stopping


@every_restart
@pytest.mark.parametrize(
    ("kind", "types", "reason"),
    [
        ("completed", ["service_stopped"], "completed"),
        ("stopped", ["service_stopped"], "stopped"),
        ("killed", ["service_stopped"], "killed"),
        ("lost", ["service_stopped"], "lost"),
        ("crashed", ["service_crashed", "service_stopped"], "crashed"),
        ("load_failed", ["service_crashed", "service_stopped"], "crashed"),
    ],
)
@pytest.mark.parametrize("ready", [True, False])
def test_row_15_an_end_while_stopping_is_no_restart_and_tells_the_true_reason(
    restart: RestartType, kind: EndKind, types: list[str], reason: str, ready: bool
) -> None:
    driver = with_service(restart, max_restarts=0, ready=ready)
    assert type_names(driver.kill()) == ["service_killed"]
    assert driver.service().status is Status.STOPPING
    events = driver.ended(kind)
    assert type_names(events) == types
    stopped = events[-1]
    assert isinstance(stopped, ServiceStopped) and stopped.reason == reason
    if len(events) == 2:
        crashed = crash_only(events[:1])
        assert (crashed.counted, crashed.restart, crashed.reason) == (False, False, f"it {kind}")
        between = fold(driver.records[:-1]).service(TENANT, SERVICE)
        assert between is not None and between.status is Status.STOPPING, "also between the two events"
    assert driver.state.service(TENANT, SERVICE) is None


def test_a_second_kill_joins_the_first() -> None:
    driver = with_service()
    driver.kill()
    first = driver.reply
    assert driver.kill() == ()
    assert driver.reply == requests.Accepted(first.event_id, first.deployment, changed=False)
    assert first.changed


@pytest.mark.parametrize(
    ("grace_ms", "force", "agreed"),
    [
        (4_999, False, (4_999, False)),
        (0, False, (0, False)),
        (5_000, True, (5_000, True)),
        (9_000, True, (5_000, True)),
    ],
)
def test_row_13_a_second_kill_with_less_patience_shortens_the_stop(
    grace_ms: int, force: bool, agreed: tuple[int, bool]
) -> None:
    driver = with_service()
    driver.kill()
    first = driver.reply
    assert driver.types(requests.Kill(TENANT, SERVICE, grace_ms, force)) == ["service_killed"]
    stop = driver.service().stop
    assert stop is not None and (stop.grace_ms, stop.force) == agreed
    assert stop.event_id == driver.reply.event_id > first.event_id
    assert driver.service().status is Status.STOPPING
    assert type_names(driver.ended("killed")) == ["service_stopped"]
    assert driver.state.service(TENANT, SERVICE) is None


def test_row_13_no_kill_gives_a_stop_more_time() -> None:
    driver = with_service()
    driver.do(requests.Kill(TENANT, SERVICE, grace_ms=100, force=True))
    before = driver.draft
    for grace_ms, force in ((100, True), (100, False), (5_000, False), (5_000, True)):
        assert driver.types(requests.Kill(TENANT, SERVICE, grace_ms, force)) == []
    assert driver.draft.state is before.state


def test_a_kill_during_backoff_waits_only_for_the_supervisor_to_say_so() -> None:
    driver = with_service()
    driver.ended("crashed")
    assert type_names(driver.kill()) == ["service_killed"]
    assert driver.begin() == ()
    assert type_names(driver.stopped()) == ["service_stopped"]
    assert driver.state.service(TENANT, SERVICE) is None


def test_a_half_done_stop_is_finished_by_recovery_without_a_start() -> None:
    driver = with_service()
    driver.kill()
    driver.start_system()
    assert driver.service().status is Status.STOPPING
    assert driver.begin() == ()
    assert type_names(driver.stopped()) == ["service_stopped"]
    assert driver.state.service(TENANT, SERVICE) is None


def test_while_it_stops_the_id_is_taken_and_nothing_restarts_it() -> None:
    driver = with_service()
    driver.kill()
    before = driver.draft
    for verb in (driver.deploy, driver.restart):
        with pytest.raises(Rejected) as refusal:
            verb()
        assert refusal.value.code == "service_stopping"
    assert driver.draft is before


@pytest.mark.parametrize("verb", [requests.Kill, requests.Restart])
def test_a_revision_that_is_not_the_current_one_is_refused(verb: Any) -> None:
    driver = with_service()
    wrong, right = driver.service().revision + 1, driver.service().revision
    arguments = {"grace_ms": 0} if verb is requests.Kill else {}
    before = driver.draft
    with pytest.raises(Rejected) as refusal:
        driver.do(verb(TENANT, SERVICE, revision=wrong, **arguments))
    assert refusal.value.code == "revision_mismatch"
    assert driver.draft is before
    driver.ended("crashed")
    assert driver.service().revision == right, "a crash changes nothing that is wanted"
    assert driver.do(verb(TENANT, SERVICE, revision=right, **arguments)) != ()
    assert driver.service().revision > right


def test_a_restart_by_hand_before_the_first_start_is_over_is_refused() -> None:
    driver = with_service(ready=False)
    with pytest.raises(Rejected) as refusal:
        driver.restart()
    assert refusal.value.code == "service_not_running"


# -- row 16: backoff


def test_row_16_attempts_count_up_and_start_anew_after_a_stable_uptime() -> None:
    driver = with_service(max_restarts=5, max_seconds=10.0)
    attempts = []
    for uptime in (0.0, 0.0, 9.999, 10.0, 0.0, 10.001):
        driver.kernel_time += uptime
        driver.ended("crashed")
        attempts.append(driver.service().attempt)
        driver.begin()
        driver.kernel_time += 100.0  # how long a start takes is no uptime
        driver.ready()
    assert attempts == [1, 2, 3, 1, 2, 1]


def test_row_16_however_short_the_window_an_uptime_below_a_second_is_not_stable() -> None:
    driver = with_service(max_restarts=5, max_seconds=0.001)
    attempts = []
    for uptime in (0.5, 0.999, 1.0, 0.999):
        driver.kernel_time += uptime
        driver.ended("crashed")
        attempts.append(driver.service().attempt)
        driver.begin()
        driver.ready()
    assert attempts == [1, 2, 1, 2]


def test_row_16_time_before_it_is_ready_is_no_stable_uptime() -> None:
    driver = with_service(max_restarts=5, max_seconds=10.0)
    driver.ended("crashed")
    driver.begin()
    driver.kernel_time += 1_000.0
    driver.ended("crashed")
    assert driver.service().attempt == 2


def test_row_16_remaining_backoff_is_not_resumed() -> None:
    driver = with_service()
    driver.ended("crashed")
    assert driver.service().attempt == 1
    driver.start_system()
    assert driver.service().attempt == 0


@settings(deadline=None, print_blob=True, max_examples=60)
@given(
    st.integers(0, 12),
    st.floats(0, 86_400, exclude_min=True),
    st.floats(0, 1e9),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
    st.booleans(),
)
def test_row_16_a_crash_loop_always_gives_up(
    n: int, seconds: float, start: float, chances: list[float], becomes_ready: bool
) -> None:
    """The delays are those that the supervisor would wait out."""
    driver = with_service(max_restarts=n, max_seconds=seconds)
    driver.kernel_time += start
    crashes = 0
    while driver.service().wants_to_run:
        if crashes:
            chance = chances[crashes % len(chances)]
            attempt = driver.service().attempt
            driver.kernel_time += restart_delay(attempt, chance, max_restarts=n, max_seconds=seconds)
            driver.begin()
            if becomes_ready:
                driver.ready()
        driver.ended("crashed")
        crashes += 1
        assert crashes <= n + 1
    assert crashes == n + 1


def test_row_16_a_crash_loop_gives_up_also_after_many_that_did_not_count() -> None:
    """The attempts are high by then, but the delays still fit into the window."""
    driver = with_service(max_restarts=5, max_seconds=60.0)
    for _ in range(20):
        driver.ended("lost")
        driver.begin()
    for _ in range(6):
        driver.ended("crashed")
        driver.kernel_time += restart_delay(driver.service().attempt, 1.0, max_restarts=5, max_seconds=60.0)
        driver.begin()
    assert driver.service().status is Status.GIVEN_UP


# -- row 18: a restart of the kernel


def test_row_18_a_restart_of_the_kernel_is_no_crash_and_keeps_the_window() -> None:
    driver = with_service(max_restarts=2, max_seconds=60.0)
    for _ in range(2):
        driver.pass_time(1.0)
        driver.ended("crashed")
        driver.begin()
        driver.ready()
    window = driver.service().window
    assert window == (1.0, 2.0)
    for _ in range(10):
        driver.start_system()
        driver.begin()
        assert type_names(driver.ready()) == ["service_ready", "service_recovered"]
        assert driver.service().window == window
        assert driver.service().restarts == 2
    assert type_names(driver.ended("crashed")) == ["service_crashed", "service_given_up"]


def test_row_18_the_window_is_rebuilt_from_the_log() -> None:
    driver = with_service(max_restarts=3, max_seconds=10.0)
    for seconds in (0.1, 0.2, 9.8, 0.3, 5.0, 5.0, 0.7):
        driver.kernel_time += seconds
        driver.ended("crashed")
        driver.begin()
        rebuilt = replay(record.stored for record in driver.records).service(TENANT, SERVICE)
        assert rebuilt is not None
        assert rebuilt.window == driver.service().window != ()
        assert rebuilt == driver.service()


def test_row_18_a_kernel_that_restarts_during_backoff_goes_on_counting() -> None:
    driver = with_service(max_restarts=1)
    driver.ended("crashed")
    driver.start_system()
    driver.begin()
    assert type_names(driver.ended("crashed")) == ["service_crashed", "service_given_up"]


def test_row_18_given_up_stays_given_up() -> None:
    driver = with_service(max_restarts=0)
    driver.ended("crashed")
    before = driver.service()
    driver.start_system()
    assert driver.service() == before
    assert driver.service().status is Status.GIVEN_UP
    assert driver.begin() == ()


def test_a_given_up_service_is_killed_and_gone_at_once() -> None:
    driver = with_service(max_restarts=0)
    driver.ended("crashed")
    events = driver.kill()
    assert type_names(events) == ["service_killed", "service_stopped"]
    assert isinstance(events[1], ServiceStopped) and events[1].reason == "not_running"
    assert driver.state.service(TENANT, SERVICE) is None
    assert driver.reply.event_id == driver.records[-2].stored.id


# -- recovery


@every_restart
def test_a_source_that_no_longer_loads_is_given_up(restart: RestartType) -> None:
    driver = with_service(restart)
    driver.start_system()
    driver.begin()
    assert type_names(driver.ended("load_failed")) == ["service_recovery_failed"]
    service = driver.service()
    assert (service.status, service.window, service.begun) == (Status.GIVEN_UP, (), False)
    assert service.last_crash is not None and service.last_crash.reason == "it load_failed"
    driver.restart()
    assert type_names(driver.begin()) == ["service_started"], "until somebody restarts it"


def test_any_other_failure_in_recovery_is_a_crash() -> None:
    driver = with_service()
    driver.start_system()
    driver.begin()
    crashed = crash_only(driver.ended("crashed"))
    assert (crashed.counted, crashed.restart) == (True, True)


def test_a_start_that_times_out_in_recovery_does_not_count() -> None:
    driver = with_service(max_restarts=0)
    driver.start_system()
    driver.begin()
    crashed = crash_only(driver.ended("crashed", timed_out=True))
    assert (crashed.counted, crashed.restart) == (False, True)
    assert driver.service().window == ()


def test_a_start_that_times_out_otherwise_counts() -> None:
    driver = with_service(max_restarts=1)
    driver.ended("crashed")
    driver.begin()
    assert type_names(driver.ended("crashed", timed_out=True)) == ["service_crashed", "service_given_up"]


def test_a_recovered_service_that_crashes_later_is_counted_as_ever() -> None:
    driver = with_service(max_restarts=0)
    driver.start_system()
    driver.begin()
    driver.ready()
    assert type_names(driver.ended("load_failed")) == ["service_crashed", "service_given_up"]


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_temporary_service_that_ran_when_the_kernel_died_is_recovered_and_then_ends_as_ever(kind: EndKind) -> None:
    driver = with_service("temporary")
    driver.start_system()
    driver.begin()
    assert type_names(driver.ready()) == ["service_ready", "service_recovered"]
    types, status, _ = MATRIX["temporary", kind]
    assert type_names(driver.ended(kind)) == types
    assert driver.service().status is status


def test_a_start_knows_whether_the_kernel_before_it_shut_down_in_order() -> None:
    driver = Driver()
    clean = []
    for last_words in ((), (BeginShutdown("asked to"),), (BeginShutdown("asked to"), CompleteShutdown(0)), ()):
        (started,) = driver.start_system()
        clean.append(started.clean)  # type: ignore[attr-defined]
        assert driver.state.system.clean is False, "until it has"
        for command in last_words:
            driver.do(command)
    assert clean == [True, False, False, True]
    assert (driver.state.system.starts, driver.state.system.started_at_us) == (4, driver.at_us)


def test_an_ephemeral_service_is_not_recovered() -> None:
    driver = with_tenant()
    driver.deploy(ServiceSpec(entry="callable:ticker", ephemeral=True))
    driver.begin()
    driver.ready()
    driver.start_system()
    assert driver.state.service(TENANT, SERVICE) is None
    assert count_services(service for _, service in driver.state.services()).total == 0


def test_a_start_says_why() -> None:
    driver = with_service(max_restarts=1)
    causes = [driver.records[-3].event.cause]  # type: ignore[union-attr]

    def begin() -> None:
        (started,) = driver.begin()
        causes.append(started.cause)  # type: ignore[attr-defined]
        driver.ready()

    driver.ended("crashed")
    begin()
    driver.restart()
    begin()
    driver.start_system()
    begin()
    assert causes == ["deploy", "restart", "manual", "recovery"]


# -- row 20: bad input


BAD_SPECS: dict[str, ServiceSpec] = {
    **{
        f"max_restarts={bad!r}": ServiceSpec(restart_limits=RestartLimits(max_restarts=bad))  # type: ignore[arg-type]
        for bad in (-1, 1_001, 10**400, 2.5, math.nan, math.inf, -math.inf, True, "5", None)
    },
    **{
        f"max_seconds={bad!r}": ServiceSpec(restart_limits=RestartLimits(max_seconds=bad))  # type: ignore[arg-type]
        for bad in (0, 0.0, -1.0, 86_400.001, 10**400, math.nan, math.inf, -math.inf, True, "60", None)
    },
    **{
        f"{name}={bad!r}": ServiceSpec(**{name: bad})
        for name in ("restart", "isolation", "format")
        for bad in ("sometimes", "", "PERMANENT", None, 1, ["permanent"])
    },
    **{f"limits.{name}": ServiceSpec(limits=Limits(**{name: high + 1})) for name, (_, high) in RANGES.items()},
}


@pytest.mark.parametrize("spec", BAD_SPECS.values(), ids=[name[:40] for name in BAD_SPECS])
def test_row_20_a_bad_specification_is_refused_and_nothing_started(spec: ServiceSpec) -> None:
    with pytest.raises(Rejected) as refusal:
        spec.check()
    assert refusal.value.code == "invalid_field"
    driver = with_tenant()
    before = driver.draft
    with pytest.raises(Rejected) as refusal:
        driver.deploy(spec)
    assert refusal.value.code == "invalid_field"
    assert driver.draft is before


@pytest.mark.parametrize("restart", RESTARTS)
@pytest.mark.parametrize("limits", [RestartLimits(0, 1e-9), RestartLimits(1_000, 86_400), RestartLimits(1, 86_400.0)])
def test_row_20_the_edges_are_good(restart: RestartType, limits: RestartLimits) -> None:
    spec = ServiceSpec(restart=restart, restart_limits=limits)
    assert spec.check() is spec
    driver = with_tenant()
    assert type_names(driver.deploy(spec)) == ["service_deployment_started"]
    assert driver.service().spec == spec


def test_row_20_a_taken_id_is_refused() -> None:
    driver = with_service()
    before = driver.draft
    with pytest.raises(Rejected) as refusal:
        driver.deploy()
    assert refusal.value.code == "service_exists"
    assert driver.draft is before


def deploy_of(driver: Driver, **changes: Any) -> requests.Deploy:
    return requests.Deploy(TENANT, SERVICE, driver.service().spec, **changes)


def test_an_equal_specification_is_a_no_op_where_that_is_asked_for() -> None:
    driver = with_service()
    deployment = driver.service().deployment
    assert driver.do(deploy_of(driver, idempotent=True)) == ()
    assert driver.reply == requests.Accepted(deployment, deployment, changed=False)
    other = requests.Deploy(TENANT, SERVICE, ServiceSpec(config={"a": 1}), idempotent=True)
    with pytest.raises(Rejected) as refusal:
        driver.do(other)
    assert refusal.value.code == "service_exists"


def test_a_deployment_brings_its_source_along_in_the_same_transaction() -> None:
    driver = with_tenant()
    driver.do(requests.Deploy(TENANT, "calc", ServiceSpec(digest="d" * 64), b"source"))
    assert [getattr(each, "content", None) for each in driver.draft.attachments[-1:]] == [b"source"]
    known = len(driver.draft.attachments)
    driver.do(requests.Deploy(TENANT, "tick", ServiceSpec(entry="callable:ticker")))
    assert len(driver.draft.attachments) == known, "a callable has none"


@pytest.mark.parametrize(("limit", "code"), [({"services_per_tenant_max": 1}, "1"), ({"services_max": 1}, "1")])
def test_a_quota_is_checked_against_the_draft(limit: dict[str, int], code: str) -> None:
    driver = with_service()
    before = driver.draft
    with pytest.raises(Rejected) as refusal:
        driver.do(requests.Deploy(TENANT, "tick", ServiceSpec(), **limit))
    assert refusal.value.code == "quota_exceeded" and code in refusal.value.detail
    assert driver.draft is before


@pytest.mark.parametrize(("own", "system", "allowed"), [(1, 5, 1), (5, 1, 1), (0, 5, 0), (None, 2, 2)])
def test_the_lower_of_the_quotas_counts(own: int | None, system: int, allowed: int) -> None:
    driver = Driver()
    driver.do(driver.create_tenant(max_services=own))
    for nth in range(allowed):
        driver.do(requests.Deploy(TENANT, f"s{nth}", ServiceSpec(), services_per_tenant_max=system))
    with pytest.raises(Rejected) as refusal:
        driver.do(requests.Deploy(TENANT, "more", ServiceSpec(), services_per_tenant_max=system))
    assert refusal.value.code == "quota_exceeded"


# -- row 21: counts


def test_row_21_one_of_each() -> None:
    driver = with_tenant()

    def ready_service(name: str, **spec: Any) -> None:
        driver.deploy(ServiceSpec(**spec), name)
        driver.begin(name)
        driver.ready(name)

    driver.deploy(service_id="starting")
    ready_service("ready")
    ready_service("restarting")
    driver.ended("crashed", "restarting")
    ready_service("stopping")
    driver.kill("stopping")
    ready_service("stopped", restart="temporary")
    driver.ended("crashed", "stopped")
    ready_service("given_up", restart_limits=RestartLimits(0, 1))
    driver.ended("crashed", "given_up")
    for tenant, service in driver.state.services():
        assert (tenant.tenant_id, service.status) == (TENANT, service.service_id)
    counts = count_services(service for _, service in driver.state.services())
    assert (counts.total, counts.wanted, counts.paused) == (6, 3, 0)
    assert (counts.starting, counts.running, counts.restarting) == (1, 1, 1)
    assert (counts.stopping, counts.stopped, counts.given_up) == (1, 1, 1)


# -- sources


def dropped(driver: Driver) -> list[str]:
    return [each.digest for each in driver.draft.attachments if isinstance(each, DropArtifact)]


def test_a_source_is_dropped_with_its_last_use() -> None:
    driver = with_tenant()
    for service_id in ("one", "two"):
        driver.deploy(ServiceSpec(digest="d" * 64), service_id)
    driver.kill("one")
    driver.stopped("one")
    assert dropped(driver) == []
    driver.begin("two")
    driver.ended("load_failed", "two")
    assert dropped(driver) == ["d" * 64]
    assert len(driver.state.sources) == 0


def test_a_source_is_kept_while_its_service_is_listed() -> None:
    driver = with_tenant()
    driver.deploy(ServiceSpec(digest="d" * 64, restart="transient"))
    driver.begin()
    driver.ready()
    driver.ended("completed")
    assert driver.service().status is Status.STOPPED
    assert dropped(driver) == [], "it may be restarted by hand"
    driver.kill()
    assert dropped(driver) == ["d" * 64]


def test_what_is_not_recovered_takes_its_source_along() -> None:
    driver = with_tenant()
    driver.deploy(ServiceSpec(digest="e" * 64, ephemeral=True), "one")
    driver.deploy(ServiceSpec(digest="d" * 64, ephemeral=True), "two")
    driver.deploy(ServiceSpec(digest="d" * 64), "three")
    driver.start_system()
    assert [service.service_id for _, service in driver.state.services()] == ["three"]
    assert dropped(driver) == ["e" * 64]
    assert dict(driver.state.sources.items()) == {"d" * 64: 1}


def test_an_ending_carries_its_traceback_and_exit_into_the_log() -> None:
    driver = with_service()
    ending = Ending("crashed", "raised ValueError", "Traceback ...", exit_code=-9, signal="SIGKILL")
    crashed = crash_only(driver.do(driver.identity().ended(ending)))
    assert (crashed.reason, crashed.traceback) == (ending.reason, ending.traceback)
    assert (crashed.exit_code, crashed.signal) == (-9, "SIGKILL")
    last = driver.service().last_crash
    assert last is not None and (last.reason, last.at_us) == (ending.reason, driver.at_us)
