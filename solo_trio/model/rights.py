"""Rights. Owns: what resources and permissions there are, which right covers which. Never: knows who holds one.

A right is a resource and a set of permissions. Covering is a partial order: what covers something covers all that it covers
(`tests/model/test_model_rights.py`), so a chain of ever narrower rights never widens.

To read secrets is never meant by the way: `read` of a whole tenant or of the system is that of all else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.model.ids import ID_PATTERN, SECRET_NAME_PATTERN, check_id, check_secret_name

ALL: Final = "*"
SYSTEM: Final = "system"
TENANT: Final = "tenant"
SCOPED: Final[dict[str, frozenset[str]]] = {
    "service": frozenset({"deploy", "read", "call", "swap", "kill"}),
    "secret": frozenset({"read", "write"}),
}
"""Resources that are named: `service:calc`, `service:*`."""
PLAIN: Final[dict[str, frozenset[str]]] = {
    "events": frozenset({"read", "write"}),
    "logs": frozenset({"read", "write"}),
    "registry": frozenset({"read", "write"}),
    "capability": frozenset({"grant"}),
}
PERMISSIONS: Final = frozenset().union(*SCOPED.values(), *PLAIN.values())
"""What `tenant` and `system`, which are everything, may be narrowed to."""


def resource_pattern() -> str:
    """Of a whole resource; in a form that regular expressions of every kind read the same way."""
    names = {"service": ID_PATTERN, "secret": SECRET_NAME_PATTERN}
    scoped = [f"{kind}:(\\*|{names[kind]})" for kind in SCOPED]
    return "|".join([*scoped, *PLAIN, TENANT, SYSTEM])


@frozen
class Right:
    """`permissions` of `resource`; `ALL` among them stands for every one, also those that later versions add."""

    resource: str
    permissions: frozenset[str]

    def covers(self, resource: str, permission: str) -> bool:
        """Whether it holds `permission` (or `ALL`: every one) of `resource`."""
        return self._has(permission, of_secrets=resource.startswith("secret:")) and is_within(resource, self.resource)

    def touches(self, kind: str, permission: str) -> bool:
        """Whether it holds `permission` of some resource of that kind, such as "service"."""
        if not self._has(permission, of_secrets=kind == "secret"):
            return False
        return self.resource in (SYSTEM, TENANT, kind) or self.resource.startswith(f"{kind}:")

    def narrowed(self, permissions: frozenset[str] | None) -> Right:
        """What is left of it for whoever may do no more than these; None: all of it."""
        if permissions is None or ALL in permissions:
            return self
        return Right(self.resource, permissions if ALL in self.permissions else self.permissions & permissions)

    def _has(self, permission: str, *, of_secrets: bool) -> bool:
        if ALL in self.permissions:
            return True
        if of_secrets and permission == "read" and self.resource in (SYSTEM, TENANT):
            return False
        return permission in self.permissions


def is_within(resource: str, other: str) -> bool:
    """Whether `other` is `resource` or contains it."""
    if other in (resource, SYSTEM):
        return True
    if other == TENANT:
        return resource != SYSTEM
    kind, _, name = other.partition(":")
    return name == ALL and resource.startswith(f"{kind}:")


def check_right(resource: str, permissions: Iterable[str]) -> Right:
    """The right of these words. Raises `Rejected`: invalid_field, invalid_id."""
    held = frozenset(permissions)
    allowed = permissions_of(check_resource(resource))
    if not held:
        raise Rejected("invalid_field", f"permissions must name at least one of {', '.join(sorted(allowed))}, or '*'")
    unknown = held - allowed - {ALL}
    if unknown:
        raise Rejected(
            "invalid_field",
            f"{resource} has no permission {', '.join(sorted(_shown(each) for each in unknown))};"
            f" it has {', '.join(sorted(allowed))}, and '*' for all of them",
        )
    return Right(resource, held)


def check_resource(resource: str) -> str:
    """`resource` if it is one. Raises `Rejected`: invalid_field, invalid_id."""
    kind, colon, name = resource.partition(":")
    if kind in SCOPED and colon:
        if name != ALL:
            check_secret_name(name) if kind == "secret" else check_id("service_id", name)
        return resource
    if colon or kind not in (*PLAIN, TENANT, SYSTEM):
        scoped = ", ".join(f"{each}:<id>" for each in SCOPED)
        raise Rejected("invalid_field", f"resource must be one of {scoped}, {', '.join((*PLAIN, TENANT, SYSTEM))}")
    return resource


def permissions_of(resource: str) -> frozenset[str]:
    kind = resource.partition(":")[0]
    return SCOPED.get(kind) or PLAIN.get(kind) or PERMISSIONS


def _shown(word: str) -> str:
    """What a request named, in an answer: short, and nothing in it that a terminal obeys."""
    return ascii(word[:40])[1:-1]
