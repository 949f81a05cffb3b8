"""Staging: authority and idempotency checked against the draft, causes recorded, all or nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from model_driver import SERVICE, TENANT, Driver, identity_in, type_names, with_service, with_tenant

from solo_trio.errors import KernelBug, Rejected
from solo_trio.kernel.staging import Idempotency, Repeated, Submission
from solo_trio.model import codec
from solo_trio.model import service_events as ev
from solo_trio.model import service_requests as requests
from solo_trio.model.capability import EMBEDDER, Authority, system_capability
from solo_trio.model.capability_requests import GrantSystem
from solo_trio.model.event import Decision, Now, Proposed, Record
from solo_trio.model.record import IdempotencyRow, KeyRow
from solo_trio.model.service import Status
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.state import KernelState, apply
from solo_trio.model.tenant import CreateTenant, TenantLimits, tenant_of

SCOPE = "inc_1"


def deploy(service_id: str = SERVICE, **spec: Any) -> requests.Deploy:
    return requests.Deploy(TENANT, service_id, ServiceSpec(**spec))


def keyed(command: Any, key: str = "k1", fingerprint: str = "f1", scope: str = SCOPE) -> Submission:
    return Submission(command, idempotency=Idempotency(scope, key, fingerprint))


def refusal(driver: Driver, submission: Submission) -> str:
    """The code it is refused with; nothing has changed then."""
    before, reply = driver.draft, driver.reply
    with pytest.raises(Rejected) as caught:
        driver.submit(submission)
    assert driver.draft is before and driver.reply is reply
    return caught.value.code


class TestIdempotency:
    def test_the_same_request_again_is_answered_with_its_first_event(self) -> None:
        driver = with_tenant()
        assert type_names(driver.submit(keyed(deploy()))) == ["service_deployment_started"]
        first = driver.records[-1].stored.id
        before = driver.draft
        assert driver.submit(keyed(deploy())) == ()
        assert driver.reply == Repeated(first)
        assert driver.draft is before, "nothing written, no attachment either"

    def test_of_several_events_it_is_the_first(self) -> None:
        driver = with_service(max_restarts=0)
        driver.ended("crashed")
        kill = requests.Kill(TENANT, SERVICE, grace_ms=0)
        assert type_names(driver.submit(keyed(kill))) == ["service_killed", "service_stopped"]
        driver.submit(keyed(kill))
        assert driver.reply == Repeated(driver.records[-2].stored.id)

    def test_its_row_goes_into_the_same_transaction(self) -> None:
        driver = with_tenant()
        driver.submit(keyed(deploy()))
        assert driver.draft.attachments[-1] == IdempotencyRow(SCOPE, "k1", "f1", driver.state.last_id, driver.at_us)

    def test_another_request_with_the_key_is_a_conflict(self) -> None:
        driver = with_tenant()
        driver.submit(keyed(deploy()))
        assert refusal(driver, keyed(deploy("tick"), fingerprint="f2")) == "idempotency_conflict"
        assert driver.state.service(TENANT, "tick") is None

    def test_another_key_or_scope_is_another_request(self) -> None:
        driver = with_tenant()
        driver.submit(keyed(deploy("s1")))
        assert type_names(driver.submit(keyed(deploy("s2"), key="k2"))) == ["service_deployment_started"]
        assert type_names(driver.submit(keyed(deploy("s3"), scope="inc_2"))) == ["service_deployment_started"]
        assert type_names(driver.submit(Submission(deploy("s4")))) == ["service_deployment_started"]

    def test_scope_and_key_do_not_run_together(self) -> None:
        driver = with_tenant()
        driver.submit(keyed(deploy("s1"), scope="a", key="b_c"))
        driver.submit(keyed(deploy("s2"), scope="a_b", key="c"))
        assert driver.state.service(TENANT, "s2") is not None

    def test_a_refused_request_leaves_its_key_free(self) -> None:
        driver = with_service()
        assert refusal(driver, keyed(deploy())) == "service_exists"
        assert type_names(driver.submit(keyed(deploy("tick"), fingerprint="f2"))) == ["service_deployment_started"]

    def test_what_joins_a_stop_repeats_its_answer(self) -> None:
        driver = with_service()
        driver.kill()
        killed = driver.state.last_id
        patient = keyed(requests.Kill(TENANT, SERVICE, grace_ms=10**6))
        assert driver.submit(patient) == ()
        driver.stopped()
        assert driver.submit(patient) == ()
        assert driver.reply == Repeated(killed)

    def test_what_wrote_nothing_leaves_its_key_free(self) -> None:
        driver = with_service()
        assert refusal(driver, keyed(deploy())) == "service_exists"
        assert len(driver.draft.seen) == 0

    def test_a_request_is_only_known_to_those_who_may_ask(self) -> None:
        driver = with_tenant()
        driver.submit(keyed(deploy()))
        stranger = evolve(keyed(deploy()), authority=Authority("cap_gone", TENANT, "inc_1"))
        assert refusal(driver, stranger) == "unauthenticated"

    def test_it_holds_although_the_service_is_gone_by_now(self) -> None:
        driver = with_tenant()
        driver.submit(keyed(deploy()))
        first = driver.state.last_id
        driver.kill()
        driver.stopped()
        assert driver.submit(keyed(deploy())) == ()
        assert driver.reply == Repeated(first)
        assert driver.state.service(TENANT, SERVICE) is None


class TestAuthority:
    def test_the_tenants_own_capability_may(self) -> None:
        driver = with_tenant()
        own = Authority("cap_1", TENANT, "inc_1")
        assert type_names(driver.submit(Submission(deploy(), own))) == ["service_deployment_started"]

    @pytest.mark.parametrize(
        "authority",
        [
            Authority("cap_9", TENANT, "inc_1"),
            Authority("", TENANT, "inc_1"),
            Authority("cap_1", TENANT, "inc_0"),
            Authority("cap_1", TENANT, None),
            Authority("cap_root"),
        ],
        ids=["gone", "empty", "of an older incarnation", "of no incarnation", "of a system that granted none"],
    )
    def test_a_capability_that_is_gone_may_not(self, authority: Authority) -> None:
        driver = with_tenant()
        assert refusal(driver, Submission(deploy(), authority)) == "unauthenticated"

    def test_the_draft_is_asked_not_the_state_before_it(self) -> None:
        """A capability that was granted in the same batch holds, and one that is erased from it does not."""
        driver = with_tenant()
        own = Authority("cap_1", TENANT, "inc_1")
        without = evolve(driver.state, capabilities=driver.state.capabilities.remove("cap_1"))
        driver.draft = evolve(driver.draft, state=without)
        assert refusal(driver, Submission(deploy(), own)) == "unauthenticated"

    def test_who_embeds_the_kernel_needs_none(self) -> None:
        assert EMBEDDER.is_system
        EMBEDDER.check(KernelState(), 0)
        assert not Authority("cap_1", TENANT, "inc_1").is_system

    def test_the_system_is_granted_one_capability_once(self) -> None:
        driver = Driver()
        assert system_capability(driver.state) is None
        first = GrantSystem("cap_root", KeyRow("key_root", "", "token", b""))
        assert driver.types(first) == ["capability_granted"]
        assert driver.draft.attachments == (first.key,)
        granted = system_capability(driver.state)
        assert granted is not None and (granted.capability_id, granted.tenant_id) == ("cap_root", None)
        assert driver.types(GrantSystem("cap_other", KeyRow("key_other", "", "token", b""))) == []
        assert driver.draft.attachments == (first.key,), "and no second key"
        Authority("cap_root").check(driver.state, driver.at_us)

    def test_a_tenants_capability_is_not_the_systems(self) -> None:
        assert system_capability(with_tenant().state) is None


class TestTenants:
    def test_a_tenant_comes_with_its_key_and_its_own_capability(self) -> None:
        driver = Driver()
        command = driver.create_tenant(max_services=3)
        assert driver.types(command) == ["tenant_created", "capability_granted"]
        assert driver.reply == "inc_1"
        assert driver.draft.attachments == (command.key,)
        tenant = driver.state.tenants[TENANT]
        assert (tenant.key_id, tenant.capability_id) == ("key_1", "cap_1")
        assert tenant.limits == TenantLimits(3)
        capability = driver.state.capabilities["cap_1"]
        assert (capability.resource, capability.permissions) == ("tenant", ("*",))
        assert (capability.tenant_id, capability.incarnation) == (TENANT, "inc_1")

    def test_a_taken_id_is_refused_or_found(self) -> None:
        driver = with_tenant()
        assert refusal(driver, Submission(driver.create_tenant())) == "tenant_exists"
        known = driver.draft
        assert driver.do(driver.create_tenant(get=True)) == ()
        assert driver.reply == "inc_1" and driver.draft == known

    def test_there_is_a_bound(self) -> None:
        driver = with_tenant()
        assert refusal(driver, Submission(evolve(driver.create_tenant("blau"), tenants_max=1))) == "quota_exceeded"

    def test_an_older_incarnation_is_not_found(self) -> None:
        state = with_tenant().state
        assert tenant_of(state, TENANT) is tenant_of(state, TENANT, "inc_1")
        for tenant_id, incarnation in ((TENANT, "inc_0"), (TENANT, ""), ("blau", None), ("blau", "inc_1")):
            with pytest.raises(Rejected) as caught:
                tenant_of(state, tenant_id, incarnation)
            assert caught.value.code == "tenant_not_found"

    def test_another_tenants_services_do_not_exist(self) -> None:
        driver = with_service()
        driver.do(driver.create_tenant("blau"))
        for command in (requests.Kill("blau", SERVICE, 0), requests.Restart("blau", SERVICE)):
            assert refusal(driver, Submission(command)) == "service_not_found"
        for command in (requests.Kill("nobody", SERVICE, 0), requests.Deploy("nobody", SERVICE, ServiceSpec())):
            assert refusal(driver, Submission(command)) == "tenant_not_found"
        assert driver.service().status is Status.READY
        assert type_names(driver.do(requests.Deploy("blau", SERVICE, ServiceSpec()))) == ["service_deployment_started"]
        assert driver.service().status is Status.READY


class TestRecords:
    def test_the_first_event_has_the_submissions_cause_and_the_others_the_first(self) -> None:
        driver = with_service(ready=False)
        ready = driver.identity().ready()
        driver.submit(Submission(ready, correlation_id="request-1", causation_id=3))
        first, second = (record.stored for record in driver.records[-2:])
        assert (first.causation_id, second.causation_id) == (3, first.id)
        assert first.correlation_id == second.correlation_id == "request-1"

    def test_without_a_cause_there_is_none(self) -> None:
        driver = with_tenant()
        driver.deploy()
        assert driver.records[-1].stored.causation_id is None
        assert driver.records[-1].stored.correlation_id is None

    def test_what_is_believed_is_what_was_decoded(self) -> None:
        """A value that JSON changes (a tuple) is in the state as recovery will find it."""
        driver = with_tenant()
        driver.deploy(ServiceSpec(config={"names": ("a", "b")}))
        assert driver.service().spec.config == {"names": ["a", "b"]}

    def test_the_callers_own_config_is_not_the_states(self) -> None:
        config = {"names": ["a"]}
        driver = with_tenant()
        driver.deploy(ServiceSpec(config=config))
        config["names"].append("b")
        assert driver.service().spec.config == {"names": ["a"]}


@frozen
class Propose:
    """A command with a defect: its decision is what it was given."""

    RESERVED: ClassVar[bool] = False

    events: tuple[Proposed, ...]

    def decide(self, state: KernelState, now: Now) -> Decision:
        return Decision(self.events)


def about(event: Any, service_id: str = SERVICE) -> Proposed:
    return Proposed(event, TENANT, "inc_1", service_id)


class TestDefects:
    """A decision that cannot have happened is caught before anything is appended, all of it or nothing."""

    @pytest.mark.parametrize(
        "impossible",
        [
            about(ev.ServiceReady(4, 1), "nobody"),
            about(ev.ServiceReady(3, 1)),
            about(ev.ServiceDeploymentStarted(ServiceSpec(), "", 1, None, None)),
            Proposed(ev.ServiceReady(4, 1), None, None, None),
            Proposed(ev.ServiceDeploymentStarted(ServiceSpec(), "", 1, None, None), None, None, SERVICE),
            Proposed(ev.ServiceDeploymentStarted(ServiceSpec(), "", 1, None, None), "nobody", "inc_1", SERVICE),
        ],
        ids=["no such service", "other deployment", "exists", "about nothing", "no tenant", "no such tenant"],
    )
    def test_what_cannot_be_applied_is_a_bug_of_the_kernel_and_changes_nothing(self, impossible: Proposed) -> None:
        driver = with_service()
        before = driver.draft
        for events in ((impossible,), (about(ev.ServiceCrashed(4, 1, "", "", None, None, True, True)), impossible)):
            with pytest.raises(KernelBug):
                driver.do(Propose(events))
            assert driver.draft is before
        assert driver.service().status is Status.READY

    def test_what_cannot_be_encoded_changes_nothing(self) -> None:
        driver = with_service()
        before = driver.draft
        with pytest.raises(TypeError):
            driver.do(Propose((about(ev.ServiceStopped(4, 1, reason=object())),)))  # type: ignore[arg-type]
        assert driver.draft is before

    @pytest.mark.parametrize("id_", [-1, 0, 1, 2, 4])
    def test_a_record_that_does_not_follow_is_refused(self, id_: int) -> None:
        driver = Driver()
        driver.start_system()
        driver.start_system()
        last = driver.records[-1].stored
        with pytest.raises(KernelBug):
            apply(driver.state, codec.to_record(evolve(last, id=id_)))
        assert apply(driver.state, codec.to_record(evolve(last, id=3))).last_id == 3

    def test_a_capability_or_tenant_is_never_made_twice(self) -> None:
        driver = with_tenant()
        again = CreateTenant("blau", "inc_9", KeyRow("key_9", "inc_9", "token", b""), "cap_1")
        with pytest.raises(KernelBug):
            driver.do(again)
        assert "blau" not in driver.state.tenants
        for record in driver.records[1:3]:
            with pytest.raises(KernelBug):
                apply(driver.state, Record(evolve(record.stored, id=driver.state.last_id + 1), record.event))


@settings(deadline=None, print_blob=True)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.sampled_from(("s1", "s2", "s3")))))
def test_a_key_stands_for_one_request_for_ever(requests: list[tuple[str, str, str]]) -> None:
    driver = with_tenant()
    first: dict[str, tuple[str, int]] = {}
    for key, fingerprint, service_id in requests:
        known = driver.state.last_id
        try:
            driver.submit(keyed(deploy(service_id), key, fingerprint))
        except Rejected as caught:
            assert driver.state.last_id == known
            assert caught.code == (
                "idempotency_conflict" if key in first and first[key][0] != fingerprint else "service_exists"
            )
            continue
        if key in first:
            assert (driver.reply, driver.state.last_id) == (Repeated(first[key][1]), known)
            assert first[key][0] == fingerprint
        else:
            first[key] = (fingerprint, known + 1)
            assert driver.state.last_id == known + 1


def test_services_are_listed_in_order() -> None:
    """Map order follows the hash seed; what reaches bytes or people does not."""
    driver = Driver()
    for tenant_id in ("c", "a", "b"):
        driver.do(driver.create_tenant(tenant_id))
        for service_id in ("z", "x", "y", "10", "9"):
            driver.do(requests.Deploy(tenant_id, service_id, ServiceSpec()))
    listed = [(tenant.tenant_id, service.service_id) for tenant, service in driver.state.services()]
    assert listed == [(t, s) for t in "abc" for s in ("10", "9", "x", "y", "z")]
    assert identity_in(driver.state, "a", "x").incarnation == "inc_2"
