"""Any history at all: what holds of every log that commands can write, whatever the order, the clock or the refusals."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from model_driver import erased, identities, replay
from model_histories import JumpWall, Move, Pass, World, histories

from solo_trio.errors import Rejected
from solo_trio.model import codec
from solo_trio.model import service_reports as reports
from solo_trio.model.record import Artifact, DropArtifact, DropKey, DropKeys, KeyRow
from solo_trio.model.service import ServiceState, Status, count_services
from solo_trio.model.state import KernelState, apply, fold

SETTINGS = settings(
    max_examples=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
OBSERVATIONS = (reports.BeginStart, reports.ReportReady, reports.ReportEnded, reports.ReportStopped)


def played(moves: list[Move]) -> World:
    world = World()
    for move in moves:
        with suppress(Rejected):
            world.play(move)
    return world


def observed(state: KernelState, command: Any) -> ServiceState | None:
    """The service that an observation is about, if the observation may matter: written again, apart from `decide`."""
    for who in identities(state):
        if (who.tenant_id, who.service_id) != (command.tenant_id, command.service_id):
            continue
        service = state.tenants[who.tenant_id].services[who.service_id]
        same = (who.incarnation, who.deployment) == (command.incarnation, command.deployment)
        alive = service.begun and service.generation == getattr(command, "generation", service.generation)
        wanted = service.status in ("starting", "ready", "restarting")
        match command:
            case reports.BeginStart():
                matters = same and wanted and not service.begun and service.epoch == command.epoch
            case reports.ReportReady():
                matters = same and alive and wanted and service.status is not Status.READY
            case reports.ReportEnded():
                matters = same and alive
            case _:
                matters = same and service.status is Status.STOPPING
        return service if matters else None
    return None


@SETTINGS
@given(histories)
def test_an_observation_counts_exactly_if_it_is_of_the_current_generation(moves: list[Move]) -> None:
    world = World()
    for move in moves:
        before = world.state
        try:
            command = world.play(move)
        except Rejected:
            assert not isinstance(move.command(world), OBSERVATIONS), "an observation is dropped, never refused"
            continue
        if isinstance(command, OBSERVATIONS):
            written = world.state.last_id - before.last_id
            assert (written > 0) == (observed(before, command) is not None)
            if not written:
                assert world.state is before


@SETTINGS
@given(histories)
def test_only_refusals_come_out_and_they_change_nothing(moves: list[Move]) -> None:
    world = World()
    for move in moves:
        before, records = world.draft, world.records
        try:
            world.play(move)
        except Rejected as refusal:
            assert refusal.status < 500 or refusal.code == "service_not_running"
            assert world.draft is before and world.records is records
            assert replay(record.stored for record in records) == world.state
        else:
            assert world.records[: len(records)] == records, "what is written stays"


@SETTINGS
@given(histories)
def test_replay_is_identity(moves: list[Move]) -> None:
    world = played(moves)
    assert replay(record.stored for record in world.records) == world.state
    for record in world.records:
        assert codec.to_record(record.stored) == record


@SETTINGS
@given(histories, st.data())
def test_folding_in_two_parts_is_folding_at_once(moves: list[Move], data: st.DataObject) -> None:
    records = played(moves).records
    cut = data.draw(st.integers(0, len(records)), "cut")
    assert fold(records[cut:], fold(records[:cut])) == fold(records)


@SETTINGS
@given(histories)
def test_ids_have_no_gap_and_time_never_goes_back(moves: list[Move]) -> None:
    world = played(moves)
    stored = [record.stored for record in world.records]
    assert [each.id for each in stored] == list(range(1, len(stored) + 1))
    for earlier, later in pairwise(stored):
        assert earlier.at_us <= later.at_us
        assert earlier.kernel_time <= later.kernel_time
    if stored:
        assert (world.state.last_id, world.state.last_at_us) == (stored[-1].id, stored[-1].at_us)
        assert world.state.kernel_time == stored[-1].kernel_time


@SETTINGS
@given(histories)
def test_kernel_time_is_what_passed_while_a_kernel_lived(moves: list[Move]) -> None:
    """Jumps of the wall clock and the time between two kernels are not in it."""
    world, passed = World(), 0.0
    for move in moves:
        if isinstance(move, Pass):
            passed += move.seconds
        before = world.now().kernel_time
        with suppress(Rejected):
            world.play(move)
        if isinstance(move, JumpWall):
            assert world.now().kernel_time == before
        assert world.state.kernel_time <= passed * (1 + 1e-9) + 1e-6


@SETTINGS
@given(histories)
def test_counts_add_up_at_every_step(moves: list[Move]) -> None:
    """Row 21."""
    world = World()
    for move in moves:
        try:
            world.play(move)
        except Rejected:
            continue
        services = [service for _, service in world.state.services()]
        counts = count_services(services)
        assert counts.total == len(services) == sum(len(each.services) for each in world.state.tenants.values())
        assert counts.wanted == counts.starting + counts.running + counts.restarting
        assert counts.total == counts.wanted + counts.paused + counts.stopping + counts.stopped + counts.given_up
        for status in Status:
            counted = counts.running if status is Status.READY else getattr(counts, status.value)
            assert counted == [service.status for service in services].count(status)
        assert counts.wanted == sum(service.wants_to_run for service in services)


@SETTINGS
@given(histories)
def test_a_service_is_never_in_two_minds(moves: list[Move]) -> None:
    world = World()
    for move in moves:
        try:
            world.play(move)
        except Rejected:
            continue
        for _, service in world.state.services():
            limits = service.spec.restart_limits
            assert (service.status is Status.STOPPING) == (service.stop is not None)
            assert (service.ready_at_us is None) == (service.ready_kernel_time is None)
            assert not (service.status is Status.READY and service.ready_at_us is None)
            assert service.ready_at_us is None or service.begun
            assert not service.begun or service.wants_to_run or service.stop is not None
            assert len(service.window) <= limits.max_restarts + 1
            assert len(service.window) <= limits.max_restarts or service.status in ("given_up", "stopping")
            assert list(service.window) == sorted(service.window)
            assert service.deployment <= service.epoch <= world.state.last_id
            assert service.deployment <= service.revision <= world.state.last_id
            assert service.restarts <= service.generation
            assert service.confirmed or service.status in ("starting", "restarting", "stopping", "paused")
            assert not service.held or service.status is Status.PAUSED
            previous = service.previous
            assert previous is None or (not service.confirmed and previous.confirmed and previous.previous is None)


@SETTINGS
@given(histories)
def test_every_event_says_what_it_is_about(moves: list[Move]) -> None:
    """An outcome names deployment and generation, and its row the incarnation, so that it can be erased with it."""
    world = World()
    for move in moves:
        before = world.state
        try:
            world.play(move)
        except Rejected:
            continue
        for record in world.records[before.last_id :]:
            stored = record.stored
            if stored.type.startswith("system_") or stored.tenant_id is None:
                assert (stored.tenant_id, stored.incarnation) == (None, None)
                assert stored.subject is None or stored.type in ("capability_granted", "capability_revoked")
                continue
            known_by = before if stored.type in ("tenant_removed", "tenant_erased") else world.state
            assert stored.incarnation == known_by.tenants[stored.tenant_id].incarnation
            if stored.type.startswith("service_") and stored.type != "service_deployment_started":
                known = before.service(stored.tenant_id, stored.subject or "")
                assert known is not None
                outcome: Any = record.event
                assert outcome.deployment == known.deployment
                assert outcome.generation == known.generation + (stored.type == "service_started")


@SETTINGS
@given(histories)
def test_an_erased_incarnation_leaves_everything_else_as_it_was(moves: list[Move]) -> None:
    world = played(moves)
    for tenant in world.state.tenants.values():
        rest = replay(erased((record.stored for record in world.records), tenant.incarnation))
        assert rest.tenants == world.state.tenants.remove(tenant.tenant_id)
        assert (tenant.capability_id in world.state.capabilities) == (tenant.removal is None)
        others = {key: each for key, each in world.state.capabilities.items() if each.incarnation != tenant.incarnation}
        assert dict(rest.capabilities.items()) == others
        assert rest.held == world.state.held.discard(tenant.incarnation)
        assert (rest.last_id, rest.last_at_us) == (world.state.last_id, world.state.last_at_us)
        assert (rest.kernel_time, rest.system) == (world.state.kernel_time, world.state.system)


@SETTINGS
@given(histories)
def test_the_keys_kept_are_those_of_the_capabilities_there_are(moves: list[Move]) -> None:
    """Of what nobody has any more the key is destroyed, of all else it is there; so too across removals of tenants."""
    world = World()
    kept: dict[str, str] = {}
    done = 0
    for move in moves:
        with suppress(Rejected):
            world.play(move)
        for attachment in world.draft.attachments[done:]:
            if isinstance(attachment, KeyRow):
                kept[attachment.key_id] = attachment.incarnation
            elif isinstance(attachment, DropKey):
                del kept[attachment.key_id]
            elif isinstance(attachment, DropKeys):
                kept = {key: incarnation for key, incarnation in kept.items() if incarnation != attachment.incarnation}
        done = len(world.draft.attachments)
        removing = {each.incarnation for each in world.state.tenants.values() if each.removal is not None}
        used = {each.key_id for each in world.state.capabilities.values()}
        assert {key for key, incarnation in kept.items() if incarnation not in removing} == used
        for each in world.state.capabilities.values():
            above = world.state.capabilities.get(each.parent or "")
            if above is not None:
                assert above.expires_at_us is None or (each.expires_at_us or 0) <= above.expires_at_us
                assert set(above.rates) <= set(each.rates) and set(above.through) <= set(each.through)
                assert above.right.covers(each.resource, "*")
            elif each.parent is not None:
                assert each.expires_at_us is not None, "only what is swept goes before what descends from it"


@SETTINGS
@given(histories)
def test_the_sources_kept_are_those_of_the_services_there_are(moves: list[Move]) -> None:
    """Attachments in the order in which the journal carries them out."""
    world = World()
    kept: set[str] = set()
    done = 0
    for move in moves:
        with suppress(Rejected):
            world.play(move)
        for attachment in world.draft.attachments[done:]:
            if isinstance(attachment, Artifact):
                kept.add(attachment.digest)
            elif isinstance(attachment, DropArtifact):
                kept.remove(attachment.digest)
        done = len(world.draft.attachments)
        used = Counter(digest for _, service in world.state.services() for digest in service.digests)
        for _, service in world.state.services():
            current = {service.spec.digest, service.previous.spec.digest if service.previous else ""}
            assert service.digests >= current - {""}
        assert dict(world.state.sources.items()) == used
        assert kept == set(used)


@SETTINGS
@given(histories)
def test_a_start_of_the_kernel_knows_only_what_is_wanted(moves: list[Move]) -> None:
    world = played(moves)
    before = world.state
    world.start_system()
    for tenant, service in before.services():
        after = world.state.service(tenant.tenant_id, service.service_id)
        previous = service.previous
        if not (service.wants_to_run or service.held):
            assert after == service, "stopped, stopping, paused and given up stay so"
        elif service.spec.ephemeral and (previous is None or previous.spec.ephemeral):
            assert after is None
        elif service.spec.ephemeral:
            assert previous is not None and after is not None
            assert (after.deployment, after.spec) == (previous.deployment, previous.spec), "what it was to replace"
            assert after.wants_to_run == (previous.wants_to_run or previous.held)
        else:
            assert after is not None
            assert (after.status, after.begun, after.next_cause) == (Status.STARTING, False, "recovery")
            assert (after.window, after.restarts, after.generation) == (
                service.window,
                service.restarts,
                service.generation,
            )
            assert (after.epoch, after.revision) == (service.epoch, service.revision), "an observation, not a wish"


def test_the_reducer_never_lets_time_go_back() -> None:
    """Even if a row does: a log from a version that allowed it is still folded."""
    world = World()
    world.start_system()
    first = world.records[0].stored
    earlier = codec.to_record(
        type(first)(
            id=2,
            at_us=first.at_us - 1,
            kernel_time=first.kernel_time - 1,
            tenant_id=None,
            incarnation=None,
            subject=None,
            type=first.type,
            schema=first.schema,
            payload=first.payload,
        )
    )
    state = apply(world.state, earlier)
    assert (state.last_at_us, state.kernel_time) == (first.at_us, first.kernel_time)


REACHED: set[str] = set()
"""By histories that were played for another kind."""


@pytest.mark.parametrize("kind", sorted(codec.KINDS))
def test_histories_reach_every_kind_of_event(kind: str) -> None:
    """The properties above are about something."""

    def reaches(moves: list[Move]) -> bool:
        REACHED.update(record.stored.type for record in played(moves).records)
        return kind in REACHED

    rare = settings(SETTINGS, max_examples=5_000, phases=[Phase.generate], database=None)
    if kind not in REACHED:
        find(histories, reaches, settings=rare)
