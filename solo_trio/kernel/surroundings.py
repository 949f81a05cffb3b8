"""What a part of the kernel sees of the whole. Owns: that list of names. Never: behaviour (`core` has it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import trio

from solo_trio.kernel.hub import Hub
from solo_trio.kernel.loop import Loop
from solo_trio.model.limits import Limits
from solo_trio.model.service import ServiceState
from solo_trio.policy.egress import EgressList
from solo_trio.policy.redaction import Redactor
from solo_trio.ports import CallOut, Entropy, Journal, MayOut, Running, Runtime, SecretOut, ServiceLogs, Telemetry


class Surroundings(Protocol):
    """`closing`: an orderly shutdown is under way; services may stop by themselves until `stop_deadline`, and whatever
    is left is abandoned at `close_deadline` (both in Trio's time). `starts`: places for services that start at once."""

    loop: Loop
    hub: Hub
    journal: Journal
    entropy: Entropy
    telemetry: Telemetry
    runtimes: Mapping[str, Runtime]
    logs: ServiceLogs
    starts: trio.CapacityLimiter
    closing: bool
    closed: trio.Event
    stop_deadline: float
    close_deadline: float
    killed_at_close: int
    egress_allowed: EgressList

    def ceiling_of(self, tenant_id: str) -> Limits:
        """What no service of the tenant may exceed."""
        ...

    def outgoing(self, tenant_id: str, incarnation: str, service_id: str, deployment: int) -> CallOut:
        """What a service of this tenant calls its siblings with."""
        ...

    def rights(self, tenant_id: str, incarnation: str) -> MayOut:
        """What a service of this tenant asks about its callers."""
        ...

    def secrets_of(
        self, tenant_id: str, incarnation: str, service_id: str, deployment: int, generation: int, redactor: Redactor
    ) -> SecretOut:
        """What a generation of a service gets its secrets with; `redactor` is told what it got."""
        ...

    def running(self, tenant_id: str, service: ServiceState) -> Running | None:
        """What runs of this deployment now, ready or not."""
        ...
