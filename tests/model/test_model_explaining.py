"""Words for what happened: no kind of event without them, nothing in them that steers a terminal, numbers that are right."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_histories import Move, World, histories
from model_samples import GOLDEN, SAMPLES

from solo_trio.errors import Rejected
from solo_trio.model import codec
from solo_trio.model.event import KINDS, Event, Record
from solo_trio.model.limits import CEILING, Limits
from solo_trio.model.record import StoredEvent
from solo_trio.model.service_events import (
    ServiceCrashed,
    ServiceDeployed,
    ServiceDeploymentStarted,
    ServiceGivenUp,
    ServicePaused,
    ServiceReady,
    ServiceResumed,
    ServiceStarted,
    ServiceUpdated,
)
from solo_trio.model.spec import RestartLimits, ServiceSpec
from solo_trio.model.system import SystemStarted
from solo_trio.operations.explaining import story
from solo_trio.operations.explaining.outlook import outlook_of, outlook_of_gone
from solo_trio.operations.explaining.phrases import moment, ordinal, plain, reason, seconds
from solo_trio.operations.explaining.story import SERVICE_TYPES, STEPS_MAX, SYSTEM_TYPES, steps_of
from solo_trio.operations.explaining.words import ERASED, WORDS, words_of

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
EVIL = "boom \x1b[2J\x07 \u202e\u2028 \ud800\nsecond line"
WORDS_CHARACTERS_MAX = 700


def is_said(text: str) -> bool:
    """One line of printable text that is no repr of anything."""
    assert text and text.isprintable() and len(text) <= WORDS_CHARACTERS_MAX, text
    assert "None" not in text and "object at" not in text and "(event=" not in text and "Status." not in text, text
    return True


def test_every_kind_of_event_has_words() -> None:
    assert set(WORDS) == set(KINDS.values()), (
        "say in operations/explaining/words.py what the new event means to a reader"
    )


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.json")), ids=lambda file: file.stem)
def test_every_golden_sample_is_told(file: Path) -> None:
    kind, version = file.stem.split(".v")
    subject = "calc" if kind in SERVICE_TYPES else None
    stored = StoredEvent(7, 10**15, 1.0, "acme", "inc_1", subject, kind, int(version), file.read_bytes())
    assert is_said(words_of(codec.to_record(stored)))
    assert words_of(Record(evolve(stored, payload=None))) == ERASED


def test_which_kinds_are_about_services() -> None:
    assert {kind for kind in KINDS if kind.startswith("service_")} <= SERVICE_TYPES
    assert SERVICE_TYPES.isdisjoint(SYSTEM_TYPES)
    assert {"circuit_opened", "circuit_closed", "resource_violation"} <= SERVICE_TYPES


def test_text_of_services_is_harmless() -> None:
    assert reason(EVIL) == "boom \\x1b[2J\\x07 \\u202e\\u2028 \\ud800"
    assert plain("ä \t") == "ä \\t"
    assert reason("  \n") == reason("") == "no reason was given"
    assert len(reason("x" * 1_000)) == 203
    for sample in SAMPLES.values():
        evil = evil_of(sample)
        assert is_said(words_of(Record(stored_of(1, 0.0, evil), evil)))


def evil_of(sample: Event) -> Event:
    """With bad text wherever a service or a caller may have put it."""
    names = ("reason", "by", "operation", "code", "resource", "signal", "credential")
    text = EVIL.replace("\ud800", "")  # no JSON holds that
    there = {name: text for name in names if isinstance(getattr(sample, name, None), str)}
    return evolve(sample, **there)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1, "0 ms"),
        (0.0344, "34 ms"),
        (1, "1 s"),
        (1.2345, "1.23 s"),
        (119, "119 s"),
        (720, "12 min"),
        (9_000, "2.5 h"),
    ],
)
def test_durations(value: float, said: str) -> None:
    assert seconds(value) == said


def test_numbers_in_words() -> None:
    assert [ordinal(each) for each in (1, 2, 6, 7, 12)] == ["first", "second", "sixth", "7th", "12th"]
    assert moment(1_767_225_601_999_999) == "2026-01-01 00:00:01"


# -- stories


def stored_of(id_: int, at_s: float, event: Event, subject: str | None = "calc") -> StoredEvent:
    at_us = 1_767_225_600_000_000 + round(at_s * 1_000_000)
    whose = (None, None) if subject is None else ("acme", "inc_1")
    return StoredEvent(id_, at_us, at_s, *whose, subject, event.TYPE, event.SCHEMA, codec.encode(event), 1)


class Log:
    """Events that follow each other, a second apart unless it is said otherwise."""

    def __init__(self, limits: RestartLimits | None = None) -> None:
        self.records: list[Record] = []
        self.at_s = 0.0
        spec = ServiceSpec(digest="ab" * 32, restart_limits=limits or RestartLimits())
        self.add(ServiceDeploymentStarted(spec, spec.digest, 1, None, None))
        self.generation = 0

    def add(self, event: Event, after_s: float = 1.0, subject: str | None = "calc") -> None:
        self.at_s += after_s
        self.records.append(Record(stored_of(len(self.records) + 1, self.at_s, event, subject), event))

    def start(self, cause: Any, *, after_s: float = 0.4, ready_s: float = 0.034) -> None:
        self.generation += 1
        self.add(ServiceStarted(1, self.generation, cause), after_s)
        self.add(ServiceReady(1, self.generation), ready_s)

    def crash(self, reason: str = "ValueError: boom", after_s: float = 1.0, *, restart: bool = True) -> None:
        self.add(ServiceCrashed(1, self.generation, reason, "", 1, None, True, restart), after_s)

    @property
    def texts(self) -> list[str]:
        return [step.text for step in steps_of(self.records)]


def test_a_life_that_ends_in_being_given_up() -> None:
    log = Log(RestartLimits(1, 60))
    log.start("deploy")
    log.add(ServiceDeployed(1, 1, 1, "ab" * 32), 0.0)
    log.crash()
    log.start("restart")
    log.crash(restart=False)
    log.add(ServiceGivenUp(1, 2, "ValueError: boom", 2, 1, 60.0), 0.0)
    assert log.texts == [
        "acme asked for calc version 1 (sha abababababab)",
        "it was started, and became ready after 34 ms",
        "it crashed: ValueError: boom (first crash within 60 s; 1 are allowed)",
        "it was started again after a crash (400 ms later), and became ready after 34 ms",
        "it crashed: ValueError: boom; it is not started again (second crash within 60 s; 1 are allowed)",
        "it was given up: 2 crashes within 60 s, and 1 are allowed",
    ]
    steps = steps_of(log.records)
    assert [(step.first, step.last) for step in steps] == [(1, 1), (2, 4), (5, 5), (6, 7), (8, 8), (9, 9)]


def test_412_crashes_are_two_handfuls_of_steps() -> None:
    log = Log(RestartLimits(5, 1))
    log.start("deploy")
    for number in range(412):
        log.crash("ValueError: boom" if number % 4 else f"KeyError: {number}", after_s=10)
        log.start("restart")
    steps = steps_of(log.records)
    assert len(steps) == 3 + 2 * story.CYCLES_TOLD
    told = steps[2].text
    assert told.startswith("between 2026-01-01 00:00:11 and ") and told.endswith(": 1218 events in all")
    assert (
        "it crashed 406 times (ValueError: boom, 304 times; KeyError: 0, once; KeyError: 4, once; and 100 other reasons)"
        in told
    )
    assert "was started again 406 times" in told
    for before, after in itertools.pairwise(steps):
        assert before.last + 1 == after.first
    assert steps[-1].last == len(log.records)


def test_fewer_restarts_forget_older_crashes() -> None:
    log = Log(RestartLimits(5, 60))
    log.start("deploy")
    for _ in range(3):
        log.crash()
        log.start("restart")
    log.add(ServiceUpdated(1, 4, "permanent", RestartLimits(1, 60), Limits(), (), ()))
    log.crash()
    assert log.texts[-1] == "it crashed: ValueError: boom (second crash within 60 s; 1 are allowed)"
    assert log.texts[-2] == "it was changed: restart permanent, once in 60 s, 0 limits, 0 egress entries, 0 secrets"


def test_a_long_and_colourful_life_keeps_its_beginning_and_its_end() -> None:
    log = Log()
    log.start("deploy")
    for _ in range(100):
        log.add(ServicePaused(1, log.generation))
        log.add(ServiceResumed(1, log.generation))
        log.start("resume")
    steps = steps_of(log.records)
    assert len(steps) == STEPS_MAX
    assert steps[0].text.startswith("acme asked for calc") and steps[-1].last == len(log.records)
    [summary] = [step for step in steps if step.type == "summary"]
    assert "service_paused" in summary.text and "it was started" in summary.text


def test_a_start_of_the_kernel_is_told_where_it_was_felt() -> None:
    log = Log()
    log.start("deploy")
    log.add(SystemStarted("1", "3", False, None), subject=None)
    log.start("recovery")
    log.add(ServicePaused(1, 2))
    log.add(SystemStarted("1", "3", True, None), subject=None)
    log.add(SystemStarted("1", "3", True, "boot_loop"), subject=None)
    assert [step.type for step in steps_of(log.records)] == [
        "service_deployment_started",
        "service_ready",
        "system_started",
        "service_ready",
        "service_paused",
        "system_started",
    ]
    assert "held every service back, because it had ended again and again" in log.texts[-1]
    log.add(SystemStarted("1", "3", True, None), subject=None)
    assert len(steps_of(log.records, waits=True)) == len(steps_of(log.records)) + 1


@SETTINGS
@given(histories, st.data())
def test_any_service_of_any_history_is_explained(moves: list[Move], data: st.DataObject) -> None:
    world = World()
    for move in moves:
        with suppress(Rejected):
            world.play(move)
    records = [codec.to_record(record.stored) for record in world.records]
    for tenant, service in world.state.services():
        own = [
            each for each in records if is_felt(each.stored, tenant.incarnation, service.service_id, service.deployment)
        ]
        steps = steps_of(own)
        assert 1 <= len(steps) <= STEPS_MAX
        assert steps[0].first == service.deployment and steps[0].type == "service_deployment_started"
        for before, after in itertools.pairwise(steps):
            assert before.first <= before.last < after.first <= after.last and before.at_us <= after.at_us
        assert all(is_said(step.text) for step in steps)
        outlook = outlook_of(tenant, service, world.state.system.hold, CEILING)
        assert outlook.status == service.status and is_said(outlook.summary) and outlook.next
        assert all(is_said(each) for each in outlook.next)
        runs = outlook.summary.startswith(f"{service.service_id} runs")
        assert runs == (service.status == "ready")
    for subject in {each.stored.subject for each in records if each.stored.type in SERVICE_TYPES}:
        last = next(each for each in reversed(records) if each.stored.subject == subject)
        assert is_said(outlook_of_gone(str(subject), last.event).summary)


def is_felt(stored: StoredEvent, incarnation: str, service_id: str, since: int) -> bool:
    own = (stored.incarnation, stored.subject) == (incarnation, service_id) and stored.type in SERVICE_TYPES
    return stored.id >= since and (own or stored.type in SYSTEM_TYPES)


@SETTINGS
@given(histories)
def test_crashes_are_counted_as_the_restart_window_counts_them(moves: list[Move]) -> None:
    world = World()
    for move in moves:
        with suppress(Rejected):
            world.play(move)
    records = [codec.to_record(record.stored) for record in world.records]
    for tenant, service in world.state.services():
        own = [
            each for each in records if is_felt(each.stored, tenant.incarnation, service.service_id, service.deployment)
        ]
        if any(isinstance(each.event, ServiceDeploymentStarted) for each in own[1:]):
            continue  # an attempt to replace it came between
        teller = story._Teller()
        for each in own:
            teller.take(each)
        assert teller.window == service.window
