"""The operation that explains a service. Owns: which events are read for it, and how many. Never: the words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from solo_trio.errors import Rejected
from solo_trio.kernel.checkpoints import maybe_in_thread
from solo_trio.model import codec
from solo_trio.model.ids import check_id
from solo_trio.model.record import EventQuery, StoredEvent
from solo_trio.model.service import ServiceState, Status
from solo_trio.model.service_events import ServiceDeploymentFailed, ServiceDeploymentStarted
from solo_trio.model.tenant import TenantState
from solo_trio.operations.caller import Caller
from solo_trio.operations.explaining.outlook import Outlook, outlook_of, outlook_of_gone
from solo_trio.operations.explaining.phrases import reason
from solo_trio.operations.explaining.story import SERVICE_TYPES, SYSTEM_TYPES, Step, left_out, steps_of
from solo_trio.operations.services import ServiceInput
from solo_trio.operations.table import Answer, operation

EVENTS_MAX: Final = 2_000
"""Of one service, the newest: so many are read for an explanation."""
BEGINNING_EVENTS: Final = 5
"""Where it has more, so many of the first ones since its deployment."""
KERNEL_LOOK_BACK_EVENTS: Final = 20_000
"""Among so many of the newest, what happened to the kernel as a whole is looked for."""
KERNEL_EVENTS_MAX: Final = 50
INLINE_EVENTS_MAX: Final = 200
ARCHIVE_SEGMENTS_MAX: Final = 16
"""Of the archive, so many files are opened for one look; what older ones say is not told."""


@operation(
    "GET", "/services/{service_id}/explain", scope="tenant", input=ServiceInput, right=("service:{service_id}", "read")
)
async def explain_service(caller: Caller, given: ServiceInput) -> Answer:
    """Tell in words how a service came to be as it is, also one that is gone: its events, what comes next, what can be done."""
    tenant = caller.tenant()
    state = caller.core.loop.state
    service = tenant.services.get(check_id("service_id", given.service_id))
    last = await _last_event(caller, tenant, given.service_id) if service is None else None
    if service is not None:
        begin = service.deployment
    elif last is not None:
        begin = getattr(codec.to_record(last).event, "deployment", last.id)
    else:
        raise Rejected(
            "service_not_found",
            f"there was never a service '{given.service_id}' here, or the log has no event of it any more",
        )
    own, gap = await _own_events(caller, tenant, given.service_id, begin)
    complete = gap is None and bool(own) and own[0].id == begin  # older ones may be in the archive, or lost
    if not own and last is not None:
        own = [last]  # it was moved away between the two looks
    kernel = await _kernel_events(caller, begin, until=None if service is not None else own[-1].id)
    stored = sorted((each for each in (*own, *kernel) if each.id <= state.last_id), key=lambda each: each.id)
    work = partial(_told, tenant, service, stored, gap)
    steps, last_failure = await maybe_in_thread(work, len(stored) > INLINE_EVENTS_MAX)
    if service is None:
        outlook = outlook_of_gone(given.service_id, codec.to_record(own[-1]).event)
    else:
        ceiling = caller.core.ceiling_of(tenant.tenant_id)
        outlook = outlook_of(tenant, service, state.system.hold, ceiling)
    return Answer(_view(tenant, given.service_id, outlook, steps, last_failure, complete=complete))


def _view(
    tenant: TenantState,
    service_id: str,
    outlook: Outlook,
    steps: Sequence[Step],
    failure: str | None,
    *,
    complete: bool,
) -> dict[str, Any]:
    return {
        "tenant_id": tenant.tenant_id,
        "service_id": service_id,
        "status": outlook.status,
        "summary": outlook.summary,
        "steps": [step.view(number) for number, step in enumerate(steps, 1)],
        "next": [*([] if failure is None else [failure]), *outlook.next],
        "complete": complete,
    }


async def _last_event(caller: Caller, tenant: TenantState, service_id: str) -> StoredEvent | None:
    """About one that is gone."""
    query = _about(tenant, service_id, types=tuple(sorted(SERVICE_TYPES)), newest=True, limit=1)
    found = await caller.core.journal.read(query)
    return found[0] if found else None


async def _own_events(
    caller: Caller, tenant: TenantState, service_id: str, begin: int
) -> tuple[list[StoredEvent], int | None]:
    """The events about the service since `begin`; and after which of them some are left out, if some are.

    If the first one is in the archive, they are the newest only: how it began is not told then.
    """
    types = tuple(sorted(SERVICE_TYPES))
    query = _about(tenant, service_id, types=types, after=begin - 1, newest=True, limit=EVENTS_MAX)
    newest = await caller.core.journal.read(query)
    if len(newest) < EVENTS_MAX or newest[0].id <= begin:
        return newest, None
    query = _about(tenant, service_id, types=types, after=begin - 1, limit=BEGINNING_EVENTS)
    first = [each for each in await caller.core.journal.read(query) if each.id < newest[0].id]
    if not first or first[0].id != begin:
        return newest, None
    return [*first, *newest], first[-1].id


def _about(tenant: TenantState, service_id: str, **more: Any) -> EventQuery:
    return EventQuery(
        tenant_id=tenant.tenant_id,
        incarnation=tenant.incarnation,
        subject=service_id,
        segments_max=ARCHIVE_SEGMENTS_MAX,
        **more,
    )


async def _kernel_events(caller: Caller, begin: int, until: int | None) -> list[StoredEvent]:
    after = max(begin, caller.core.loop.state.last_id - KERNEL_LOOK_BACK_EVENTS)
    query = EventQuery(after=after, types=tuple(sorted(SYSTEM_TYPES)), newest=True, limit=KERNEL_EVENTS_MAX)
    return [each for each in await caller.core.journal.read(query) if until is None or each.id < until]


def _told(
    tenant: TenantState, service: ServiceState | None, stored: Sequence[StoredEvent], gap: int | None
) -> tuple[list[Step], str | None]:
    """The steps, and what there is to be said of an attempt to replace the service that failed."""
    records = [codec.to_record(each) for each in stored]
    waits = service is not None and service.status is Status.STARTING
    if gap is None:
        steps = steps_of(records, waits=waits)
    else:
        first = [each for each in records if each.stored.id <= gap]
        newest = [each for each in records if each.stored.id > gap]
        steps = [*steps_of(first), left_out(first[-1], newest[0]), *steps_of(newest, waits=waits)]
    failure = None
    for record in records:
        if isinstance(record.event, ServiceDeploymentStarted):
            failure = None
        elif isinstance(record.event, ServiceDeploymentFailed) and service is not None:
            failure = (
                f"the last attempt to replace it failed (event {record.stored.id}), because: {reason(record.event.reason)}; "
                "what was there before was put back"
            )
    return steps, failure
