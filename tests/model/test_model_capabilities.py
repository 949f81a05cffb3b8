"""Grant, revoke, sweep, rotate: nobody gives more than he has, what goes takes with it what descends from it, and no more."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from model_driver import TENANT, Driver, replay

from solo_trio.errors import Rejected
from solo_trio.kernel.staging import Command, Submission
from solo_trio.model import capability_requests
from solo_trio.model.capability import (
    EMBEDDER,
    Authority,
    descendants,
    may_handle,
    system_capability,
)
from solo_trio.model.capability_requests import (
    Grant,
    GrantSystem,
    Revoke,
    RevokeAttenuation,
    RotateToken,
    SweepExpired,
    find_capability,
)
from solo_trio.model.caveat import Caveats, Rate, read_caveats, write_caveats
from solo_trio.model.record import DropKey, KeyRow
from solo_trio.model.service_requests import Deploy
from solo_trio.model.spec import ServiceSpec

INC = "inc_1"
OWN = Authority("cap_1", TENANT, INC)
ROOT = Authority("cap_root")


def key(name: str, incarnation: str = INC) -> KeyRow:
    return KeyRow(name, incarnation, "token", b"wrapped")


def narrowed(authority: Authority, number: int = 1, **more: Any) -> Authority:
    """As the holder of a token makes it; `number` makes it unlike the others."""
    words = authority.caveats.words + write_caveats(f"{number:032x}", **(more or {"permissions": frozenset("*")}))
    caveats = read_caveats(words, authority.capability_id or "")
    assert caveats is not None
    return evolve(authority, caveats=caveats)


def attenuation_of(authority: Authority, expires_at_us: int | None = None) -> RevokeAttenuation:
    """To revoke the last one that the token has."""
    assert authority.capability_id is not None
    return RevokeAttenuation(
        authority.incarnation, authority.tenant_id, authority.capability_id, authority.caveats.ids[-1], expires_at_us
    )


class Story(Driver):
    """A driver that grants."""

    def grant(
        self,
        name: str,
        by: Authority = OWN,
        resource: str = "tenant",
        permissions: tuple[str, ...] = ("*",),
        *,
        tenant_id: str | None = TENANT,
        incarnation: str | None = INC,
        **more: Any,
    ) -> Authority:
        self.submit(Submission(Grant(by, tenant_id, incarnation, name, resource, permissions, **more), by))
        return Authority(name, tenant_id, incarnation)

    def revoke(self, name: str, by: Authority = OWN) -> int:
        self.submit(Submission(Revoke(INC, TENANT, by, name), by))
        return int(self.reply)

    def revoke_attenuation(self, authority: Authority, expires_at_us: int | None = None) -> int:
        self.submit(Submission(attenuation_of(authority, expires_at_us), OWN))
        return int(self.reply)

    def refused(self, command: Command, by: Authority = EMBEDDER) -> str:
        """The code; nothing has changed then."""
        before = self.draft
        with pytest.raises(Rejected) as caught:
            self.submit(Submission(command, by))
        assert self.draft is before
        return caught.value.code

    def holds(self, authority: Authority) -> bool:
        return authority.holds(self.state, self.at_us)

    def dropped(self) -> list[str]:
        return [each.key_id for each in self.draft.attachments if isinstance(each, DropKey)]

    def check(self) -> None:
        """What recovery makes of the log is what is believed."""
        assert replay(record.stored for record in self.records) == self.state


@pytest.fixture
def story() -> Story:
    driver = Story()
    driver.start_system()
    driver.do(GrantSystem("cap_root", key("key_root", "")))
    driver.do(driver.create_tenant())
    driver.do(driver.create_tenant("blau"))
    return driver


class TestGrant:
    def test_what_is_recorded(self, story: Story) -> None:
        by = narrowed(OWN, resource="service:*", rate=(5.0, 10.0))
        rate = Rate("cap_a", 1.0, 2.0)
        story.grant("cap_a", by, "service:calc", ("read", "call"), ttl_us=9, rate=rate, metadata={"for": "b"})
        found = find_capability(story.state, INC, "cap_a")
        assert story.reply == "cap_a" and story.records[-1].stored.subject == "cap_a"
        assert (found.resource, found.permissions) == ("service:calc", ("call", "read"))
        assert (found.parent, found.through, found.key_id) == ("cap_1", by.caveats.ids, "key_1")
        assert (found.tenant_id, found.incarnation, found.granted_at_us) == (TENANT, INC, story.at_us)
        assert found.expires_at_us == story.at_us + 9
        assert found.rates == (*by.caveats.rates, rate) and found.metadata == {"for": "b"}
        story.check()

    @pytest.mark.parametrize(
        ("resource", "permissions"),
        [
            ("service:calc", ("*",)),
            ("service:calc", ("call", "kill")),
            ("service:*", ("call",)),
            ("service:tick", ("call",)),
            ("secret:calc", ("read",)),
            ("tenant", ("call",)),
            ("events", ("read",)),
            ("capability", ("grant",)),
        ],
    )
    def test_never_more_than_the_grantor_has(self, story: Story, resource: str, permissions: tuple[str, ...]) -> None:
        recorded = story.grant("cap_a", OWN, "service:calc", ("call", "read"))
        written = narrowed(OWN, resource="service:calc", permissions=frozenset({"call", "read"}))
        by_service = narrowed(OWN, service="calc", permissions=frozenset({"call", "read"}))
        for by in (recorded, written, by_service):
            wanted = Grant(by, TENANT, INC, "cap_b", resource, permissions)
            assert story.refused(wanted, by) == "permission_denied"
            story.submit(
                Submission(Grant(by, TENANT, INC, f"cap_{story.state.last_id}", "service:calc", ("call",)), by)
            )

    def test_never_for_longer(self, story: Story) -> None:
        short = story.grant("cap_a", ttl_us=1_000_000)
        for by in (short, narrowed(OWN, expires_at_us=story.at_us + 1_000_000)):
            wanted = Grant(by, TENANT, INC, "cap_late", "tenant", ("read",), ttl_us=1_000_001)
            assert story.refused(wanted, by) == "permission_denied"
            name = f"cap_{story.state.last_id}"
            story.grant(name, by)
            assert find_capability(story.state, INC, name).expires_at_us == story.at_us + 1_000_000
            story.grant(f"{name}_soon", by, ttl_us=1_000_000)
            assert find_capability(story.state, INC, f"{name}_soon").expires_at_us == story.at_us + 1_000_000
        story.pass_time(1.0)
        assert story.refused(Grant(short, TENANT, INC, "cap_b", "tenant", ("read",)), short) == "unauthenticated"

    def test_never_more_often(self, story: Story) -> None:
        first = story.grant("cap_a", rate=Rate("cap_a", 5.0, 10.0))
        second = story.grant("cap_b", narrowed(first, rate=(4.0, 8.0)), rate=Rate("cap_b", 100.0, 100.0))
        rates = narrowed(second, rate=(3.0, 6.0)).rates(story.state)
        assert [each.requests_per_second for each in rates] == [5.0, 4.0, 100.0, 3.0]
        assert len({each.id for each in rates}) == 4, "each in a bucket of its own"

    def test_a_tenant_grants_nothing_of_the_system(self, story: Story) -> None:
        for by in (OWN, ROOT, EMBEDDER):
            assert story.refused(Grant(by, TENANT, INC, "cap_a", "system", ("read",)), by) == "permission_denied"

    def test_the_system_grants_for_a_tenant_and_of_itself(self, story: Story) -> None:
        story.grant("cap_a", ROOT, "service:calc", ("call",))
        found = find_capability(story.state, INC, "cap_a")
        assert (found.parent, found.key_id) == ("cap_root", "key_1")
        operator = story.grant("cap_op", ROOT, "system", ("read",), tenant_id=None, incarnation=None)
        assert story.holds(operator) and operator.is_system
        assert find_capability(story.state, None, "cap_op").key_id == "key_root"
        own = system_capability(story.state)
        assert own is not None and own.capability_id == "cap_root", "what is granted of it is not it"
        wanted = Grant(ROOT, None, None, "cap_b", "tenant", ("read",))
        assert story.refused(wanted, ROOT) == "tenant_required"
        wanted = Grant(operator, None, None, "cap_b", "system", ("write",))
        assert story.refused(wanted, operator) == "permission_denied"
        story.check()

    def test_of_an_incarnation_that_is_gone(self, story: Story) -> None:
        for tenant_id, incarnation in ((TENANT, "inc_0"), ("nobody", INC)):
            wanted = Grant(ROOT, tenant_id, incarnation, "cap_a", "tenant", ("read",))
            assert story.refused(wanted, ROOT) == "tenant_not_found"

    @pytest.mark.parametrize("permissions", [(), ("fly",), ("read", "fly")])
    def test_of_what_there_is_not(self, story: Story, permissions: tuple[str, ...]) -> None:
        assert story.refused(Grant(OWN, TENANT, INC, "cap_a", "tenant", permissions), OWN) == "invalid_field"

    def test_only_so_many(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(capability_requests, "CAPABILITIES_PER_TENANT_MAX", 3)
        story.grant("cap_a")
        story.grant("cap_b")
        assert story.refused(Grant(OWN, TENANT, INC, "cap_c", "tenant", ("read",)), OWN) == "quota_exceeded"
        other = Authority("cap_2", "blau", "inc_2")
        story.grant("cap_of_blau", other, tenant_id="blau", incarnation="inc_2")
        story.revoke("cap_a")
        story.grant("cap_c")

    def test_only_so_deep(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(capability_requests, "DEPTH_MAX", 3)
        by = story.grant("cap_b", story.grant("cap_a"))
        assert story.refused(Grant(by, TENANT, INC, "cap_c", "tenant", ("read",)), by) == "quota_exceeded"
        story.grant("cap_c", narrowed(story.grant("cap_d")))


@pytest.fixture
def family(story: Story) -> dict[str, Authority]:
    """cap_1 -> a -> b -> c (through an attenuation of b), and a sibling of each: a2, b2, c2."""
    found = {"a": story.grant("cap_a"), "a2": story.grant("cap_a2")}
    found["b"] = story.grant("cap_b", found["a"])
    found["b2"] = story.grant("cap_b2", found["a"])
    found["c"] = story.grant("cap_c", narrowed(found["b"]))
    found["c2"] = story.grant("cap_c2", found["b"])
    return found


def holding(story: Story, family: dict[str, Authority]) -> set[str]:
    return {name for name, authority in family.items() if story.holds(authority)}


class TestRevoke:
    @pytest.mark.parametrize(
        ("name", "left"),
        [
            ("a", {"a2"}),
            ("b", {"a", "a2", "b2"}),
            ("c", {"a", "a2", "b", "b2", "c2"}),
            ("a2", set("abc") | {"b2", "c2"}),
        ],
    )
    def test_it_takes_what_descends_and_siblings_live(
        self, story: Story, family: dict[str, Authority], name: str, left: set[str]
    ) -> None:
        assert story.revoke(f"cap_{name}") == len(family) - len(left)
        assert holding(story, family) == left
        assert story.holds(OWN)
        for gone in set(family) - left:
            assert story.refused(Deploy(TENANT, "calc", ServiceSpec()), family[gone]) == "unauthenticated"
            assert story.refused(Revoke(INC, TENANT, OWN, f"cap_{gone}"), OWN) == "capability_not_found"
        story.check()

    def test_an_attenuation_goes_with_all_that_was_made_of_it(self, story: Story, family: dict[str, Authority]) -> None:
        one, other = narrowed(family["b"], 1), narrowed(family["b"], 2)
        further = narrowed(one, 3, service="calc")
        granted = story.grant("cap_d", further, "service:calc")
        below = story.grant("cap_e", narrowed(granted, 4), "service:calc")
        story.revoke_attenuation(one)
        assert [story.holds(each) for each in (one, further, granted, below, family["c"])] == [False] * 5
        assert story.holds(other) and holding(story, family) == set(family) - {"c"}
        story.check()

    def test_an_attenuation_of_the_tenants_own_token_too(self, story: Story) -> None:
        lent = narrowed(OWN)
        story.grant("cap_a", lent)
        assert story.revoke_attenuation(lent) == 1
        assert story.revoke_attenuation(lent) == 0, "again, it is"
        assert not story.holds(lent) and story.holds(OWN)

    def test_what_was_narrowed_by_another_library_without_an_id_is_revoked_by_itself(self, story: Story) -> None:
        by_hand = evolve(OWN, caveats=read_caveats(("permissions = read",), "cap_1") or Caveats())
        story.grant("cap_a", by_hand, "tenant", ("read",))
        assert story.revoke_attenuation(by_hand) == 1
        assert not story.holds(by_hand) and story.holds(OWN) and story.holds(narrowed(OWN))

    def test_writing_the_same_id_again_revokes_nobody_else(self, story: Story) -> None:
        """The holder of a child, or of anything else, knows the words of its parent; they name something else there."""
        parent = narrowed(OWN, 7)
        child = narrowed(parent, 8, service="calc")
        forged = narrowed(child, 7)
        elsewhere = narrowed(Authority("cap_2", "blau", "inc_2"), 7)
        story.revoke_attenuation(forged)
        story.submit(Submission(attenuation_of(elsewhere)))
        assert not story.holds(forged) and not story.holds(elsewhere)
        assert story.holds(child) and story.holds(parent)

    def test_a_shorter_life_of_a_child_does_not_end_the_revocation_of_its_parent(self, story: Story) -> None:
        lent = narrowed(OWN, 7)
        brief = evolve(
            lent, caveats=read_caveats((*lent.caveats.words, "time < 2023-11-14T22:13:21Z"), "cap_1") or Caveats()
        )
        assert story.holds(brief)
        story.revoke_attenuation(brief, expires_at_us=brief.expires_at_us(story.state))
        assert story.holds(lent)
        story.revoke_attenuation(lent, expires_at_us=lent.expires_at_us(story.state))
        story.pass_time(10.0)
        story.do(SweepExpired())
        assert not story.holds(lent)

    def test_who_may(self, story: Story, family: dict[str, Authority]) -> None:
        """Whoever has all of the tenant; else what was granted with what he has. The rest does not exist for him."""
        may = {
            "a": {"a", "b", "b2", "c", "c2"},
            "b": {"b", "c", "c2"},
            "c": {"c"},
            "a2": {"a2"},
        }
        for name, theirs in may.items():
            assert {
                each
                for each in family
                if may_handle(story.state, family[name], find_capability(story.state, INC, f"cap_{each}"))
            } == theirs
            for each in set(family) - theirs:
                command = Revoke(INC, TENANT, family[name], f"cap_{each}")
                assert story.refused(command, family[name]) == "capability_not_found"
        lent = narrowed(family["b"])  # the attenuation that `c` was granted through
        assert {
            each for each in family if may_handle(story.state, lent, find_capability(story.state, INC, f"cap_{each}"))
        } == {"c"}
        by_hand = evolve(family["b"], caveats=read_caveats(("permissions = grant",), "cap_b") or Caveats())
        assert not any(
            may_handle(story.state, by_hand, find_capability(story.state, INC, f"cap_{each}")) for each in family
        )
        for by in (OWN, ROOT, EMBEDDER):
            assert all(may_handle(story.state, by, each) for each in story.state.capabilities.values())

    def test_the_tenants_own_is_rotated_instead(self, story: Story) -> None:
        assert story.refused(Revoke(INC, TENANT, OWN, "cap_1"), OWN) == "permission_denied"
        assert story.refused(Revoke(None, None, ROOT, "cap_root"), ROOT) == "permission_denied"

    def test_another_tenants_does_not_exist(self, story: Story, family: dict[str, Authority]) -> None:
        for name in ("cap_a", "cap_1", "cap_root", "never-was", ""):
            command = Revoke("inc_2", "blau", Authority("cap_2", "blau", "inc_2"), name)
            assert story.refused(command) == "capability_not_found"

    def test_only_so_many_attenuations(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(capability_requests, "REVOKED_MAX", 1)
        story.revoke_attenuation(narrowed(OWN, 1))
        last = narrowed(OWN, 2)
        assert story.refused(attenuation_of(last), OWN) == "quota_exceeded"
        assert story.revoke_attenuation(narrowed(OWN, 1)) == 0, "one that is known is no more"

    def test_it_holds_in_the_same_batch(self, story: Story, family: dict[str, Authority]) -> None:
        """Nothing of this draft was committed: what is staged after the revocation is decided with it."""
        committed = story.state
        story.revoke("cap_a")
        for name in ("a", "b", "c"):
            assert story.refused(Deploy(TENANT, "calc", ServiceSpec()), family[name]) == "unauthenticated"
            assert family[name].holds(committed, story.at_us)
        assert story.refused(Grant(family["b"], TENANT, INC, "cap_z", "tenant", ("read",)), family["b"]) == (
            "unauthenticated"
        )
        lent = narrowed(OWN)
        story.revoke_attenuation(lent)
        assert story.refused(Deploy(TENANT, "calc", ServiceSpec()), lent) == "unauthenticated"
        story.submit(Submission(Deploy(TENANT, "calc", ServiceSpec()), OWN))

    def test_works_on_a_full_disk(self) -> None:
        assert Revoke.RESERVED and RotateToken.RESERVED and not Grant.RESERVED and not SweepExpired.RESERVED


class TestSweep:
    def test_only_what_expired_is_forgotten(self, story: Story) -> None:
        soon = story.grant("cap_soon", ttl_us=1_000_000)
        late = story.grant("cap_late", ttl_us=2_000_000)
        never = story.grant("cap_never")
        below = story.grant("cap_below", soon)
        story.pass_time(0.999_999)
        assert story.do(SweepExpired()) == () and story.reply is False
        assert all(story.holds(each) for each in (soon, late, never, below))
        story.pass_time(0.000_001)
        assert not story.holds(soon) and not story.holds(below), "worthless at once"
        assert story.types(SweepExpired()) == ["capability_expired"] and story.reply is True
        assert set(story.state.capabilities) == {"cap_root", "cap_1", "cap_2", "cap_late", "cap_never"}
        assert story.do(SweepExpired()) == () and story.reply is False
        assert story.records[-1].stored.tenant_id == TENANT
        assert story.dropped() == [], "the tenant's own is made with the key"
        story.check()

    def test_each_tenant_is_told_of_its_own(self, story: Story) -> None:
        story.grant("cap_a", ttl_us=1)
        story.grant("cap_b", Authority("cap_2", "blau", "inc_2"), tenant_id="blau", incarnation="inc_2", ttl_us=1)
        story.grant("cap_op", ROOT, "system", ("read",), tenant_id=None, incarnation=None, ttl_us=1)
        story.pass_time(1)
        known = len(story.records)
        story.do(SweepExpired())
        told = {each.stored.tenant_id: each.event for each in story.records[known:]}
        assert {tenant: getattr(event, "capability_ids", ()) for tenant, event in told.items()} == {
            None: ("cap_op",),
            TENANT: ("cap_a",),
            "blau": ("cap_b",),
        }

    def test_revocations_are_forgotten_when_no_token_can_have_them(self, story: Story) -> None:
        until = story.at_us + 1_000_000
        brief, lasting = narrowed(OWN, 1, expires_at_us=until), narrowed(OWN, 2)
        story.revoke_attenuation(brief, until)
        story.revoke_attenuation(lasting)
        story.pass_time(1.0)
        story.do(SweepExpired())
        assert dict(story.state.capabilities["cap_1"].revoked) == {lasting.caveats.ids[-1]: 0}
        assert not story.holds(brief) and not story.holds(lasting)
        story.check()

    def test_a_bounded_number_at_once(self, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(capability_requests, "SWEEP_IDS_MAX", 2)
        for number in range(5):
            story.grant(f"cap_x{number}", ttl_us=1)
        story.pass_time(1)
        forgotten = []
        while story.do(SweepExpired()):
            forgotten.append(getattr(story.records[-1].event, "capability_ids", ()))
        assert forgotten == [("cap_x0", "cap_x1"), ("cap_x2", "cap_x3"), ("cap_x4",)]

    def test_a_key_goes_with_the_last_that_is_made_with_it(self, story: Story) -> None:
        story.grant("cap_soon", ttl_us=1_000_000)
        story.grant("cap_late", ttl_us=2_000_000)
        story.do(RotateToken(TENANT, INC, "cap_new", key("key_new"), keep=True))
        assert story.dropped() == []
        story.pass_time(1)
        story.do(SweepExpired())
        assert story.dropped() == []
        story.pass_time(1)
        story.do(SweepExpired())
        assert story.dropped() == ["key_1"]


class TestRotate:
    def rotate(self, story: Story, *, keep: bool, name: str = "new") -> Authority:
        story.submit(Submission(RotateToken(TENANT, INC, f"cap_{name}", key(f"key_{name}"), keep), OWN))
        assert story.reply == f"cap_{name}"
        return Authority(f"cap_{name}", TENANT, INC)

    def test_everything_goes_with_the_old_one(self, story: Story, family: dict[str, Authority]) -> None:
        new = self.rotate(story, keep=False)
        assert story.holds(new) and not story.holds(OWN) and not holding(story, family)
        assert set(story.state.capabilities) == {"cap_root", "cap_2", "cap_new"}
        tenant = story.state.tenants[TENANT]
        assert (tenant.capability_id, tenant.key_id) == ("cap_new", "key_new")
        assert key("key_new") in story.draft.attachments and story.dropped() == ["key_1"]
        assert story.refused(RotateToken(TENANT, INC, "cap_x", key("key_x"), True), OWN) == "unauthenticated"
        story.check()

    def test_what_was_granted_may_stay(self, story: Story, family: dict[str, Authority]) -> None:
        new = self.rotate(story, keep=True)
        assert story.holds(new) and not story.holds(OWN) and holding(story, family) == set(family)
        assert find_capability(story.state, INC, "cap_a").parent == "cap_new"
        assert find_capability(story.state, INC, "cap_b").parent == "cap_a"
        assert story.dropped() == [], "their tokens are made with the old key"
        assert story.revoke("cap_a", new) == 5
        assert story.revoke("cap_a2", new) == 1
        assert story.dropped() == ["key_1"], "nothing is made with it any more"
        story.check()

    def test_attenuations_of_the_old_token_go_and_what_they_granted_may_stay(self, story: Story) -> None:
        lent = narrowed(OWN)
        granted = story.grant("cap_a", lent)
        new = self.rotate(story, keep=True)
        assert not story.holds(lent) and story.holds(granted)
        assert story.revoke("cap_a", new) == 1

    def test_again_and_again(self, story: Story) -> None:
        for number in range(3):
            story.do(RotateToken(TENANT, INC, f"cap_n{number}", key(f"key_n{number}"), keep=bool(number % 2)))
        assert story.dropped() == ["key_1", "key_n0", "key_n1"]
        assert set(story.state.capabilities) == {"cap_root", "cap_2", "cap_n2"}

    @pytest.mark.parametrize("keep", [False, True])
    def test_the_systems(self, story: Story, keep: bool) -> None:
        operator = story.grant("cap_op", ROOT, "system", ("read",), tenant_id=None, incarnation=None)
        for_tenant = story.grant("cap_a", ROOT, "service:calc", ("call",))
        story.submit(Submission(RotateToken(None, None, "cap_new", key("key_new", ""), keep), ROOT))
        assert not story.holds(ROOT) and story.holds(Authority("cap_new")) and story.holds(OWN)
        assert story.holds(operator) == story.holds(for_tenant) == keep
        own = system_capability(story.state)
        assert own is not None and (own.capability_id, own.key_id) == ("cap_new", "key_new")
        assert story.dropped() == ([] if keep else ["key_root"])
        story.check()

    def test_of_a_tenant_or_a_system_that_is_not_there(self, story: Story) -> None:
        for tenant_id, incarnation in (("nobody", INC), (TENANT, "inc_0")):
            command = RotateToken(tenant_id, incarnation, "cap_x", key("key_x"), False)
            assert story.refused(command, ROOT) == "tenant_not_found"
        fresh = Story()
        fresh.start_system()
        assert fresh.refused(RotateToken(None, None, "cap_x", key("key_x"), False)) == "permission_denied"


def test_descendants_are_those_of_all_that_are_named(story: Story, family: dict[str, Authority]) -> None:
    assert descendants(story.state, ["cap_b", "cap_a2", "never-was"]) == {"cap_b", "cap_c", "cap_c2", "cap_a2"}
    assert descendants(story.state, []) == frozenset()


def test_authority_is_of_its_incarnation(story: Story) -> None:
    for wrong in (Authority("cap_1", TENANT, "inc_2"), Authority("cap_1"), Authority("cap_root", TENANT, INC)):
        assert not story.holds(wrong)


class TestBounds:
    """What one credential may pile up: never so much that it could no longer be revoked."""

    def test_however_many_descend_from_it_one_event_revokes_them(self, story: Story) -> None:
        leaked = story.grant("cap_leaked", OWN, "capability", ("grant",))
        for number in range(2_000):
            story.grant(f"cap_{number:032x}", leaked, "capability", ("grant",))
        assert story.revoke("cap_leaked") == 2_001
        assert len(story.records[-1].stored.payload or b"") < 1_000
        assert set(story.state.held[INC]) == {"cap_1"}
        story.check()

    def test_chains_of_caveats_and_rates_end(self, story: Story) -> None:
        by, code = OWN, ""
        for number in range(1, 33):
            narrow = by
            for _ in range(8):
                narrow = narrowed(narrow, number)
            command = Grant(narrow, TENANT, INC, f"cap_x{number}", "tenant", ("*",))
            try:
                story.submit(Submission(command, narrow))
            except Rejected as refusal:
                code = refusal.code
                break
            by = Authority(f"cap_x{number}", TENANT, INC)
        assert code == "quota_exceeded"
        assert all(len(each.through) <= capability_requests.CHAIN_MAX for each in story.state.capabilities.values())

    def test_revocations_of_one_capability_leave_room_for_those_of_another(
        self, story: Story, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(capability_requests, "REVOKED_MAX", 1)
        weak = story.grant("cap_weak", OWN, "logs", ("read",))
        story.revoke_attenuation(narrowed(weak, 1, permissions=frozenset({"read"})))
        more = narrowed(weak, 2, permissions=frozenset({"read"}))
        assert story.refused(attenuation_of(more), weak) == "quota_exceeded"
        assert story.revoke_attenuation(narrowed(OWN, 3)) == 0
        story.revoke("cap_weak")
        assert story.grant("cap_weak", OWN, "logs", ("read",)) and not len(story.state.capabilities["cap_weak"].revoked)


def test_what_the_embedding_application_grants_descends_from_the_tenants_own(story: Story) -> None:
    granted = story.grant("cap_e", EMBEDDER)
    assert story.state.capabilities["cap_e"].parent == "cap_1"
    assert story.refused(Revoke(INC, TENANT, granted, "cap_1"), granted) == "capability_not_found"


def test_services_keep_what_they_were_deployed_with_through_a_rotation_that_keeps(story: Story) -> None:
    lent, revoked = narrowed(OWN, 1, resource="service:*"), narrowed(OWN, 2, resource="service:*")
    for name, by in (("kept", lent), ("dead", revoked)):
        story.submit(Submission(Deploy(TENANT, name, ServiceSpec(), authority=by), by))
    story.revoke_attenuation(revoked)
    story.do(RotateToken(TENANT, INC, "cap_new", key("key_new"), keep=True))
    allowed = {}
    for name in ("kept", "dead"):
        grantor = story.state.tenants[TENANT].services[name].grantor
        assert grantor is not None
        authority = grantor.authority(story.state)
        allowed[name] = authority is not None and story.holds(authority)
    assert allowed == {"kept": True, "dead": False}
    story.check()
