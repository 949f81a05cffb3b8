"""Capabilities. Owns: their slice, who a caller is and what it may. Never: keys or tokens (the log must not rebuild one)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen
from rpds import HashTrieMap

from solo_trio.errors import Rejected
from solo_trio.model.caveat import NONE, Caveats, Rate, read_caveats
from solo_trio.model.evolving import evolve
from solo_trio.model.rights import Right

if TYPE_CHECKING:
    from solo_trio.model.state import KernelState

CAPABILITIES_PER_TENANT_MAX: Final = 20_000
REVOKED_MAX: Final = 10_000
"""Attenuations of one capability's tokens that were revoked by themselves and have not expired."""
CHAIN_MAX: Final = 64
"""Of attenuations and rates that a capability has from all those above it."""


@frozen
class Capability:
    """A right that somebody holds a token for.

    `parent`: what it was granted with, None for the system's and each tenant's own. `through`: the attenuations that the
    token had with which it was granted; revoking one of them revokes it. `expires_at_us`, `rates`: of the whole chain above it
    too, so that one look at a capability tells everything save whether it is still there: with it go all that descend from it.
    """

    capability_id: str
    key_id: str
    resource: str
    permissions: tuple[str, ...]
    tenant_id: str | None
    incarnation: str | None
    parent: str | None = None
    through: tuple[str, ...] = ()
    granted_at_us: int = 0
    expires_at_us: int | None = None
    rates: tuple[Rate, ...] = ()
    metadata: dict[str, Any] = field(factory=dict)
    revoked: HashTrieMap[str, int] = field(factory=HashTrieMap)
    """Attenuations of its tokens that were revoked by themselves -> when every token with it has expired (0: never)."""

    @property
    def right(self) -> Right:
        return Right(self.resource, frozenset(self.permissions))


@frozen
class Authority:
    """Who asks: the capability that authenticated the caller and the caveats of its token, looked at again at each decision.

    `capability_id` None: the embedding application itself. `tenant_id` None: the system.
    """

    capability_id: str | None = None
    tenant_id: str | None = None
    incarnation: str | None = None
    caveats: Caveats = NONE

    @property
    def is_system(self) -> bool:
        return self.tenant_id is None

    def check(self, state: KernelState, at_us: int) -> None:
        """Raise `Rejected("unauthenticated")` if in `state`, at that time, it is no longer valid: revoked, expired, gone."""
        if not self.holds(state, at_us):
            raise Rejected("unauthenticated", "the token is no longer valid; ask for a new one")

    def holds(self, state: KernelState, at_us: int) -> bool:
        if self.capability_id is None:
            return True
        held = state.capabilities.get(self.capability_id)
        if held is None or held.incarnation != self.incarnation:
            return False
        expires = self.expires_at_us(state)
        return (expires is None or at_us < expires) and not any(each in held.revoked for each in self.caveats.ids)

    def allows(self, state: KernelState, resource: str, permission: str) -> bool:
        """Whether it has `permission` of `resource`, as far as rights go; time and revocation are `check`'s."""
        right = self._right(state)
        return right is None or (right.covers(resource, permission) and self.caveats.allow(resource, permission))

    def touches(self, state: KernelState, kind: str, permission: str) -> bool:
        """Whether it has `permission` of some resource of that kind."""
        right = self._right(state)
        return right is None or (
            right.touches(kind, permission) and self.caveats.allow_permission(permission) and self.caveats.touch(kind)
        )

    def rates(self, state: KernelState) -> tuple[Rate, ...]:
        """All that its use is limited to, each in a bucket of its own."""
        held = state.capabilities.get(self.capability_id or "")
        return self.caveats.rates if held is None else held.rates + self.caveats.rates

    def expires_at_us(self, state: KernelState) -> int | None:
        held = state.capabilities.get(self.capability_id or "")
        return earliest(None if held is None else held.expires_at_us, self.caveats.expires_at_us)

    def _right(self, state: KernelState) -> Right | None:
        """None: everything."""
        if self.capability_id is None:
            return None
        held = state.capabilities.get(self.capability_id)
        if held is None:
            return Right("", frozenset())
        return held.right.narrowed(self.caveats.permissions) if self.caveats.of_all else held.right


EMBEDDER = Authority()
NONE_HELD: Final[HashTrieMap[str, str]] = HashTrieMap()


def of_tenant(state: KernelState, incarnation: str | None) -> Iterable[Capability]:
    """The capabilities of one tenant (None: the system's), in no order."""
    return (state.capabilities[name] for name in state.held.get(incarnation or "", NONE_HELD))


@frozen
class Grantor:
    """What a service was deployed with, where that was not the whole tenant: it may do no more itself.

    `words`: the caveats of the token, as they are written.
    """

    capability_id: str
    words: tuple[str, ...] = ()

    def authority(self, state: KernelState) -> Authority | None:
        """None once the capability is gone."""
        held = state.capabilities.get(self.capability_id)
        caveats = read_caveats(self.words, self.capability_id)
        assert caveats is not None, "only what was understood is recorded"
        return None if held is None else Authority(self.capability_id, held.tenant_id, held.incarnation, caveats)


def has_all(state: KernelState, authority: Authority) -> bool:
    """Whether it is the tenant's or the system's own token, never narrowed, or the embedding application."""
    held = state.capabilities.get(authority.capability_id or "")
    return authority.capability_id is None or (held is not None and held.parent is None and not authority.caveats.words)


def grantor_of(state: KernelState, authority: Authority) -> Grantor | None:
    if has_all(state, authority) or authority.capability_id is None:
        return None
    return Grantor(authority.capability_id, authority.caveats.words)


def may_handle(state: KernelState, authority: Authority, capability: Capability) -> bool:
    """Whether that capability is among those that `authority` sees and revokes.

    Whoever has all of the tenant, or of the system: every one; others those that were granted with what they have, and itself.
    """
    held = state.capabilities.get(authority.capability_id or "")
    if has_all(state, authority):
        return True
    if not set(authority.caveats.ids) <= set(capability.through):
        return capability is held and not authority.caveats.words
    above: Capability | None = capability
    while above is not None and held is not None:
        if above is held:
            return True
        above = state.capabilities.get(above.parent or "")
    return False


def earliest(one: int | None, other: int | None) -> int | None:
    """The earlier of two times, where None is never."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def descendants(state: KernelState, capability_ids: Iterable[str]) -> frozenset[str]:
    """These capabilities and all that were granted with them, and with those."""
    waiting = [name for name in capability_ids if name in state.capabilities]
    tenants = {state.capabilities[name].incarnation or "" for name in waiting}
    if "" in tenants:  # the system grants in every tenant; a tenant in its own only
        tenants = set(state.held)
    children: dict[str, list[str]] = {}
    for whose in tenants:
        for name, parent in state.held.get(whose, NONE_HELD).items():
            children.setdefault(parent, []).append(name)
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += children.get(name, ())
    return frozenset(found)


def with_one_more(state: KernelState, capability: Capability) -> KernelState:
    capabilities = state.capabilities.insert(capability.capability_id, capability)
    whose = capability.incarnation or ""
    own = state.held.get(whose, NONE_HELD).insert(capability.capability_id, capability.parent or "")
    return evolve(state, capabilities=capabilities, held=state.held.insert(whose, own))


def without(state: KernelState, capability_ids: Iterable[str]) -> KernelState:
    capabilities, held = state.capabilities, state.held
    for each in capability_ids:
        capability = capabilities.get(each)
        if capability is None:
            continue
        capabilities = capabilities.remove(each)
        whose = capability.incarnation or ""
        left = held[whose].remove(each)
        held = held.insert(whose, left) if len(left) else held.remove(whose)
    return evolve(state, capabilities=capabilities, held=held)


def system_capability(state: KernelState) -> Capability | None:
    """The system's own capability (the one that `admin.token` holds a token for)."""
    return state.capabilities.get(state.system.capability_id or "")
