"""Performing an operation. Owns: the steps every request takes, in order. Never: knows the gateway.

authenticate -> is there room for it, is it within its rate -> may this credential do it -> which tenant -> is it well formed
-> the operation itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import evolve, field, frozen

from solo_trio.errors import Rejected
from solo_trio.model.capability import Authority
from solo_trio.model.certificate import Certificate
from solo_trio.operations import catalogue  # noqa: F401  (fills the table)
from solo_trio.operations.auditing import Attempt
from solo_trio.operations.caller import (
    Caller,
    System,
    authenticate,
    check_right,
    check_scope,
    choose_tenant,
    idempotency_of,
)
from solo_trio.operations.inputs import structure
from solo_trio.operations.table import OPERATIONS, Answer, EventStream, LogStream, Operation, TextAnswer

_PATIENCE: Final = frozenset({"wait", "grace_ms", "force"})
"""What may differ between asking and asking again for the same thing."""
NOBODY: Final = Authority(capability_id="nobody")
_REVISION: Final = re.compile(r'(?:W/)?"([0-9]{1,18})"|([0-9]{1,18})', re.ASCII)


@frozen
class Request:
    """What any gateway brings: texts as they arrived, and the body parsed (None: there was none)."""

    token: str | None = field(default=None, repr=False)
    tenant_id: str | None = None
    route: dict[str, str] = field(factory=dict)
    query: dict[str, str] = field(factory=dict)
    body: Any = field(default=None, repr=False)
    idempotency_key: str | None = None
    if_match: str | None = None
    request_id: str | None = None
    certificate: Certificate | None = None
    """The client's, verified; a gateway takes it from the connection, never from what was sent on it."""
    peer: str | None = None
    """From where it came, as far as the gateway itself sees that."""
    attempt: Attempt | None = field(default=None, repr=False)
    """Of a gateway that follows more of the call than `perform` does, and began before."""


def attempt(
    system: System, operation: Operation, route: Mapping[str, str], request_id: str | None, peer: str | None
) -> Attempt:
    """One call, to be recorded when it is left: `with attempt(...) as followed:`."""
    followed = Attempt(system.core, system.audit, operation, request_id, peer)
    followed.about(route.get)
    return followed


def admit(
    system: System, operation: Operation, token: str | None, followed: Attempt, certificate: Certificate | None = None
) -> None:
    """Refuse whoever may not do it at all, or not now; for a gateway to ask before it spends anything on the body."""
    if operation.scope != "open":
        authority = _known(system, token, certificate, followed)
        check_scope(operation, authority)
        system.admission.expect(authority)


def _known(system: System, token: str | None, certificate: Certificate | None, followed: Attempt) -> Authority:
    try:
        authority = authenticate(system, token, certificate)
    except Rejected:
        if token is not None or certificate is not None:
            system.admission.guessed(followed.peer)
        raise
    followed.who(authority)
    return authority


async def perform(
    system: System, operation: Operation, request: Request
) -> Answer | TextAnswer | EventStream | LogStream:
    """Do it, and record that. Raises `SoloError`; anything else is a defect for the gateway to contain."""
    if request.attempt is not None:
        return await _perform(system, operation, request, request.attempt)
    with attempt(system, operation, request.route, request.request_id, request.peer) as followed:
        return await _perform(system, operation, request, followed)


async def _perform(
    system: System, operation: Operation, request: Request, followed: Attempt
) -> Answer | TextAnswer | EventStream | LogStream:
    if operation.scope == "open":  # health answers whatever else is going on
        caller = Caller(system, NOBODY, request_id=request.request_id)
        return await _do(caller, operation, request, followed)
    authority = _known(system, request.token, request.certificate, followed)
    with system.admission.place(authority):
        return await _do(_caller(system, operation, request, authority, followed), operation, request, followed)


async def _do(
    caller: Caller, operation: Operation, request: Request, followed: Attempt
) -> Answer | TextAnswer | EventStream | LogStream:
    body = request.body
    if isinstance(body, dict) and operation.scope != "system":  # its `tenant_id` is for choosing the tenant, done above
        body = {name: value for name, value in body.items() if name != "tenant_id"}
    given = structure(operation.input, route=request.route, query=request.query, body=body)
    followed.about(lambda name: getattr(given, name, None))
    if operation.scope != "open":
        check_right(operation, caller, given)
    answer = await operation.handler(caller, given)
    if isinstance(answer, Answer):
        followed.status = answer.status
    assert isinstance(answer, Answer | TextAnswer | EventStream | LogStream)
    return answer if isinstance(answer, Answer | TextAnswer) else evolve(answer, authority=caller.authority)


def _caller(system: System, operation: Operation, request: Request, authority: Authority, followed: Attempt) -> Caller:
    check_scope(operation, authority)
    tenant_id = incarnation = None
    if operation.scope != "system":
        in_body = request.body.get("tenant_id") if isinstance(request.body, dict) else None
        tenant = choose_tenant(system, authority, request.tenant_id, in_body)
        if tenant is not None:
            tenant_id, incarnation = tenant.tenant_id, tenant.incarnation
            followed.within(tenant_id, incarnation)
        elif operation.scope == "tenant":
            raise Rejected("tenant_required", "name the tenant in the header X-Tenant-ID")
    idempotency = None
    if request.idempotency_key is not None and operation.mutates:
        asked = {name: value for name, value in request.query.items() if name not in _PATIENCE}
        parts = [request.route, _concealed(system, operation, request.body), *([asked] if asked else [])]
        idempotency = idempotency_of(operation, request.idempotency_key, incarnation, parts)
    return Caller(
        system, authority, tenant_id, incarnation, idempotency, _revision(request.if_match), request.request_id
    )


def _concealed(system: System, operation: Operation, body: Any) -> Any:
    """The body as a request is told from another by: what is secret in it as a code that only this kernel can make."""
    if not isinstance(body, dict) or not operation.secret_fields & body.keys():
        return body
    hidden = {name: system.core.secrets.code_of(body[name]) for name in operation.secret_fields & body.keys()}
    return {**body, **hidden}


def _revision(text: str | None) -> int | None:
    if text is None or text == "*":
        return None
    match = _REVISION.fullmatch(text)
    if match is None:
        raise Rejected("invalid_header", "If-Match must be a revision, as in an ETag of an earlier answer")
    return int(match[1] or match[2])


__all__ = ["OPERATIONS", "Request", "admit", "attempt", "perform"]
