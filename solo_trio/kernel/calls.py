"""Calls of services. Owns: finding who can be called, waiting for it within bounds. Never: how a call reaches a process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Protocol

import trio

from solo_trio.errors import Faulted, Rejected
from solo_trio.kernel.denials import Denied
from solo_trio.kernel.hub import Follow
from solo_trio.kernel.loop import shutting_down
from solo_trio.kernel.surroundings import Surroundings
from solo_trio.model.mandate import Mandate
from solo_trio.model.rights import check_right
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.service_lookup import find_service
from solo_trio.model.state import KernelState
from solo_trio.model.tenant import TenantState, tenant_of
from solo_trio.ports import CallOut, MayOut, Running

CALLS_HELD_MAX: Final = 64
"""So many calls may wait for one paused service; they are not durable."""


class Breaker(Protocol):
    def __call__(
        self, tenant_id: str, incarnation: str, service: ServiceState, timeout_s: float
    ) -> AbstractContextManager[None]:
        """Around each call of a service; sees what becomes of it. Raises `SoloError` on entry for one that is held off."""
        ...


def _unbroken(
    tenant_id: str, incarnation: str, service: ServiceState, timeout_s: float
) -> AbstractContextManager[None]:
    return nullcontext()


class Calls:
    def __init__(self, core: Surroundings) -> None:
        self._core = core
        self.breaker: Breaker = _unbroken
        self.denied: Callable[[Denied], None] = lambda denied: None
        """Told of calls between services that were refused."""
        self._held: Counter[tuple[str, str]] = Counter()

    async def call(
        self,
        tenant_id: str,
        service_id: str,
        function: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        timeout_s: float,
        mandate: Mandate,
    ) -> Any:
        """Call an exported function of a service, waiting for one that starts or restarts, or is paused.

        `mandate`: what the service gets to do for this call; that it may be made at all was looked at. Raises `SoloError`.
        """
        called = find_service(self._core.loop.state, tenant_id, service_id)
        incarnation = self._core.loop.state.tenants[tenant_id].incarnation
        with self.breaker(tenant_id, incarnation, called, timeout_s):
            return await self._call(tenant_id, service_id, function, args, kwargs, timeout_s, mandate)

    async def _call(
        self,
        tenant_id: str,
        service_id: str,
        function: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        timeout_s: float,
        mandate: Mandate,
    ) -> Any:
        before = self._core.loop.state
        with trio.move_on_after(timeout_s):
            running = await self._wait_callable(tenant_id, service_id)
            state = self._core.loop.state
            if state is not before:  # while it waited, what it was allowed by may have been revoked
                self._demand_again(state, tenant_id, service_id, mandate)
            return await running.call(function, args, kwargs, mandate)
        service = self._core.loop.state.service(tenant_id, service_id)
        if service is not None and service.status is Status.PAUSED:
            raise _paused(service_id)
        raise Faulted(
            "call_timeout", f"{service_id}.{function} took longer than {timeout_s:g} s; allow it more, or call less"
        )

    def _demand_again(self, state: KernelState, tenant_id: str, service_id: str, mandate: Mandate) -> None:
        if mandate.passed or mandate.authority is not None:
            tenant = state.tenants[tenant_id]
            mandate.demand(state, tenant, f"service:{service_id}", "call", self._core.loop.now())

    async def _wait_callable(self, tenant_id: str, service_id: str) -> Running:
        with self._core.hub.follow(tenant_id, service_id) as follow:
            while True:
                service = find_service(self._core.loop.state, tenant_id, service_id)
                running = self._core.running(tenant_id, service)
                if running is not None and service.status is Status.READY and not running.ended.is_set():
                    return running
                if self._core.closing:
                    raise shutting_down()
                if service.status is Status.PAUSED:
                    with self._held_call(tenant_id, service_id):
                        await self._next_change(follow)
                    continue
                if not service.wants_to_run:
                    raise Faulted(
                        "service_not_running",
                        f"'{service_id}' is {service.status}; restart it, or deploy it again",
                        retry_after_s=None,
                    )
                await self._next_change(follow)

    def waiting(self, tenant_id: str, service_id: str) -> int:
        """How many calls wait for a paused service."""
        return self._held[tenant_id, service_id]

    @contextmanager
    def _held_call(self, tenant_id: str, service_id: str) -> Iterator[None]:
        """One of the calls that wait for a paused service; refused where too many do."""
        key = (tenant_id, service_id)
        if self._held[key] >= CALLS_HELD_MAX:
            raise _paused(service_id)
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    async def _next_change(self, follow: Follow) -> None:
        """Until something is recorded about the service, or the kernel closes."""
        async with trio.open_nursery() as nursery:

            async def until_closed() -> None:
                await self._core.closed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_closed)
            await follow.next()
            nursery.cancel_scope.cancel()

    def outgoing(self, tenant_id: str, incarnation: str, caller_id: str, deployment: int) -> CallOut:
        """What a service of this tenant calls its siblings with.

        It may do no more than what it was deployed with, nor, when it does so for a call, than whoever made that one.
        """

        async def call(
            service_id: str,
            function: str,
            args: Sequence[Any],
            kwargs: dict[str, Any],
            timeout_s: float,
            mandate: Mandate | None,
        ) -> Any:
            tenant = self._tenant(tenant_id, incarnation)
            if mandate is None:
                carried = Mandate.of_service(tenant_id, caller_id, deployment)
            else:
                carried = mandate.through(caller_id, deployment)
            try:
                carried.demand(self._core.loop.state, tenant, f"service:{service_id}", "call", self._core.loop.now())
            except Rejected as refusal:
                credential = None if carried.authority is None else carried.authority.capability_id
                self.denied(Denied(refusal.code, "call", tenant_id, incarnation, credential))
                raise
            return await self.call(tenant_id, service_id, function, args, kwargs, timeout_s, carried)

        return call

    def rights(self, tenant_id: str, incarnation: str) -> MayOut:
        """What a service of this tenant asks about its callers."""

        def may(mandate: Mandate, resource: str, permission: str) -> bool:
            tenant = self._tenant(tenant_id, incarnation)
            check_right(resource, [permission])
            return mandate.allows(self._core.loop.state, tenant, resource, permission, self._core.loop.now())

        return may

    def _tenant(self, tenant_id: str, incarnation: str) -> TenantState:
        return tenant_of(self._core.loop.state, tenant_id, incarnation)


def _paused(service_id: str) -> Faulted:
    return Faulted("service_not_running", f"'{service_id}' is paused: resume it, then call again")
