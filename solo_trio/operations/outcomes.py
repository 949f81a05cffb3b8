"""Waiting for outcomes. Owns: which recorded event answers a verb. Never: writes anything.

A verb that promises more than a record is answered by a later event that names its deployment. The first call, a call that
joins a running one, and a repeated call after a crash all read the same answer off the same event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio
from attrs import frozen

from solo_trio.errors import Rejected, SoloError
from solo_trio.kernel.hub import PAGE_RECORDS_MAX, Follow
from solo_trio.kernel.loop import shutting_down
from solo_trio.model import codec
from solo_trio.model import service_events as ev
from solo_trio.model.event import Event, Record
from solo_trio.model.record import EventQuery
from solo_trio.model.spec import ServiceSpec
from solo_trio.model.system import SystemPaused
from solo_trio.operations.caller import Caller

DEPLOY_OUTCOMES: Final = (ev.ServiceDeployed, ev.ServiceDeploymentFailed, ev.ServiceKilled, ev.ServiceStopped)
STOP_OUTCOMES: Final = (ev.ServiceStopped,)
RESTART_OUTCOMES: Final = (
    ev.ServiceReady,
    ev.ServiceGivenUp,
    ev.ServiceCrashed,
    ev.ServiceStopped,
    ev.ServiceKilled,
    ev.ServicePaused,
    ev.ServiceDeploymentStarted,
    ev.ServiceDeploymentFailed,
    SystemPaused,
)
"""An intent counts if it replaces the deployment."""
LOOK_AGAIN_S: Final = 1.0
"""So often who waits for an outcome looks whether it can still come."""

Hopeless = Callable[[], SoloError | None]
"""Why the outcome will not come, as the state is now; None if it may."""


async def outcome(
    caller: Caller,
    follow: Follow,
    service_id: str,
    kinds: tuple[type[Event], ...],
    *,
    deployment: int,
    after: int,
    look_back: bool,
    hopeless: Hopeless = lambda: None,
) -> Record:
    """The first record of `kinds` about `deployment` with id > `after`. `look_back`: it may be in the log already.

    Raises `Faulted("shutting_down")` if the kernel closes first, and what `hopeless` says.
    """

    def matches(record: Record) -> bool:
        if isinstance(record.event, ev.ServiceDeploymentStarted):
            about = record.event.replaces
        else:
            about = getattr(record.event, "deployment", deployment)
        return record.stored.id > after and isinstance(record.event, kinds) and about == deployment

    if look_back:
        for record in await logged(caller, service_id, kinds, after):
            if matches(record):
                return record
    return await _next_match(caller, follow, matches, hopeless)


async def logged(caller: Caller, service_id: str, kinds: tuple[type[Event], ...], after: int) -> list[Record]:
    """What the log has of `kinds` about the service with an id after `after`, up to a page."""
    query = EventQuery(
        after=after,
        limit=PAGE_RECORDS_MAX,
        tenant_id=caller.tenant_id,
        incarnation=caller.incarnation,
        subject=service_id,
        types=tuple(kind.TYPE for kind in kinds),
    )
    return [codec.to_record(stored) for stored in await caller.core.journal.read(query)]


async def _next_match(caller: Caller, follow: Follow, matches: Callable[[Record], bool], hopeless: Hopeless) -> Record:
    found: Record | None = None
    reason: SoloError | None = None
    async with trio.open_nursery() as nursery:

        async def until_closed() -> None:
            await caller.core.closed.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(until_closed)
        while found is None and reason is None:
            record: Record | None = None
            with trio.move_on_after(LOOK_AGAIN_S):
                record = await follow.next()
            if record is None:
                reason = hopeless()
            elif matches(record):
                found = record
        nursery.cancel_scope.cancel()
    if reason is not None:
        raise reason
    if found is None:
        raise shutting_down()
    return found


async def event_of(caller: Caller, event_id: int) -> Event | None:
    """The event of that id, of the caller's tenant; None if it is not at hand any more, or its payload was erased."""
    stored = await caller.stored_event(event_id)
    return None if stored is None else codec.to_record(stored).event


@frozen
class Deployment:
    """What a deployment asked for."""

    version: int
    digest: str
    spec: ServiceSpec


async def deployment_of(caller: Caller, service_id: str, deployment: int) -> Deployment:
    """Of the log, or, where the event is not at hand, of the state. Raises `Rejected("service_deleted")` if neither has it."""
    intent = await event_of(caller, deployment)
    if isinstance(intent, ev.ServiceDeploymentStarted):
        return Deployment(intent.version, intent.digest, intent.spec)
    service = caller.core.loop.state.service(caller.tenant_id or "", service_id)
    if service is None or service.deployment != deployment:
        raise Rejected("service_deleted", "it was deleted or replaced meanwhile; deploy it again if it is still wanted")
    return Deployment(service.version, service.spec.digest, service.spec)


def version_view(
    caller: Caller,
    service_id: str,
    deployed: ev.ServiceDeployed | Deployment,
    revision: int,
    *,
    status: str = "ready",
) -> dict[str, Any]:
    """What the verbs that start or pause a service answer."""
    return {
        "tenant_id": caller.tenant_id,
        "service_id": service_id,
        "version": deployed.version,
        "digest": deployed.digest,
        "status": status,
        "revision": revision,
    }
