"""Circuit breakers. Owns: one for each called service, what a call's end says about it. Never: calls (`kernel.calls` does).

Calls over a gateway, of the embedding application and between services go through the same one. A service that is started
afresh by somebody (deployed, restarted by hand, resumed) has a new circuit; one that ran before this kernel a half-open one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio
from attrs import evolve, frozen

from solo_trio.errors import Faulted, SoloError
from solo_trio.kernel.core import Core
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.use import ReportCircuit
from solo_trio.policy.circuit import FAILURES, OPEN_S, Circuit, Outcome, State

PATIENCE_S: Final = 1.0
"""A caller that waited less than this says nothing about the service by giving up, whatever the kernel's own time-out."""
SAME_DEADLINE_S: Final = 0.05
"""Deadlines that are so close are the same."""
KEPT_SPARE: Final = 1_024
"""So many circuits of services that are gone may be remembered, beside those of the ones that are there."""
_FAILURES: Final = frozenset({"call_interrupted", "call_timeout"})
_ANSWERS: Final = frozenset({"call_failed", "function_not_found", "result_not_serialisable"})
_CALLABLE: Final = (Status.STARTING, Status.READY, Status.RESTARTING, Status.PAUSED)

Key = tuple[str, str]
"""Incarnation, service."""


@frozen
class _Kept:
    """`epoch`: of the service, as in its state: a fresh start asks for a new circuit.

    `crashed`: the generation whose end was counted last. However many calls it interrupts, a crash is one failure.
    """

    epoch: int
    circuit: Circuit
    crashed: int = 0


class Circuits:
    """Implements `kernel.calls.Breaker`. `stir`: there is news."""

    def __init__(self, core: Core, stir: Callable[[], None], call_timeout_s: float) -> None:
        """`call_timeout_s`: the kernel's own; who waits less must not shut a service off for those who would wait."""
        self.refused = Counter[str]()
        self._core = core
        self._stir = stir
        self._patience_s = max(PATIENCE_S, call_timeout_s - SAME_DEADLINE_S)
        self._began_after = core.loop.state.last_id
        """What is older than this kernel has an epoch up to here."""
        self._kept: dict[Key, _Kept] = {}
        self._news: dict[Key, ReportCircuit] = {}
        """Not recorded yet; of each service only the newest."""
        core.calls.breaker = self.around

    @contextmanager
    def around(self, tenant_id: str, incarnation: str, service: ServiceState, timeout_s: float) -> Iterator[None]:
        """Around one call, waiting included. Raises `Faulted("circuit_open")`."""
        if service.status not in _CALLABLE:  # who calls it is told why
            yield
            return
        key, now = (incarnation, service.service_id), trio.current_time()
        circuit, wait_s = self._circuit(key, service).ask(now)
        self._keep(key, service, circuit)
        if wait_s > 0:
            self.refused["circuit_open"] += 1
            raise Faulted(
                "circuit_open",
                f"'{service.service_id}' failed too many calls in a row: look at its log, and call it later",
                retry_after_s=max(1, math.ceil(wait_s)),
            )
        outcome: Outcome = "neither"
        reason = ""
        try:
            yield
            outcome = "answered"
        except SoloError as error:
            reason = error.code
            if reason in _ANSWERS:
                outcome = "answered"
            elif reason in _FAILURES and not self._meant(tenant_id, incarnation, service):
                outcome = "failed" if reason != "call_timeout" or timeout_s >= self._patience_s else "neither"
            raise
        except trio.Cancelled:  # the deadline of a service that calls is in both processes: either may see it first
            reason = "call_timeout"
            waited_s = trio.current_time() - now
            if timeout_s >= self._patience_s and waited_s >= timeout_s - SAME_DEADLINE_S:
                outcome = "neither" if self._meant(tenant_id, incarnation, service) else "failed"
            raise
        finally:
            self._settle(tenant_id, key, service, circuit.ticket, outcome, reason)

    def _settle(
        self, tenant_id: str, key: Key, service: ServiceState, ticket: int, outcome: Outcome, reason: str
    ) -> None:
        kept = self._kept.get(key)
        if kept is not None and kept.epoch != service.epoch:  # somebody started the service afresh meanwhile
            return
        crashed = 0 if kept is None else kept.crashed
        if outcome == "failed" and reason == "call_interrupted":
            now = self._core.loop.state.service(tenant_id, service.service_id)
            generation = service.generation if now is None else now.generation
            if generation == crashed:
                outcome = "neither"
            crashed = generation
        before = self._circuit(key, service)
        after, became = before.settle(ticket, outcome, trio.current_time())
        self._keep(key, service, after, crashed)
        if became is None:
            return
        report = ReportCircuit(tenant_id, key[0], key[1], service.deployment, service.epoch)
        if became == "open":
            failures = 1 if before.state == "half_open" else FAILURES
            report = evolve(report, failures=failures, reason=reason, open_s=OPEN_S)
        self._news[key] = report
        self._stir()

    def _meant(self, tenant_id: str, incarnation: str, before: ServiceState) -> bool:
        """Whether somebody ended or stopped the service on purpose while it was called."""
        if self._core.closing:
            return True
        tenant = self._core.loop.state.tenants.get(tenant_id)
        service = None if tenant is None else tenant.services.get(before.service_id)
        if tenant is None or service is None or tenant.incarnation != incarnation or service.epoch != before.epoch:
            return True
        return service.status in (Status.PAUSED, Status.STOPPING)

    def _circuit(self, key: Key, service: ServiceState) -> Circuit:
        kept = self._kept.get(key)
        if kept is not None and kept.epoch == service.epoch:
            return kept.circuit
        return Circuit.unproven() if service.epoch <= self._began_after else Circuit()

    def _keep(self, key: Key, service: ServiceState, circuit: Circuit, crashed: int | None = None) -> None:
        """Remember it, unless it is what anybody would begin with."""
        if crashed is None:
            kept = self._kept.get(key)
            crashed = kept.crashed if kept is not None and kept.epoch == service.epoch else 0
        if service.epoch > self._began_after and circuit == Circuit():
            self._kept.pop(key, None)
            return
        self._kept[key] = _Kept(service.epoch, circuit, crashed)
        if len(self._kept) > 2 * KEPT_SPARE:
            self.forget()

    def forget(self, spare: int = KEPT_SPARE) -> None:
        """Forget those of services that are gone, if there are more than `spare` of them."""
        there = {(tenant.incarnation, service.service_id) for tenant, service in self._core.loop.state.services()}
        if len(self._kept) > len(there) + spare:
            self._kept = {key: kept for key, kept in self._kept.items() if key in there}

    def news(self) -> list[ReportCircuit]:
        """What is to be recorded; it is told once."""
        news, self._news = list(self._news.values()), {}
        return news

    def state_of(self, incarnation: str, service: ServiceState) -> State:
        return self._circuit((incarnation, service.service_id), service).seen(trio.current_time())

    def view(self) -> dict[str, Any]:
        now = trio.current_time()
        states = Counter(kept.circuit.seen(now) for kept in self._kept.values())
        return {"open": states["open"], "half_open": states["half_open"], "refused": self.refused["circuit_open"]}
