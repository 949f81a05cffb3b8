"""Whose call is being answered. Owns: what a service is told about it. Never: decides what the caller may (the kernel does)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Literal

May = Callable[[int, str, str], Awaitable[bool]]
"""(number of the call, resource, permission) -> whether the caller has that right now; raises `CallError`."""


class CallError(Exception):
    """A call to another service failed, or a secret is not given; `code` is a published error code, as `service_not_found`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Caller:
    """Who made the call that is being answered.

    `kind`: "credential" (somebody with a token or a certificate), "service" (one of the tenant, by itself) or "application"
    (that embeds the kernel). `capability_id`: of the credential, with `attenuations`, the names of what narrowed its token.
    `tenant_id`: the credential's; None for the system's. `services`: those that passed the call on, the last one is who calls.
    """

    __slots__ = ("_may", "attenuations", "capability_id", "kind", "number", "owner", "services", "tenant_id")

    def __init__(self, owner: object, number: int, told: dict[str, Any], may: May) -> None:
        """For the runtime. `owner`: the context of the called service. `number`: of the call, to the kernel."""
        self.owner = owner
        self.number = number
        self.kind: str = told.get("kind", "credential")
        self.capability_id: str | None = told.get("capability_id")
        self.attenuations: tuple[str, ...] = tuple(told.get("attenuations", ()))
        self.tenant_id: str | None = told.get("tenant_id")
        self.services: tuple[str, ...] = tuple(told.get("services", ()))
        self._may = may

    @property
    def service_id(self) -> str | None:
        """The service that calls; None if it is no service."""
        return self.services[-1] if self.services else None

    async def may(self, permission: str, resource: str) -> bool:
        """Whether the caller has that right at this moment, like `may("read", "secret:api")`.

        So has everybody on the way: the credential, and each service that passed the call on. Raises `CallError`:
        invalid_field, permission_denied if the call is over.
        """
        if not isinstance(permission, str) or not isinstance(resource, str):
            raise TypeError("may takes a permission and a resource, like 'read' and 'secret:api'")
        return await self._may(self.number, resource, permission)

    async def demand(self, permission: str, resource: str) -> None:
        """Raise `CallError("permission_denied")` unless the caller has that right at this moment."""
        if not await self.may(permission, resource):
            raise CallError("permission_denied", f"whoever calls needs '{permission}' of {resource}")

    def __repr__(self) -> str:
        who = self.capability_id or self.service_id or self.kind
        return f"<Caller {who}>"


Main = Literal["main"]
MAIN: Final = "main"
"""Instead of a caller: `main`, and whatever it began, is nobody's call."""
_current: ContextVar[Caller | Main | None] = ContextVar("solo_caller", default=None)
"""None where nobody can tell: in a thread or a system task that was begun by hand, which forgets where it came from."""


def caller() -> Caller | None:
    """Who made the call that is being answered; None in `main`, and in whatever `main` began."""
    found = _current.get()
    return None if found == MAIN else found


def is_known() -> bool:
    """Whether the current task is known to answer a call, or to be of `main`."""
    return _current.get() is not None


def answering(who: Caller | Main) -> None:
    """What the current task does from now on, and whatever it begins, is for that call. For the runtime."""
    _current.set(who)
