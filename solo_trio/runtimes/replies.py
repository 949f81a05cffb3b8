"""Replies as errors. Owns: which error a caller gets for which reply, the same from every runtime. Never: makes replies."""

from __future__ import annotations

from typing import Any, Final

from solo_trio.errors import Faulted, Rejected

ERROR_TYPE_CHARS_MAX: Final = 200
MESSAGE_CHARS_MAX: Final = 1_000


def value_of(service_id: str, function: str, kind: str, value: Any, error_type: str, message: str) -> Any:
    """The value of a call, or its `SoloError`. An unknown `kind`, from a service that lies, is a failed call."""
    error_type, message = error_type[:ERROR_TYPE_CHARS_MAX], message[:MESSAGE_CHARS_MAX]
    match kind:
        case "ok":
            return value
        case "function_not_found":
            raise Rejected("function_not_found", f"{service_id} exports no function {function!r}")
        case "result_not_serialisable":
            raise Faulted("result_not_serialisable", f"{service_id}.{function}: {message}")
        case "overloaded":
            raise Faulted("overloaded", f"{service_id}: {message}", retry_after_s=1)
        case "interrupted":
            raise call_interrupted(service_id)
        case _:
            detail = f"{error_type}: {message}" if message else error_type
            raise Faulted(
                "call_failed", f"{service_id}.{function} raised {detail}", error_type=error_type, message=message
            )


def call_over() -> Rejected:
    """A service asks for something on behalf of a call that is not in flight to it: answered, given up, or never made."""
    return Rejected(
        "permission_denied",
        "the call that this was asked for is over, and its caller's rights with it; a service asks by itself with ctx.own",
    )


def call_interrupted(service_id: str) -> Faulted:
    """The service ended, or was ending, while it was called."""
    return Faulted("call_interrupted", f"{service_id} ended during the call", retry_after_s=1)
