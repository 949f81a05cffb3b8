"""Operations on capabilities. Owns: granting, narrowing, looking, revoking; what a token says of itself. Never: an HMAC."""

from __future__ import annotations

from typing import Any, Final

import orjson
from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.kernel.staging import Repeated
from solo_trio.model.capability import Authority, Capability, earliest, may_handle, of_tenant
from solo_trio.model.capability_requests import Grant, Revoke, RevokeAttenuation, find_capability
from solo_trio.model.caveat import ATTENUATION_ID, Rate, check_rate, links, write_caveats
from solo_trio.model.instant import LATEST_US, rfc3339
from solo_trio.model.rights import check_right
from solo_trio.model.state import KernelState
from solo_trio.operations.caller import Caller, authority_of
from solo_trio.operations.paging import PAGE_DEFAULT, check_page
from solo_trio.operations.table import Answer, body, operation, path, query
from solo_trio.vault.tokens import narrow_token

METADATA_BYTES_MAX: Final = 4_096
TTL_S_MAX: Final = 100 * 366 * 86_400


@frozen
class RateLimit:
    """`burst`: how many at once, by default as many as a second allows, and at least one."""

    requests_per_second: float
    burst: float | None = None

    def pair(self) -> tuple[float, float]:
        """Raises `Rejected("invalid_field")`."""
        burst = max(1.0, self.requests_per_second) if self.burst is None else self.burst
        check_rate(self.requests_per_second, burst)
        return self.requests_per_second, burst


@frozen
class CreateCapabilityInput:
    resource: str = body()
    permissions: list[str] = body()
    ttl_s: float | None = body(None)
    rate_limit: RateLimit | None = body(None)
    metadata: dict[str, Any] = body(factory=dict)


@operation(
    "POST",
    "/capabilities",
    scope="either",
    input=CreateCapabilityInput,
    mutates=True,
    right=("capability", "grant"),
)
async def create_capability(caller: Caller, given: CreateCapabilityInput) -> Answer:
    """Grant a right that the caller has; the answer holds its token, which is not shown again."""
    if len(orjson.dumps(given.metadata)) > METADATA_BYTES_MAX:
        raise Rejected("invalid_field", f"metadata may have {METADATA_BYTES_MAX} bytes as JSON")
    capability_id = caller.system.keyring.new_id()
    rate = None if given.rate_limit is None else Rate(capability_id, *given.rate_limit.pair())
    reply = await caller.submit(
        Grant(
            caller.authority,
            caller.tenant_id,
            caller.incarnation,
            capability_id,
            given.resource,
            tuple(given.permissions),
            _ttl_us(given.ttl_s),
            rate,
            given.metadata,
        )
    )
    if isinstance(reply, Repeated):
        stored = await caller.stored_event(reply.event_id)
        reply = "" if stored is None else stored.subject or ""
    state = caller.core.loop.state
    capability = find_capability(state, caller.incarnation, reply)
    if not _granted_by(state, caller.authority, capability):
        raise Rejected("idempotency_conflict", "another credential used this Idempotency-Key; use a new one")
    token = caller.system.keyring.mint(capability.key_id, capability.capability_id)
    return Answer(capability_view(capability) | {"token": token.reveal_text()}, 201)


@frozen
class ListCapabilitiesInput:
    limit: int = query(PAGE_DEFAULT)
    cursor: str | None = query(None)


@operation("GET", "/capabilities", scope="either", input=ListCapabilitiesInput, right=("capability", "grant"))
async def list_capabilities(caller: Caller, given: ListCapabilitiesInput) -> Answer:
    """List the capabilities of the tenant that the caller may revoke, sorted by id."""
    limit = check_page(given.limit)
    if given.cursor is not None and ATTENUATION_ID.fullmatch(given.cursor) is None:
        raise Rejected("invalid_field", "cursor must be the `next` of an earlier page")
    state, authority = caller.core.loop.state, caller.authority
    found = sorted(
        each.capability_id
        for each in of_tenant(state, caller.incarnation)
        if (given.cursor is None or each.capability_id > given.cursor) and may_handle(state, authority, each)
    )
    page = [capability_view(state.capabilities[each]) for each in found[:limit]]
    return Answer({"capabilities": page, "next": found[limit - 1] if len(found) > limit else None})


@frozen
class CapabilityInput:
    capability_id: str = path()


@operation("GET", "/capabilities/{capability_id}", scope="either", input=CapabilityInput, right=("capability", "grant"))
async def show_capability(caller: Caller, given: CapabilityInput) -> Answer:
    """Show one capability; never its token."""
    state = caller.core.loop.state
    capability = find_capability(state, caller.incarnation, _checked_id(given.capability_id))
    if not may_handle(state, caller.authority, capability):
        raise Rejected("capability_not_found", "look at the list of capabilities")
    return Answer(capability_view(capability))


@operation(
    "DELETE",
    "/capabilities/{capability_id}",
    scope="either",
    input=CapabilityInput,
    mutates=True,
    right=("capability", "grant"),
)
async def revoke_capability(caller: Caller, given: CapabilityInput) -> Answer:
    """Revoke a capability and all that descend from it; answered once that is recorded."""
    found = _checked_id(given.capability_id)
    count = await caller.submit(Revoke(caller.incarnation, caller.tenant_id, caller.authority, found))
    return Answer({"id": given.capability_id, "revoked": 1 if isinstance(count, Repeated) else count})


@frozen
class RevokeTokenInput:
    token: str = body()


@operation("POST", "/capabilities/revoke", scope="either", input=RevokeTokenInput, mutates=True, right="holder")
async def revoke_token(caller: Caller, given: RevokeTokenInput) -> Answer:
    """Revoke what a token stands for: its last attenuation by itself, or the capability if it was never narrowed.

    Whoever holds a token may do that with it.
    """
    capability, authority = _known(caller, given.token)
    attenuation_id = authority.caveats.ids[-1] if authority.caveats.ids else None
    if attenuation_id is None:
        await caller.submit(Revoke(caller.incarnation, caller.tenant_id, authority, capability.capability_id))
    else:
        expires = earliest(capability.expires_at_us, authority.caveats.expires_at_us)
        await caller.submit(
            RevokeAttenuation(caller.incarnation, caller.tenant_id, capability.capability_id, attenuation_id, expires)
        )
    return Answer({"id": attenuation_id or capability.capability_id, "revoked": 1})


@frozen
class VerifyInput:
    token: str = body()
    resource: str = body()
    permission: str = body()


@operation("POST", "/capabilities/verify", scope="either", input=VerifyInput, right="holder")
async def verify_capability(caller: Caller, given: VerifyInput) -> Answer:
    """Tell whether a token of this tenant allows something now; of an invalid one never why it is invalid."""
    check_right(given.resource, [given.permission])
    try:
        _, authority = _known(caller, given.token)
    except Rejected:
        return Answer({"allowed": False, "reason": "invalid"})
    allowed = authority.allows(caller.core.loop.state, given.resource, given.permission)
    return Answer({"allowed": allowed, "reason": "allowed" if allowed else "permission_denied"})


@frozen
class AttenuateInput:
    token: str = body()
    permissions: list[str] | None = body(None)
    resource: str | None = body(None)
    service: str | None = body(None)
    ttl_s: float | None = body(None)
    rate_limit: RateLimit | None = body(None)


@operation("POST", "/capabilities/attenuate", scope="either", input=AttenuateInput, right="holder")
async def attenuate_capability(caller: Caller, given: AttenuateInput) -> Answer:
    """Narrow a token; the same as its holder can do offline. Nothing is recorded."""
    ttl_us = _ttl_us(given.ttl_s)
    expires = None if ttl_us is None else caller.core.loop.now().at_us + ttl_us
    words = write_caveats(
        caller.system.keyring.new_id(),
        permissions=None if given.permissions is None else frozenset(given.permissions),
        resource=given.resource,
        expires_at_us=expires,
        rate=None if given.rate_limit is None else given.rate_limit.pair(),
        service=given.service,
    )
    capability, authority = _known(caller, given.token)
    try:
        token = narrow_token(given.token, words)
    except ValueError as error:
        raise Rejected("invalid_field", f"the token cannot be narrowed further: {error}") from None
    latest = earliest(earliest(capability.expires_at_us, authority.caveats.expires_at_us), expires)
    attenuation_id = links(authority.caveats.words + words, capability.capability_id)[-1]
    return Answer({"id": attenuation_id, "token": token.reveal_text(), "expires_at": _time(latest)})


def _granted_by(state: KernelState, authority: Authority, capability: Capability) -> bool:
    """Whether exactly that authority granted it."""
    held = state.capabilities.get(authority.capability_id or "")
    through = (() if held is None else held.through) + authority.caveats.ids
    return capability.parent == authority.capability_id and capability.through == through


def _known(caller: Caller, text: str) -> tuple[Capability, Authority]:
    """What a token stands for, if it is valid and of the caller's tenant. Raises `Rejected("token_invalid")`."""
    authority = authority_of(caller.system, text)
    if authority is None or authority.incarnation != caller.incarnation:
        raise Rejected("token_invalid", "send a token of this tenant that is neither expired nor revoked")
    return caller.core.loop.state.capabilities[authority.capability_id or ""], authority


def _checked_id(capability_id: str) -> str:
    if ATTENUATION_ID.fullmatch(capability_id) is None:
        raise Rejected("invalid_id", "the id of a capability is 32 characters of 0-9 and a-f")
    return capability_id


def _ttl_us(ttl_s: float | None) -> int | None:
    if ttl_s is None:
        return None
    if not 0 < ttl_s <= TTL_S_MAX:
        raise Rejected("invalid_field", f"ttl_s must be more than 0 and at most {TTL_S_MAX} (leave it out: no end)")
    return round(ttl_s * 1_000_000)


def capability_view(capability: Capability) -> dict[str, Any]:
    """What is shown of one; ids are no secrets."""
    return {
        "id": capability.capability_id,
        "tenant_id": capability.tenant_id,
        "resource": capability.resource,
        "permissions": list(capability.permissions),
        "parent": capability.parent,
        "through": list(capability.through),
        "granted_at": rfc3339(capability.granted_at_us),
        "expires_at": _time(capability.expires_at_us),
        "rate_limits": [
            {"requests_per_second": each.requests_per_second, "burst": each.burst} for each in capability.rates
        ],
        "metadata": capability.metadata,
    }


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else rfc3339(min(at_us, LATEST_US))
