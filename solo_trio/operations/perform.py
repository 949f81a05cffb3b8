"""Performing an operation. Owns: the steps every request takes, in order. Never: knows the gateway.

authenticate -> may this credential do it -> which tenant -> is it well formed -> the operation itself.
"""

from __future__ import annotations

import re
from typing import Any, Final

from attrs import field, frozen

from solo_trio.errors import Rejected
from solo_trio.model.capability import Authority
from solo_trio.operations import catalogue  # noqa: F401  (fills the table)
from solo_trio.operations.caller import Caller, System, authenticate, check_scope, choose_tenant, idempotency_of
from solo_trio.operations.inputs import structure
from solo_trio.operations.table import OPERATIONS, Answer, EventStream, LogStream, Operation

_PATIENCE: Final = frozenset({"wait", "grace_ms", "force"})
"""What may differ between asking and asking again for the same thing."""
_REVISION: Final = re.compile(r'(?:W/)?"([0-9]{1,18})"|([0-9]{1,18})', re.ASCII)


@frozen
class Request:
    """What any gateway brings: texts as they arrived, and the body parsed (None: there was none)."""

    token: str | None = field(default=None, repr=False)
    tenant_id: str | None = None
    route: dict[str, str] = field(factory=dict)
    query: dict[str, str] = field(factory=dict)
    body: Any = None
    idempotency_key: str | None = None
    if_match: str | None = None
    request_id: str | None = None


def admit(system: System, operation: Operation, token: str | None) -> None:
    """Refuse whoever may not do it at all; for a gateway to ask before it spends anything on the body."""
    if operation.scope != "open":
        check_scope(operation, authenticate(system, token))


async def perform(system: System, operation: Operation, request: Request) -> Answer | EventStream | LogStream:
    """Do it. Raises `SoloError`; anything else is a defect for the gateway to contain."""
    caller = _caller(system, operation, request)
    body = request.body
    if isinstance(body, dict) and operation.scope != "system":  # its `tenant_id` is for choosing the tenant, done above
        body = {name: value for name, value in body.items() if name != "tenant_id"}
    given = structure(operation.input, route=request.route, query=request.query, body=body)
    answer = await operation.handler(caller, given)
    assert isinstance(answer, Answer | EventStream | LogStream)
    return answer


def _caller(system: System, operation: Operation, request: Request) -> Caller:
    if operation.scope == "open":
        return Caller(system, Authority(capability_id="nobody"), request_id=request.request_id)
    authority = authenticate(system, request.token)
    check_scope(operation, authority)
    tenant_id = incarnation = None
    if operation.scope != "system":
        in_body = request.body.get("tenant_id") if isinstance(request.body, dict) else None
        tenant = choose_tenant(system, authority, request.tenant_id, in_body)
        if tenant is not None:
            tenant_id, incarnation = tenant.tenant_id, tenant.incarnation
        elif operation.scope == "tenant":
            raise Rejected("tenant_required", "name the tenant in the header X-Tenant-ID")
    idempotency = None
    if request.idempotency_key is not None and operation.mutates:
        asked = {name: value for name, value in request.query.items() if name not in _PATIENCE}
        parts = [request.route, request.body, *([asked] if asked else [])]
        idempotency = idempotency_of(operation, request.idempotency_key, incarnation, parts)
    return Caller(
        system, authority, tenant_id, incarnation, idempotency, _revision(request.if_match), request.request_id
    )


def _revision(text: str | None) -> int | None:
    if text is None or text == "*":
        return None
    match = _REVISION.fullmatch(text)
    if match is None:
        raise Rejected("invalid_header", "If-Match must be a revision, as in an ETag of an earlier answer")
    return int(match[1] or match[2])


__all__ = ["OPERATIONS", "Request", "admit", "perform"]
