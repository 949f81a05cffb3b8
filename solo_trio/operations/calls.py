"""Calling. Owns: what a call may carry and how long it may take. Never: how it reaches the service."""

from __future__ import annotations

from typing import Any, Final

import orjson
from attrs import frozen

from solo_trio.errors import Rejected
from solo_trio.model.ids import check_function, check_id
from solo_trio.model.mandate import Mandate
from solo_trio.operations.caller import Caller
from solo_trio.operations.table import Answer, body, operation, path

CALL_BYTES_MAX: Final = 1_048_576


@frozen
class CallInput:
    service_id: str = path()
    function: str = path()
    args: list[Any] = body(factory=list)
    kwargs: dict[str, Any] = body(factory=dict)


@operation(
    "POST",
    "/services/{service_id}/call/{function}",
    scope="tenant",
    input=CallInput,
    right=("service:{service_id}", "call"),
)
async def call(caller: Caller, given: CallInput) -> Answer:
    """Call a function that the service exports."""
    tenant = caller.tenant()
    check_id("service_id", given.service_id)
    if len(orjson.dumps([given.args, given.kwargs])) > CALL_BYTES_MAX:
        raise Rejected("too_large", f"the arguments of a call may have {CALL_BYTES_MAX} bytes as JSON")
    result = await caller.core.calls.call(
        tenant.tenant_id,
        given.service_id,
        check_function(given.function),
        given.args,
        given.kwargs,
        caller.system.settings.call_timeout_s,
        Mandate.of(caller.authority),
    )
    return Answer({"result": result})
