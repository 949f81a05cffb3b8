"""A client certificate as a credential. Owns: what was read off a verified one. Never: reads or verifies it."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

Names = Literal["nobody", "tenant", "system", "unclear"]
"""Whom it stands for: nobody here (it only let the connection in), one tenant, the system, or more than one of these."""


@frozen
class Certificate:
    """Its authority and its dates were checked when the connection was opened; times are microseconds of UTC."""

    serial: str
    """Lower-case hex."""
    names: Names
    tenant_id: str | None = None
    """With `tenant`; an id that is well formed, of a tenant that need not exist."""
    not_before_us: int = 0
    not_after_us: int = 0
    revoked: bool = False
    """As known when the request began."""
