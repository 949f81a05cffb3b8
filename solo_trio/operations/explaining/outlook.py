"""How a service is, and what comes. Owns: why it runs or not, what will happen, what can be done. Never: its past."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from solo_trio.model.dependencies import hopeless, waiting_for
from solo_trio.model.event import Event
from solo_trio.model.limits import Limits, effective
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.service_events import ServiceDeploymentFailed, ServiceStopped
from solo_trio.model.system import Hold
from solo_trio.model.tenant import TenantState
from solo_trio.operations.explaining.phrases import counted, listed, reason, seconds, times
from solo_trio.policy.backoff import restart_delay

WHY_HELD: Final = {
    "asked": "somebody paused the kernel as a whole",
    "boot_loop": "the kernel had ended again and again after its start, and holds every service back",
}


@frozen
class Outlook:
    """`status`: the service's, or `gone` for one that is no more; `summary`: one sentence; `next`: what comes, what helps."""

    status: str
    summary: str
    next: tuple[str, ...]


def outlook_of_gone(service_id: str, last: Event | None) -> Outlook:
    """Of a service that is no more, by the last event about it."""
    deploy = f"to have it again: solo deploy FILE --id {service_id}"
    if isinstance(last, ServiceDeploymentFailed):
        why = f"{service_id} does not exist: its only deployment failed, because: {reason(last.reason)}"
        return Outlook("gone", why, ("nothing of it is left, and nothing will be started", deploy))
    if isinstance(last, ServiceStopped):
        return Outlook(
            "gone",
            f"{service_id} does not exist any more: somebody asked to stop and forget it",
            ("nothing of it runs, and nothing will be started", deploy),
        )
    return Outlook(
        "gone",
        f"{service_id} does not exist any more: it was not to outlive the kernel that ran it",
        ("it was deployed as ephemeral: its callable cannot be found again after a restart of the kernel", deploy),
    )


def outlook_of(tenant: TenantState, service: ServiceState, hold: Hold | None, ceiling: Limits) -> Outlook:
    """Of a service that is there. `ceiling`: what no service of the tenant may exceed."""
    name = service.service_id
    match service.status:
        case Status.READY:
            said = f"{name} runs: version {service.version} is ready"
            return _of(service, said, *_if_it_ends(service), *_circuit(service))
        case Status.STARTING | Status.RESTARTING:
            return _on_the_way(tenant, service, ceiling)
        case Status.PAUSED if service.held:
            why = WHY_HELD.get(hold or "", "the kernel as a whole was paused")
            said = f"{name} does not run: it is held back, because {why}"
            return _of(
                service,
                said,
                "it stays so until it, or the kernel, is resumed",
                f"to start it: solo resume {name}; all of them: solo resume --all",
            )
        case Status.PAUSED:
            said = f"{name} does not run: somebody paused it"
            return _of(
                service, said, "it stays so, also over restarts of the kernel", f"to start it: solo resume {name}"
            )
        case Status.STOPPING:
            grace = 0 if service.stop is None or service.stop.force else service.stop.grace_ms / 1_000
            said = f"{name} is being stopped, and will be forgotten"
            return _of(service, said, f"it may take {seconds(grace)} to stop by itself; then it is killed")
        case Status.STOPPED:
            said = f"{name} does not run: it ended, and its restart policy is {service.spec.restart}"
            return _of(
                service,
                said,
                "nothing starts it again by itself, nor does a restart of the kernel",
                f"to start it: solo restart {name}; to forget it: solo kill {name}",
            )
        case Status.GIVEN_UP:
            return _given_up(service)


def _of(service: ServiceState, summary: str, *following: str) -> Outlook:
    return Outlook(str(service.status), summary, following)


def _if_it_ends(service: ServiceState) -> tuple[str, ...]:
    limits, counts = service.spec.restart_limits, len(service.window)
    if service.spec.restart == "temporary":
        return ("if it ends, however it does, it is not started again",)
    when = "crashes" if service.spec.restart == "transient" else "ends"
    said = (
        f"if it {when}, it is started again, at most {times(limits.max_restarts)} within {seconds(limits.max_seconds)}"
    )
    if limits.max_restarts == 0:
        said = f"if it {when} once, it is given up"
    if counts:
        said += f"; its last {counted(counts, 'crash', 'crashes')} may still count"
    return (said,)


def _circuit(service: ServiceState) -> tuple[str, ...]:
    if service.broken != service.epoch:
        return ()
    return ("its circuit was opened, because its calls failed: a call is let through now and then to try it",)


def _on_the_way(tenant: TenantState, service: ServiceState, ceiling: Limits) -> Outlook:
    name = service.service_id
    first = "" if service.confirmed else " for the first time"
    missing = waiting_for(tenant.services, service)
    if service.begun:
        timeout = effective(service.spec.limits, ceiling).start_timeout_s or 0
        said = f"{name} is being started{first}: it has not said yet that it is ready"
        return _of(
            service,
            said,
            f"if it is not ready {seconds(timeout)} after its start, it is killed",
            f"what it says meanwhile: solo logs {name}",
        )
    if missing:
        return _of(service, f"{name} does not run yet: it waits for {listed(missing)}", *_dependencies(tenant, service))
    if service.attempt and service.next_cause in ("restart", "deploy"):
        limits = service.spec.restart_limits
        least, most = (
            restart_delay(service.attempt, chance, max_restarts=limits.max_restarts, max_seconds=limits.max_seconds)
            for chance in (0.0, 1.0)
        )
        crash = service.last_crash
        said = f"{name} does not run: it crashed" + ("" if crash is None else f": {reason(crash.reason)}")
        return _of(
            service,
            said,
            f"it is started again {seconds(least)} to {seconds(most)} after its crash, when there is a place to start in",
            f"why it crashed: solo logs {name}",
        )
    said = f"{name} does not run yet: it is about to be started{first}"
    return _of(service, said, "it is started as soon as there is a place to start in")


def _dependencies(tenant: TenantState, service: ServiceState) -> tuple[str, ...]:
    lost = hopeless(tenant.services, service)
    found = []
    for name in waiting_for(tenant.services, service):
        other = tenant.services.get(name)
        status = "is not there" if other is None else f"is {other.status}"
        help_ = "; nothing makes it ready by itself" if name in lost else ""
        found.append(f"{name} {status}{help_}: solo explain {name}")
    return (*found, "it is started when all of them are ready")


def _given_up(service: ServiceState) -> Outlook:
    name, crash = service.service_id, service.last_crash
    why = "" if crash is None else f", the last time because: {reason(crash.reason)}"
    limits = service.spec.restart_limits
    said = f"{name} does not run: it was given up{why}"
    if len(service.window) > limits.max_restarts:
        said = (
            f"{name} does not run: it was given up, because it crashed more than {times(limits.max_restarts)} within "
            f"{seconds(limits.max_seconds)}{why}"
        )
    return _of(
        service,
        said,
        "nothing starts it again by itself, nor does a restart of the kernel",
        f"why it failed: solo status {name}, solo logs {name}",
        f"to try it again: solo restart {name}; with other code: solo deploy FILE --id {name} --replace",
    )
