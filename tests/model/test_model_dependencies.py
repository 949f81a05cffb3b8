"""Who waits for what nobody is about to make ready: found by one walk, as a plain recursion finds it."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from model_driver import with_service

from solo_trio.model.dependencies import down_below, find_stuck, hopeless
from solo_trio.model.service import ServiceState, Status

SAMPLE = with_service().service()
WANTED = (Status.STARTING, Status.RESTARTING)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, ServiceState]:
    """Services that depend on earlier ones (or on one that is not there), in any order."""
    found: dict[str, ServiceState] = {}
    for number in range(draw(st.integers(1, 8))):
        depends_on = draw(st.lists(st.sampled_from([*found, "gone"]), unique=True, max_size=3))
        status = draw(st.sampled_from((*WANTED, *WANTED, Status.READY, Status.PAUSED, Status.GIVEN_UP)))
        begun = status is Status.READY or (status in WANTED and draw(st.booleans()))
        found[f"s{number}"] = evolve(
            SAMPLE,
            service_id=f"s{number}",
            status=status,
            begun=begun,
            confirmed=draw(st.sampled_from((True, True, True, False))),
            spec=evolve(SAMPLE.spec, depends_on=tuple(depends_on)),
        )
    return {name: found[name] for name in draw(st.permutations(sorted(found)))}


def waits_in_vain(services: dict[str, ServiceState], name: str) -> bool:
    service = services[name]
    if service.begun or service.status not in WANTED or not service.confirmed:
        return False
    return any(
        each not in services or services[each].status not in (*WANTED, Status.READY) or waits_in_vain(services, each)
        for each in service.spec.depends_on
    )


@given(graphs())
def test_stuck_is_who_waits_in_vain(services: dict[str, ServiceState]) -> None:
    expected = {name for name in services if waits_in_vain(services, name)}
    assert find_stuck(services, services) == expected
    for name, service in services.items():
        if service.status in WANTED and not service.begun and service.confirmed:
            assert bool(hopeless(services, service)) == (name in expected)
            assert hopeless(services, service) == hopeless(services, service, expected)
    for name in expected:
        down = down_below(services, name)
        assert down not in services or services[down].status not in (*WANTED, Status.READY)


def test_a_long_chain_is_looked_at_once() -> None:
    """No recursion, and no time that grows with its square."""
    services = {"s0": evolve(SAMPLE, service_id="s0", status=Status.PAUSED, begun=False)}
    for number in range(1, 20_000):
        spec = evolve(SAMPLE.spec, depends_on=(f"s{number - 1}",))
        services[f"s{number}"] = evolve(
            SAMPLE, service_id=f"s{number}", status=Status.RESTARTING, begun=False, spec=spec
        )
    assert len(find_stuck(services, services)) == len(find_stuck(services, ["s19999"])) == 19_999
