"""Row 22: what one more service costs does not grow with how many there are. Counted in instructions, not in time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from model_driver import TENANT, Driver, with_tenant

from solo_trio.kernel.staging import Draft, Submission, stage
from solo_trio.model import service_requests as requests
from solo_trio.model.capability import Authority
from solo_trio.model.capability_requests import Grant
from solo_trio.model.spec import ServiceSpec

SERVICES: Final = 1_000
FEW: Final = 20
GROWTH_MAX: Final = 1.5
"""A tree of 1000 is a little deeper than one of 20; a loop over all services would be fifty times as much."""


def instructions(work: Callable[[], Any]) -> int:
    """How many bytecode instructions `work` takes: the same number every time."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def spent(driver: Driver, *commands: Any) -> int:
    """Instructions to stage them on a fresh draft of the state, as each batch of the loop is."""
    driver.draft = Draft(driver.state)
    return instructions(lambda: [driver.do(command) for command in commands])


def test_row_22_a_thousand_services_cost_the_same_each() -> None:
    driver = with_tenant()
    costs: dict[str, list[int]] = {"deploy": [], "begin": [], "ready": [], "restart": [], "kill": []}

    def name(nth: int) -> str:
        return f"s{nth}"

    def measure(verb: str, nth: int, command: Callable[[], Any]) -> None:
        """Tracing is slow, so only the first and the last few are measured; all are carried out."""
        if nth < FEW or nth >= SERVICES - FEW:
            costs[verb].append(spent(driver, command()))
        else:
            driver.draft, _ = stage(Draft(driver.state), Submission(command()), driver.now())

    for nth in range(SERVICES):
        measure(
            "deploy",
            nth,
            lambda nth=nth: requests.Deploy(  # type: ignore[misc]
                TENANT, name(nth), ServiceSpec(), services_max=SERVICES, services_per_tenant_max=SERVICES
            ),
        )
    for nth in range(SERVICES):
        measure("begin", nth, lambda nth=nth: driver.identity(name(nth)).begin())  # type: ignore[misc]
        measure("ready", nth, lambda nth=nth: driver.identity(name(nth)).ready())  # type: ignore[misc]
    assert len(driver.state.tenants[TENANT].services) == SERVICES
    for nth in range(SERVICES):
        measure("restart", nth, lambda nth=nth: requests.Restart(TENANT, name(nth)))  # type: ignore[misc]
    for nth in range(SERVICES):
        measure("kill", nth, lambda nth=nth: requests.Kill(TENANT, name(nth), 0))  # type: ignore[misc]
    for verb, counted in costs.items():
        first, last = counted[:FEW], counted[FEW:]
        assert len(last) == FEW and min(first) > 100, "it was measured"
        assert max(last) <= GROWTH_MAX * max(first), verb


def test_the_measure_sees_a_loop() -> None:
    """It can fail."""
    few = instructions(lambda: sum(nth for nth in range(FEW)))
    many = instructions(lambda: sum(nth for nth in range(SERVICES)))
    assert many > 20 * few
    assert few == instructions(lambda: sum(nth for nth in range(FEW)))


GRANTS: Final = 10_000


def test_ten_thousand_grants_with_one_capability_cost_the_same_each() -> None:
    """Of a capability that was granted itself, so that there is a chain to follow."""
    driver = with_tenant()
    tenant = driver.state.tenants[TENANT]

    def grant(nth: int, with_: str) -> Grant:
        authority = Authority(with_, TENANT, tenant.incarnation)
        return Grant(authority, TENANT, tenant.incarnation, f"grant_{nth}", "service:s", ("call", "*"), ttl_us=10**12)

    for nth in range(4):
        driver.draft = Draft(driver.state)
        driver.do(grant(nth, tenant.capability_id if nth == 0 else f"grant_{nth - 1}"))
    counted = []
    for nth in range(4, GRANTS):
        if nth < FEW or nth >= GRANTS - FEW:
            counted.append(spent(driver, grant(nth, "grant_3")))
        else:
            driver.draft, _ = stage(Draft(driver.state), Submission(grant(nth, "grant_3")), driver.now())
    assert len(driver.state.capabilities) >= GRANTS
    assert min(counted) > 100, "it was measured"
    assert max(counted[-FEW:]) <= GROWTH_MAX * max(counted[:10])
