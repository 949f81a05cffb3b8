"""What depends on what within a tenant. Owns: cycles, what is still missing, who needs whom. Never: waits, starts, stops."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from solo_trio.errors import Rejected
from solo_trio.model.service import ServiceState, Status

if TYPE_CHECKING:
    from rpds import HashTrieMap

    Services = Mapping[str, ServiceState] | HashTrieMap[str, ServiceState]


def check_dependencies(services: Services, service_id: str, depends_on: Iterable[str]) -> None:
    """Raise `Rejected`: dependency_cycle (with the cycle), dependency_not_found, dependency_not_running."""
    cycle = find_cycle(services, service_id, depends_on)
    if cycle is not None:
        raise Rejected("dependency_cycle", f"take one of these out of a depends_on: {' -> '.join(cycle)}")
    for name in depends_on:
        dependency = services.get(name)
        if dependency is None:
            raise Rejected("dependency_not_found", f"deploy '{name}' first; '{service_id}' depends on it")
        if not dependency.wants_to_run:
            raise Rejected("dependency_not_running", f"'{name}' is {dependency.status}; see that it runs first")
    stuck = find_stuck(services, depends_on)
    for name in depends_on:
        if name in stuck:
            down = down_below(services, name)
            raise Rejected("dependency_not_running", f"'{name}' waits for '{down}'; see that that one runs first")


def find_cycle(services: Services, service_id: str, depends_on: Iterable[str]) -> tuple[str, ...] | None:
    """The cycle that `service_id` would be on if it depended on `depends_on`, from it to it; None if there is none."""
    came_from: dict[str, str] = dict.fromkeys(depends_on, service_id)
    waiting = list(came_from)
    while waiting:
        name = waiting.pop()
        if name == service_id:
            way = [service_id]
            while (before := came_from[way[-1]]) != service_id:
                way.append(before)
            return (service_id, *reversed(way))
        service = services.get(name)
        for each in () if service is None else sorted(service.needs):
            if each not in came_from:
                came_from[each] = name
                waiting.append(each)
    return None


def waiting_for(services: Services, service: ServiceState) -> tuple[str, ...]:
    """The dependencies of `service` that are not ready."""
    return tuple(name for name in service.spec.depends_on if not is_ready(services, name))


def is_ready(services: Services, service_id: str) -> bool:
    service = services.get(service_id)
    return service is not None and service.status is Status.READY


def hopeless(services: Services, service: ServiceState, stuck: Collection[str] | None = None) -> tuple[str, ...]:
    """The dependencies of `service` that nobody is about to make ready: gone, paused, stopped, given up, or stuck.

    `stuck`: the latter; found if not given, which takes a look at all that it depends on, and so on.
    """
    stuck = find_stuck(services, service.spec.depends_on) if stuck is None else stuck
    return tuple(name for name in service.spec.depends_on if name in stuck or _is_down(services, name))


def find_stuck(services: Services, service_ids: Iterable[str]) -> frozenset[str]:
    """Which of `service_ids`, and of all that they depend on, wait for what nobody is about to make ready.

    Not one in its first deployment: that fails, and is gone then, or is again what it was before.
    """
    found: dict[str, bool] = {}
    entered: set[str] = set()
    waiting = list(service_ids)
    while waiting:
        name = waiting[-1]
        service = services.get(name)
        if name in found or service is None or service.begun or not service.wants_to_run or not service.confirmed:
            found.setdefault(name, False)
            waiting.pop()
        elif name not in entered:
            entered.add(name)
            waiting += service.spec.depends_on
        else:
            found[name] = any(found.get(each) or _is_down(services, each) for each in service.spec.depends_on)
            waiting.pop()
    return frozenset(name for name, is_stuck in found.items() if is_stuck)


def down_below(services: Services, service_id: str) -> str:
    """What keeps it from being ready, if it is stuck or down: itself, or the first one below it that is down."""
    stuck = find_stuck(services, (service_id,))
    while not _is_down(services, service_id):
        below = services[service_id].spec.depends_on
        service_id = next(name for name in below if name in stuck or _is_down(services, name))
    return service_id


def _is_down(services: Services, service_id: str) -> bool:
    service = services.get(service_id)
    return service is None or not service.wants_to_run


def dependents(services: Services, service_id: str) -> tuple[str, ...]:
    """Who depends on `service_id` directly and is not being stopped, sorted."""
    return tuple(
        sorted(each.service_id for each in services.values() if service_id in each.needs and each.stop is None)
    )
