"""Asks about capabilities and tokens. Owns: granting, narrowing, revoking them. Never: narrows one itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from solo_trio.client.asks.request import Ask, Document, present, segment, whole


def grant(
    resource: str,
    permissions: Sequence[str],
    *,
    ttl_s: float | None = None,
    rate_limit: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
) -> Ask[Document]:
    """Grant a right that the client's token has, such as ("service:calc", ["call"]): `{id, token, expires_at, ...}`.

    The `token` is not shown again. `rate_limit`: `{requests_per_second, burst}`.
    """
    body = present(
        resource=resource, permissions=list(permissions), ttl_s=ttl_s, rate_limit=rate_limit, metadata=metadata
    )
    return Ask("POST", "/capabilities", whole, body=body, idempotency_key=idempotency_key)


def capabilities(*, limit: int | None = None, cursor: str | None = None) -> Ask[Document]:
    """A page of the capabilities that the client may revoke: `{capabilities, next}`; never a token."""
    return Ask("GET", "/capabilities", whole, present(limit=limit, cursor=cursor))


def show_capability(capability_id: str) -> Ask[Document]:
    """One capability."""
    return Ask("GET", f"/capabilities/{segment(capability_id)}", whole)


def revoke(capability_id: str, *, idempotency_key: str | None = None) -> Ask[Document]:
    """Revoke a capability and all that descend from it: `{id, revoked}`."""
    return Ask("DELETE", f"/capabilities/{segment(capability_id)}", whole, idempotency_key=idempotency_key)


def revoke_token(token: str, *, idempotency_key: str | None = None) -> Ask[Document]:
    """Revoke what a token stands for: its last attenuation by itself, or its capability if it was never narrowed."""
    return Ask("POST", "/capabilities/revoke", whole, body={"token": token}, idempotency_key=idempotency_key)


def verify_token(token: str, resource: str, permission: str) -> Ask[Document]:
    """Whether a token allows something now: `{allowed, reason}`."""
    body = {"token": token, "resource": resource, "permission": permission}
    return Ask("POST", "/capabilities/verify", whole, body=body)


def attenuate(
    token: str,
    *,
    permissions: Sequence[str] | None = None,
    resource: str | None = None,
    service: str | None = None,
    ttl_s: float | None = None,
    rate_limit: Mapping[str, Any] | None = None,
) -> Ask[Document]:
    """Have the server narrow a token: `{id, token, expires_at}`; `solo_trio.client.attenuate` does it without one."""
    body = present(
        token=token,
        permissions=None if permissions is None else list(permissions),
        resource=resource,
        service=service,
        ttl_s=ttl_s,
        rate_limit=rate_limit,
    )
    return Ask("POST", "/capabilities/attenuate", whole, body=body)


def rotate_token(*, keep_granted: bool = False, idempotency_key: str | None = None) -> Ask[Document]:
    """Replace the token of the client's tenant, or without one the system's: `{id, token}`.

    The old one is good for nothing from then on, nor, unless `keep_granted`, is what was granted with it.
    """
    body = {"keep_granted": keep_granted}
    return Ask("POST", "/tokens/rotate", whole, body=body, idempotency_key=idempotency_key)
