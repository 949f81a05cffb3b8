"""Certificates as credentials. Owns: whose authority a client certificate has, what a token beside it may be. Never: tokens
themselves, or X.509.

A certificate alone is its tenant's own authority, or the system's: the one that the tenant's first token has, so that what ends
one ends the other. A token beside it narrows: it must be of the certificate's tenant, and then its rights are what counts.
"""

from __future__ import annotations

from solo_trio.errors import Rejected
from solo_trio.model.capability import Authority, system_capability
from solo_trio.model.certificate import Certificate
from solo_trio.model.state import KernelState


def certified(state: KernelState, at_us: int, certificate: Certificate) -> Authority | None:
    """Who the certificate stands for; None if for nobody, so that only a token counts.

    Raises `Rejected("unauthenticated")`, never saying which part was wrong.
    """
    if certificate.revoked or certificate.names == "unclear" or certificate.not_after_us <= at_us:
        raise _refused()
    if certificate.names == "nobody":
        return None
    if certificate.names == "system":
        capability = system_capability(state)
        authority = None if capability is None else Authority(capability.capability_id)
    else:
        tenant = state.tenants.get(certificate.tenant_id or "")
        if certificate.not_before_us < state.removed.since_us(
            certificate.tenant_id or ""
        ):  # it was of an earlier tenant
            tenant = None
        authority = None if tenant is None else Authority(tenant.capability_id, tenant.tenant_id, tenant.incarnation)
    if authority is None or not authority.holds(state, at_us):
        raise _refused()
    return authority


def narrowed(by_certificate: Authority, by_token: Authority) -> Authority:
    """What both together may. Raises `Rejected("tenant_mismatch")`."""
    mine = by_certificate.tenant_id, by_certificate.incarnation
    if not by_certificate.is_system and (by_token.tenant_id, by_token.incarnation) != mine:
        raise Rejected("tenant_mismatch", "send a token of the tenant that the client certificate is for, or none")
    return by_token


def _refused() -> Rejected:
    return Rejected("unauthenticated", "the client certificate is not valid here; ask for a new one")
