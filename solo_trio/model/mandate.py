"""What a call carries. Owns: on whose authority it is made, which services passed it on. Never: widens.

A call that a service makes for a call of its own carries the authority of that call, and the service's own beside it: each step
is one condition more. What is asked of it is looked at when it is used, in the state of that moment, so that whatever was
revoked meanwhile counts. See `docs/decisions/0012-the-authority-of-a-call.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import evolve, frozen

from solo_trio.errors import Rejected
from solo_trio.model.capability import Authority
from solo_trio.model.event import Now
from solo_trio.model.service_lookup import demand_of_service
from solo_trio.model.tenant import TenantState

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

SERVICES_PASSED_MAX: Final = 32
"""Different services, one behind the other, in one call."""

Kind = Literal["credential", "service", "application"]


@frozen
class Passed:
    """A deployment of a service of the tenant, which made the call or passed it on."""

    service_id: str
    deployment: int


@frozen
class Mandate:
    """`authority`: of the credential that a call began with; None: a service began it by itself, the first of `passed`.

    `passed`: the services on the way, in order, each once; the last is the one that calls. `tenant_id`: the credential's, or
    the service's; None for the system's and for the embedding application.
    """

    authority: Authority | None
    tenant_id: str | None
    passed: tuple[Passed, ...] = ()

    @classmethod
    def of(cls, authority: Authority) -> Mandate:
        return cls(authority, authority.tenant_id)

    @classmethod
    def of_service(cls, tenant_id: str, service_id: str, deployment: int) -> Mandate:
        """What a service calls with by itself."""
        return cls(None, tenant_id, (Passed(service_id, deployment),))

    def through(self, service_id: str, deployment: int) -> Mandate:
        """The same call, passed on by that service. Raises `Rejected("permission_denied")` for one too many."""
        found = Passed(service_id, deployment)
        others = tuple(each for each in self.passed if each != found)
        if len(others) >= SERVICES_PASSED_MAX:
            raise Rejected("permission_denied", f"a call goes through at most {SERVICES_PASSED_MAX} services")
        return evolve(self, passed=(*others, found))

    def demand(self, state: KernelState, tenant: TenantState, resource: str, permission: str, now: Now) -> None:
        """Raise `Rejected("permission_denied")` unless everybody on the way has that right, at this moment."""
        for each in self.passed:
            demand_of_service(state, tenant, each.service_id, each.deployment, resource, permission, now)
        if self.authority is None:
            assert self.passed, "somebody makes a call"
            return
        if not (self.authority.holds(state, now.at_us) and self.authority.allows(state, resource, permission)):
            raise Rejected(
                "permission_denied",
                f"the credential that this call was made with does not have '{permission}' of {resource}, or no longer;"
                " what a service calls by itself, whoever called it, it calls with ctx.own.call",
            )

    def allows(self, state: KernelState, tenant: TenantState, resource: str, permission: str, now: Now) -> bool:
        try:
            self.demand(state, tenant, resource, permission, now)
        except Rejected:
            return False
        return True

    def view(self) -> dict[str, Any]:
        """What the called service is told: who, and nothing that a token could be made of."""
        authority = self.authority
        kind: Kind = "credential"
        if authority is None:
            kind = "service"
        elif authority.capability_id is None:
            kind = "application"
        return {
            "kind": kind,
            "tenant_id": self.tenant_id,
            "capability_id": None if authority is None else authority.capability_id,
            "attenuations": [] if authority is None else list(authority.caveats.ids),
            "services": [each.service_id for each in self.passed],
        }


NOBODYS: Final = Mandate(Authority(capability_id="nobody"), None)
"""It may nothing."""
